//! Primitive types of the Kafka protocol: a bounded reader over a frame, and a writer.
//!
//! ```text
//! type             classic encoding                    flexible encoding (KIP-482)
//! string           i16 length, -1 = null, bytes        uvarint length + 1, 0 = null, bytes
//! bytes, records   i32 length, -1 = null, bytes        uvarint length + 1, 0 = null, bytes
//! array            i32 count, -1 = null, elements      uvarint count + 1, 0 = null, elements
//! struct           its fields                          its fields, then a tag buffer
//! tag buffer       (none)                              uvarint count, per tag: uvarint tag, uvarint size, bytes
//! uvarint          at most 5 bytes, 7 bits each, low bits first
//! varint, varlong  zigzag of the above, at most 5 and 10 bytes
//! ```
//!
//! Invariants: the reader never moves past the frame's end; no count or length is believed before it is
//! checked against the bytes left; memory for decoded structs is charged to a budget before it is taken.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// Why bytes are not a message. All but `OverBudget` mean the peer sent nonsense: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field goes past the end.
    #[error("{needed_bytes} bytes are needed, {remaining_bytes} are left")]
    Truncated {
        /// Bytes the field needs.
        needed_bytes: usize,
        /// Bytes that are there.
        remaining_bytes: usize,
    },
    /// A length below -1, or a null where none is allowed.
    #[error("length {length} is not allowed here")]
    BadLength {
        /// The length as sent.
        length: i64,
    },
    /// An array says it has more elements than bytes are left for.
    #[error("an array of {count} elements cannot fit in {remaining_bytes} bytes")]
    BadCount {
        /// The count as sent.
        count: u64,
        /// Bytes that are there.
        remaining_bytes: usize,
    },
    /// A variable-length integer that does not end or overflows.
    #[error("a variable-length integer is too long")]
    BadVarint,
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    BadUtf8,
    /// A known tagged field whose size is not that of its value.
    #[error("tagged field {tag} has the wrong size")]
    BadTagSize {
        /// The tag.
        tag: u32,
    },
    /// The decoded form would take more memory than granted.
    #[error("the decoded form would exceed its budget by {excess_bytes} bytes")]
    OverBudget {
        /// Bytes beyond the budget.
        excess_bytes: usize,
    },
}

/// A bounded reader over a frame. Slices it gives out share the frame's memory.
#[derive(Debug)]
pub struct Reader<'a> {
    frame: &'a Bytes,
    position: usize,
    end: usize,
    budget_left_bytes: usize,
}

