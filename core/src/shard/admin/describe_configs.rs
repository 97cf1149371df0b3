//! DescribeConfigs: configs of topics and of this broker, with their sources.

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_net::{ErrorCode, StrBytes};

use super::{RESOURCE_BROKER, RESOURCE_TOPIC, text};
use crate::guard::Operation;
use crate::request_context::RequestContext;
use crate::shard::{Origin, Shard};
use crate::topic_config::{ConfigEntry, TopicDefaults, describe_broker, describe_topic};

impl Shard {
    pub(super) fn describe_configs(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::DescribeConfigsRequest,
    ) {
        let mut body = kp::DescribeConfigsResponse::default();
        for resource in &request.resources {
            let mut result = kp::describe_configs_response::DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            let keys: Option<Vec<&str>> = resource
                .configuration_keys
                .as_ref()
                .filter(|keys| !keys.is_empty())
                .map(|keys| keys.iter().map(StrBytes::as_str).collect());
            match self.config_entries(
                context,
                resource.resource_type,
                &resource.resource_name,
                keys.as_deref(),
            ) {
                Ok(entries) => {
                    result.configs = entries
                        .into_iter()
                        .map(|entry| entry_body(entry, request))
                        .collect()
                }
                Err((code, message)) => {
                    result.error_code = code;
                    result.error_message = Some(text(message));
                }
            }
            body.results.push(result);
        }
        self.answer(origin, &ResponseBody::DescribeConfigs(body));
    }

    fn config_entries(
        &self,
        context: &RequestContext,
        kind: i8,
        name: &str,
        keys: Option<&[&str]>,
    ) -> Result<Vec<ConfigEntry>, (i16, String)> {
        if let Some(code) = self.denied_configs(context, kind, name, Operation::DescribeConfigs) {
            return Err((code, "Authorization failed.".to_owned()));
        }
        match kind {
            RESOURCE_TOPIC => {
                let Some(topic) = self.image.topic(name) else {
                    return Err((
                        ErrorCode::UnknownTopicOrPartition.code(),
                        format!("no topic {name:?}"),
                    ));
                };
                Ok(describe_topic(
                    &topic.configs,
                    &TopicDefaults::from_settings(&self.settings),
                    keys,
                ))
            }
            RESOURCE_BROKER if name.is_empty() || name == self.settings.node_id.to_string() => {
                Ok(describe_broker(&self.settings, keys))
            }
            RESOURCE_BROKER => {
                let own = self.settings.node_id;
                Err((
                    ErrorCode::InvalidRequest.code(),
                    format!("broker {name:?} is not this one, which is {own}"),
                ))
            }
            other => Err((
                ErrorCode::InvalidRequest.code(),
                format!("resource type {other} has no configs here"),
            )),
        }
    }
}

/// A config as DescribeConfigs has it; synonyms and documentation only where they were asked for.
fn entry_body(
    entry: ConfigEntry,
    request: &kp::DescribeConfigsRequest,
) -> kp::describe_configs_response::DescribeConfigsResourceResult {
    use kp::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsSynonym};
    let mut body = DescribeConfigsResourceResult::default()
        .with_name(text(entry.name))
        .with_value(entry.value.map(text))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.is_sensitive)
        .with_config_type(entry.config_type as i8);
    if request.include_synonyms {
        let synonyms = entry.synonyms.into_iter().map(|synonym| {
            DescribeConfigsSynonym::default()
                .with_name(text(synonym.name))
                .with_value(Some(text(synonym.value)))
                .with_source(synonym.source as i8)
        });
        body.synonyms = synonyms.collect();
    }
    if request.include_documentation {
        body.documentation = Some(text(entry.documentation));
    }
    body
}
