//! May this principal do that: asked by every handler, before it does anything.
//!
//! One guard per shard, no shared state. Today it allows; the declarations below are the contract that an
//! authorizer will enforce, so a handler may ask only for pairs its API declares (checked in release: a
//! pair outside the table is a bug of ours that would otherwise become a hole).
#![forbid(unsafe_code)]

use crate::request_context::RequestContext;

/// Kinds of things that can be guarded (Kafka's resource types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// The whole cluster.
    Cluster,
    /// A topic by name.
    Topic,
    /// A consumer group by id.
    Group,
    /// A transactional id.
    TransactionalId,
}

/// One thing that is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource<'a> {
    /// The whole cluster.
    Cluster,
    /// A topic by name.
    Topic(&'a str),
    /// A consumer group by id.
    Group(&'a str),
    /// A transactional id.
    TransactionalId(&'a str),
}

impl Resource<'_> {
    /// The kind, for the declaration table.
    pub const fn kind(&self) -> ResourceKind {
        match self {
            Resource::Cluster => ResourceKind::Cluster,
            Resource::Topic(_) => ResourceKind::Topic,
            Resource::Group(_) => ResourceKind::Group,
            Resource::TransactionalId(_) => ResourceKind::TransactionalId,
        }
    }

    /// The name, where its kind has names.
    pub const fn name(&self) -> Option<&str> {
        match self {
            Resource::Cluster => None,
            Resource::Topic(name) | Resource::Group(name) | Resource::TransactionalId(name) => Some(name),
        }
    }
}

/// What is to be done to a resource (Kafka's ACL operations).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Consume from a topic, commit for a group.
    Read,
    /// Produce to a topic or transactional id.
    Write,
    /// Make a topic.
    Create,
    /// Remove it.
    Delete,
    /// Add partitions; change replicas, leaders, ACLs.
    Alter,
    /// See that it is there.
    Describe,
    /// Read configurations.
    DescribeConfigs,
    /// Change configurations.
    AlterConfigs,
    /// Get a producer id without a transactional id.
    IdempotentWrite,
    /// What brokers do among themselves; only ever told of, in the authorized operations of a cluster.
    ClusterAction,
}

impl Operation {
    /// Its bit in an answer's authorized operations: one by Kafka's code of the operation.
    pub const fn bit(self) -> i32 {
        1 << match self {
            Operation::Read => 3,
            Operation::Write => 4,
            Operation::Create => 5,
            Operation::Delete => 6,
            Operation::Alter => 7,
            Operation::Describe => 8,
            Operation::ClusterAction => 9,
            Operation::DescribeConfigs => 10,
            Operation::AlterConfigs => 11,
            Operation::IdempotentWrite => 12,
        }
    }
}

/// Every operation that Kafka knows of a topic.
const TOPIC_OPERATIONS: &[Operation] = &[
    Operation::Read,
    Operation::Write,
    Operation::Create,
    Operation::Delete,
    Operation::Alter,
    Operation::Describe,
    Operation::DescribeConfigs,
    Operation::AlterConfigs,
];

/// Every operation that Kafka knows of a cluster.
const CLUSTER_OPERATIONS: &[Operation] = &[
    Operation::Create,
    Operation::Alter,
    Operation::Describe,
    Operation::ClusterAction,
    Operation::DescribeConfigs,
    Operation::AlterConfigs,
    Operation::IdempotentWrite,
];

/// What the guard says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Go on.
    Allowed,
    /// Answer the resource's "authorization failed" code.
    Denied {
        /// Kafka error code: 29 topic, 30 group, 31 cluster, 53 transactional id.
        error_code: i16,
    },
}

impl Decision {
    /// True when the handler may go on.
    pub const fn is_allowed(self) -> bool {
        matches!(self, Decision::Allowed)
    }
}

/// What one API may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// Kafka API key.
    pub api_key: i16,
    /// Kafka's name of the API.
    pub api_name: &'static str,
    /// The pairs; empty only for APIs that are open before login.
    pub pairs: &'static [(ResourceKind, Operation)],
}

use Operation as O;
use ResourceKind as R;