macro_rules! fixed {
    ($($(#[$meta:meta])* $name:ident -> $type:ty;)*) => {$(
        $(#[$meta])*
        #[inline]
        pub fn $name(&mut self) -> Result<$type, WireError> {
            self.array_of().map(<$type>::from_be_bytes)
        }
    )*};
}

impl<'a> Reader<'a> {
    /// A reader over the whole frame with a budget for the decoded form.
    pub fn new(frame: &'a Bytes, budget_bytes: usize) -> Self {
        Self {
            frame,
            position: 0,
            end: frame.len(),
            budget_left_bytes: budget_bytes,
        }
    }

    /// Bytes not read yet.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.end.saturating_sub(self.position)
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// What is left of the budget.
    pub fn budget_left_bytes(&self) -> usize {
        self.budget_left_bytes
    }

    /// Takes memory for the decoded form out of the budget.
    #[inline]
    pub fn charge(&mut self, bytes: usize) -> Result<(), WireError> {
        match self.budget_left_bytes.checked_sub(bytes) {
            Some(left) => {
                self.budget_left_bytes = left;
                Ok(())
            }
            None => Err(WireError::OverBudget {
                excess_bytes: bytes.saturating_sub(self.budget_left_bytes),
            }),
        }
    }

    fn advance(&mut self, bytes: usize) -> Result<usize, WireError> {
        let remaining_bytes = self.remaining();
        if bytes > remaining_bytes {
            return Err(WireError::Truncated {
                needed_bytes: bytes,
                remaining_bytes,
            });
        }
        let start = self.position;
        self.position = start.saturating_add(bytes);
        Ok(start)
    }

    /// Passes over bytes.
    pub fn skip(&mut self, bytes: usize) -> Result<(), WireError> {
        self.advance(bytes).map(|_| ())
    }

    #[inline]
    fn array_of<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let start = self.advance(N)?;
        self.frame
            .get(start..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied()
            .ok_or(WireError::Truncated {
                needed_bytes: N,
                remaining_bytes: 0,
            })
    }

    fixed! {
        /// An unsigned byte.
        u8 -> u8;
        /// A signed byte.
        i8 -> i8;
        /// A 16-bit integer.
        i16 -> i16;
        /// A 32-bit integer.
        i32 -> i32;
        /// A 64-bit integer.
        i64 -> i64;
    }

    /// A boolean; any byte but zero is true.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        Ok(self.u8()? != 0)
    }

    /// A 16-byte id.
    pub fn uuid(&mut self) -> Result<Uuid, WireError> {
        self.array_of().map(Uuid::from_bytes)
    }

    /// An unsigned variable-length integer of at most 32 bits.
    pub fn uvarint(&mut self) -> Result<u32, WireError> {
        let mut value = 0u32;
        for shift in [0u32, 7, 14, 21, 28] {
            let byte = u32::from(self.u8()?);
            if shift == 28 && byte > 0x0f {
                return Err(WireError::BadVarint);
            }
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::BadVarint)
    }

    /// The length or count in front of a string, bytes or array; nothing for null. `short` is for the
    /// classic string, whose length has 16 bits.
    fn length(&mut self, flexible: bool, short: bool) -> Result<Option<usize>, WireError> {
        if flexible {
            return Ok(self.uvarint()?.checked_sub(1).map(|length| length as usize));
        }
        let length = if short {
            i32::from(self.i16()?)
        } else {
            self.i32()?
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length)
                .map(Some)
                .map_err(|_| WireError::BadLength {
                    length: length.into(),
                }),
        }
    }

    fn slice(&mut self, length: usize) -> Result<Bytes, WireError> {
        let start = self.advance(length)?;
        Ok(self.frame.slice(start..self.position))
    }

    /// A string that may be null.
    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<StrBytes>, WireError> {
        let Some(length) = self.length(flexible, true)? else {
            return Ok(None);
        };
        StrBytes::from_utf8(self.slice(length)?)
            .map(Some)
            .map_err(|_| WireError::BadUtf8)
    }

    /// A string that may not be null.
    pub fn string(&mut self, flexible: bool) -> Result<StrBytes, WireError> {
        self.nullable_string(flexible)?
            .ok_or(WireError::BadLength { length: -1 })
    }

    /// Bytes that may be null, as a slice of the frame.
    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Bytes>, WireError> {
        match self.length(flexible, false)? {
            Some(length) => self.slice(length).map(Some),
            None => Ok(None),
        }
    }

    /// Passes over a string, checking that it is UTF-8; says whether it was null.
    pub fn skip_string(&mut self, flexible: bool) -> Result<bool, WireError> {
        let length = self.length(flexible, true)?;
        let start = self.advance(length.unwrap_or(0))?;
        let text = self.frame.get(start..self.position).unwrap_or_default();
        std::str::from_utf8(text).map_err(|_| WireError::BadUtf8)?;
        Ok(length.is_none())
    }

    /// Passes over bytes with a length; says whether they were null.
    pub fn skip_bytes(&mut self, flexible: bool) -> Result<bool, WireError> {
        let length = self.length(flexible, false)?;
        self.skip(length.unwrap_or(0))?;
        Ok(length.is_none())
    }

    /// The count of an array whose elements take at least `element_bytes_min` on the wire and
    /// `element_memory_bytes` decoded. The count is checked and the memory charged before it returns.
    pub fn nullable_count(
        &mut self,
        flexible: bool,
        element_bytes_min: usize,
        element_memory_bytes: usize,
    ) -> Result<Option<usize>, WireError> {
        let Some(count) = self.length(flexible, false)? else {
            return Ok(None);
        };
        let remaining_bytes = self.remaining();
        if count.saturating_mul(element_bytes_min.max(1)) > remaining_bytes {
            return Err(WireError::BadCount {
                count: count as u64,
                remaining_bytes,
            });
        }
        self.charge(count.saturating_mul(element_memory_bytes))?;
        Ok(Some(count))
    }

    /// Reads an array that may be null, element by element.
    pub fn nullable_array<T>(
        &mut self,
        flexible: bool,
        element_bytes_min: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Option<Vec<T>>, WireError> {
        let Some(count) = self.nullable_count(flexible, element_bytes_min, size_of::<T>())? else {
            return Ok(None);
        };
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(Some(elements))
    }

    /// Reads an array that may not be null.
    pub fn array<T>(
        &mut self,
        flexible: bool,
        element_bytes_min: usize,
        element: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        self.nullable_array(flexible, element_bytes_min, element)?
            .ok_or(WireError::BadLength { length: -1 })
    }

    /// Reads a tag buffer: `known` sees each tag with the reader limited to that field, and says whether
    /// it took it. Fields it did not take, and what it left of a field, are passed over.
    pub fn tags(
        &mut self,
        flexible: bool,
        mut known: impl FnMut(u32, &mut Self) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if !flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            let remaining_bytes = self.remaining();
            if size > remaining_bytes {
                return Err(WireError::Truncated {
                    needed_bytes: size,
                    remaining_bytes,
                });
            }
            let outer_end = self.end;
            let field_end = self.position.saturating_add(size);
            self.end = field_end;
            let outcome = known(tag, self);
            self.end = outer_end;
            outcome?;
            self.position = field_end;
        }
        Ok(())
    }

    /// Passes over a tag buffer.
    pub fn skip_tags(&mut self, flexible: bool) -> Result<(), WireError> {
        self.tags(flexible, |_, _| Ok(()))
    }
}

