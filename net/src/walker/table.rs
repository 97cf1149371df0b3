//! The shape of the field table: what a message is made of, as data.
//!
//! No code here reads bytes; [`super::walk`] does, and `.ci/run schemas` compares it with Kafka's own
//! schemas.

use crate::api::ApiKey;

/// The upper version of a field that has not been removed.
pub const LATEST: i16 = i16::MAX;

/// What a field is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// One byte.
    Bool,
    /// One byte, signed.
    Int8,
    /// Two bytes.
    Int16,
    /// Two bytes, unsigned.
    UInt16,
    /// Four bytes.
    Int32,
    /// Eight bytes.
    Int64,
    /// Sixteen bytes.
    Uuid,
    /// A string with its length.
    String,
    /// Bytes with their length, records too.
    Bytes,
    /// Elements of one kind with their count.
    Array(&'static Kind),
    /// Fields, then a tag buffer in flexible versions.
    Struct(&'static [Field]),
}

/// One field of a message or struct.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    /// The name, as the codec crate spells it.
    pub name: &'static str,
    /// What it is made of.
    pub kind: Kind,
    /// First version that has it.
    pub min: i16,
    /// Last version that has it, or [`LATEST`].
    pub max: i16,
    /// First version that allows the null length, if any does.
    pub nullable_from: Option<i16>,
    /// The tag, when the field lies in the tag buffer.
    pub tag: Option<u32>,
}

/// A field on the wire in versions `min..=max`, not nullable, not tagged.
pub const fn field(name: &'static str, kind: Kind, min: i16, max: i16) -> Field {
    Field {
        name,
        kind,
        min,
        max,
        nullable_from: None,
        tag: None,
    }
}

impl Field {
    /// The same field, nullable in every version that has it.
    pub const fn nullable(self) -> Field {
        self.nullable_from(0)
    }

    /// The same field, nullable from a version on.
    pub const fn nullable_from(self, version: i16) -> Field {
        Field {
            nullable_from: Some(version),
            ..self
        }
    }

    /// Whether this version allows the null length.
    pub const fn is_nullable_in(&self, version: i16) -> bool {
        match self.nullable_from {
            Some(first) => first <= version,
            None => false,
        }
    }

    /// The same field, in the tag buffer.
    pub const fn tag(self, tag: u32) -> Field {
        Field {
            tag: Some(tag),
            ..self
        }
    }

    /// Whether this version has the field.
    pub const fn is_in(&self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }
}

/// One request or response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Message {
    /// Its API.
    pub key: ApiKey,
    /// Kafka's name of it.
    pub name: &'static str,
    /// First version described.
    pub min: i16,
    /// Last version described.
    pub max: i16,
    /// First version with compact lengths and tag buffers.
    pub flexible_from: i16,
    /// Its fields in wire order.
    pub fields: &'static [Field],
}
