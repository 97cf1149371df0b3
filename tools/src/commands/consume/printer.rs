//! Prints records by a format, or as JSON.

use std::io::{self, BufWriter, Write};

use serde_json::{Map, Value};
use tidelog_bench::client::Record;

use crate::format::RecordFormat;
use crate::output::{OutputFormat, bytes_field};

/// Writes records to `out`, in whole.
#[derive(Debug)]
pub struct Printer<W: Write> {
    out: BufWriter<W>,
    style: Style,
    printed: u64,
}

#[derive(Debug)]
enum Style {
    Format(RecordFormat),
    JsonArray,
    JsonLines,
}

impl<W: Write> Printer<W> {
    /// A printer; a format given by hand wins over the output format.
    pub fn new(out: W, output: OutputFormat, format: Option<RecordFormat>) -> Self {
        let style = match (format, output) {
            (Some(format), _) => Style::Format(format),
            (None, OutputFormat::Table) => Style::Format(RecordFormat::value_lines()),
            (None, OutputFormat::Json) => Style::JsonArray,
            (None, OutputFormat::Jsonl) => Style::JsonLines,
        };
        Printer {
            out: BufWriter::with_capacity(64 * 1024, out),
            style,
            printed: 0,
        }
    }

    /// Writes one record.
    pub fn print(&mut self, topic: &str, partition: i32, record: &Record) -> io::Result<()> {
        match &self.style {
            Style::Format(format) => format.write(&mut self.out, topic, partition, record)?,
            Style::JsonLines => writeln!(self.out, "{}", to_json(topic, partition, record))?,
            Style::JsonArray => {
                self.out
                    .write_all(if self.printed == 0 { b"[\n" } else { b",\n" })?;
                write!(self.out, "{}", to_json(topic, partition, record))?;
            }
        }
        self.printed += 1;
        Ok(())
    }

    /// Hands everything printed so far to the reader.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the output, so that it is whole JSON.
    pub fn finish(&mut self) -> io::Result<()> {
        if matches!(self.style, Style::JsonArray) {
            self.out
                .write_all(if self.printed == 0 { b"[]\n" } else { b"\n]\n" })?;
        }
        self.out.flush()
    }
}

fn to_json(topic: &str, partition: i32, record: &Record) -> Value {
    let mut object = Map::new();
    object.insert("topic".to_owned(), Value::from(topic));
    object.insert("partition".to_owned(), Value::from(partition));
    object.insert("offset".to_owned(), Value::from(record.offset));
    object.insert("timestamp_ms".to_owned(), Value::from(record.timestamp_ms));
    object.extend([bytes_field("key", record.key.as_deref())]);
    object.extend([bytes_field("value", record.value.as_deref())]);
    let header = |(name, value): &(String, Option<bytes::Bytes>)| {
        let mut header = Map::new();
        header.insert("name".to_owned(), Value::from(name.clone()));
        header.extend([bytes_field("value", value.as_deref())]);
        Value::Object(header)
    };
    object.insert("headers".to_owned(), record.headers.iter().map(header).collect());
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(output: OutputFormat, format: Option<&str>, count: i64) -> String {
        let format = format.map(|f| RecordFormat::parse(f).expect(f));
        let mut printer = Printer::new(Vec::new(), output, format);
        for offset in 0..count {
            let headers = vec![("h".to_owned(), Some(vec![0xff].into()))];
            let record = Record {
                offset,
                timestamp_ms: 5,
                key: None,
                value: Some("v".into()),
                headers,
            };
            printer.print("t", 1, &record).expect("memory");
        }
        printer.finish().expect("memory");
        String::from_utf8(printer.out.into_inner().expect("memory")).expect("text")
    }

    #[test]
    fn values_are_lines_unless_told_otherwise() {
        assert_eq!(print(OutputFormat::Table, None, 2), "v\nv\n");
        assert_eq!(print(OutputFormat::Json, Some("%o;"), 2), "0;1;");
    }

    #[test]
    fn json_is_whole_for_any_number_of_records() {
        for count in 0..3 {
            let parsed: Value = serde_json::from_str(&print(OutputFormat::Json, None, count)).expect("json");
            assert_eq!(parsed.as_array().map(Vec::len), Some(count as usize));
        }
        let lines = print(OutputFormat::Jsonl, None, 2);
        let last: Value = serde_json::from_str(lines.lines().last().expect("two")).expect("json");
        assert_eq!(
            (&last["offset"], &last["value"]),
            (&Value::from(1), &Value::from("v"))
        );
        assert_eq!(last["key"], Value::Null);
        assert_eq!(last["headers"][0]["value_base64"], Value::from("/w=="));
    }
}
