//! CreateTopics: to group 0, without the topics that may not be created.

use std::collections::HashSet;

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
    pub(super) fn create_topics(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        mut request: kp::CreateTopicsRequest,
    ) {
        use kp::create_topics_response::CreatableTopicResult;
        let may_all = self.may_create_any(context);
        // Who may not read the configs of a topic is not told them because they made it.
        let hidden: HashSet<kp::TopicName> = request
            .topics
            .iter()
            .filter(|topic| !self.allows(context, Resource::Topic(&topic.name), Operation::DescribeConfigs))
            .map(|topic| topic.name.clone())
            .collect();
        let split = Split::new(std::mem::take(&mut request.topics), |topic| {
            let allowed = may_all || self.allows(context, Resource::Topic(&topic.name), Operation::Create);
            (!allowed).then(|| {
                CreatableTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(ErrorCode::TopicAuthorizationFailed.code())
                    .with_error_message(Some(text("Authorization failed.")))
                    .with_configs(Some(Vec::new()))
                    .with_num_partitions(-1)
                    .with_replication_factor(-1)
            })
        });
        request.topics = split.allowed;
        let denied = split.denied;
        let restore = move |body: &mut ResponseBody| {
            let ResponseBody::CreateTopics(body) = body else {
                return;
            };
            let created = body.topics.iter_mut().filter(|topic| topic.error_code == 0);
            for topic in created.filter(|topic| hidden.contains(&topic.name)) {
                topic.topic_config_error_code = ErrorCode::TopicAuthorizationFailed.code();
                topic.configs = Some(Vec::new());
                topic.num_partitions = -1;
                topic.replication_factor = -1;
            }
            body.topics = put_back(std::mem::take(&mut body.topics), denied);
        };
        let op = ControlOp::CreateTopics(request);
        self.hand_rest_to_control(now, disk, origin, op, Box::new(restore));
    }

    /// Whether topics of any name may be created.
    pub(super) fn may_create_any(&self, context: &RequestContext) -> bool {
        // Not a denial yet: CREATE on the topic is enough.
        self.guard
            .check(context, &[(Resource::Cluster, Operation::Create)])
            .is_allowed()
    }
}
