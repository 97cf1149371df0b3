//! Every bit flipped.

use std::collections::BTreeMap;
use std::path::Path;

use tidelog_segment_log::entry::{ENTRY_HEADER_LEN, EntryHeader};
use tidelog_segment_log::recovery::RecoveryBug;
use tidelog_segment_log::segment_header::SegmentHeader;

use crate::files::borders;
use crate::fixture::{Fixture, LOG_START, write};
use crate::oracle::{Outcome, judge};

/// Bits of zeros that lie in no structure are taken one in this many, unless all are asked for.
const ZEROS_SAMPLED: usize = 211;
/// Bits of structures, likewise; odd, so that each of the eight places of a byte is met.
const STRUCTURES_SAMPLED: usize = 19;

pub fn all_is_asked_for() -> bool {
    std::env::var("TIDELOG_DAMAGE").is_ok_and(|value| value == "all")
}

/// Bytes of a segment that no structure owns: between and behind the copies of the header, and behind the
/// entries. What lies there is not read, or is read as "nothing here".
fn is_unused(path: &Path, bytes: &[u8], at: usize) -> bool {
    if path.extension().is_none_or(|ending| ending != "log") {
        return false;
    }
    // Not the last byte that is not zero: the last record of a batch may end in zeros.
    let end = borders(bytes).last().copied().unwrap_or(bytes.len());
    (512..4_096).contains(&at) || (4_608..8_192).contains(&at) || at >= end
}

/// The bits of a file that are flipped, one at a time.
fn bits_of(path: &Path, bytes: &[u8]) -> Vec<usize> {
    let all = 0..bytes.len() * 8;
    if all_is_asked_for() {
        return all.collect();
    }
    all.filter(|bit| match is_unused(path, bytes, bit / 8) {
        true => bit % ZEROS_SAMPLED == 0,
        false => bit % STRUCTURES_SAMPLED == 0,
    })
    .collect()
}

/// The base offset of the acknowledged batch whose entry holds this byte, if it is still served. Not so for
/// internal entries: what a checkpoint holds beside them is not read at an open.
fn batch_at(fixture: &Fixture, bytes: &[u8], at: usize) -> Option<i64> {
    let header = SegmentHeader::decode(bytes).ok()?;
    let borders = borders(bytes);
    let begin = borders.windows(2).find(|pair| (pair[0]..pair[1]).contains(&at))?[0];
    let entry = EntryHeader::decode(&bytes[begin..], &header.incarnation).ok()?;
    // Padding is not served; only a walk looks at it.
    if at >= begin + ENTRY_HEADER_LEN + entry.payload_len as usize {
        return None;
    }
    let base = entry.base_offset.0;
    let is_served = entry.is_plain_data() && entry.next_offset().0 > LOG_START;
    (is_served && fixture.acked.iter().any(|sent| sent.base == base)).then_some(base)
}

/// A bad header also hides what a read would only find by going through it: those behind it, up to the
/// next point of the index. Such a read is refused, until an open that was not clean goes around it.
fn only_this_is_lost(outcome: &Outcome, base: i64) -> bool {
    let lost = [&outcome.reported[..], &outcome.unproven].concat();
    match outcome.unreadable.first() {
        Some(first) => lost.is_empty() && *first == base,
        None => lost == [base],
    }
}

pub fn flipped(fixture: &Fixture, path: &Path, bit: usize) -> tidelog_segment_log::disk::memory::MemoryDisk {
    let mut disk = fixture.disk.copy();
    let mut bytes = disk.file(path).unwrap().to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    disk.put(path, bytes);
    disk
}

fn flip_all(in_order: bool) {
    let fixture = write(in_order);
    let intact = judge(&fixture, fixture.disk.copy(), RecoveryBug::None).unwrap();
    assert!(intact.whole && intact.clean == in_order, "{intact:?}");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut broken = Vec::new();
    let mut cases = 0;
    for path in fixture.all() {
        let bytes = fixture.disk.file(&path).unwrap().clone();
        for bit in bits_of(&path, &bytes) {
            cases += 1;
            match judge(&fixture, flipped(&fixture, &path, bit), RecoveryBug::None) {
                Err(error) => broken.push(format!(
                    "{} byte {} bit {}: {error}",
                    path.display(),
                    bit / 8,
                    bit % 8
                )),
                Ok(outcome) => {
                    let kind = kind(&outcome, &intact);
                    *counts.entry(kind).or_default() += 1;
                    if is_unused(&path, &bytes, bit / 8) && outcome != intact {
                        broken.push(format!(
                            "{} byte {}: unused, yet {outcome:?}",
                            path.display(),
                            bit / 8
                        ));
                    }
                    if let Some(base) = batch_at(&fixture, &bytes, bit / 8)
                        && !only_this_is_lost(&outcome, base)
                    {
                        broken.push(format!("offset {base}, byte {}: {outcome:?}", bit / 8));
                    }
                }
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {cases}, first: {:#?}",
        broken.len(),
        &broken[..broken.len().min(10)]
    );
    println!("in order {in_order}: {cases} bits, {counts:?}");
}

fn kind(outcome: &Outcome, intact: &Outcome) -> &'static str {
    match outcome {
        Outcome { refused: true, .. } => "refused",
        outcome if !outcome.reported.is_empty() => "quarantined",
        outcome if !outcome.unreadable.is_empty() => "refused when read",
        outcome if !outcome.unproven.is_empty() => "torn",
        outcome if outcome == intact => "no effect",
        Outcome { set_aside: 1.., .. } => "set aside",
        _ => "rebuilt",
    }
}

#[test]
fn every_bit_of_a_directory_that_was_stopped_in_order() {
    flip_all(true);
}

#[test]
fn every_bit_of_a_directory_that_was_killed() {
    flip_all(false);
}
