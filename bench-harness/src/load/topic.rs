//! Set-up before a run: the topic, who leads it, sockets. Nothing here is measured.

use std::net::{TcpStream, ToSocketAddrs};

use super::LoadError;
use crate::client::{Client, ClientConfig, ClientError, NewTopic};
use crate::limits::{CONNECT_TIMEOUT, LOAD_CONNECTIONS_MAX};

const TOPIC_ALREADY_EXISTS: i16 = 36;

/// Creates `topic` with `partitions` partitions and one replica; one that exists is taken as it is.
pub fn create(client: &mut Client, topic: &str, partitions: i32) -> Result<(), LoadError> {
    let wanted = NewTopic {
        name: topic.to_owned(),
        partitions,
        replicas: 1,
        configs: Vec::new(),
    };
    for (_, outcome) in client.create_topics(&[wanted], false)? {
        match outcome {
            Err(ClientError::Broker {
                code: TOPIC_ALREADY_EXISTS,
                ..
            })
            | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The address of the one broker that leads partitions `0..partitions` of `topic`.
///
/// A run measures one broker, so that its figures say whose they are.
pub fn leader_address(config: &ClientConfig, topic: &str, partitions: i32) -> Result<String, LoadError> {
    let mut client = Client::connect(config.clone())?;
    let leader = client.leader(topic, 0)?;
    for partition in 1..partitions {
        let other = client.leader(topic, partition)?;
        if other != leader {
            return Err(LoadError::Options(format!(
                "broker {leader} leads {topic}-0 and broker {other} leads {topic}-{partition}; \
                 a run loads one broker: take fewer partitions"
            )));
        }
    }
    let metadata = client.metadata(Some(&[topic.to_owned()]), false)?;
    let broker = metadata.brokers.iter().find(|b| b.node_id == leader);
    broker
        .map(|b| b.address.clone())
        .ok_or_else(|| LoadError::Answer(format!("the metadata does not name broker {leader}")))
}

/// Opens `count` connections to `address`.
pub fn connect(address: &str, count: usize) -> Result<Vec<TcpStream>, LoadError> {
    if count == 0 || count > LOAD_CONNECTIONS_MAX {
        return Err(LoadError::Options(format!(
            "1 to {LOAD_CONNECTIONS_MAX} connections, not {count}"
        )));
    }
    (0..count).map(|_| open(address)).collect()
}

fn open(address: &str) -> Result<TcpStream, LoadError> {
    let unreachable = |detail: String| {
        LoadError::Client(ClientError::Unreachable {
            address: address.to_owned(),
            detail,
        })
    };
    let mut last = "the name has no address".to_owned();
    for resolved in address
        .to_socket_addrs()
        .map_err(|e| unreachable(e.to_string()))?
    {
        match TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(LoadError::io("TCP_NODELAY"))?;
                return Ok(stream);
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(unreachable(last))
}
