//! Hot messages by hand: Produce, Fetch and Metadata requests, Produce and Fetch answers.
//!
//! Each type has a decoder and an encoder over [`crate::wire`]; records are never copied by a decoder.
//! A topic is named by `name` or, in the versions that carry ids (Produce 13, Fetch 13+), by `topic_id`;
//! the other one is empty or nil. Version ranges are checked by the callers.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod fetch_request;
mod fetch_response;
mod metadata;
mod produce;

pub use fetch_request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};
pub use fetch_response::{
    AbortedTransaction, FetchPartitionResponse, FetchResponse, FetchTopicResponse, FetchedPartition,
    FetchedResponse, FetchedTopic,
};
pub use metadata::{MetadataRequest, MetadataTopic};
pub use produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
    ProduceTopicResponse, RecordError,
};

use crate::wire::{Reader, WireError, Writer};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// First flexible version of Produce.
pub const PRODUCE_FLEXIBLE: i16 = 9;
/// First flexible version of Fetch.
pub const FETCH_FLEXIBLE: i16 = 12;
/// First flexible version of Metadata.
pub const METADATA_FLEXIBLE: i16 = 9;
/// First version of Produce and Fetch that names topics by id.
const TOPIC_IDS: i16 = 13;

/// Reads a topic's name or id, as the version has it.
fn topic(reader: &mut Reader<'_>, version: i16, flexible: bool) -> Result<(StrBytes, Uuid), WireError> {
    if version >= TOPIC_IDS {
        Ok((StrBytes::new(), reader.uuid()?))
    } else {
        Ok((reader.string(flexible)?, Uuid::nil()))
    }
}

fn put_topic(writer: &mut Writer, version: i16, name: &str, topic_id: &Uuid) {
    if version >= TOPIC_IDS {
        writer.uuid(topic_id);
    } else {
        writer.string(name);
    }
}
