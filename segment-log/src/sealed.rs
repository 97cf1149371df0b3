//! The frame around rkyv archives: CRC first, bytecheck second, native values out.
//!
//! Pure functions without an owner. Two frames exist, little endian both.
//!
//! A *sealed file* (index, checkpoint, identity, clean flag):
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | magic, one per kind of file |
//! | 8 | 4 | crc: crc32fast of everything from byte 12 to the end of the archive |
//! | 12 | 2 | version; the archive's type is chosen by it |
//! | 14 | 2 | zero |
//! | 16 | 8 | archive length in bytes |
//! | 24 | 8 | zero |
//! | 32 | length | rkyv archive |
//!
//! Bytes behind the archive are ignored (a file may be longer than its content).
//!
//! An *internal payload* (covered by the checksum of the entry that holds it):
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 2 | schema; the archive's type is chosen by it |
//! | 2 | 6 | zero |
//! | 8 | rest | rkyv archive |

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

/// Bytes before the archive of a sealed file.
pub(crate) const SEALED_HEADER_LEN: usize = 32;
/// Bytes before the archive of an internal payload.
pub(crate) const INTERNAL_HEADER_LEN: usize = 8;

const CRC_START: usize = 12;

/// Why framed bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealedError {
    /// Shorter than the frame says: an unfinished or cut file.
    #[error("truncated: {available} bytes, {needed} needed")]
    Truncated {
        /// Bytes the frame needs.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// Another kind of file, or zeros.
    #[error("wrong magic")]
    Magic,
    /// The content does not match its checksum.
    #[error("checksum is {actual:#010x}, stored {stored:#010x}")]
    Crc {
        /// The checksum in the frame.
        stored: u32,
        /// The checksum of the bytes.
        actual: u32,
    },
    /// Written by another version of this program; nothing is wrong with the bytes.
    #[error("version {0} is not known")]
    Version(u16),
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// Larger than the bound in `limits.rs`.
    #[error("{len} bytes or elements, at most {max} allowed")]
    TooLarge {
        /// What the frame claims.
        len: u64,
        /// The bound.
        max: u64,
    },
    /// The checksum holds and the archive is not valid: written by a faulty program.
    #[error("archive is not valid")]
    Archive,
}

/// Archives `value` behind `prefix_len` zero bytes.
fn archive<T>(value: &T, prefix_len: usize) -> Vec<u8>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Failure>>,
{
    let archived = rkyv::to_bytes::<Failure>(value).expect("archiving into growing memory cannot fail");
    let mut bytes = Vec::with_capacity(prefix_len + archived.len());
    bytes.resize(prefix_len, 0);
    bytes.extend_from_slice(&archived);
    bytes
}

/// Validates an archive and makes the native value of it. The bytes may lie anywhere.
fn from_archive<T>(bytes: &[u8]) -> Result<T, SealedError>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Failure>> + Deserialize<T, HighDeserializer<Failure>>,
{
    let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    rkyv::from_bytes::<T, Failure>(&aligned).map_err(|_| SealedError::Archive)
}

/// A sealed file's bytes.
pub(crate) fn seal<T>(magic: [u8; 8], version: u16, value: &T) -> Vec<u8>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Failure>>,
{
    let mut bytes = archive(value, SEALED_HEADER_LEN);
    let len = (bytes.len() - SEALED_HEADER_LEN) as u64;
    put(&mut bytes, 0, &magic);
    put(&mut bytes, 12, &version.to_le_bytes());
    put(&mut bytes, 16, &len.to_le_bytes());
    let crc = crc32fast::hash(bytes.get(CRC_START..).unwrap_or_default());
    put(&mut bytes, 8, &crc.to_le_bytes());
    bytes
}

/// Bytes of the sealed value at the start of `bytes`, as its frame says it; nothing of it is verified.
pub(crate) fn sealed_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<SEALED_HEADER_LEN>()?;
    let len = usize::try_from(u64::from_le_bytes(take(header, 16))).ok()?;
    len.checked_add(SEALED_HEADER_LEN)
}

/// The value in a sealed file of exactly this version.
pub(crate) fn unseal<T>(
    magic: [u8; 8],
    version: u16,
    bytes: &[u8],
    bytes_max: usize,
) -> Result<T, SealedError>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Failure>> + Deserialize<T, HighDeserializer<Failure>>,
{
    let truncated = |needed: u64| SealedError::Truncated {
        needed,
        available: bytes.len() as u64,
    };
    let header = bytes
        .first_chunk::<SEALED_HEADER_LEN>()
        .ok_or(truncated(SEALED_HEADER_LEN as u64))?;
    if header.first_chunk::<8>() != Some(&magic) {
        return Err(SealedError::Magic);
    }
    let len = u64::from_le_bytes(take(header, 16));
    if len > bytes_max as u64 {
        return Err(SealedError::TooLarge {
            len,
            max: bytes_max as u64,
        });
    }
    let end = SEALED_HEADER_LEN as u64 + len;
    let covered = bytes.get(CRC_START..end as usize).ok_or(truncated(end))?;
    let stored = u32::from_le_bytes(take(header, 8));
    let actual = crc32fast::hash(covered);
    if stored != actual {
        return Err(SealedError::Crc { stored, actual });
    }
    let found = u16::from_le_bytes(take(header, 12));
    if found != version {
        return Err(SealedError::Version(found));
    }
    if take::<2>(header, 14) != [0; 2] || take::<8>(header, 24) != [0; 8] {
        return Err(SealedError::Reserved);
    }
    from_archive(covered.get(SEALED_HEADER_LEN - CRC_START..).unwrap_or_default())
}

/// An internal entry's payload.
pub(crate) fn internal_payload<T>(schema: u16, value: &T) -> Vec<u8>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Failure>>,
{
    let mut bytes = archive(value, INTERNAL_HEADER_LEN);
    put(&mut bytes, 0, &schema.to_le_bytes());
    bytes
}

/// The value in an internal entry's payload of exactly this schema.
pub(crate) fn from_internal_payload<T>(schema: u16, bytes: &[u8], bytes_max: usize) -> Result<T, SealedError>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Failure>> + Deserialize<T, HighDeserializer<Failure>>,
{
    let (header, archive) =
        bytes
            .split_first_chunk::<INTERNAL_HEADER_LEN>()
            .ok_or(SealedError::Truncated {
                needed: INTERNAL_HEADER_LEN as u64,
                available: bytes.len() as u64,
            })?;
    if bytes.len() > bytes_max {
        return Err(SealedError::TooLarge {
            len: bytes.len() as u64,
            max: bytes_max as u64,
        });
    }
    let found = u16::from_le_bytes(take(header, 0));
    if found != schema {
        return Err(SealedError::Version(found));
    }
    if take::<6>(header, 2) != [0; 6] {
        return Err(SealedError::Reserved);
    }
    from_archive(archive)
}

/// Checks a number of decoded elements against its bound.
pub(crate) fn at_most(len: usize, max: usize) -> Result<(), SealedError> {
    if len > max {
        return Err(SealedError::TooLarge {
            len: len as u64,
            max: max as u64,
        });
    }
    Ok(())
}

/// `N` bytes at a position the caller has checked to be inside; zeros if it is not.
pub(crate) fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

/// Writes a field of a frame that this module laid out itself.
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes
        .get_mut(at..at + field.len())
        .expect("a field lies inside its own frame")
        .copy_from_slice(field);
}
