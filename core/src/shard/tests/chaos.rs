//! Everything at once, in an order that a seed decides: every request of a connection that stays is
//! answered, in order, and what was acknowledged as durable survives a power cut, log starts too.

use std::collections::BTreeMap;

use tidelog_net::messages as kp;
use tidelog_net::{ErrorCode, ResponseBody};
use tidelog_segment_log::disk::sim::{SimConfig, SimFaults, SimRng};

use super::delete_records::request as delete_records_request;
use super::device::partition_syncs;
use super::harness::{Client, Cluster};
use super::requests::*;

const STEPS: usize = 1_500;

struct Peer {
    client: Client,
    /// What is still to be answered, and the value of a durable produce: partition, value.
    owed: BTreeMap<i32, Option<(i32, String)>>,
    last: i32,
}

struct Chaos {
    cluster: Cluster,
    rng: SimRng,
    peers: Vec<Peer>,
    acked: Vec<(i32, i64, String)>,
    /// Of each partition of "keep": the highest log start that was answered, and the highest asked for.
    starts: [(i64, i64); 4],
    values: u32,
}

impl Chaos {
    fn new(seed: u64, shards: usize) -> Self {
        let disk = SimConfig {
            seed,
            faults: SimFaults {
                cold_ppm: 300_000,
                would_stall_ppm: 100_000,
                short_write_ppm: 0,
                ..Default::default()
            },
            ..Default::default()
        };
        let mut cluster = Cluster::with(shards, &["memory.limit=64MiB"], disk);
        let client = cluster.connect(0);
        cluster.create(client, "keep", 4, &[("segment.bytes", "1048576")]);
        Self {
            cluster,
            rng: SimRng::new(seed ^ 0x5eed),
            peers: Vec::new(),
            acked: Vec::new(),
            starts: [(0, 0); 4],
            values: 0,
        }
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.index(n)
    }

    fn step(&mut self) {
        match self.below(100) {
            0..50 => {
                let shards = self.cluster.shards();
                let shard = self.below(shards);
                self.cluster.turn(shard);
            }
            50..65 => {
                self.cluster.device.borrow_mut().advance();
            }
            65..67 => {
                let ms = self.below(60) as u64;
                self.cluster.pass_ms(ms);
            }
            67 => self.cluster.hold(partition_syncs),
            68..70 => self.cluster.release(),
            70..73 if self.peers.len() < 8 => {
                let shards = self.cluster.shards();
                let shard = self.below(shards);
                let client = self.cluster.connect(shard);
                self.peers.push(Peer {
                    client,
                    owed: BTreeMap::new(),
                    last: 0,
                });
            }
            73 if !self.peers.is_empty() => {
                let at = self.below(self.peers.len());
                let peer = self.peers.swap_remove(at);
                self.cluster.close(peer.client);
            }
            74..76 if !self.peers.is_empty() => {
                let at = self.below(self.peers.len());
                let stalled = self.rng.coin();
                let client = self.peers[at].client;
                if !self.cluster.is_closed(client) {
                    self.cluster.stall(client, stalled);
                }
            }
            76..100 if !self.peers.is_empty() => {
                let at = self.below(self.peers.len());
                if !self.cluster.is_closed(self.peers[at].client) {
                    self.request(at);
                }
            }
            _ => {}
        }
    }

    fn request(&mut self, at: usize) {
        let client = self.peers[at].client;
        let topic = ["keep", "keep", "keep", "come", "go"][self.below(5)];
        let partition = self.below(5) as i32;
        let offset = self.below(40) as i64 - 2;
        let mut durable = None;
        let correlation = match self.below(17) {
            0..5 => {
                let acks = [-1, -1, 1, 0][self.below(4)];
                self.values += 1;
                let value = if self.below(10) == 0 {
                    format!("{}{}", self.values, "x".repeat(300_000))
                } else {
                    self.values.to_string()
                };
                if acks == -1 && topic == "keep" {
                    durable = Some((partition, value.clone()));
                }
                let request = produce_request(topic, acks, &[(partition, batch(&[&value]))]);
                let correlation = self.cluster.send(client, 9, request);
                if acks == 0 {
                    return;
                }
                correlation
            }
            5..8 => {
                let wants = [(topic, partition, offset), ("keep", 1, offset), ("keep", 2, 0)];
                let wait = [0, 50, 1000][self.below(3)];
                let min_bytes = [0, 1, 10_000][self.below(3)];
                self.cluster
                    .send(client, 12, fetch_request(&wants, wait, min_bytes))
            }
            8 => {
                let time = [-1, -2, -3, 5, super::harness::EPOCH_MS][self.below(5)];
                self.cluster.send(client, 7, list_request(topic, partition, time))
            }
            9 if topic != "keep" => self.cluster.send(client, 6, delete_request(topic)),
            9 => {
                let bytes = ["1048576", "2097152"][self.below(2)];
                self.cluster
                    .send(client, 1, alter_request("keep", &[("segment.bytes", bytes)]))
            }
            12..14 => {
                // What is kept goes bit by bit, so that there is always something to be lost.
                let to = if topic == "keep" {
                    offset.max(0) / 6
                } else {
                    offset
                };
                if let ("keep", Some((_, asked))) = (topic, self.starts.get_mut(partition as usize)) {
                    *asked = to.max(*asked);
                }
                let request = delete_records_request(&[(topic, &[(partition, to)])], 100_000);
                self.cluster.send(client, 2, request)
            }
            10 => {
                let request = kp::InitProducerIdRequest::default().with_transactional_id(None);
                self.cluster.send(client, 4, request)
            }
            11 => self.cluster.send(client, 12, metadata_request(&[topic], true)),
            _ => self.admin_request(client, topic, partition),
        };
        self.peers[at].owed.insert(correlation, durable);
    }