/// Every served API and what it asks the guard; sorted by key.
pub const DECLARATIONS: &[Declaration] = &[
    api(
        0,
        "Produce",
        &[(R::Topic, O::Write), (R::TransactionalId, O::Write)],
    ),
    api(1, "Fetch", &[(R::Topic, O::Read)]),
    api(2, "ListOffsets", &[(R::Topic, O::Describe)]),
    api(
        3,
        "Metadata",
        &[
            (R::Topic, O::Describe),
            (R::Topic, O::Create),
            (R::Cluster, O::Create),
            (R::Cluster, O::Describe),
        ],
    ),
    api(
        10,
        "FindCoordinator",
        &[(R::Group, O::Describe), (R::TransactionalId, O::Describe)],
    ),
    api(18, "ApiVersions", &[]),
    api(
        19,
        "CreateTopics",
        &[
            (R::Cluster, O::Create),
            (R::Topic, O::Create),
            (R::Topic, O::DescribeConfigs),
        ],
    ),
    api(
        20,
        "DeleteTopics",
        &[
            (R::Cluster, O::Delete),
            (R::Topic, O::Delete),
            (R::Topic, O::Describe),
        ],
    ),
    api(21, "DeleteRecords", &[(R::Topic, O::Delete)]),
    api(
        22,
        "InitProducerId",
        &[(R::TransactionalId, O::Write), (R::Cluster, O::IdempotentWrite)],
    ),
    api(23, "OffsetForLeaderEpoch", &[(R::Topic, O::Describe)]),
    api(29, "DescribeAcls", &[(R::Cluster, O::Describe)]),
    api(30, "CreateAcls", &[(R::Cluster, O::Alter)]),
    api(31, "DeleteAcls", &[(R::Cluster, O::Alter)]),
    api(
        32,
        "DescribeConfigs",
        &[
            (R::Topic, O::DescribeConfigs),
            (R::Cluster, O::DescribeConfigs),
            (R::Group, O::DescribeConfigs),
        ],
    ),
    api(
        33,
        "AlterConfigs",
        &[
            (R::Topic, O::AlterConfigs),
            (R::Cluster, O::AlterConfigs),
            (R::Group, O::AlterConfigs),
        ],
    ),
    api(35, "DescribeLogDirs", &[(R::Cluster, O::Describe)]),
    api(37, "CreatePartitions", &[(R::Topic, O::Alter)]),
    api(43, "ElectLeaders", &[(R::Cluster, O::Alter)]),
    api(
        44,
        "IncrementalAlterConfigs",
        &[
            (R::Topic, O::AlterConfigs),
            (R::Cluster, O::AlterConfigs),
            (R::Group, O::AlterConfigs),
        ],
    ),
    api(45, "AlterPartitionReassignments", &[(R::Cluster, O::Alter)]),
    api(46, "ListPartitionReassignments", &[(R::Cluster, O::Describe)]),
    api(60, "DescribeCluster", &[(R::Cluster, O::Describe)]),
    api(74, "ListConfigResources", &[(R::Cluster, O::DescribeConfigs)]),
    api(75, "DescribeTopicPartitions", &[(R::Topic, O::Describe)]),
];

const fn api(
    api_key: i16,
    api_name: &'static str,
    pairs: &'static [(ResourceKind, Operation)],
) -> Declaration {
    Declaration {
        api_key,
        api_name,
        pairs,
    }
}

/// The declaration of an API; `None` means the API must not be served.
pub fn declaration(api_key: i16) -> Option<&'static Declaration> {
    DECLARATIONS.iter().find(|d| d.api_key == api_key)
}

/// The guard of one shard.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// What a test denies.
    #[cfg(test)]
    denied: Vec<Denial>,
}

/// A pair that a test denies: on one name, or on every one of its kind.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Which kind of resource.
    pub kind: ResourceKind,
    /// Which one; `None`: all.
    pub name: Option<&'static str>,
    /// What may not be done to it.
    pub operation: Operation,
}

impl Guard {
    /// A guard that allows everything the APIs declare.
    pub fn allow_all() -> Self {
        Guard::default()
    }

    /// A guard that denies these.
    #[cfg(test)]
    pub fn denying(denied: Vec<Denial>) -> Self {
        Guard { denied }
    }

    /// What is decided of one pair.
    fn decide(&self, _resource: &Resource<'_>, _operation: Operation) -> bool {
        #[cfg(test)]
        {
            let denied = |denial: &Denial| {
                denial.kind == _resource.kind()
                    && denial.operation == _operation
                    && denial.name.is_none_or(|name| Some(name) == _resource.name())
            };
            if self.denied.iter().any(denied) {
                return false;
            }
        }
        true
    }

