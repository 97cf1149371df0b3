//! Metadata requests, versions 0-13. The answer goes through the codec crate.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use super::METADATA_FLEXIBLE;
use crate::wire::{Reader, WireError, Writer};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// A Metadata request, versions 0-13.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataRequest {
    /// The topics; nothing means all of them (version 0 says that with an empty list, which reads as
    /// nothing here), an empty list means none.
    pub topics: Option<Vec<MetadataTopic>>,
    /// Whether unknown topics may be created; always true below version 4.
    pub allow_auto_topic_creation: bool,
    /// Versions 8-10.
    pub include_cluster_authorized_operations: bool,
    /// Versions 8 and up.
    pub include_topic_authorized_operations: bool,
}

/// A topic of a [`MetadataRequest`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetadataTopic {
    /// The name; may be missing from version 10 on, when the id is given.
    pub name: Option<StrBytes>,
    /// The id, nil when asked by name.
    pub topic_id: Uuid,
}

impl Default for MetadataRequest {
    fn default() -> Self {
        Self {
            topics: None,
            allow_auto_topic_creation: true,
            include_cluster_authorized_operations: false,
            include_topic_authorized_operations: false,
        }
    }
}

impl MetadataRequest {
    /// Reads the body.
    pub fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let flexible = version >= METADATA_FLEXIBLE;
        let mut request = Self::default();
        let topics = reader.nullable_array(flexible, 2, |reader| {
            let topic_id = if version >= 10 {
                reader.uuid()?
            } else {
                Uuid::nil()
            };
            let name = reader.nullable_string(flexible)?;
            if name.is_none() && version < 10 {
                return Err(WireError::BadLength { length: -1 });
            }
            reader.skip_tags(flexible)?;
            Ok(MetadataTopic { name, topic_id })
        })?;
        request.topics = match topics {
            None if version == 0 => return Err(WireError::BadLength { length: -1 }),
            Some(topics) if version == 0 && topics.is_empty() => None,
            topics => topics,
        };
        if version >= 4 {
            request.allow_auto_topic_creation = reader.bool()?;
        }
        if (8..=10).contains(&version) {
            request.include_cluster_authorized_operations = reader.bool()?;
        }
        if version >= 8 {
            request.include_topic_authorized_operations = reader.bool()?;
        }
        reader.skip_tags(flexible)?;
        Ok(request)
    }

    /// Writes the body.
    pub fn encode(&self, writer: &mut Writer, version: i16) {
        let count = self.topics.as_ref().map(Vec::len);
        writer.count(if version == 0 {
            Some(count.unwrap_or(0))
        } else {
            count
        });
        for topic in self.topics.iter().flatten() {
            if version >= 10 {
                writer.uuid(&topic.topic_id);
                writer.nullable_string(topic.name.as_deref());
            } else {
                writer.string(topic.name.as_deref().unwrap_or(""));
            }
            writer.no_tags();
        }
        if version >= 4 {
            writer.bool(self.allow_auto_topic_creation);
        }
        if (8..=10).contains(&version) {
            writer.bool(self.include_cluster_authorized_operations);
        }
        if version >= 8 {
            writer.bool(self.include_topic_authorized_operations);
        }
        writer.no_tags();
    }
}
