//! A client-side history that outlives the broker, and the check of a broker against it.
//!
//! The writer ([`write`]) notes each batch before it is sent and each acknowledgement after it came;
//! an acknowledgement counts only once its line is fsynced. The checker ([`check()`]) then asks the
//! broker for everything and holds it to the history:
//!
//! - every acknowledged record is read at exactly its offset, byte-equal, in the order it was sent;
//! - no offset below the high watermark is skipped, and none was given out twice;
//! - a record whose acknowledgement never came is absent or present once.
//!
//! One thread does each; a history file has one writer at a time.

mod check;
mod file;
mod value;
mod write;

pub use check::{CheckOptions, CheckReport, Violation, check, check_with};
pub use file::{Event, History, HistoryError, HistoryWriter};
pub use value::{Stamp, make_value, read_stamp};
pub use write::{WriteOptions, WriteReport, write};
