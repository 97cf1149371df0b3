//! Tests of the admin requests against Kafka's codes.

use uuid::Uuid;

use super::*;
use crate::metadata::{MetadataImage, MetadataMachine};

fn rules() -> TopicRules {
    TopicRules {
        partitions_max: u64::MAX,
        default_partitions: 3,
        default_replication_factor: 1,
        node_ids: vec![1],
        validate_only: false,
    }
}

fn topic(name: &str) -> CreateTopicRequest {
    CreateTopicRequest {
        name: name.into(),
        partitions: -1,
        replication_factor: -1,
        ..Default::default()
    }
}

fn ids() -> impl FnMut() -> Uuid {
    let mut next = 0;
    move || {
        next += 1;
        Uuid::from_u128(next)
    }
}

fn machine(names: &[&str]) -> MetadataMachine {
    let mut machine = MetadataMachine::new();
    let requests: Vec<_> = names.iter().map(|name| topic(name)).collect();
    let planned = create_topics(&machine.image(), &rules(), &requests, ids());
    for record in &planned.records {
        machine.apply(record).unwrap();
    }
    assert_eq!(machine.image().topic_count(), names.len());
    machine
}

fn codes<T>(planned: &Planned<T>) -> Vec<i16> {
    planned
        .outcomes
        .iter()
        .map(|o| o.as_ref().err().map_or(0, |e| e.code))
        .collect()
}

fn create_code(image: &MetadataImage, request: CreateTopicRequest) -> i16 {
    let planned = create_topics(image, &rules(), &[request], ids());
    assert_eq!(planned.records.is_empty(), planned.outcomes[0].is_err());
    codes(&planned)[0]
}

#[test]
fn defaults_are_filled_in() {
    let mut request = topic("orders");
    request.configs = vec![
        ("retention.ms".into(), Some("5000".into())),
        ("segment.ms".into(), Some("9".into())),
        ("compression.type".into(), Some("lz4".into())),
        ("preallocate".into(), Some("true".into())),
    ];
    let planned = create_topics(&MetadataImage::default(), &rules(), &[request], ids());
    let made = planned.outcomes[0].as_ref().unwrap();
    assert_eq!(
        (made.partitions, made.replication_factor, made.topic_id),
        (3, 1, Uuid::from_u128(1))
    );
    assert_eq!(made.without_effect, ["compression.type", "preallocate"]);
    let mut machine = MetadataMachine::new();
    machine.apply(&planned.records[0]).unwrap();
    assert_eq!(
        machine.image().topic("orders").unwrap().configs["retention.ms"],
        "5000"
    );
}

#[test]
fn create_codes() {
    let image = machine(&["taken", "a.b"]).image();
    let with = |change: fn(&mut CreateTopicRequest)| {
        let mut request = topic("new");
        change(&mut request);
        create_code(&image, request)
    };
    for (name, expected) in [
        ("", 17),
        ("..", 17),
        ("a b", 17),
        ("a_b", 17),
        ("__consumer_offsets", 17),
        ("taken", 36),
        ("fine", 0),
    ] {
        assert_eq!(create_code(&image, topic(name)), expected, "{name}");
    }
    assert_eq!(with(|r| r.partitions = 0), 37);
    assert_eq!(with(|r| r.partitions = -2), 37);
    assert_eq!(with(|r| r.partitions = i32::MAX), 37);
    assert_eq!(with(|r| r.replication_factor = 0), 38);
    assert_eq!(with(|r| r.replication_factor = 2), 38);
    assert_eq!(with(|r| r.configs = vec![("nope".into(), Some("1".into()))]), 40);
    assert_eq!(with(|r| r.configs = vec![("retention.ms".into(), None)]), 40);
    assert_eq!(
        with(|r| r.configs = vec![("retention.ms".into(), Some("x".into()))]),
        40
    );
    assert_eq!(
        with(|r| r.configs = vec![("remote.storage.enable".into(), Some("true".into()))]),
        40
    );
    assert_eq!(with(|r| r.assignments = vec![(0, vec![1]), (1, vec![1])]), 0);
    assert_eq!(with(|r| r.assignments = vec![(0, vec![1]), (2, vec![1])]), 39);
    assert_eq!(with(|r| r.assignments = vec![(0, vec![])]), 39);
    assert_eq!(with(|r| r.assignments = vec![(0, vec![9])]), 39);
    assert_eq!(with(|r| r.assignments = vec![(0, vec![1, 1])]), 39);
    assert_eq!(
        with(|r| {
            r.assignments = vec![(0, vec![1])];
            r.partitions = 1;
        }),
        42
    );
}

