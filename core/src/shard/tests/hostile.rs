//! Frames that no client of ours sends: whatever they say, the shards live and hold nothing.

use bytes::Bytes;
use tidelog_net::client::encode_request;
use tidelog_net::messages as kp;
use tidelog_net::{RequestBody, ServedApi};
use tidelog_segment_log::disk::sim::SimRng;

use super::harness::Cluster;
use super::requests::*;

fn bodies() -> Vec<RequestBody> {
    let deletion = delete_request("u");
    vec![
        produce_request(
            "t",
            -1,
            &[(0, sequenced(5, 0, 0, &["a", "b"])), (1, batch(&["c"]))],
        )
        .into(),
        produce_request("t", 1, &[(2, large(300))]).into(),
        fetch_request(&[("t", 0, 0), ("t", 1, 0), ("u", 0, 0)], 10, 1).into(),
        list_request("t", 0, super::harness::EPOCH_MS).into(),
        list_request("t", 1, -3).into(),
        metadata_request(&["t", "new"], true).into(),
        create_request("u", 2, &[("segment.bytes", "1048576")]).into(),
        deletion.into(),
        alter_request("t", &[("max.message.bytes", "1000000")]).into(),
        kp::InitProducerIdRequest::default()
            .with_transactional_id(None)
            .into(),
        kp::DescribeClusterRequest::default().into(),
        kp::FindCoordinatorRequest::default().into(),
        kp::DescribeConfigsRequest::default().into(),
    ]
}

#[test]
fn changed_frames_of_every_version_never_stop_a_shard() {
    const NUMBERS: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
    for shards in [1, 3] {
        let mut cluster = Cluster::new(shards);
        let admin = cluster.connect(0);
        cluster.create(admin, "t", 3, &[]);
        let mut rng = SimRng::new(shards as u64);
        let mut sent = 0;
        for body in bodies() {
            let api = ServedApi::of(body.api_key());
            for version in api.min..=api.max {
                // What a version cannot say is not sent in it.
                let Ok(frame) = encode_request(api.key, version, 1, Some("x"), &body) else {
                    continue;
                };
                for _ in 0..25 {
                    let mut bytes = frame[4..].to_vec();
                    for _ in 0..=rng.index(3) {
                        // The API and its version stay.
                        let at = 4 + rng.index(bytes.len() - 4);
                        bytes[at] = NUMBERS[rng.index(NUMBERS.len())];
                    }
                    let client = cluster.connect(sent % shards);
                    cluster.send_raw(client, Bytes::from(bytes));
                    sent += 1;
                    cluster.run();
                    cluster.close(client);
                }
            }
        }
        assert!(sent > 1000, "{sent}");
        cluster.advance_ms(100);
        let client = cluster.connect(shards - 1);
        cluster.alter(
            client,
            "t",
            &[
                ("max.message.bytes", "1000000"),
                ("message.timestamp.type", "CreateTime"),
            ],
        );
        for partition in 0..3 {
            let base = cluster.put(client, "t", partition, batch(&["still here"]));
            assert!(base >= 0);
        }
    }
}
