//! Our field and error tables against what Apache Kafka itself says: the message schemas of the
//! kafka-clients jar, and its enum `Errors`.
//!
//! The comparison with the jar is `#[ignore]`d, since it needs files that `cargo test` must not fetch:
//! `.ci/run schemas` fetches them and runs it with `TIDELOG_KAFKA_SCHEMAS` (a folder of the schemas)
//! and `TIDELOG_KAFKA_ERRORS` (lines `number NAME retriable`). That it can fail is a test of its own,
//! which runs always.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tidelog_net::walker::{self, Field, Kind, LATEST, Message, field};
use tidelog_net::{ApiKey, ErrorCode, ServedApi};

/// A range of versions as a schema says it: `3`, `3+`, `0-12`, `none`.
fn versions(text: &str) -> Option<(i16, i16)> {
    let number = |text: &str| text.trim().parse().expect("a version number");
    match text.trim() {
        "none" => None,
        text => Some(match (text.strip_suffix('+'), text.split_once('-')) {
            (Some(first), _) => (number(first), LATEST),
            (None, Some((first, last))) => (number(first), number(last)),
            (None, None) => (number(text), number(text)),
        }),
    }
}

fn range(schema: &Value, name: &str) -> Option<(i16, i16)> {
    schema.get(name).and_then(Value::as_str).and_then(versions)
}

fn is_within(range: Option<(i16, i16)>, version: i16) -> bool {
    range.is_some_and(|(first, last)| first <= version && version <= last)
}

/// Kafka spells `TopicId`, the tables `topic_id`.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for (position, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && position > 0 {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// A schema is JSON with comments that take a whole line.
fn parse_schema(text: &str) -> Value {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    serde_json::from_str(&lines.collect::<Vec<_>>().join("\n")).expect("JSON with comment lines")
}

/// What one version of a message is on the wire, one line a field; the two sides must say the same.
type Layout = Vec<String>;

fn line(depth: usize, name: &str, kind: &str, nullable: bool, tag: Option<u64>) -> String {
    let nullable = if nullable { " nullable" } else { "" };
    let tag = tag.map(|tag| format!(" tag {tag}")).unwrap_or_default();
    format!("{}{name}: {kind}{nullable}{tag}", "  ".repeat(depth))
}

/// Tagged fields go last, by their tag, as they do on the wire.
fn put_in_wire_order(mut fields: Vec<(Option<u64>, Layout)>) -> Layout {
    fields.sort_by_key(|(tag, _)| tag.map_or(0, |tag| tag + 1));
    fields.into_iter().flat_map(|(_, lines)| lines).collect()
}

fn our_kind(kind: &Kind) -> (String, Option<&'static [Field]>) {
    let plain = match kind {
        Kind::Bool => "bool",
        Kind::Int8 => "int8",
        Kind::Int16 => "int16",
        Kind::UInt16 => "uint16",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uuid => "uuid",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Struct(fields) => return ("struct".to_owned(), Some(fields)),
        Kind::Array(element) => {
            let (element, fields) = our_kind(element);
            return (format!("[]{element}"), fields);
        }
    };
    (plain.to_owned(), None)
}

fn our_layout(fields: &[Field], version: i16, depth: usize) -> Layout {
    let there = fields.iter().filter(|field| field.is_in(version));
    put_in_wire_order(
        there
            .map(|field| {
                let (kind, below) = our_kind(&field.kind);
                let tag = field.tag.map(u64::from);
                let nullable = field.is_nullable_in(version);
                let mut lines = vec![line(depth, field.name, &kind, nullable, tag)];
                lines.extend(
                    below
                        .map(|below| our_layout(below, version, depth + 1))
                        .unwrap_or_default(),
                );
                (tag, lines)
            })
            .collect(),
    )
}

struct Schema {
    root: Value,
    commons: BTreeMap<String, Value>,
}

impl Schema {
    fn parse(text: &str) -> Self {
        let root = parse_schema(text);
        let commons = root.get("commonStructs").and_then(Value::as_array).cloned();
        let commons = commons.unwrap_or_default().into_iter();
        let commons = commons.map(|common| {
            (
                common["name"].as_str().expect("a name").to_owned(),
                common["fields"].clone(),
            )
        });
        Self {
            commons: commons.collect(),
            root,
        }
    }

    fn layout(&self, fields: &Value, version: i16, depth: usize) -> Layout {
        let fields = fields.as_array().expect("a list of fields");
        let there = fields
            .iter()
            .filter(|field| is_within(range(field, "versions"), version));
        put_in_wire_order(there.map(|field| self.field(field, version, depth)).collect())
    }

