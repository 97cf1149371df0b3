//! Records of the metadata log and their payload form.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 2 | schema, little endian: record type in the high byte, its layout version in the low one |
//! | 2 | 6 | zero, checked |
//! | 8 | .. | rkyv archive of that type's struct |
//!
//! Each type has a struct of its own, so a new type or a new version of one never changes how another is
//! read. The entry's checksum is verified before; bytecheck validates here, always.
#![deny(clippy::indexing_slicing)]

use rkyv::rancor;
use rkyv::util::AlignedVec;
use uuid::Uuid;

use crate::limits::METADATA_RECORD_BYTES_MAX;

/// Bytes before the archive.
pub const SCHEMA_BYTES: usize = 8;

/// One change of the cluster's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataRecord {
    /// A topic came to be.
    TopicCreated {
        /// Its name.
        name: String,
        /// Its id, never used before.
        topic_id: Uuid,
        /// Its partitions, from 0 on.
        partitions: i32,
        /// Replicas of each.
        replication_factor: i16,
        /// Configurations that were set, sorted by name.
        configs: Vec<(String, String)>,
    },
    /// A topic has more partitions.
    PartitionsAdded {
        /// The topic.
        topic_id: Uuid,
        /// Partitions in total from now on.
        partitions: i32,
    },
    /// A topic is gone; its id is dead for ever.
    TopicDeleted {
        /// The topic.
        topic_id: Uuid,
    },
    /// A configuration has a value.
    TopicConfigSet {
        /// The topic.
        topic_id: Uuid,
        /// Kafka's name.
        key: String,
        /// The value.
        value: String,
    },
    /// A configuration has its default again.
    TopicConfigUnset {
        /// The topic.
        topic_id: Uuid,
        /// Kafka's name.
        key: String,
    },
    /// Producer ids below `next` are given away.
    ProducerIdsAllocated {
        /// The first that is free.
        next: i64,
    },
    /// A partition lives on a shard of choice, or (`None`) where the formula says.
    PlacementOverride {
        /// The topic.
        topic_id: Uuid,
        /// The partition.
        partition: i32,
        /// The shard.
        shard: Option<u16>,
    },
    /// Partitions have their files in data directories of choice; all others in the one of this log.
    DirectoriesAssigned {
        /// The topic.
        topic_id: Uuid,
        /// The first of the partitions.
        first: i32,
        /// The directory ids of it and those behind it; nil: the one of this log.
        directories: Vec<Uuid>,
    },
}

/// Why a payload is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Too short, or a checked zero is not: damage; quarantine.
    #[error("metadata record of {0} bytes is malformed")]
    Malformed(usize),
    /// Written by a newer release: do not start, use that release.
    #[error("metadata record has schema {0:#06x}, which this release does not know")]
    UnknownSchema(u16),
    /// The archive does not validate: damage; quarantine.
    #[error("metadata record with schema {0:#06x} does not validate")]
    Invalid(u16),
    /// Too large to write: reject the request.
    #[error("metadata record of {0} bytes is larger than {METADATA_RECORD_BYTES_MAX}")]
    TooLarge(usize),
}

const TOPIC_CREATED_V0: u16 = 0x0100;
const PARTITIONS_ADDED_V0: u16 = 0x0200;
const TOPIC_DELETED_V0: u16 = 0x0300;
const TOPIC_CONFIG_SET_V0: u16 = 0x0400;
const TOPIC_CONFIG_UNSET_V0: u16 = 0x0500;
const PRODUCER_IDS_ALLOCATED_V0: u16 = 0x0600;
const PLACEMENT_OVERRIDE_V0: u16 = 0x0700;
const DIRECTORIES_ASSIGNED_V0: u16 = 0x0800;

/// The archived layouts; a layout that was released is never edited, its successor gets a name of its own.
#[allow(missing_docs)]
mod layout {
    use rkyv::{Archive, Deserialize, Serialize};

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct TopicCreatedV0 {
        pub(super) topic_id: [u8; 16],
        pub(super) partitions: i32,
        pub(super) replication_factor: i16,
        pub(super) name: String,
        pub(super) configs: Vec<(String, String)>,
    }

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct PartitionsAddedV0 {
        pub(super) topic_id: [u8; 16],
        pub(super) partitions: i32,
    }

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct TopicDeletedV0 {
        pub(super) topic_id: [u8; 16],
    }

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct TopicConfigSetV0 {
        pub(super) topic_id: [u8; 16],
        pub(super) key: String,
        pub(super) value: String,
    }

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct TopicConfigUnsetV0 {
        pub(super) topic_id: [u8; 16],
        pub(super) key: String,
    }

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct ProducerIdsAllocatedV0 {
        pub(super) next: i64,
    }

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct PlacementOverrideV0 {
        pub(super) topic_id: [u8; 16],
        pub(super) partition: i32,
        /// -1: by the formula.
        pub(super) shard: i32,
    }

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct DirectoriesAssignedV0 {
        pub(super) topic_id: [u8; 16],
        pub(super) first: i32,
        pub(super) directories: Vec<[u8; 16]>,
    }
}

