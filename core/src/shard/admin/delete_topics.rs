//! DeleteTopics: to group 0, without the topics that may not be deleted.

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_net::{ErrorCode, Uuid};
use tidelog_segment_log::disk::Disk;

use super::denied::{Split, put_back};
use super::text;
use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;
use crate::shard::control::ControlOp;
use crate::shard::{Now, Origin, Shard};

type Deleted = kp::delete_topics_response::DeletableTopicResult;

fn denial(name: Option<kp::TopicName>, topic_id: Uuid) -> Deleted {
    Deleted::default()
        .with_name(name)
        .with_topic_id(topic_id)
        .with_error_code(ErrorCode::TopicAuthorizationFailed.code())
        .with_error_message(Some(text("Authorization failed.")))
}

impl Shard {
    pub(super) fn delete_topics(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        mut request: kp::DeleteTopicsRequest,
    ) {
        // A version has names, or topics by name or id, never both.
        let names = Split::new(std::mem::take(&mut request.topic_names), |name| {
            (!self.may_delete(context, name)).then(|| denial(Some(name.clone()), Uuid::nil()))
        });
        let topics = Split::new(std::mem::take(&mut request.topics), |topic| match &topic.name {
            Some(name) => {
                (!self.may_delete(context, name)).then(|| denial(Some(name.clone()), topic.topic_id))
            }
            None => self.deny_deletion_by_id(context, topic.topic_id),
        });
        request.topic_names = names.allowed;
        request.topics = topics.allowed;
        let mut denied = names.denied;
        denied.extend(topics.denied);
        let restore = move |body: &mut ResponseBody| {
            if let ResponseBody::DeleteTopics(body) = body {
                body.responses = put_back(std::mem::take(&mut body.responses), denied);
            }
        };
        let op = ControlOp::DeleteTopics(request);
        self.hand_rest_to_control(now, disk, origin, op, Box::new(restore));
    }

    fn may_delete(&self, context: &RequestContext, name: &str) -> bool {
        let any = [(Resource::Cluster, Operation::Delete)];
        // Not a denial yet: DELETE on the topic is enough.
        self.guard.check(context, &any).is_allowed()
            || self.allows(context, Resource::Topic(name), Operation::Delete)
    }

    /// A topic's name is told only to those who may see that it is there.
    fn deny_deletion_by_id(&self, context: &RequestContext, topic_id: Uuid) -> Option<Deleted> {
        let found = self.image.topic_by_id(topic_id)?;
        if self.may_delete(context, &found.name) {
            return None;
        }
        let described = self.allows(context, Resource::Topic(&found.name), Operation::Describe);
        let name = described.then(|| kp::TopicName(text(&*found.name)));
        Some(denial(name, topic_id))
    }
}
