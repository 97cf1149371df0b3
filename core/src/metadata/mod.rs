//! Group 0: topics, configurations, ids and placements as one ordered log of typed, versioned records.
//!
//! The records are appended and applied by the shard that owns group 0; every shard holds the resulting
//! [`MetadataImage`] by `Arc` and gets the next one by message. Invariants: the machine is deterministic
//! (same records, same image); an image never changes once shared; a topic id is never used twice.
#![forbid(unsafe_code)]

mod admin;
mod directories;
mod error;
mod image;
mod machine;
mod names;
mod placement;
mod record;

pub use admin::{
    AlterConfigOp, AlterConfigsOutcome, AlterConfigsRequest, CreatePartitionsRequest, CreateTopicRequest,
    CreatedTopic, DeleteTopicRequest, DeletedTopic, Planned, TopicRules, alter_topic_configs,
    create_partitions, create_topics, delete_topics,
};
pub use directories::{DirectoryChoice, assign_directories};
pub use error::{KafkaError, code};
pub use image::{MetadataImage, TopicImage};
pub use machine::{ApplyError, MetadataMachine};
pub use names::{check_topic_name, collision_key, is_internal};
pub use placement::{shard_of, topic_hash};
pub use record::{MetadataRecord, RecordError, SCHEMA_BYTES};