use layout::*;

macro_rules! encode {
    ($schema:expr, $value:expr) => {{
        let schema: u16 = $schema;
        let archive = rkyv::to_bytes::<rancor::Error>(&$value).map_err(|_| RecordError::Invalid(schema))?;
        with_schema(schema, &archive)
    }};
}

macro_rules! decode {
    ($layout:ty, $schema:expr, $archive:expr) => {
        rkyv::from_bytes::<$layout, rancor::Error>($archive).map_err(|_| RecordError::Invalid($schema))?
    };
}

fn with_schema(schema: u16, archive: &[u8]) -> Result<Vec<u8>, RecordError> {
    let len = SCHEMA_BYTES + archive.len();
    if len > METADATA_RECORD_BYTES_MAX {
        return Err(RecordError::TooLarge(len));
    }
    let mut payload = Vec::with_capacity(len);
    payload.extend_from_slice(&schema.to_le_bytes());
    payload.extend_from_slice(&[0; 6]);
    payload.extend_from_slice(archive);
    Ok(payload)
}

impl MetadataRecord {
    /// The payload of this record.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        match self.clone() {
            MetadataRecord::TopicCreated {
                name,
                topic_id,
                partitions,
                replication_factor,
                configs,
            } => {
                let topic_id = topic_id.into_bytes();
                let value = TopicCreatedV0 {
                    topic_id,
                    partitions,
                    replication_factor,
                    name,
                    configs,
                };
                encode!(TOPIC_CREATED_V0, value)
            }
            MetadataRecord::PartitionsAdded { topic_id, partitions } => {
                encode!(
                    PARTITIONS_ADDED_V0,
                    PartitionsAddedV0 {
                        topic_id: topic_id.into_bytes(),
                        partitions
                    }
                )
            }
            MetadataRecord::TopicDeleted { topic_id } => {
                encode!(
                    TOPIC_DELETED_V0,
                    TopicDeletedV0 {
                        topic_id: topic_id.into_bytes()
                    }
                )
            }
            MetadataRecord::TopicConfigSet { topic_id, key, value } => {
                encode!(
                    TOPIC_CONFIG_SET_V0,
                    TopicConfigSetV0 {
                        topic_id: topic_id.into_bytes(),
                        key,
                        value
                    }
                )
            }
            MetadataRecord::TopicConfigUnset { topic_id, key } => {
                encode!(
                    TOPIC_CONFIG_UNSET_V0,
                    TopicConfigUnsetV0 {
                        topic_id: topic_id.into_bytes(),
                        key
                    }
                )
            }
            MetadataRecord::ProducerIdsAllocated { next } => {
                encode!(PRODUCER_IDS_ALLOCATED_V0, ProducerIdsAllocatedV0 { next })
            }
            MetadataRecord::PlacementOverride {
                topic_id,
                partition,
                shard,
            } => {
                let shard = shard.map_or(-1, i32::from);
                let topic_id = topic_id.into_bytes();
                encode!(
                    PLACEMENT_OVERRIDE_V0,
                    PlacementOverrideV0 {
                        topic_id,
                        partition,
                        shard
                    }
                )
            }
            MetadataRecord::DirectoriesAssigned {
                topic_id,
                first,
                directories,
            } => {
                let value = DirectoriesAssignedV0 {
                    topic_id: topic_id.into_bytes(),
                    first,
                    directories: directories.into_iter().map(Uuid::into_bytes).collect(),
                };
                encode!(DIRECTORIES_ASSIGNED_V0, value)
            }
        }
    }

    /// Reads a payload back.
    pub fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let malformed = || RecordError::Malformed(payload.len());
        if payload.len() > METADATA_RECORD_BYTES_MAX {
            return Err(RecordError::TooLarge(payload.len()));
        }
        let (head, archive) = payload
            .split_first_chunk::<SCHEMA_BYTES>()
            .ok_or_else(malformed)?;
        let [low, high, zeros @ ..] = *head;
        if zeros != [0; 6] {
            return Err(malformed());
        }
        let schema = u16::from_le_bytes([low, high]);
        // The buffer comes from anywhere; archives are read at their own alignment.
        let mut aligned = AlignedVec::<16>::with_capacity(archive.len());
        aligned.extend_from_slice(archive);
        let archive = aligned.as_slice();
        Ok(match schema {
            TOPIC_CREATED_V0 => {
                let v = decode!(TopicCreatedV0, schema, archive);
                MetadataRecord::TopicCreated {
                    name: v.name,
                    topic_id: Uuid::from_bytes(v.topic_id),
                    partitions: v.partitions,
                    replication_factor: v.replication_factor,
                    configs: v.configs,
                }
            }
            PARTITIONS_ADDED_V0 => {
                let v = decode!(PartitionsAddedV0, schema, archive);
                MetadataRecord::PartitionsAdded {
                    topic_id: Uuid::from_bytes(v.topic_id),
                    partitions: v.partitions,
                }
            }
            TOPIC_DELETED_V0 => {
                let v = decode!(TopicDeletedV0, schema, archive);
                MetadataRecord::TopicDeleted {
                    topic_id: Uuid::from_bytes(v.topic_id),
                }
            }
            TOPIC_CONFIG_SET_V0 => {
                let v = decode!(TopicConfigSetV0, schema, archive);
                let topic_id = Uuid::from_bytes(v.topic_id);
                MetadataRecord::TopicConfigSet {
                    topic_id,
                    key: v.key,
                    value: v.value,
                }
            }
            TOPIC_CONFIG_UNSET_V0 => {
                let v = decode!(TopicConfigUnsetV0, schema, archive);
                MetadataRecord::TopicConfigUnset {
                    topic_id: Uuid::from_bytes(v.topic_id),
                    key: v.key,
                }
            }
            PRODUCER_IDS_ALLOCATED_V0 => {
                let v = decode!(ProducerIdsAllocatedV0, schema, archive);
                MetadataRecord::ProducerIdsAllocated { next: v.next }
            }
            PLACEMENT_OVERRIDE_V0 => {
                let v = decode!(PlacementOverrideV0, schema, archive);
                let shard = match v.shard {
                    -1 => None,
                    shard => Some(u16::try_from(shard).map_err(|_| RecordError::Invalid(schema))?),
                };
                let topic_id = Uuid::from_bytes(v.topic_id);
                MetadataRecord::PlacementOverride {
                    topic_id,
                    partition: v.partition,
                    shard,
                }
            }
            DIRECTORIES_ASSIGNED_V0 => {
                let v = decode!(DirectoriesAssignedV0, schema, archive);
                MetadataRecord::DirectoriesAssigned {
                    topic_id: Uuid::from_bytes(v.topic_id),
                    first: v.first,
                    directories: v.directories.into_iter().map(Uuid::from_bytes).collect(),
                }
            }
            other => return Err(RecordError::UnknownSchema(other)),
        })
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn samples() -> Vec<MetadataRecord> {
        let topic_id = Uuid::from_u128(0x0102_0304);
        vec![
            MetadataRecord::TopicCreated {
                name: "orders".into(),
                topic_id,
                partitions: 16,
                replication_factor: 1,
                configs: vec![
                    ("cleanup.policy".into(), "compact".into()),
                    ("x".into(), String::new()),
                ],
            },
            MetadataRecord::PartitionsAdded {
                topic_id,
                partitions: 17,
            },
            MetadataRecord::TopicConfigSet {
                topic_id,
                key: "retention.ms".into(),
                value: "5".into(),
            },
            MetadataRecord::TopicConfigUnset {
                topic_id,
                key: "retention.ms".into(),
            },
            MetadataRecord::ProducerIdsAllocated { next: 1_000 },
            MetadataRecord::PlacementOverride {
                topic_id,
                partition: 3,
                shard: Some(7),
            },
            MetadataRecord::PlacementOverride {
                topic_id,
                partition: 3,
                shard: None,
            },
            MetadataRecord::DirectoriesAssigned {
                topic_id,
                first: 2,
                directories: vec![Uuid::from_u128(7), Uuid::nil()],
            },
            MetadataRecord::TopicDeleted { topic_id },
        ]
    }

    #[test]
    fn records_come_back_from_any_alignment() {
        for record in samples() {
            let payload = record.encode().unwrap();
            for shift in 0..8 {
                let mut shifted = vec![0; shift];
                shifted.extend_from_slice(&payload);
                assert_eq!(MetadataRecord::decode(&shifted[shift..]).as_ref(), Ok(&record));
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let payload = MetadataRecord::ProducerIdsAllocated { next: 0x0102 }
            .encode()
            .unwrap();
        assert_eq!(payload, [0, 6, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        let topic_id = Uuid::from_u128(0x11);
        let record = MetadataRecord::PlacementOverride {
            topic_id,
            partition: 3,
            shard: None,
        };
        let mut expected = vec![0, 7, 0, 0, 0, 0, 0, 0];
        expected.extend_from_slice(topic_id.as_bytes());
        expected.extend_from_slice(&[3, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(record.encode().unwrap(), expected);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        for record in samples() {
            let payload = record.encode().unwrap();
            for cut in 0..payload.len() {
                // An archive's root stands at its end, so a cut one may validate as another; the entry's
                // length and checksum are what tell.
                let decoded = MetadataRecord::decode(&payload[..cut]);
                assert_ne!(decoded.as_ref(), Ok(&record), "cut at {cut}");
            }
            for at in 0..payload.len() * 8 {
                let mut flipped = payload.clone();
                flipped[at / 8] ^= 1 << (at % 8);
                // The entry's checksum tells these from the original; what still validates is a whole record.
                if let Ok(other) = MetadataRecord::decode(&flipped) {
                    let again = other.encode().unwrap();
                    assert_eq!(MetadataRecord::decode(&again), Ok(other), "{record:?} bit {at}");
                }
            }
        }
        let newer = [9, 1, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(
            MetadataRecord::decode(&newer),
            Err(RecordError::UnknownSchema(0x0109))
        );
        assert_eq!(
            MetadataRecord::decode(&[0, 6, 1, 0, 0, 0, 0, 0]),
            Err(RecordError::Malformed(8))
        );
    }
}