    fn field(&self, field: &Value, version: i16, depth: usize) -> (Option<u64>, Layout) {
        let kind = field["type"].as_str().expect("a type");
        let (array, element) = match kind.strip_prefix("[]") {
            Some(element) => ("[]", element),
            None => ("", kind),
        };
        let is_struct = element.starts_with(|letter: char| letter.is_ascii_uppercase());
        let element_kind = match element {
            _ if is_struct => "struct",
            "records" => "bytes",
            plain => plain,
        };
        let tagged = is_within(range(field, "taggedVersions"), version);
        let tag = tagged.then(|| field["tag"].as_u64().expect("a tag"));
        let nullable = is_within(range(field, "nullableVersions"), version);
        let name = snake_case(field["name"].as_str().expect("a name"));
        let mut lines = vec![line(
            depth,
            &name,
            &format!("{array}{element_kind}"),
            nullable,
            tag,
        )];
        if is_struct {
            let below = field.get("fields").or_else(|| self.commons.get(element));
            lines.extend(self.layout(below.expect("the fields of a struct"), version, depth + 1));
        }
        (tag, lines)
    }
}

/// What is not as the schema says, one sentence each.
fn differences(message: &Message, schema: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            found.push(format!(
                "{}: {what}\n  ours:    {ours}\n  Kafka's: {theirs}",
                message.name
            ));
        }
    };
    let root = &schema.root;
    differ(
        "api key",
        message.key.code().to_string(),
        root["apiKey"].to_string(),
    );
    differ("name", format!("{:?}", message.name), root["name"].to_string());
    let (first, last) = range(root, "validVersions").expect("versions");
    let inside = (message.min.max(first), message.max.min(last));
    differ(
        "versions served outside of",
        format!("{:?}", (message.min, message.max)),
        format!("{inside:?}"),
    );
    for version in message.min..=message.max {
        let flexible = is_within(range(root, "flexibleVersions"), version);
        let what = format!("version {version}, flexible");
        differ(
            &what,
            (version >= message.flexible_from).to_string(),
            flexible.to_string(),
        );
        let ours = our_layout(message.fields, version, 0);
        let theirs = schema.layout(&root["fields"], version, 0);
        differ(
            &format!("version {version}, fields"),
            ours.join("; "),
            theirs.join("; "),
        );
    }
    found
}

fn handed_over(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => panic!("{variable} is not set; `.ci/run schemas` fetches Kafka's files and sets it"),
    }
}

#[test]
#[ignore = "needs Kafka's schemas: .ci/run schemas"]
fn every_served_message_is_as_kafkas_schema_says() {
    let folder = handed_over("TIDELOG_KAFKA_SCHEMAS");
    let mut found = Vec::new();
    for message in walker::REQUESTS.iter().chain(walker::RESPONSES) {
        let path = folder.join(format!("{}.json", message.name));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        found.extend(differences(message, &Schema::parse(&text)));
        let api = ServedApi::of(message.key);
        let row = (api.min, api.max, api.flexible_from);
        assert_eq!(
            row,
            (message.min, message.max, message.flexible_from),
            "{}",
            message.name
        );
    }
    assert!(
        found.is_empty(),
        "{} differences:\n{}",
        found.len(),
        found.join("\n")
    );
}

fn error_differences(ours: &[(i16, &str, bool)], theirs: &str) -> Vec<String> {
    let ours: Vec<_> = ours
        .iter()
        .map(|(code, name, retriable)| format!("{code} {name} {retriable}"))
        .collect();
    let theirs: Vec<_> = theirs.lines().map(str::to_owned).collect();
    let missing = theirs
        .iter()
        .filter(|line| !ours.contains(line))
        .map(|line| format!("only Kafka has {line}"));
    let foreign = ours
        .iter()
        .filter(|line| !theirs.contains(line))
        .map(|line| format!("only we have {line}"));
    missing.chain(foreign).collect()
}

#[test]
#[ignore = "needs Kafka's errors: .ci/run schemas"]
fn every_error_is_kafkas() {
    let theirs = std::fs::read_to_string(handed_over("TIDELOG_KAFKA_ERRORS")).expect("the list of errors");
    let ours: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|error| (error.code(), error.name(), error.is_retriable()))
        .collect();
    let found = error_differences(&ours, &theirs);
    assert!(
        found.is_empty(),
        "{} differences:\n{}",
        found.len(),
        found.join("\n")
    );
}

// ---------------------------------------------------------------- the comparison can fail

