//! Who a data directory belongs to, and whether it was closed in order.
//!
//! Both are small sealed files (see `docs/FORMAT.md`), written whole by replacing them.
//! The identity (magic `TLOGIDT0`, version 1; version 0 had no directory id and is still read) is made at the first start; each start
//! raises its counter, durably, before anything is appended. The clean flag (magic
//! `TLOGCLN0`, version 0) is a file of its own that is written last at an orderly stop
//! and removed, durably, before the first change; it holds only for the start it names.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

pub use crate::sealed::SealedError;

use crate::limits::{IDENTITY_FILE_BYTES_MAX, IDENTITY_NAME_BYTES_MAX};
use crate::sealed::{at_most, seal, unseal};

/// First eight bytes of an identity file.
pub const IDENTITY_MAGIC: [u8; 8] = *b"TLOGIDT0";
/// First eight bytes of a clean flag.
pub const CLEAN_FLAG_MAGIC: [u8; 8] = *b"TLOGCLN0";
/// The version of the identity that this program writes.
pub const IDENTITY_VERSION: u16 = 1;
/// The version of the clean flag.
pub const CLEAN_FLAG_VERSION: u16 = 0;
/// The feature level this program writes.
pub const FEATURE_LEVEL: u32 = 0;

/// What tells a data directory from all others.
pub type DirectoryUuid = [u8; 16];

/// Why an identity or a clean flag was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The file is unfinished, damaged or of another version.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// The node id is negative.
    #[error("node id {0} is negative")]
    NodeId(i32),
}

/// The content of the identity file.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Identity {
    /// Starts of a broker on this directory, from 1 on.
    pub start_counter: u64,
    /// The broker's node id, not negative.
    pub node_id: i32,
    /// Which format features may be written; raised only when an upgrade is finalized.
    pub feature_level: u32,
    /// Kafka's cluster id.
    pub cluster_id: String,
    /// The rack the node was first started with.
    pub rack: Option<String>,
    /// Tells this directory from the others of its broker, wherever it is mounted: 128 random bits, not all zero.
    /// All zero only in one that was read from a file of version 0.
    pub directory_id: DirectoryUuid,
}

/// The identity before directories had an id of their own.
#[derive(Archive, Serialize, Deserialize)]
struct IdentityV0 {
    start_counter: u64,
    node_id: i32,
    feature_level: u32,
    cluster_id: String,
    rack: Option<String>,
}

/// The content of the clean flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CleanFlag {
    /// The start that ended in order; the flag of another start is stale.
    pub start_counter: u64,
}

const _: () = {
    assert!(size_of::<ArchivedIdentity>() == 56);
    assert!(size_of::<ArchivedIdentityV0>() == 40);
    assert!(size_of::<ArchivedCleanFlag>() == 8);
};

impl Identity {
    /// The file's bytes.
    ///
    /// # Panics
    /// If a name is longer than [`IDENTITY_NAME_BYTES_MAX`] or the node id negative; the
    /// settings that they come from have these bounds.
    pub fn encode(&self) -> Vec<u8> {
        if let Err(error) = self.check_values() {
            panic!("an identity that would not decode again: {error}");
        }
        seal(IDENTITY_MAGIC, IDENTITY_VERSION, self)
    }

    /// The identity in a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        let max = IDENTITY_FILE_BYTES_MAX;
        let identity = match unseal(IDENTITY_MAGIC, IDENTITY_VERSION, bytes, max) {
            Err(SealedError::Version(0)) => {
                let before: IdentityV0 = unseal(IDENTITY_MAGIC, 0, bytes, max)?;
                Self {
                    start_counter: before.start_counter,
                    node_id: before.node_id,
                    feature_level: before.feature_level,
                    cluster_id: before.cluster_id,
                    rack: before.rack,
                    directory_id: [0; 16],
                }
            }
            result => result?,
        };
        identity.check_values()?;
        Ok(identity)
    }

    fn check_values(&self) -> Result<(), IdentityError> {
        at_most(self.cluster_id.len(), IDENTITY_NAME_BYTES_MAX)?;
        at_most(self.rack.as_ref().map_or(0, String::len), IDENTITY_NAME_BYTES_MAX)?;
        if self.node_id < 0 {
            return Err(IdentityError::NodeId(self.node_id));
        }
        Ok(())
    }
}

impl CleanFlag {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        seal(CLEAN_FLAG_MAGIC, CLEAN_FLAG_VERSION, self)
    }

    /// The flag in a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        Ok(unseal(
            CLEAN_FLAG_MAGIC,
            CLEAN_FLAG_VERSION,
            bytes,
            IDENTITY_FILE_BYTES_MAX,
        )?)
    }
}
