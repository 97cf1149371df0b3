//! Walking the records of one batch without collecting them.
//!
//! ```text
//! record   length varint, then: attributes i8, timestamp_delta varlong, offset_delta varint,
//!          key_length varint (-1 = null), key, value_length varint (-1 = null), value,
//!          header_count varint, per header: key_length varint, key, value_length varint (-1 = null), value
//! ```

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

/// What is wrong with the records of a batch. The batch is refused with `INVALID_RECORD`; the position
/// is that of the record in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end before the record does, or the record's own length is wrong.
    #[error("record {position} does not fit its bytes")]
    Truncated {
        /// Position in the batch.
        position: u32,
    },
    /// A length or count is not allowed.
    #[error("record {position} has a bad length")]
    BadLength {
        /// Position in the batch.
        position: u32,
    },
    /// Bytes are left when all records were read.
    #[error("{bytes} bytes follow the last record")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// One record, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Unused by Kafka so far.
    pub attributes: i8,
    /// To be added to the batch's base timestamp.
    pub timestamp_delta: i64,
    /// To be added to the batch's base offset.
    pub offset_delta: i32,
    /// The key, if any.
    pub key: Option<&'a [u8]>,
    /// The value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, in order, possibly with repeated keys.
    pub headers: Headers<'a>,
}

/// The headers of a record: key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: u32,
}

impl Headers<'_> {
    /// How many are left.
    pub const fn count_left(&self) -> u32 {
        self.left
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut cursor = Cursor { rest: self.rest };
        // The record was walked before: this cannot fail.
        let key = cursor.nullable_slice().ok()??;
        let value = cursor.nullable_slice().ok()?;
        self.rest = cursor.rest;
        Some((key, value))
    }
}

/// Walks the records of one batch. Yields each record, or one error and then nothing.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    rest: &'a [u8],
    count: u32,
    position: u32,
    done: bool,
}

impl<'a> RecordIter<'a> {
    /// Walks `count` records in `records`, which must hold exactly those.
    pub const fn new(records: &'a [u8], count: u32) -> Self {
        Self {
            rest: records,
            count,
            position: 0,
            done: false,
        }
    }

    fn record(&mut self) -> Result<RecordView<'a>, Fault> {
        let mut outer = Cursor { rest: self.rest };
        let length = usize::try_from(outer.varint()?).map_err(|_| Fault::BadLength)?;
        let mut record = Cursor {
            rest: outer.slice(length)?,
        };
        let attributes = record.u8()? as i8;
        let timestamp_delta = record.varlong()?;
        let offset_delta = record.varint()?;
        let key = record.nullable_slice()?;
        let value = record.nullable_slice()?;
        let left = u32::try_from(record.varint()?).map_err(|_| Fault::BadLength)?;
        let headers = Headers {
            rest: record.rest,
            left,
        };
        for _ in 0..left {
            record.nullable_slice()?.ok_or(Fault::BadLength)?;
            record.nullable_slice()?;
        }
        if !record.rest.is_empty() {
            return Err(Fault::BadLength);
        }
        self.rest = outer.rest;
        Ok(RecordView {
            attributes,
            timestamp_delta,
            offset_delta,
            key,
            value,
            headers,
        })
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.position == self.count {
            self.done = true;
            let bytes = self.rest.len();
            return (bytes > 0).then_some(Err(RecordError::Trailing { bytes }));
        }
        let position = self.position;
        match self.record() {
            Ok(record) => {
                self.position = position.saturating_add(1);
                Some(Ok(record))
            }
            Err(fault) => {
                self.done = true;
                Some(Err(match fault {
                    Fault::Truncated => RecordError::Truncated { position },
                    Fault::BadLength => RecordError::BadLength { position },
                }))
            }
        }
    }
}

enum Fault {
    Truncated,
    BadLength,
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn u8(&mut self) -> Result<u8, Fault> {
        let (first, rest) = self.rest.split_first().ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (slice, rest) = self.rest.split_at_checked(length).ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(slice)
    }

    fn nullable_slice(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        match self.varint()? {
            -1 => Ok(None),
            length => self
                .slice(usize::try_from(length).map_err(|_| Fault::BadLength)?)
                .map(Some),
        }
    }

    fn uvarlong(&mut self, bytes_max: u32) -> Result<u64, Fault> {
        let mut value = 0u64;
        for place in 0..bytes_max {
            let byte = u64::from(self.u8()?);
            value |= (byte & 0x7f) << (place * 7);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::BadLength)
    }

    fn varint(&mut self) -> Result<i32, Fault> {
        let value = u32::try_from(self.uvarlong(5)?).map_err(|_| Fault::BadLength)?;
        Ok((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    fn varlong(&mut self) -> Result<i64, Fault> {
        let value = self.uvarlong(10)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_lengths_are_not_believed() {
        // One record of 6 bytes: no key, no value, no headers.
        let record = [12, 0, 0, 0, 1, 1, 0];
        let mut records = RecordIter::new(&record, u32::MAX);
        assert!(matches!(
            records.next(),
            Some(Ok(RecordView {
                key: None,
                value: None,
                ..
            }))
        ));
        assert_eq!(records.next(), Some(Err(RecordError::Truncated { position: 1 })));
        assert_eq!(records.next(), None);
        let mut records = RecordIter::new(&record, 0);
        assert_eq!(records.next(), Some(Err(RecordError::Trailing { bytes: 7 })));
        // A header count of 2^31 - 1 in a record of 10 bytes.
        let record = [20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(
            RecordIter::new(&record, 1).next(),
            Some(Err(RecordError::Truncated { position: 0 }))
        );
        // A negative length that is not null.
        assert_eq!(
            RecordIter::new(&[3], 1).next(),
            Some(Err(RecordError::BadLength { position: 0 }))
        );
    }
}
