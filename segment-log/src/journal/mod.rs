//! The commit journal: one write and one sync for the appends of many partitions.
//!
//! Each shard has one journal per data directory. [`format`] is what lies on the disk, [`Journal`] writes it,
//! [`GroupCommit`] decides for each commit whether it goes there or into the segments themselves, and
//! [`FoundJournals`] is what a start finds. How a log takes entries back from there is recovery's business.

mod commit;
mod files;
pub mod format;
mod found;
mod frames;
mod group;
mod numbers;
mod scan;
mod writer;

pub use found::{FoundFile, FoundJournals, JournalDamage, JournalError};
pub(crate) use frames::{EntryLookUp, JournalEntry};
pub use frames::{JournalEvidence, PartitionFrames};
pub use group::{GroupCommit, GroupConfig, GroupEvent, Logs, Way};
pub use scan::LiveJournal;
pub use writer::{
    Journal, JournalBug, JournalConfig, JournalEvent, JournalRun, JournalStatus, journal_directory,
};
