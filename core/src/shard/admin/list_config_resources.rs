//! ListConfigResources: the names of what has configs. Version 0 asks for client metrics only.

use tidelog_net::ErrorCode;
use tidelog_net::messages as kp;
use tidelog_net::messages::list_config_resources_response::ConfigResource;
use tidelog_net::response::ResponseBody;

use super::{
    RESOURCE_BROKER, RESOURCE_BROKER_LOGGER, RESOURCE_CLIENT_METRICS, RESOURCE_GROUP, RESOURCE_TOPIC, text,
};
use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;
use crate::shard::{Origin, Shard};

/// What a version may ask for.
const fn known(version: i16) -> &'static [i8] {
    match version {
        0 => &[RESOURCE_CLIENT_METRICS],
        _ => &[
            RESOURCE_TOPIC,
            RESOURCE_BROKER,
            RESOURCE_BROKER_LOGGER,
            RESOURCE_CLIENT_METRICS,
            RESOURCE_GROUP,
        ],
    }
}

impl Shard {
    pub(super) fn list_config_resources(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::ListConfigResourcesRequest,
    ) {
        let known = known(origin.version);
        let asked = request.resource_types.as_slice();
        let refusal = if !self.allows(context, Resource::Cluster, Operation::DescribeConfigs) {
            ErrorCode::ClusterAuthorizationFailed
        } else if asked.iter().any(|kind| !known.contains(kind)) {
            ErrorCode::UnsupportedVersion
        } else {
            ErrorCode::None
        };
        let wants = |kind: i8| {
            let all = asked.is_empty() && known.contains(&kind);
            refusal.is_ok() && (all || asked.contains(&kind))
        };
        let (topics, bytes) = match wants(RESOURCE_TOPIC) {
            true => (self.image.topic_count(), self.topics_bytes()),
            false => (0, 0),
        };
        self.answer_within(origin, bytes, |shard| {
            let named = |name: &str, kind| {
                ConfigResource::default()
                    .with_resource_name(text(name))
                    .with_resource_type(kind)
            };
            // Loggers, client metrics and groups have no configs here, so none of them is named.
            let names = shard.image.topics().take(topics);
            let mut resources: Vec<ConfigResource> =
                names.map(|topic| named(&topic.name, RESOURCE_TOPIC)).collect();
            if wants(RESOURCE_BROKER) {
                resources.push(named(&shard.settings.node_id.to_string(), RESOURCE_BROKER));
            }
            let body = kp::ListConfigResourcesResponse::default()
                .with_error_code(refusal.code())
                .with_config_resources(resources);
            ResponseBody::ListConfigResources(body)
        });
    }
}