#[test]
fn one_request_sees_itself() {
    let image = MetadataImage::default();
    let requests = [topic("x"), topic("x"), topic("p.q"), topic("p_q")];
    let planned = create_topics(&image, &rules(), &requests, ids());
    assert_eq!(codes(&planned), [42, 42, 0, 17]);
    assert_eq!(planned.records.len(), 1);
    let mut big = topic("big");
    big.partitions = 6_000;
    let mut big2 = big.clone();
    big2.name = "big2".into();
    assert_eq!(
        codes(&create_topics(&image, &rules(), &[big, big2], ids())),
        [0, 44]
    );
}

#[test]
fn validate_only_appends_nothing() {
    let machine = machine(&["t"]);
    let rules = TopicRules {
        validate_only: true,
        ..rules()
    };
    let planned = create_topics(&machine.image(), &rules, &[topic("new"), topic("t")], ids());
    assert_eq!((codes(&planned), planned.records.len()), (vec![0, 36], 0));
    let grow = CreatePartitionsRequest {
        name: "t".into(),
        count: 4,
        assignments: None,
    };
    let planned = create_partitions(&machine.image(), &rules, &[grow]);
    assert_eq!((planned.outcomes, planned.records.len()), (vec![Ok(4)], 0));
}

#[test]
fn delete_codes() {
    let machine = machine(&["a", "b", "c"]);
    let by_name = |name: &str| DeleteTopicRequest {
        name: Some(name.into()),
        topic_id: Uuid::nil(),
    };
    let by_id = |id| DeleteTopicRequest {
        name: None,
        topic_id: Uuid::from_u128(id),
    };
    let both = DeleteTopicRequest {
        name: Some("a".into()),
        topic_id: Uuid::from_u128(1),
    };
    let requests = [
        by_name("a"),
        by_id(2),
        by_name("nope"),
        by_id(99),
        both,
        by_id(0),
        by_name("c"),
        by_id(3),
    ];
    let planned = delete_topics(&machine.image(), &requests);
    assert_eq!(codes(&planned), [0, 0, 3, 100, 42, 42, 42, 42]);
    assert_eq!(planned.records.len(), 2);
}

#[test]
fn create_partitions_codes() {
    let image = machine(&["t", "u"]).image();
    let grow = |name: &str, count, assignments: Option<Vec<Vec<i32>>>| {
        let request = CreatePartitionsRequest {
            name: name.into(),
            count,
            assignments,
        };
        codes(&create_partitions(&image, &rules(), &[request]))[0]
    };
    assert_eq!(grow("t", 4, None), 0);
    assert_eq!(grow("t", 3, None), 37);
    assert_eq!(grow("t", 2, None), 37);
    assert_eq!(grow("t", -1, None), 37);
    assert_eq!(grow("t", i32::MAX, None), 37);
    assert_eq!(grow("nope", 4, None), 3);
    assert_eq!(grow("t", 5, Some(vec![vec![1]])), 39);
    assert_eq!(grow("t", 5, Some(vec![vec![1], vec![1]])), 0);
    assert_eq!(grow("t", 4, Some(vec![vec![2]])), 39);
    let twice = CreatePartitionsRequest {
        name: "t".into(),
        count: 4,
        assignments: None,
    };
    assert_eq!(
        codes(&create_partitions(&image, &rules(), &[twice.clone(), twice])),
        [42, 42]
    );
}

fn op(key: &str, operation: i8, value: Option<&str>) -> AlterConfigOp {
    AlterConfigOp {
        key: key.into(),
        operation,
        value: value.map(Into::into),
    }
}

#[test]
fn alter_codes() {
    let image = machine(&["t"]).image();
    let alter = |operations: Vec<AlterConfigOp>| {
        let request = AlterConfigsRequest {
            topic: "t".into(),
            replace: false,
            operations,
        };
        codes(&alter_topic_configs(&image, &[request], false))[0]
    };
    assert_eq!(alter(vec![op("retention.ms", 0, Some("5"))]), 0);
    assert_eq!(alter(vec![op("retention.ms", 1, None)]), 0, "unset already");
    assert_eq!(alter(vec![op("retention.ms", 0, None)]), 42);
    assert_eq!(alter(vec![op("retention.ms", 9, Some("5"))]), 42);
    assert_eq!(alter(vec![op("retention.ms", 2, Some("5"))]), 40);
    assert_eq!(alter(vec![op("nope", 0, Some("5"))]), 40);
    assert_eq!(alter(vec![op("nope", 2, Some("5"))]), 40);
    assert_eq!(alter(vec![op("cleanup.policy", 2, Some("compact"))]), 0);
    assert_eq!(
        alter(vec![op("cleanup.policy", 3, Some("delete"))]),
        40,
        "a list that may not be empty"
    );
    assert_eq!(
        alter(vec![op("segment.ms", 0, Some("5")), op("segment.ms", 1, None)]),
        42
    );
    let unknown = AlterConfigsRequest {
        topic: "nope".into(),
        replace: false,
        operations: vec![],
    };
    assert_eq!(codes(&alter_topic_configs(&image, &[unknown], false)), [3]);
}

