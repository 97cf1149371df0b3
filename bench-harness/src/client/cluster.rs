//! A client of a whole cluster: one connection per broker, metadata, and requests to the leader.
//!
//! Owned by one thread. A connection that failed is dropped and opened again at the next request.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, DescribeClusterRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};

use super::config::ClientConfig;
use super::connection::Connection;
use super::error::ClientError;
use crate::limits;

const METADATA_VERSIONS: VersionRange = VersionRange { min: 1, max: 12 };
const DESCRIBE_CLUSTER_VERSIONS: VersionRange = VersionRange { min: 0, max: 1 };

/// A broker as metadata names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Node id.
    pub node_id: i32,
    /// `host:port` it advertises.
    pub address: String,
    /// Rack, when it has one.
    pub rack: Option<String>,
}

/// A partition as metadata names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Partition number.
    pub partition: i32,
    /// Node id of the leader; -1 when there is none.
    pub leader: i32,
    /// Leader epoch; -1 when the broker does not say.
    pub leader_epoch: i32,
    /// Node ids of all replicas.
    pub replicas: Vec<i32>,
    /// Node ids of the in-sync replicas.
    pub in_sync_replicas: Vec<i32>,
    /// Kafka error code, 0 when fine.
    pub error_code: i16,
}

/// A topic as metadata names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Name.
    pub name: String,
    /// Topic id in its usual text form; all zeros when the broker does not say.
    pub topic_id: String,
    /// True for the cluster's own topics.
    pub is_internal: bool,
    /// Kafka error code, 0 when fine.
    pub error_code: i16,
    /// Partitions by number.
    pub partitions: Vec<Partition>,
}

/// Brokers and topics of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Cluster id, when the broker says it.
    pub cluster_id: Option<String>,
    /// Node id of the controller; -1 when unknown.
    pub controller: i32,
    /// Brokers by node id.
    pub brokers: Vec<Broker>,
    /// Topics by name.
    pub topics: Vec<Topic>,
}

impl Metadata {
    /// The topic `name`, or the error code the broker gave for it.
    pub fn topic(&self, name: &str) -> Result<&Topic, ClientError> {
        let topic = self.topics.iter().find(|t| t.name == name);
        match topic {
            Some(topic) if topic.error_code == 0 => Ok(topic),
            other => {
                let code = other.map_or(3, |t| t.error_code);
                Err(ClientError::broker(format!("topic {name}"), code, None))
            }
        }
    }
}

/// A blocking client of one cluster.
#[derive(Debug)]
pub struct Client {
    pub(super) config: ClientConfig,
    connections: HashMap<String, Connection>,
    brokers: BTreeMap<i32, String>,
    leaders: HashMap<(String, i32), i32>,
}

