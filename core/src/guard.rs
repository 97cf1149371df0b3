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
    /// Add partitions.
    Alter,
    /// See that it is there.
    Describe,
    /// Read configurations.
    DescribeConfigs,
    /// Change configurations.
    AlterConfigs,
    /// Get a producer id without a transactional id.
    IdempotentWrite,
}

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
        &[(R::Topic, O::Delete), (R::Topic, O::Describe)],
    ),
    api(21, "DeleteRecords", &[(R::Topic, O::Delete)]),
    api(
        22,
        "InitProducerId",
        &[(R::TransactionalId, O::Write), (R::Cluster, O::IdempotentWrite)],
    ),
    api(23, "OffsetForLeaderEpoch", &[(R::Topic, O::Describe)]),
    api(
        32,
        "DescribeConfigs",
        &[(R::Topic, O::DescribeConfigs), (R::Cluster, O::DescribeConfigs)],
    ),
    api(37, "CreatePartitions", &[(R::Topic, O::Alter)]),
    api(
        44,
        "IncrementalAlterConfigs",
        &[(R::Topic, O::AlterConfigs), (R::Cluster, O::AlterConfigs)],
    ),
    api(60, "DescribeCluster", &[(R::Cluster, O::Describe)]),
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
pub struct Guard {}

impl Guard {
    /// A guard that allows everything the APIs declare.
    pub fn allow_all() -> Self {
        Guard {}
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
        }
        Decision::Allowed
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