#[test]
fn replacing_unsets_what_is_not_named() {
    let mut machine = machine(&["t"]);
    let planned = |machine: &MetadataMachine, replace, operations| {
        let request = AlterConfigsRequest {
            topic: "t".into(),
            replace,
            operations,
        };
        alter_topic_configs(&machine.image(), &[request], false)
    };
    let both = vec![op("segment.ms", 0, Some("7")), op("retention.ms", 0, Some("8"))];
    for record in &planned(&machine, false, both.clone()).records {
        machine.apply(record).unwrap();
    }
    assert!(planned(&machine, true, both).records.is_empty(), "set already");
    let bad = vec![op("segment.ms", 0, Some("bad"))];
    assert!(
        planned(&machine, true, bad).records.is_empty(),
        "nothing is unset either"
    );
    let one = planned(&machine, true, vec![op("segment.ms", 0, Some("9"))]);
    assert_eq!(one.records.len(), 2, "one set, one unset");
    for record in &one.records {
        machine.apply(record).unwrap();
    }
    let image = machine.image();
    let configs = &image.topic("t").unwrap().configs;
    assert_eq!((configs.len(), configs["segment.ms"].as_str()), (1, "9"));
}

#[test]
fn altering_appends_only_what_changes() {
    let mut machine = machine(&["t"]);
    let request = |operations| {
        [AlterConfigsRequest {
            topic: "t".into(),
            replace: false,
            operations,
        }]
    };
    let first = request(vec![
        op("cleanup.policy", 2, Some("compact")),
        op("segment.ms", 0, Some("7")),
    ]);
    let planned = alter_topic_configs(&machine.image(), &first, false);
    assert_eq!(planned.records.len(), 2);
    for record in &planned.records {
        machine.apply(record).unwrap();
    }
    assert_eq!(
        machine.image().topic("t").unwrap().configs["cleanup.policy"],
        "delete,compact"
    );
    assert!(
        alter_topic_configs(&machine.image(), &first, false)
            .records
            .is_empty()
    );
    let second = request(vec![
        op("cleanup.policy", 1, None),
        op("segment.ms", 0, Some("bad")),
    ]);
    let planned = alter_topic_configs(&machine.image(), &second, false);
    assert_eq!(
        (codes(&planned), planned.records.len()),
        (vec![40], 0),
        "together or not at all"
    );
    assert!(
        alter_topic_configs(&machine.image(), &first, true)
            .records
            .is_empty()
    );
}

#[test]
fn partitions_beyond_what_memory_holds_are_refused_item_by_item() {
    let machine = machine(&["there"]);
    let rules = TopicRules {
        partitions_max: 10,
        ..rules()
    };
    // Three are there: seven are left.
    let of = |name: &str, partitions| CreateTopicRequest {
        partitions,
        ..topic(name)
    };
    let requests = [of("a", 4), of("b", 4), of("c", 3), of("d", 1)];
    let planned = create_topics(&machine.image(), &rules, &requests, ids());
    assert_eq!(
        codes(&planned),
        [0, code::POLICY_VIOLATION, 0, code::POLICY_VIOLATION]
    );
    assert_eq!(planned.records.len(), 2);
    let text = &planned.outcomes[1].as_ref().unwrap_err().message;
    assert!(text.contains("3 of them are left"), "{text}");
    let more = |count| CreatePartitionsRequest {
        name: "there".into(),
        count,
        assignments: None,
    };
    for (count, wanted) in [(10, 0), (11, code::POLICY_VIOLATION)] {
        let planned = create_partitions(&machine.image(), &rules, &[more(count)]);
        assert_eq!(codes(&planned), [wanted], "{count}");
    }
    // More than fit, as after the limit was lowered: nothing more is made.
    let rules = TopicRules {
        partitions_max: 2,
        ..rules
    };
    let planned = create_topics(&machine.image(), &rules, &[of("e", 1)], ids());
    assert_eq!(codes(&planned), [code::POLICY_VIOLATION]);
}