    /// What tools ask.
    fn admin_request(&mut self, client: Client, topic: &str, partition: i32) -> i32 {
        let some = [partition, 0];
        match self.below(8) {
            0 => {
                let all = self.rng.coin();
                let asked = [(topic, &some[..])];
                let request = log_dirs_request((!all).then_some(&asked[..]));
                self.cluster.send(client, 4, request)
            }
            1 => {
                let limit = self.below(4) as i32;
                self.cluster
                    .send(client, 0, describe_request(&[topic, "keep"], limit))
            }
            2 => {
                let bytes = ["1048576", "2097152"][self.below(2)];
                let request = replace_request("keep", &[("segment.bytes", bytes)]);
                self.cluster.send(client, 2, request)
            }
            3 => self
                .cluster
                .send(client, 2, elect_request(1, &[(topic, &some[..])])),
            4 => {
                let request = reassign_request(&[(topic, partition, Some(&[1])), (topic, 0, None)]);
                self.cluster.send(client, 1, request)
            }
            5 => {
                let request = kp::ListPartitionReassignmentsRequest::default();
                self.cluster.send(client, 0, request)
            }
            6 => {
                let request = kp::ListConfigResourcesRequest::default();
                self.cluster.send(client, 1, request)
            }
            _ => {
                let request = kp::CreateAclsRequest::default().with_creations(vec![Default::default(); 2]);
                self.cluster.send(client, 3, request)
            }
        }
    }

    fn take_answers(&mut self) {
        for peer in &mut self.peers {
            while let Some((correlation, body)) = self.cluster.received(peer.client) {
                assert!(correlation > peer.last, "answers come in request order");
                peer.last = correlation;
                let durable = peer.owed.remove(&correlation).expect("was asked");
                match (durable, body) {
                    (Some((partition, value)), ResponseBody::Produce(body)) => {
                        let answer = &body.topics[0].partitions[0];
                        match answer.error {
                            ErrorCode::None => self.acked.push((partition, answer.base_offset, value)),
                            // Partition 4 is not there.
                            ErrorCode::UnknownTopicOrPartition => assert_eq!(partition, 4),
                            other => panic!("{other:?}: {:?}", answer.error_message),
                        }
                    }
                    (_, ResponseBody::DeleteRecords(body)) if body.topics[0].name.0.as_str() == "keep" => {
                        let answer = &body.topics[0].partitions[0];
                        // Else: above the high watermark, or partition 4.
                        if answer.error_code == 0 {
                            let (told, asked) = &mut self.starts[answer.partition_index as usize];
                            assert!(answer.low_watermark <= *asked, "further than anyone asked");
                            *told = answer.low_watermark.max(*told);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn settle(&mut self) {
        self.cluster.release();
        for peer in &self.peers {
            if !self.cluster.is_closed(peer.client) {
                self.cluster.stall(peer.client, false);
            }
        }
        self.cluster.advance_ms(3_000);
        self.take_answers();
        for peer in &self.peers {
            if !self.cluster.is_closed(peer.client) {
                assert!(peer.owed.is_empty(), "never answered: {:?}", peer.owed);
            }
        }
    }

    fn check(&mut self) {
        let client = self.cluster.connect(0);
        for partition in 0..4 {
            let (start, _, error) = self.cluster.list(client, "keep", partition, -2);
            let (told, asked) = self.starts[partition as usize];
            assert_eq!(error, 0);
            assert!(
                (told..=asked).contains(&start),
                "{start} is not in {told}..={asked}"
            );
            let all: BTreeMap<i64, String> = self
                .cluster
                .get_all_from(client, "keep", partition, start)
                .into_iter()
                .collect();
            let of_partition = self.acked.iter().filter(|(p, ..)| *p == partition);
            for (_, offset, value) in of_partition.filter(|(_, offset, _)| *offset >= start) {
                assert_eq!(all.get(offset), Some(value), "{partition}, {offset}");
            }
        }
    }
}

#[test]
fn every_request_is_answered_and_nothing_acknowledged_is_lost() {
    let (mut durable, mut deleted) = (0, 0);
    for shards in [1, 3] {
        for seed in 0..4 {
            let mut chaos = Chaos::new(seed, shards);
            for round in 0..3 {
                for _ in 0..STEPS / 3 {
                    chaos.step();
                    chaos.take_answers();
                }
                if round == 1 {
                    chaos.settle();
                    chaos.peers.clear();
                    chaos.cluster.restart();
                    chaos.check();
                }
            }
            chaos.settle();
            chaos.check();
            let Chaos { acked, starts, .. } = &chaos;
            durable += acked.len();
            deleted += starts.iter().map(|(told, _)| told).sum::<i64>();
            chaos.peers.clear();
            chaos.cluster.power_cut();
            chaos.check();
        }
    }
    assert!(
        durable > 50 && deleted > 50,
        "{durable}, {deleted}: too little happened"
    );
}
