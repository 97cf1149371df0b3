//! What an open of a damaged directory may do, told from the bytes alone and without recovery's code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::checkpoint::Checkpoint;
use tidelog_segment_log::data_directory::{DataDirectory, DataDirectoryError};
use tidelog_segment_log::disk::memory::{FileBytes, MemoryDisk};
use tidelog_segment_log::entry::{ENTRY_MAGIC, EntryHeader};
use tidelog_segment_log::ids::{EntryIndex, Offset};
use tidelog_segment_log::log::{Opening, PartitionLog, ReadError, ReadPart, drive_open, verify_cold};
use tidelog_segment_log::recovery::{RecoveryBug, RecoveryOptions, RecoveryReport, SET_ASIDE_DIRECTORY};
use tidelog_segment_log::segment_header::SegmentHeader;

use crate::fixture::{Acked, Fixture, identity, key, partition, root, spec};

/// How a damaged directory opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The start was refused, and nothing was changed.
    pub refused: bool,
    /// All that was acknowledged is served.
    pub whole: bool,
    /// Offsets of acknowledged batches that are reported lost.
    pub reported: Vec<i64>,
    /// Of batches that are reported as unreadable when they are read.
    pub unreadable: Vec<i64>,
    /// Of batches that are gone without a word, above all that is proven durable.
    pub unproven: Vec<i64>,
    pub quarantines: usize,
    pub set_aside: usize,
    pub clean: bool,
    pub stale_flag: bool,
    /// A new segment was begun.
    pub continued: bool,
    /// The checkpoint that counted was the older generation.
    pub used_previous: bool,
}

/// What the damaged bytes prove durable: by any checkpoint, or by any entry whose header verifies.
fn proven(disk: &MemoryDisk) -> EntryIndex {
    let mut proven = EntryIndex(0);
    for (path, bytes) in disk.all_files() {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("checkpoint-")
            && let Ok(checkpoint) = Checkpoint::decode(&bytes)
            && let Some(partition) = checkpoint.partition(&key())
        {
            proven = proven.max(partition.durable_index);
        }
        if name.ends_with(".log")
            && let Ok(header) = SegmentHeader::decode(&bytes)
            && header.file_name() == name
        {
            for at in (8_192..bytes.len()).step_by(8) {
                if bytes[at..].starts_with(&ENTRY_MAGIC)
                    && let Ok(entry) = EntryHeader::decode(&bytes[at..], &header.incarnation)
                {
                    proven = proven.max(entry.durable_index().unwrap_or_default());
                }
            }
        }
    }
    proven
}

/// Everything that reads give, by base offset; those that are refused as damaged beside it.
pub fn read_all(
    disk: &mut MemoryDisk,
    log: &mut PartitionLog,
) -> Result<(BTreeMap<i64, Bytes>, Vec<i64>), String> {
    let (mut at, end) = (log.log_start_offset(), log.high_watermark());
    let (mut served, mut unreadable) = (BTreeMap::new(), Vec::new());
    while at < end {
        let plan = match log.read(disk, at, end, 1) {
            Ok(plan) => plan,
            Err(ReadError::Quarantined { next, .. }) if next > at => {
                at = next;
                continue;
            }
            Err(error) => return Err(format!("reading {at}: {error}")),
        };
        let before = at;
        for part in plan.parts {
            let ReadPart::Cold(range) = part else {
                return Err("what this disk never calls hot is served".into());
            };
            let file = disk.file(range.file.path()).cloned().unwrap_or_default();
            let bytes = file
                .get(range.position.start as usize..range.position.end as usize)
                .ok_or("a plan reaches behind its file")?;
            match verify_cold(&range, bytes) {
                Ok(batches) => {
                    for batch in batches {
                        let stored = Bytes::copy_from_slice(&bytes[batch]);
                        let header = BatchHeader::parse(&stored).map_err(|error| error.to_string())?;
                        at = Offset(header.last_offset().0 + 1);
                        served.insert(header.base_offset.0, stored);
                    }
                }
                Err(_) => {
                    unreadable.push(at.0);
                    at = Offset(at.0 + 1);
                }
            }
        }
        if at <= before {
            return Err(format!("nothing is served at {at}, below {end}"));
        }
    }
    Ok((served, unreadable))
}