const SCHEMA: &str = r#"
// A comment.
{ "apiKey": 3, "type": "request", "name": "SampleRequest", "validVersions": "1-4", "flexibleVersions": "3+",
  "fields": [
    { "name": "Cluster", "type": "string", "versions": "3+", "taggedVersions": "3+", "tag": 1, "nullableVersions": "4+" },
    { "name": "TimeoutMs", "type": "int32", "versions": "2+" },
    { "name": "Topics", "type": "[]Topic", "versions": "1+", "fields": [
      { "name": "Name", "type": "string", "versions": "1-3" },
      // Another one.
      { "name": "TopicId", "type": "uuid", "versions": "4" },
      { "name": "Partitions", "type": "[]int32", "versions": "0+", "nullableVersions": "2+" } ]} ] }
"#;

const TOPIC: [Field; 3] = [
    field("name", Kind::String, 0, 3),
    field("topic_id", Kind::Uuid, 4, LATEST),
    field("partitions", Kind::Array(&Kind::Int32), 0, LATEST).nullable_from(2),
];

const FIELDS: [Field; 3] = [
    field("cluster", Kind::String, 3, LATEST).nullable_from(4).tag(1),
    field("timeout_ms", Kind::Int32, 2, LATEST),
    field("topics", Kind::Array(&Kind::Struct(&TOPIC)), 0, LATEST),
];

const SAMPLE: Message = Message {
    key: ApiKey::Metadata,
    name: "SampleRequest",
    min: 1,
    max: 4,
    flexible_from: 3,
    fields: &FIELDS,
};

fn with_fields(change: impl FnOnce(&mut Vec<Field>)) -> Message {
    let mut fields = FIELDS.to_vec();
    change(&mut fields);
    Message {
        fields: fields.leak(),
        ..SAMPLE
    }
}

fn with_topic(change: impl FnOnce(&mut Vec<Field>)) -> Message {
    let mut topic = TOPIC.to_vec();
    change(&mut topic);
    let kind: &'static Kind = Box::leak(Box::new(Kind::Struct(topic.leak())));
    with_fields(|fields| fields[2].kind = Kind::Array(kind))
}

#[test]
fn a_table_with_any_one_fault_is_told() {
    let schema = Schema::parse(SCHEMA);
    assert_eq!(differences(&SAMPLE, &schema), Vec::<String>::new());
    let faults: [(&str, Message); 14] = [
        (
            "api key",
            Message {
                key: ApiKey::Fetch,
                ..SAMPLE
            },
        ),
        (
            "name",
            Message {
                name: "OtherRequest",
                ..SAMPLE
            },
        ),
        ("below their versions", Message { min: 0, ..SAMPLE }),
        ("above their versions", Message { max: 5, ..SAMPLE }),
        (
            "flexible too early",
            Message {
                flexible_from: 2,
                ..SAMPLE
            },
        ),
        (
            "flexible too late",
            Message {
                flexible_from: 4,
                ..SAMPLE
            },
        ),
        ("order", with_fields(|fields| fields.swap(1, 2))),
        ("a missing field", with_fields(|fields| fields.truncate(2))),
        ("a type", with_fields(|fields| fields[1].kind = Kind::Int64)),
        ("a field too early", with_fields(|fields| fields[1].min = 1)),
        ("a tag", with_fields(|fields| fields[0].tag = Some(0))),
        ("no tag", with_fields(|fields| fields[0].tag = None)),
        (
            "nullable too early",
            with_topic(|topic| topic[2].nullable_from = Some(1)),
        ),
        ("a field too long", with_topic(|topic| topic[0].max = LATEST)),
    ];
    for (fault, message) in faults {
        assert!(!differences(&message, &schema).is_empty(), "not told: {fault}");
    }
}

#[test]
fn a_wrong_error_is_told() {
    let theirs = "0 NONE false\n1 OFFSET_OUT_OF_RANGE false\n2 CORRUPT_MESSAGE true";
    let ours = [
        (0, "NONE", false),
        (1, "OFFSET_OUT_OF_RANGE", false),
        (2, "CORRUPT_MESSAGE", true),
    ];
    assert!(error_differences(&ours, theirs).is_empty());
    for position in 0..3 {
        let mut wrong = ours;
        wrong[position].0 += 50;
        assert_eq!(error_differences(&wrong, theirs).len(), 2);
        wrong = ours;
        wrong[position].1 = "OTHER";
        assert_eq!(error_differences(&wrong, theirs).len(), 2);
        wrong = ours;
        wrong[position].2 ^= true;
        assert_eq!(error_differences(&wrong, theirs).len(), 2);
    }
    assert_eq!(
        error_differences(&ours[..2], theirs),
        ["only Kafka has 2 CORRUPT_MESSAGE true"]
    );
}
