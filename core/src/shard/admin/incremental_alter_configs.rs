//! IncrementalAlterConfigs: to group 0, without the resources that may not be altered.

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_segment_log::disk::Disk;

use super::denied::{Split, put_back};
use super::text;
use crate::guard::Operation;
use crate::request_context::RequestContext;
use crate::shard::control::ControlOp;
use crate::shard::{Now, Origin, Shard};

impl Shard {
    pub(super) fn incremental_alter_configs(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        mut request: kp::IncrementalAlterConfigsRequest,
    ) {
        use kp::incremental_alter_configs_response::AlterConfigsResourceResponse;
        let split = Split::new(std::mem::take(&mut request.resources), |resource| {
            let kind = resource.resource_type;
            let code =
                self.denied_configs(context, kind, &resource.resource_name, Operation::AlterConfigs)?;
            Some(
                AlterConfigsResourceResponse::default()
                    .with_resource_type(kind)
                    .with_resource_name(resource.resource_name.clone())
                    .with_error_code(code)
                    .with_error_message(Some(text("Authorization failed."))),
            )
        });
        request.resources = split.allowed;
        let denied = split.denied;
        let restore = move |body: &mut ResponseBody| {
            if let ResponseBody::IncrementalAlterConfigs(body) = body {
                body.responses = put_back(std::mem::take(&mut body.responses), denied);
            }
        };
        let op = ControlOp::IncrementalAlterConfigs(request);
        self.hand_rest_to_control(now, disk, origin, op, Box::new(restore));
    }
}
