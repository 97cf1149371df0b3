//! The APIs we serve, and the versions of each.
//!
//! Pure data. [`SERVED`] is what ApiVersions advertises; a request outside `min..=max` is refused.
//! Produce is advertised from 0 although 0-2 are refused: older librdkafka turns compression off when
//! Produce 0 is missing, and Kafka itself advertises it so.

macro_rules! api_keys {
    ($($(#[$meta:meta])* $name:ident = $key:literal;)*) => {
        /// A Kafka API that this crate can decode and encode.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum ApiKey {
            $($(#[$meta])* $name = $key,)*
        }

        impl ApiKey {
            /// The API of a key on the wire.
            pub const fn from_code(key: i16) -> Option<ApiKey> {
                match key { $($key => Some(ApiKey::$name),)* _ => None }
            }

            /// Kafka's name of the API.
            pub const fn name(self) -> &'static str {
                match self { $(ApiKey::$name => stringify!($name),)* }
            }
        }
    };
}

api_keys! {
    /// Append record batches.
    Produce = 0;
    /// Read record batches.
    Fetch = 1;
    /// Offsets by timestamp.
    ListOffsets = 2;
    /// Brokers, topics and partitions.
    Metadata = 3;
    /// Which broker coordinates a group or transaction.
    FindCoordinator = 10;
    /// What is served.
    ApiVersions = 18;
    /// Create topics.
    CreateTopics = 19;
    /// Delete topics.
    DeleteTopics = 20;
    /// Move the log start of partitions up.
    DeleteRecords = 21;
    /// A producer id for idempotence.
    InitProducerId = 22;
    /// The end offset of a leader epoch.
    OffsetForLeaderEpoch = 23;
    /// List ACLs.
    DescribeAcls = 29;
    /// Add ACLs.
    CreateAcls = 30;
    /// Remove ACLs.
    DeleteAcls = 31;
    /// Read configs.
    DescribeConfigs = 32;
    /// Replace configs.
    AlterConfigs = 33;
    /// Sizes of partitions on the disk.
    DescribeLogDirs = 35;
    /// Grow topics.
    CreatePartitions = 37;
    /// Move leaders to where they should be.
    ElectLeaders = 43;
    /// Change configs.
    IncrementalAlterConfigs = 44;
    /// Move replicas.
    AlterPartitionReassignments = 45;
    /// Replicas that are moving.
    ListPartitionReassignments = 46;
    /// Brokers and cluster id.
    DescribeCluster = 60;
    /// What has configs.
    ListConfigResources = 74;
    /// Partitions of topics, page by page.
    DescribeTopicPartitions = 75;
}

impl ApiKey {
    /// The key on the wire.
    pub const fn code(self) -> i16 {
        self as i16
    }
}

/// One served API: its versions and where its flexible encoding (KIP-482) begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedApi {
    /// The key.
    pub key: ApiKey,
    /// Kafka's name.
    pub name: &'static str,
    /// Lowest version decoded.
    pub min: i16,
    /// Highest version decoded.
    pub max: i16,
    /// Lowest version named in ApiVersions, at most `min`.
    pub advertised_min: i16,
    /// First version with compact lengths and tag buffers.
    pub flexible_from: i16,
}

const fn served(key: ApiKey, min: i16, max: i16, flexible_from: i16) -> ServedApi {
    ServedApi {
        key,
        name: key.name(),
        min,
        max,
        advertised_min: min,
        flexible_from,
    }
}

/// Every served API in the order of its key.
pub const SERVED: &[ServedApi] = &[
    ServedApi {
        advertised_min: 0,
        ..served(ApiKey::Produce, 3, 13, 9)
    },
    served(ApiKey::Fetch, 4, 18, 12),
    served(ApiKey::ListOffsets, 1, 10, 6),
    served(ApiKey::Metadata, 0, 13, 9),
    served(ApiKey::FindCoordinator, 0, 6, 3),
    served(ApiKey::ApiVersions, 0, 4, 3),
    served(ApiKey::CreateTopics, 2, 7, 5),
    served(ApiKey::DeleteTopics, 1, 6, 4),
    served(ApiKey::DeleteRecords, 0, 2, 2),
    served(ApiKey::InitProducerId, 0, 5, 2),
    served(ApiKey::OffsetForLeaderEpoch, 2, 4, 4),
    served(ApiKey::DescribeAcls, 1, 3, 2),
    served(ApiKey::CreateAcls, 1, 3, 2),
    served(ApiKey::DeleteAcls, 1, 3, 2),
    served(ApiKey::DescribeConfigs, 1, 4, 4),
    served(ApiKey::AlterConfigs, 0, 2, 2),
    served(ApiKey::DescribeLogDirs, 1, 4, 2),
    served(ApiKey::CreatePartitions, 0, 3, 2),
    served(ApiKey::ElectLeaders, 0, 2, 2),
    served(ApiKey::IncrementalAlterConfigs, 0, 1, 1),
    served(ApiKey::AlterPartitionReassignments, 0, 1, 0),
    served(ApiKey::ListPartitionReassignments, 0, 0, 0),
    served(ApiKey::DescribeCluster, 0, 2, 0),
    served(ApiKey::ListConfigResources, 0, 1, 0),
    served(ApiKey::DescribeTopicPartitions, 0, 0, 0),
];

impl ServedApi {
    /// The entry of a key.
    pub fn of(key: ApiKey) -> &'static ServedApi {
        match SERVED.iter().find(|api| api.key == key) {
            Some(api) => api,
            None => unreachable!("a test holds that every ApiKey has its row"),
        }
    }

    /// Whether a request of this version is decoded.
    pub const fn serves(&self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    /// Whether this version has compact lengths and tag buffers.
    pub const fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }

    /// Version of the request header: 1 with a client id, 2 with a tag buffer too.
    pub const fn request_header_version(&self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the response header: 1 has a tag buffer. ApiVersions stays at 0 for ever, since its
    /// answer must be readable by a client that does not know our versions yet.
    pub const fn response_header_version(&self, version: i16) -> i16 {
        match self.key {
            ApiKey::ApiVersions => 0,
            _ if self.is_flexible(version) => 1,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages as kp;
    use kafka_protocol::protocol::{HeaderVersion, Message};

    fn check<Q: Message + HeaderVersion, R: Message + HeaderVersion>(key: ApiKey) {
        let api = ServedApi::of(key);
        // The crate may have newer, unstable versions that Kafka does not advertise either.
        assert_eq!((api.min, api.min), (Q::VERSIONS.min, R::VERSIONS.min), "{key:?}");
        assert!(
            api.max <= Q::VERSIONS.max && api.max <= R::VERSIONS.max,
            "{key:?}"
        );
        for version in api.min..=api.max {
            assert_eq!(
                api.request_header_version(version),
                Q::header_version(version),
                "{key:?} {version}"
            );
            assert_eq!(
                api.response_header_version(version),
                R::header_version(version),
                "{key:?} {version}"
            );
        }
    }

    #[test]
    fn versions_and_headers_agree_with_the_codec_crate() {
        check::<kp::ProduceRequest, kp::ProduceResponse>(ApiKey::Produce);
        check::<kp::FetchRequest, kp::FetchResponse>(ApiKey::Fetch);
        check::<kp::ListOffsetsRequest, kp::ListOffsetsResponse>(ApiKey::ListOffsets);
        check::<kp::MetadataRequest, kp::MetadataResponse>(ApiKey::Metadata);
        check::<kp::FindCoordinatorRequest, kp::FindCoordinatorResponse>(ApiKey::FindCoordinator);
        check::<kp::ApiVersionsRequest, kp::ApiVersionsResponse>(ApiKey::ApiVersions);
        check::<kp::CreateTopicsRequest, kp::CreateTopicsResponse>(ApiKey::CreateTopics);
        check::<kp::DeleteTopicsRequest, kp::DeleteTopicsResponse>(ApiKey::DeleteTopics);
        check::<kp::DeleteRecordsRequest, kp::DeleteRecordsResponse>(ApiKey::DeleteRecords);
        check::<kp::InitProducerIdRequest, kp::InitProducerIdResponse>(ApiKey::InitProducerId);
        check::<kp::OffsetForLeaderEpochRequest, kp::OffsetForLeaderEpochResponse>(
            ApiKey::OffsetForLeaderEpoch,
        );
        check::<kp::DescribeConfigsRequest, kp::DescribeConfigsResponse>(ApiKey::DescribeConfigs);
        check::<kp::CreatePartitionsRequest, kp::CreatePartitionsResponse>(ApiKey::CreatePartitions);
        check::<kp::IncrementalAlterConfigsRequest, kp::IncrementalAlterConfigsResponse>(
            ApiKey::IncrementalAlterConfigs,
        );
        check::<kp::DescribeClusterRequest, kp::DescribeClusterResponse>(ApiKey::DescribeCluster);
        check::<kp::DescribeAclsRequest, kp::DescribeAclsResponse>(ApiKey::DescribeAcls);
        check::<kp::CreateAclsRequest, kp::CreateAclsResponse>(ApiKey::CreateAcls);
        check::<kp::DeleteAclsRequest, kp::DeleteAclsResponse>(ApiKey::DeleteAcls);
        check::<kp::DescribeTopicPartitionsRequest, kp::DescribeTopicPartitionsResponse>(
            ApiKey::DescribeTopicPartitions,
        );
        check::<kp::AlterPartitionReassignmentsRequest, kp::AlterPartitionReassignmentsResponse>(
            ApiKey::AlterPartitionReassignments,
        );
        check::<kp::ListPartitionReassignmentsRequest, kp::ListPartitionReassignmentsResponse>(
            ApiKey::ListPartitionReassignments,
        );
        check::<kp::ElectLeadersRequest, kp::ElectLeadersResponse>(ApiKey::ElectLeaders);
        check::<kp::ListConfigResourcesRequest, kp::ListConfigResourcesResponse>(ApiKey::ListConfigResources);
        check::<kp::AlterConfigsRequest, kp::AlterConfigsResponse>(ApiKey::AlterConfigs);
        check::<kp::DescribeLogDirsRequest, kp::DescribeLogDirsResponse>(ApiKey::DescribeLogDirs);
    }

    #[test]
    fn every_key_has_its_row_in_order() {
        let keys: Vec<i16> = SERVED.iter().map(|api| api.key.code()).collect();
        assert!(keys.is_sorted());
        let known: Vec<i16> = (0..200).filter(|key| ApiKey::from_code(*key).is_some()).collect();
        assert_eq!(keys, known);
        assert_eq!(ServedApi::of(ApiKey::Produce).advertised_min, 0);
        assert!(!ServedApi::of(ApiKey::Produce).serves(2));
    }
}
