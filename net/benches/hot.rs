//! What every hot request costs the protocol: checking a batch, reading and writing messages. `just bench`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidelog_net::hot::{
    FetchPartition, FetchRequest, FetchTopic, MetadataRequest, MetadataTopic, ProducePartition,
    ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic, ProduceTopicResponse,
};
use tidelog_net::limits::decode_budget_bytes;
use tidelog_net::records::{Batch, BatchBuilder, Compression};
use tidelog_net::{ApiKey, RequestBody, ResponseBody, StrBytes, client, decode_request, response};

fn batch(records: usize, record_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..records {
        builder
            .append(1_700_000_000_000, None, Some(&vec![0x5a; record_bytes]), &[])
            .expect("a batch has room");
    }
    builder.build().expect("a batch with records")
}

fn topic() -> StrBytes {
    StrBytes::from_static_str("orders")
}

fn produce(records: Bytes) -> RequestBody {
    ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topics: vec![ProduceTopic {
            name: topic(),
            partitions: vec![ProducePartition {
                index: 0,
                records: Some(records),
            }],
            ..ProduceTopic::default()
        }],
        ..ProduceRequest::default()
    }
    .into()
}

fn fetch(partitions: i32) -> RequestBody {
    let partition = |index| FetchPartition {
        index,
        ..FetchPartition::default()
    };
    FetchRequest {
        topics: vec![FetchTopic {
            name: topic(),
            partitions: (0..partitions).map(partition).collect(),
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    }
    .into()
}

fn metadata() -> RequestBody {
    MetadataRequest {
        topics: Some(vec![MetadataTopic {
            name: Some(topic()),
            ..MetadataTopic::default()
        }]),
        ..MetadataRequest::default()
    }
    .into()
}

fn check(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch: take and check its CRC-32C");
    for (name, records, record_bytes) in [("64 KiB", 63, 1 << 10), ("1 KiB", 1, 1 << 10), ("100 B", 1, 100)] {
        let batch = batch(records, record_bytes);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let taken = Batch::take(&mut black_box(batch.clone())).expect("whole");
                taken.verify_crc().expect("valid");
                taken.header.record_count
            });
        });
    }
    group.finish();
}

fn requests(criterion: &mut Criterion) {
    let cases = [
        ("Produce of 100 B", ApiKey::Produce, produce(batch(1, 100))),
        ("Produce of 64 KiB", ApiKey::Produce, produce(batch(63, 1 << 10))),
        ("Fetch of 1 partition", ApiKey::Fetch, fetch(1)),
        ("Fetch of 16 partitions", ApiKey::Fetch, fetch(16)),
        ("Metadata of 1 topic", ApiKey::Metadata, metadata()),
    ];
    for (name, key, body) in cases {
        let version = client::client_version(key);
        let frame = client::encode_request(key, version, 7, Some("bench"), &body).expect("encodes");
        let frame = frame.slice(4..);
        criterion.bench_function(&format!("decode {name}"), |bencher| {
            bencher.iter(|| {
                let frame = black_box(frame.clone());
                let budget_bytes = decode_budget_bytes(frame.len());
                decode_request(frame, budget_bytes).expect("decodes")
            });
        });
    }
    let answer = ResponseBody::Produce(ProduceResponse {
        topics: vec![ProduceTopicResponse {
            name: topic(),
            partitions: vec![ProducePartitionResponse::default()],
            ..ProduceTopicResponse::default()
        }],
        ..ProduceResponse::default()
    });
    let version = client::client_version(ApiKey::Produce);
    criterion.bench_function("encode an answer to Produce", |bencher| {
        bencher.iter(|| response::encode_response(version, 7, black_box(&answer)).expect("encodes"));
    });
}

criterion_group!(benches, check, requests);
criterion_main!(benches);