impl Client {
    /// Connects to the first bootstrap address that answers.
    pub fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let mut client = Client {
            config,
            connections: HashMap::new(),
            brokers: BTreeMap::new(),
            leaders: HashMap::new(),
        };
        client.bootstrap()?;
        Ok(client)
    }

    /// The settings this client was made with.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Forgets connections and leaders: the next request starts from the bootstrap addresses.
    pub fn reset(&mut self) {
        self.connections.clear();
        self.leaders.clear();
        self.brokers.clear();
    }

    /// Brokers and topics; `topics` of `None` means all. Creates missing topics only when
    /// `auto_create` is set and the broker allows it.
    pub fn metadata(
        &mut self,
        topics: Option<&[String]>,
        auto_create: bool,
    ) -> Result<Metadata, ClientError> {
        let mut request = MetadataRequest::default();
        // Before version 4 a client cannot say that it wants nothing created.
        let version = self.any()?.version_of(ApiKey::Metadata, METADATA_VERSIONS)?;
        request.allow_auto_topic_creation = auto_create || version < 4;
        request.topics = topics.map(|names| {
            let topic = |name: &String| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            names.iter().map(topic).collect()
        });
        let answer = self.call_any(ApiKey::Metadata, METADATA_VERSIONS, &request)?;
        let metadata = metadata_from(answer);
        self.brokers = metadata
            .brokers
            .iter()
            .map(|b| (b.node_id, b.address.clone()))
            .collect();
        for topic in &metadata.topics {
            for partition in topic.partitions.iter().filter(|p| p.leader >= 0) {
                self.leaders
                    .insert((topic.name.clone(), partition.partition), partition.leader);
            }
        }
        Ok(metadata)
    }

    /// The address and version of the first broker that answers, and what it serves.
    pub fn api_versions(&mut self) -> Result<(String, BTreeMap<i16, VersionRange>), ClientError> {
        let connection = self.any()?;
        Ok((connection.address().to_owned(), connection.versions().clone()))
    }

    /// Brokers of the cluster by DescribeCluster, or by Metadata where that is not served.
    pub fn describe_cluster(&mut self) -> Result<Metadata, ClientError> {
        let request = DescribeClusterRequest::default();
        let answer = match self.call_any(ApiKey::DescribeCluster, DESCRIBE_CLUSTER_VERSIONS, &request) {
            Err(ClientError::Unsupported { .. }) => return self.metadata(Some(&[]), false),
            other => other?,
        };
        if answer.error_code != 0 {
            let detail = answer.error_message.as_ref().map(|m| m.as_str());
            return Err(ClientError::broker("cluster", answer.error_code, detail));
        }
        let broker =
            |b: &kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker| Broker {
                node_id: b.broker_id.0,
                address: address_of(&b.host, b.port),
                rack: b.rack.as_ref().map(|r| r.to_string()),
            };
        Ok(Metadata {
            cluster_id: Some(answer.cluster_id.to_string()),
            controller: answer.controller_id.0,
            brokers: answer.brokers.iter().map(broker).collect(),
            topics: Vec::new(),
        })
    }

    /// The node that leads `topic`-`partition`, from memory or from fresh metadata.
    pub fn leader(&mut self, topic: &str, partition: i32) -> Result<i32, ClientError> {
        let key = (topic.to_owned(), partition);
        if let Some(leader) = self.leaders.get(&key) {
            return Ok(*leader);
        }
        let metadata = self.metadata(Some(&[topic.to_owned()]), false)?;
        let found = metadata
            .topic(topic)?
            .partitions
            .iter()
            .find(|p| p.partition == partition);
        match found {
            Some(p) if p.leader >= 0 => Ok(p.leader),
            Some(p) => Err(ClientError::broker(
                format!("{topic}-{partition}"),
                p.error_code.max(5),
                None,
            )),
            None => Err(ClientError::broker(
                format!("{topic}-{partition}"),
                3,
                Some("no such partition"),
            )),
        }
    }

    /// Forgets who leads `topic`-`partition`, so that the next request asks again.
    pub fn forget_leader(&mut self, topic: &str, partition: i32) {
        self.leaders.remove(&(topic.to_owned(), partition));
    }

    /// Forgets the leaders of every partition of `topic`.
    pub(super) fn forget_topic(&mut self, topic: &str) {
        self.leaders.retain(|(name, _), _| name != topic);
    }

    /// Sends to any broker that can be reached.
    pub(super) fn call_any<R: Request>(
        &mut self,
        api: ApiKey,
        versions: VersionRange,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        let address = self.any()?.address().to_owned();
        self.call_at(&address, api, versions, request, Duration::ZERO)
    }

    /// Sends to the broker `node_id`; it may take `extra` longer than the request timeout.
    pub(super) fn call_node<R: Request>(
        &mut self,
        node_id: i32,
        api: ApiKey,
        versions: VersionRange,
        request: &R,
        extra: Duration,
    ) -> Result<R::Response, ClientError> {
        let address = self.address(node_id)?;
        self.call_at(&address, api, versions, request, extra)
    }

    /// The open connection to the broker `node_id`.
    pub(super) fn connection(&mut self, node_id: i32) -> Result<&mut Connection, ClientError> {
        let address = self.address(node_id)?;
        self.connection_at(&address)
    }

    /// Drops the connection to `node_id`.
    pub(super) fn drop_connection(&mut self, node_id: i32) {
        if let Some(address) = self.brokers.get(&node_id) {
            self.connections.remove(address);
        }
    }

    fn call_at<R: Request>(
        &mut self,
        address: &str,
        api: ApiKey,
        versions: VersionRange,
        request: &R,
        extra: Duration,
    ) -> Result<R::Response, ClientError> {
        let connection = self.connection_at(address)?;
        let version = connection.version_of(api, versions)?;
        let answer = connection.call(api, version, request, extra);
        if answer.is_err() {
            self.connections.remove(address);
        }
        answer
    }

    fn address(&mut self, node_id: i32) -> Result<String, ClientError> {
        if !self.brokers.contains_key(&node_id) {
            self.metadata(Some(&[]), false)?;
        }
        self.brokers
            .get(&node_id)
            .cloned()
            .ok_or_else(|| ClientError::Unreachable {
                address: format!("broker {node_id}"),
                detail: "the cluster does not name its address".to_owned(),
            })
    }

    fn connection_at(&mut self, address: &str) -> Result<&mut Connection, ClientError> {
        if !self.connections.contains_key(address) {
            if self.connections.len() >= limits::CONNECTIONS_MAX {
                self.connections.clear();
            }
            let connection = Connection::open(address, &self.config)?;
            self.connections.insert(address.to_owned(), connection);
        }
        self.connections
            .get_mut(address)
            .ok_or_else(|| ClientError::Unreachable {
                address: address.to_owned(),
                detail: "no connection".to_owned(),
            })
    }

    fn any(&mut self) -> Result<&mut Connection, ClientError> {
        if self.connections.is_empty() {
            self.bootstrap()?;
        }
        let address = self.connections.keys().next().cloned().unwrap_or_default();
        self.connection_at(&address)
    }

    fn bootstrap(&mut self) -> Result<(), ClientError> {
        let mut failures = Vec::new();
        let mut last = None;
        for address in self.config.bootstrap.clone() {
            match Connection::open(&address, &self.config) {
                Ok(connection) => {
                    self.connections.insert(address, connection);
                    return Ok(());
                }
                Err(error) => {
                    failures.push(match &error {
                        ClientError::Unreachable { address, detail } => format!("{address}: {detail}"),
                        other => other.to_string(),
                    });
                    last = Some(error);
                }
            }
        }
        match last {
            Some(error) if failures.len() == 1 => Err(error),
            _ => Err(ClientError::Unreachable {
                address: "any of the addresses".to_owned(),
                detail: failures.join("; "),
            }),
        }
    }
}

