//! CreatePartitions: to group 0, without the topics that may not be altered.

use tidelog_net::ErrorCode;
use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_segment_log::disk::Disk;

use super::denied::{Split, put_back};
use super::text;
use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;
use crate::shard::control::ControlOp;
use crate::shard::{Now, Origin, Shard};

impl Shard {
    pub(super) fn create_partitions(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        mut request: kp::CreatePartitionsRequest,
    ) {
        use kp::create_partitions_response::CreatePartitionsTopicResult;
        let split = Split::new(std::mem::take(&mut request.topics), |topic| {
            (!self.allows(context, Resource::Topic(&topic.name), Operation::Alter)).then(|| {
                CreatePartitionsTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(ErrorCode::TopicAuthorizationFailed.code())
                    .with_error_message(Some(text("Authorization failed.")))
            })
        });
        request.topics = split.allowed;
        let denied = split.denied;
        let restore = move |body: &mut ResponseBody| {
            if let ResponseBody::CreatePartitions(body) = body {
                body.results = put_back(std::mem::take(&mut body.results), denied);
            }
        };
        let op = ControlOp::CreatePartitions(request);
        self.hand_rest_to_control(now, disk, origin, op, Box::new(restore));
    }
}
