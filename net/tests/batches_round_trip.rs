//! Whatever records a producer puts into a batch come out of it again, through every codec, and the codec
//! crate reads the same.

use kafka_protocol::records::RecordBatchDecoder;
use proptest::prelude::*;
use tidelog_net::records::{Batch, BatchBuilder, Compression};

type Text = Option<Vec<u8>>;
type Record = (i64, Text, Text, Vec<(String, Text)>);

fn text() -> impl Strategy<Value = Text> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200))
}

fn record() -> impl Strategy<Value = Record> {
    let headers = proptest::collection::vec(("[a-z]{0,8}", text()), 0..4);
    (0i64..4_000_000_000_000, text(), text(), headers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn records_come_out_as_they_went_in(
        records in proptest::collection::vec(record(), 1..30),
        codec in 0i16..5,
        producer_id in -1i64..100,
    ) {
        let compression = Compression::from_code(codec).expect("a codec");
        let mut builder = BatchBuilder::new(compression).with_producer(producer_id, 2, 11);
        for (timestamp, key, value, headers) in &records {
            let headers: Vec<_> = headers.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
            builder.append(*timestamp, key.as_deref(), value.as_deref(), &headers).expect("room");
        }
        let mut bytes = builder.build().expect("a batch");
        let set = RecordBatchDecoder::decode(&mut bytes.clone()).expect("readable by the crate");
        prop_assert_eq!(set.records.len(), records.len());

        let batch = Batch::take(&mut bytes).expect("whole");
        prop_assert!(bytes.is_empty());
        batch.verify_crc().expect("checksum");
        prop_assert_eq!(batch.header.producer_id, producer_id);
        prop_assert_eq!(batch.header.max_timestamp, records.iter().map(|record| record.0).max().expect("one"));
        let plain = batch.decompressed(1 << 20).expect("decompressed");
        let views: Vec<_> =
            batch.records(&plain).expect("a count").collect::<Result<_, _>>().expect("records");
        prop_assert_eq!(views.len(), records.len());
        for (position, (view, (timestamp, key, value, headers))) in views.iter().zip(&records).enumerate() {
            prop_assert_eq!(batch.header.base_timestamp + view.timestamp_delta, *timestamp);
            prop_assert_eq!(view.offset_delta as usize, position);
            prop_assert_eq!(view.key, key.as_deref());
            prop_assert_eq!(view.value, value.as_deref());
            let read: Vec<_> = view.headers.map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec))).collect();
            let put: Vec<_> = headers.iter().map(|(k, v)| (k.clone().into_bytes(), v.clone())).collect();
            prop_assert_eq!(read, put);
        }
    }
}