/// A writer of one frame: size prefix in front, filled in at the end.
#[derive(Debug)]
pub struct Writer {
    buffer: BytesMut,
    flexible: bool,
}

impl Writer {
    /// A writer of a frame with room for its prefix; `flexible` chooses the encoding of lengths.
    pub fn new(flexible: bool) -> Self {
        let mut buffer = BytesMut::with_capacity(256);
        buffer.put_i32(0);
        Self { buffer, flexible }
    }

    /// Chooses the encoding of lengths from here on.
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// The buffer, for encoders that write into it directly.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes written so far, the prefix included.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Never: the prefix is always there.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) {
        self.buffer.put_u8(u8::from(value));
    }

    /// A byte.
    pub fn i8(&mut self, value: i8) {
        self.buffer.put_i8(value);
    }

    /// A 16-bit integer.
    pub fn i16(&mut self, value: i16) {
        self.buffer.put_i16(value);
    }

    /// A 32-bit integer.
    pub fn i32(&mut self, value: i32) {
        self.buffer.put_i32(value);
    }

    /// A 64-bit integer.
    pub fn i64(&mut self, value: i64) {
        self.buffer.put_i64(value);
    }

    /// A 16-byte id.
    pub fn uuid(&mut self, value: &Uuid) {
        self.buffer.put_slice(value.as_bytes());
    }

    /// An unsigned variable-length integer.
    pub fn uvarint(&mut self, value: u32) {
        put_uvarint(&mut self.buffer, value.into());
    }

    /// A string that may be null. Kafka strings have at most 32767 bytes; a longer one (only free text
    /// can be) is cut at a character.
    pub fn nullable_string(&mut self, value: Option<&str>) {
        let value = value.map(|text| {
            let mut end = text.len().min(i16::MAX as usize);
            while !text.is_char_boundary(end) {
                end = end.saturating_sub(1);
            }
            text.get(..end).unwrap_or("")
        });
        let length = value.map(str::len);
        if self.flexible {
            self.uvarint(length.map_or(0, |length| length as u32 + 1));
        } else {
            self.i16(length.map_or(-1, |length| length as i16));
        }
        self.buffer.put_slice(value.unwrap_or("").as_bytes());
    }

    /// A string.
    pub fn string(&mut self, value: &str) {
        self.nullable_string(Some(value));
    }

    /// A length in front of bytes or a count in front of elements; nothing for null.
    pub fn count(&mut self, count: Option<usize>) {
        if self.flexible {
            self.uvarint(count.map_or(0, |count| {
                u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1)
            }));
        } else {
            self.i32(count.map_or(-1, |count| i32::try_from(count).unwrap_or(i32::MAX)));
        }
    }

    /// An empty tag buffer, where the encoding has one.
    pub fn no_tags(&mut self) {
        if self.flexible {
            self.buffer.put_u8(0);
        }
    }

    /// Fills in the size prefix, counting `extra_bytes` that follow outside this buffer, and gives the
    /// bytes. Fails when the frame is larger than the prefix can say.
    pub fn finish(mut self, extra_bytes: usize) -> Option<Bytes> {
        let body_bytes = self.buffer.len().saturating_sub(4).saturating_add(extra_bytes);
        let size = i32::try_from(body_bytes).ok()?;
        self.buffer
            .first_chunk_mut::<4>()?
            .copy_from_slice(&size.to_be_bytes());
        Some(self.buffer.freeze())
    }
}

