//! What the metadata log of a data directory says of topics: their names, and where their partitions lie.
//!
//! Read as recovery would, without changing anything. A log that cannot be read says nothing, and why.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use tidelog_segment_log::identity::DirectoryUuid;
use tidelog_segment_log::ids::{PartitionKey, TopicId};

/// See the file's head.
#[derive(Debug, Default)]
pub struct Topics {
    names: HashMap<TopicId, String>,
    directories: HashMap<PartitionKey, DirectoryUuid>,
    /// Why nothing more is known.
    pub fault: Option<String>,
}

impl Topics {
    /// The name of a topic that exists.
    pub fn name(&self, topic: &TopicId) -> Option<&str> {
        self.names.get(topic).map(String::as_str)
    }

    /// The data directories that these partitions are said to be in, but for that of the metadata log itself.
    pub fn directories_of<'a>(
        &self,
        keys: impl Iterator<Item = &'a PartitionKey>,
    ) -> BTreeSet<DirectoryUuid> {
        keys.filter_map(|key| self.directories.get(key))
            .copied()
            .collect()
    }

    /// Reads the metadata log in a data directory; one without has nothing to say.
    #[cfg(feature = "serve")]
    pub fn read(root: &Path) -> Self {
        use tidelog_core::metadata::{MetadataMachine, MetadataRecord};
        use tidelog_segment_log::entry::EntryKind;

        let Some(place) = super::places::metadata_place(root) else {
            return Self::default();
        };
        let mut machine = MetadataMachine::new();
        let mut fault = None;
        let examined = place.examine(0, &mut |_, _, entry, payload| {
            if entry.kind == EntryKind::Metadata {
                let applied = MetadataRecord::decode(payload)
                    .map_err(|error| error.to_string())
                    .and_then(|record| machine.apply(&record).map_err(|error| error.to_string()));
                fault = applied.err();
            }
            fault.is_none()
        });
        let fault = fault.or_else(|| examined.err().map(|error| error.to_string()));
        let mut topics = Self {
            fault,
            ..Self::default()
        };
        for topic in machine.image().topics() {
            let id = TopicId(topic.topic_id.into_bytes());
            topics.names.insert(id, topic.name.to_string());
            for (partition, directory) in topic.directories.iter() {
                let key = PartitionKey {
                    topic: id,
                    partition: *partition,
                };
                topics.directories.insert(key, directory.into_bytes());
            }
        }
        topics
    }

    /// A client alone knows no metadata.
    #[cfg(not(feature = "serve"))]
    pub fn read(_: &Path) -> Self {
        Self {
            fault: Some("this program was built without the broker".to_owned()),
            ..Self::default()
        }
    }
}