/// A topic name for the wire.
pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn address_of(host: &str, port: i32) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

fn metadata_from(answer: MetadataResponse) -> Metadata {
    let ids = |nodes: &[kafka_protocol::messages::BrokerId]| nodes.iter().map(|n| n.0).collect();
    let mut topics: Vec<Topic> = answer
        .topics
        .iter()
        .map(|topic| {
            let mut partitions: Vec<Partition> = topic
                .partitions
                .iter()
                .map(|p| Partition {
                    partition: p.partition_index,
                    leader: p.leader_id.0,
                    leader_epoch: p.leader_epoch,
                    replicas: ids(&p.replica_nodes),
                    in_sync_replicas: ids(&p.isr_nodes),
                    error_code: p.error_code,
                })
                .collect();
            partitions.sort_by_key(|p| p.partition);
            Topic {
                name: topic.name.as_ref().map(|n| n.to_string()).unwrap_or_default(),
                topic_id: topic.topic_id.to_string(),
                is_internal: topic.is_internal,
                error_code: topic.error_code,
                partitions,
            }
        })
        .collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let mut brokers: Vec<Broker> = answer
        .brokers
        .iter()
        .map(|b| Broker {
            node_id: b.node_id.0,
            address: address_of(&b.host, b.port),
            rack: b.rack.as_ref().map(|r| r.to_string()),
        })
        .collect();
    brokers.sort_by_key(|b| b.node_id);
    Metadata {
        cluster_id: answer.cluster_id.map(|id| id.to_string()),
        controller: answer.controller_id.0,
        brokers,
        topics,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_topic_is_the_error_kafka_gives() {
        let metadata = Metadata {
            cluster_id: None,
            controller: -1,
            brokers: vec![],
            topics: vec![],
        };
        let error = metadata.topic("logs").expect_err("missing");
        assert_eq!(error.code(), Some(3));
        assert!(error.to_string().contains("topic logs"), "{error}");
    }

    #[test]
    fn an_ipv6_host_gets_brackets() {
        assert_eq!(address_of("::1", 9092), "[::1]:9092");
        assert_eq!(address_of("localhost", 9092), "localhost:9092");
    }

    #[test]
    fn every_bootstrap_address_is_named_when_none_answers() {
        let config = ClientConfig::with_bootstrap("127.0.0.1:1,127.0.0.1:2").expect("fine");
        let error = Client::connect(config).expect_err("nobody there").to_string();
        assert!(
            error.contains("127.0.0.1:1: ") && error.contains("127.0.0.1:2: "),
            "{error}"
        );
    }
}