/// Writes an unsigned variable-length integer.
pub fn put_uvarint(buffer: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        buffer.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_refused_before_memory_is_taken() {
        let frame = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 1, 2, 3]);
        let mut reader = Reader::new(&frame, usize::MAX);
        let outcome = reader.array(false, 1, |r| r.u8());
        assert_eq!(
            outcome,
            Err(WireError::BadCount {
                count: 0x7fff_ffff,
                remaining_bytes: 3
            })
        );
        let frame = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        let outcome = Reader::new(&frame, usize::MAX).array(true, 1, |r| r.u8());
        assert_eq!(
            outcome,
            Err(WireError::BadCount {
                count: u64::from(u32::MAX) - 1,
                remaining_bytes: 0
            })
        );
        let frame = Bytes::from_static(&[0, 0, 0, 3, 1, 2, 3]);
        let outcome = Reader::new(&frame, 11).array(false, 1, |r| r.u8().map(u32::from));
        assert_eq!(outcome, Err(WireError::OverBudget { excess_bytes: 1 }));
        let outcome = Reader::new(&frame, 12).array(false, 1, |r| r.u8().map(u32::from));
        assert_eq!(outcome, Ok(vec![1, 2, 3]));
    }

    #[test]
    fn varints_end_within_five_bytes() {
        for (wire, value) in [
            (&[0x80u8, 0x01][..], Ok(128)),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], Ok(u32::MAX)),
        ] {
            assert_eq!(Reader::new(&Bytes::from_static(wire), 0).uvarint(), value);
        }
        let endless = Bytes::from_static(&[0xff; 9]);
        assert_eq!(Reader::new(&endless, 0).uvarint(), Err(WireError::BadVarint));
        let short = Bytes::from_static(&[0x80]);
        assert!(matches!(
            Reader::new(&short, 0).uvarint(),
            Err(WireError::Truncated { .. })
        ));
    }

    #[test]
    fn unknown_tags_are_passed_over_and_known_ones_cannot_read_further() {
        let frame = Bytes::from_static(&[2, 9, 3, 1, 2, 3, 0, 2, 0, 7, 42]);
        let mut reader = Reader::new(&frame, 0);
        let mut seen = None;
        let outcome = reader.tags(true, |tag, field| {
            if tag == 0 {
                seen = Some((field.i16()?, field.u8()));
            }
            Ok(())
        });
        assert_eq!(outcome, Ok(()));
        assert_eq!(
            seen,
            Some((
                7,
                Err(WireError::Truncated {
                    needed_bytes: 1,
                    remaining_bytes: 0
                })
            ))
        );
        assert_eq!(reader.u8(), Ok(42));
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let text = format!("{}é", "a".repeat(i16::MAX as usize - 1));
        let mut writer = Writer::new(false);
        writer.string(&text);
        assert_eq!(writer.len(), 4 + 2 + i16::MAX as usize - 1);
    }
}
