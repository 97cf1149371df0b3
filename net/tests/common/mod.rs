//! Samples made from the field table: every field of a message in wire order, with values that differ.

use bytes::{BufMut, Bytes, BytesMut};
use tidelog_net::walker::{Field, Kind, Message};
use tidelog_net::wire::put_uvarint;

/// What a sample holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// Two elements in every array, nothing null, no tagged fields.
    Full,
    /// Empty arrays and strings, null where allowed (bytes stay empty), no tagged fields.
    Empty,
    /// As `Full`, and an unknown tagged field in every tag buffer.
    UnknownTags,
    /// As `Full`, and every known tagged field.
    KnownTags,
}

/// The body of a message.
pub fn body(message: &Message, version: i16, sample: Sample) -> Bytes {
    let mut writer = SampleWriter {
        version,
        flexible: version >= message.flexible_from,
        sample,
        step: 0,
    };
    let mut out = BytesMut::new();
    writer.fields(message.fields, &mut out);
    out.freeze()
}

struct SampleWriter {
    version: i16,
    flexible: bool,
    sample: Sample,
    step: u8,
}

impl SampleWriter {
    fn fields(&mut self, fields: &[Field], out: &mut BytesMut) {
        let version = self.version;
        for field in fields
            .iter()
            .filter(|field| field.tag.is_none() && field.is_in(version))
        {
            self.value(field, &field.kind, out);
        }
        if self.flexible {
            self.tags(fields, out);
        }
    }

    fn tags(&mut self, fields: &[Field], out: &mut BytesMut) {
        let mut tags: Vec<(u32, BytesMut)> = Vec::new();
        let version = self.version;
        if self.sample == Sample::KnownTags {
            for field in fields.iter().filter(|field| field.is_in(version)) {
                if let Some(tag) = field.tag {
                    let mut value = BytesMut::new();
                    self.value(field, &field.kind, &mut value);
                    tags.push((tag, value));
                }
            }
        }
        if self.sample == Sample::UnknownTags {
            tags.push((77, BytesMut::from(&b"unknown"[..])));
        }
        put_uvarint(out, tags.len() as u64);
        for (tag, value) in tags {
            put_uvarint(out, tag.into());
            put_uvarint(out, value.len() as u64);
            out.put_slice(&value);
        }
    }

    fn length(&self, length: Option<usize>, short: bool, out: &mut BytesMut) {
        if self.flexible {
            put_uvarint(out, length.map_or(0, |length| length as u64 + 1));
        } else if short {
            out.put_i16(length.map_or(-1, |length| length as i16));
        } else {
            out.put_i32(length.map_or(-1, |length| length as i32));
        }
    }

    fn value(&mut self, field: &Field, kind: &Kind, out: &mut BytesMut) {
        let empty = self.sample == Sample::Empty;
        let null = empty && field.is_nullable_in(self.version);
        self.step = (self.step + 1) % 100;
        match kind {
            Kind::Bool => out.put_u8(self.step & 1),
            Kind::Int8 => out.put_u8(self.step),
            Kind::Int16 | Kind::UInt16 => out.put_i16(self.step.into()),
            Kind::Int32 => out.put_i32(0x0101_0000 + i32::from(self.step)),
            Kind::Int64 => out.put_i64(0x0101_0101_0000_0000 + i64::from(self.step)),
            Kind::Uuid => out.put_slice(&[self.step; 16]),
            Kind::String if null => self.length(None, true, out),
            Kind::String if empty => self.length(Some(0), true, out),
            Kind::String => {
                let text = format!("text-{}", self.step);
                self.length(Some(text.len()), true, out);
                out.put_slice(text.as_bytes());
            }
            Kind::Bytes => {
                let bytes = vec![self.step; if empty { 0 } else { 200 }];
                self.length(Some(bytes.len()), false, out);
                out.put_slice(&bytes);
            }
            Kind::Array(_) if null => self.length(None, false, out),
            Kind::Array(_) if empty => self.length(Some(0), false, out),
            Kind::Array(element) => {
                self.length(Some(2), false, out);
                for _ in 0..2 {
                    self.value(field, element, out);
                }
            }
            Kind::Struct(_) if null => out.put_i8(-1),
            Kind::Struct(fields) => {
                if field.is_nullable_in(self.version) && matches!(field.kind, Kind::Struct(_)) {
                    out.put_i8(1);
                }
                self.fields(fields, out);
            }
        }
    }
}

/// A request frame without its size prefix.
pub fn request_frame(message: &Message, version: i16, sample: Sample) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i16(message.key.code());
    frame.put_i16(version);
    frame.put_i32(4711);
    frame.put_i16(6);
    frame.put_slice(b"sample");
    if version >= message.flexible_from {
        frame.put_u8(0);
    }
    frame.put_slice(&body(message, version, sample));
    frame.freeze()
}

/// A response frame without its size prefix.
pub fn response_frame(message: &Message, version: i16, sample: Sample) -> Bytes {
    let api = tidelog_net::ServedApi::of(message.key);
    let mut frame = BytesMut::new();
    frame.put_i32(4711);
    if api.response_header_version(version) >= 1 {
        frame.put_u8(0);
    }
    frame.put_slice(&body(message, version, sample));
    frame.freeze()
}
