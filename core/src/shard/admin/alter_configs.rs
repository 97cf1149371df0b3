//! AlterConfigs and IncrementalAlterConfigs: to group 0, without the resources that may not be altered.
//!
//! The first forgets what was set before. Their messages are types of their own with the same fields.

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_segment_log::disk::Disk;

use super::denied::{Split, put_back};
use super::text;
use crate::guard::Operation;
use crate::request_context::RequestContext;
use crate::shard::control::ControlOp;
use crate::shard::{Now, Origin, Shard};

/// A handler of `$Api`, whose answer names each resource in `$response`.
macro_rules! alter_configs {
    ($handler:ident, $Api:ident, $Request:ident, $response:ident) => {
        impl Shard {
            pub(super) fn $handler(
                &mut self,
                now: Now,
                disk: &mut dyn Disk,
                origin: Origin,
                context: &RequestContext,
                mut request: kp::$Request,
            ) {
                use kp::$response::AlterConfigsResourceResponse;
                let split = Split::new(std::mem::take(&mut request.resources), |resource| {
                    let (kind, name) = (resource.resource_type, &resource.resource_name);
                    let code = self.denied_configs(context, kind, name, Operation::AlterConfigs)?;
                    Some(
                        AlterConfigsResourceResponse::default()
                            .with_resource_type(kind)
                            .with_resource_name(name.clone())
                            .with_error_code(code)
                            .with_error_message(Some(text("Authorization failed."))),
                    )
                });
                request.resources = split.allowed;
                let denied = split.denied;
                let restore = move |body: &mut ResponseBody| {
                    if let ResponseBody::$Api(body) = body {
                        body.responses = put_back(std::mem::take(&mut body.responses), denied);
                    }
                };
                self.hand_rest_to_control(
                    now,
                    disk,
                    origin,
                    ControlOp::$Api(request),
                    Box::new(restore),
                );
            }
        }
    };
}

alter_configs!(
    alter_configs,
    AlterConfigs,
    AlterConfigsRequest,
    alter_configs_response
);
alter_configs!(
    incremental_alter_configs,
    IncrementalAlterConfigs,
    IncrementalAlterConfigsRequest,
    incremental_alter_configs_response
);