    /// Asks for all pairs at once; the first that is denied decides.
    ///
    /// # Panics
    /// When the API has no declaration or asks outside it: a handler nobody reviewed.
    pub fn check(&self, ctx: &RequestContext, asked: &[(Resource<'_>, Operation)]) -> Decision {
        let declared = declaration(ctx.api_key).map_or(&[][..], |d| d.pairs);
        for (resource, operation) in asked {
            assert!(
                declared.contains(&(resource.kind(), *operation)),
                "api {} asks for {operation:?} on a {:?} without declaring it",
                ctx.api_key,
                resource.kind()
            );
            if !self.decide(resource, *operation) {
                return Decision::Denied {
                    error_code: authorization_failed_code(resource.kind()),
                };
            }
        }
        Decision::Allowed
    }

    /// Every operation that is allowed on a resource, as the bits of an answer. It only tells, and lets
    /// nothing happen, so it is not bound to what an API declares.
    pub fn operations(&self, resource: &Resource<'_>) -> i32 {
        let known = match resource.kind() {
            ResourceKind::Topic => TOPIC_OPERATIONS,
            ResourceKind::Cluster => CLUSTER_OPERATIONS,
            ResourceKind::Group | ResourceKind::TransactionalId => &[],
        };
        let allowed = known
            .iter()
            .filter(|operation| self.decide(resource, **operation));
        allowed.fold(0, |bits, operation| bits | operation.bit())
    }
}

/// The Kafka error code that says "not authorized" for a kind of resource.
pub const fn authorization_failed_code(kind: ResourceKind) -> i16 {
    match kind {
        ResourceKind::Topic => 29,
        ResourceKind::Group => 30,
        ResourceKind::Cluster => 31,
        ResourceKind::TransactionalId => 53,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_context::tests::context;
    use tidelog_net::{ApiKey, SERVED};

    #[test]
    fn every_served_api_declares_its_pairs() {
        for api in SERVED {
            let key = api.key as i16;
            let declared = declaration(key).unwrap_or_else(|| panic!("{} declares nothing", api.name));
            assert_eq!(declared.api_name, api.name);
            assert!(
                !declared.pairs.is_empty() || api.key == ApiKey::ApiVersions,
                "{} is open to all",
                api.name
            );
        }
        assert_eq!(
            DECLARATIONS.len(),
            SERVED.len(),
            "a declaration of an API that is not served"
        );
        assert!(DECLARATIONS.is_sorted_by(|a, b| a.api_key < b.api_key));
    }

    #[test]
    fn declared_pairs_are_allowed_today() {
        let asked = [
            (Resource::Topic("a"), Operation::Write),
            (Resource::Topic("b"), Operation::Write),
        ];
        assert!(Guard::allow_all().check(&context(0), &asked).is_allowed());
        assert!(Guard::allow_all().check(&context(18), &[]).is_allowed());
    }

    #[test]
    fn a_denied_pair_has_the_code_of_its_resource_and_no_bit() {
        let denied = |kind, name, operation| Denial {
            kind,
            name,
            operation,
        };
        let guard = Guard::denying(vec![
            denied(R::Topic, Some("a"), O::Write),
            denied(R::Cluster, None, O::IdempotentWrite),
        ]);
        let write = |name| guard.check(&context(0), &[(Resource::Topic(name), O::Write)]);
        assert_eq!(write("a"), Decision::Denied { error_code: 29 });
        assert!(write("b").is_allowed());
        let id = guard.check(&context(22), &[(Resource::Cluster, O::IdempotentWrite)]);
        assert_eq!(id, Decision::Denied { error_code: 31 });
        // Kafka's numbers: read 3 ... alter configs 11 of a topic, without write 4.
        assert_eq!(guard.operations(&Resource::Topic("a")), 0b1101_1110_1000);
        assert_eq!(guard.operations(&Resource::Topic("b")), 0b1101_1111_1000);
        assert_eq!(
            guard.operations(&Resource::Cluster),
            0b1111_1010_0000 & !(1 << 12)
        );
    }

    #[test]
    #[should_panic(expected = "without declaring it")]
    fn an_undeclared_pair_is_a_bug() {
        let _ = Guard::allow_all().check(&context(1), &[(Resource::Topic("a"), Operation::Delete)]);
    }

    #[test]
    #[should_panic(expected = "without declaring it")]
    fn an_undeclared_api_is_a_bug() {
        let _ = Guard::allow_all().check(&context(4), &[(Resource::Cluster, Operation::Alter)]);
    }
}