/// No bytes of a segment may go but where a torn tail was zeroed; no checkpoint or identity may go but by
/// its successor.
fn check_nothing_is_deleted(
    before: &BTreeMap<PathBuf, FileBytes>,
    disk: &MemoryDisk,
    report: Option<&RecoveryReport>,
) -> Result<(), String> {
    for (path, bytes) in before {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if !path.starts_with(partition()) || name.ends_with(".index") {
            continue;
        }
        let aside = partition().join(SET_ASIDE_DIRECTORY).join(name);
        let kept = disk.file(path).or_else(|| disk.file(&aside));
        let Some(kept) = kept else {
            return Err(format!("{name} is gone"));
        };
        let zeroed = match report.and_then(|report| report.end.as_ref()) {
            Some((segment, end)) if segment == name => *end as usize..(*end as usize / 4_096 + 1) * 4_096,
            _ => 0..0,
        };
        for (at, byte) in bytes.iter().enumerate() {
            let now = kept.get(at).copied();
            let is_zeroed = zeroed.contains(&at) && now == Some(0);
            if now != Some(*byte) && !is_zeroed {
                return Err(format!("byte {at} of {name} was {byte}, is {now:?}"));
            }
        }
        let is_damaged = |damage: &&tidelog_segment_log::recovery::Quarantined| {
            damage.segment == name && damage.position.end as usize > zeroed.start && !zeroed.is_empty()
        };
        if kept != bytes
            && let Some(damage) = report.and_then(|report| report.quarantined.iter().find(is_damaged))
        {
            return Err(format!("damaged bytes were zeroed: {damage:?}"));
        }
    }
    for (path, _) in disk.gone() {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_replaced = name.ends_with(".index")
            || name.ends_with(".unfinished")
            || name == "clean"
            || (name == "identity" && disk.file(path).is_some());
        if !is_replaced {
            return Err(format!("{} was removed", path.display()));
        }
    }
    Ok(())
}

/// Opens a damaged directory and holds all that it does to the promise.
pub fn judge(fixture: &Fixture, mut disk: MemoryDisk, bug: RecoveryBug) -> Result<Outcome, String> {
    let before = disk.all_files();
    let proven = proven(&disk);
    let data = match DataDirectory::open(&mut disk, &root(), identity()) {
        Ok(data) => data,
        Err(DataDirectoryError::Identity { .. } | DataDirectoryError::IdentityGone { .. }) => {
            if disk.all_files() != before || !disk.gone().is_empty() {
                return Err("a refused start changed something".into());
            }
            return Ok(Outcome {
                refused: true,
                ..Outcome::default()
            });
        }
        Err(error) => return Err(error.to_string()),
    };
    let (spec, options) = spec(&data, false);
    let options = RecoveryOptions {
        incarnation_seed: Some(77),
        bug,
        ..options
    };
    let used_previous = spec.checkpoint.is_some()
        && !data.checkpoints().iter().any(|found| {
            !found.is_previous && found.checkpoint.partition(&key()) == spec.checkpoint.as_ref()
        });
    let (mut log, report) = drive_open(&mut disk, Opening::with_options(spec, options))
        .map_err(|error| format!("the log does not open: {error}"))?;
    check_nothing_is_deleted(&before, &disk, Some(&report))?;
    let (served, unreadable) = read_all(&mut disk, &mut log)?;
    let mut outcome = compare(&fixture.acked, &served, &unreadable, &log, &report, proven)?;
    outcome.clean = report.clean;
    outcome.stale_flag = report.clean_flag_was_stale;
    outcome.quarantines = report.quarantined.len();
    outcome.set_aside = report.set_aside.len();
    outcome.used_previous = used_previous;
    outcome.continued = disk
        .all_files()
        .keys()
        .any(|path| path.extension().is_some_and(|ending| ending == "log") && is_new(path, &before));
    Ok(outcome)
}

fn is_new(path: &Path, before: &BTreeMap<PathBuf, FileBytes>) -> bool {
    let name = path.file_name();
    !before.keys().any(|old| old.file_name() == name)
}

fn compare(
    acked: &[Acked],
    served: &BTreeMap<i64, Bytes>,
    unreadable: &[i64],
    log: &PartitionLog,
    report: &RecoveryReport,
    proven: EntryIndex,
) -> Result<Outcome, String> {
    let mut outcome = Outcome {
        whole: true,
        ..Outcome::default()
    };
    for (base, stored) in served {
        if !acked
            .iter()
            .any(|sent| sent.base == *base && sent.stored == *stored)
        {
            return Err(format!("offset {base} serves what was never written there"));
        }
    }
    for sent in acked {
        if served.contains_key(&sent.base) || sent.next <= log.log_start_offset().0 {
            continue;
        }
        outcome.whole = false;
        let is_reported = |damage: &tidelog_segment_log::recovery::Quarantined| {
            damage.offsets.start.0 <= sent.base && sent.next <= damage.offsets.end.0
        };
        if report.quarantined.iter().any(is_reported) {
            outcome.reported.push(sent.base);
        } else if unreadable.contains(&sent.base) {
            outcome.unreadable.push(sent.base);
        } else if sent.index > proven && sent.base >= log.log_end_offset().0 {
            outcome.unproven.push(sent.base);
        } else {
            return Err(format!(
                "offset {} (index {:?}, {proven:?} proven) is lost without a word: {report:?}",
                sent.base, sent.index
            ));
        }
    }
    if log.log_start_offset().0 > crate::fixture::LOG_START {
        return Err(format!("the log starts at {}", log.log_start_offset()));
    }
    Ok(outcome)
}
