//! Every file lost, zeroed, cut short, exchanged and rolled back: alone and in pairs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidelog_segment_log::disk::memory::MemoryDisk;
use tidelog_segment_log::entry::EntryHeader;
use tidelog_segment_log::recovery::RecoveryBug;
use tidelog_segment_log::segment_header::SegmentHeader;

use crate::bits::all_is_asked_for;
use crate::fixture::{Fixture, write};
use crate::oracle::{Outcome, judge};

/// Of the pairs one in this many is taken, unless all are asked for.
const PAIRS_SAMPLED: usize = 5;

/// One change of one file.
#[derive(Clone, Debug)]
pub struct Damage {
    pub path: PathBuf,
    pub what: String,
    /// Its new content; `None`: it is gone.
    pub content: Option<Vec<u8>>,
}

impl Damage {
    pub fn apply(&self, disk: &mut MemoryDisk) {
        match &self.content {
            Some(content) => disk.put(&self.path, content.clone()),
            None => assert!(disk.remove(&self.path), "{self:?}"),
        }
    }
}

/// Where the entries of a segment begin, and where the last one ends.
pub fn borders(bytes: &[u8]) -> Vec<usize> {
    let Ok(header) = SegmentHeader::decode(bytes) else {
        return Vec::new();
    };
    let mut borders = vec![8_192];
    while let Some(at) = borders.last().copied()
        && let Some(rest) = bytes.get(at..)
        && let Ok(entry) = EntryHeader::decode(rest, &header.incarnation)
    {
        borders.push(at + entry.entry_len());
    }
    borders
}

fn kind(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    match path.extension() {
        Some(ending) if ending != "previous" => ending.to_str().unwrap().to_owned(),
        _ => name.split(['-', '.']).next().unwrap().to_owned(),
    }
}

/// Each way to lose a file as a whole.
pub fn coarse(fixture: &Fixture) -> Vec<Damage> {
    let mut damages = Vec::new();
    for path in fixture.all() {
        let bytes = fixture.disk.file(&path).unwrap();
        let mut add = |what: String, content: Option<Vec<u8>>| {
            damages.push(Damage {
                path: path.clone(),
                what,
                content,
            });
        };
        add("gone".into(), None);
        add("zeroed".into(), Some(vec![0; bytes.len()]));
        add("empty".into(), Some(Vec::new()));
        for (nth, copy) in fixture.older_copies(&path).into_iter().enumerate() {
            add(format!("rolled back to {nth}"), Some(copy.to_vec()));
        }
        for other in fixture.all() {
            if other != path && kind(&other) == kind(&path) {
                let content = fixture.disk.file(&other).unwrap().to_vec();
                add(format!("a copy of {}", other.display()), Some(content));
            }
        }
    }
    damages
}

/// Each length that means something, and those beside it.
pub fn truncations(fixture: &Fixture) -> Vec<Damage> {
    let mut damages = Vec::new();
    for path in fixture.all() {
        let bytes = fixture.disk.file(&path).unwrap();
        let mut marks = borders(bytes);
        marks.extend((0..bytes.len()).step_by(if bytes.len() > 8_192 { 512 } else { 7 }));
        marks.extend([8, 12, 32, 512, 4_096, 4_608]);
        let around = marks
            .iter()
            .flat_map(|mark| [mark.saturating_sub(1), *mark, mark + 1]);
        let mut lengths: Vec<usize> = around.filter(|len| *len < bytes.len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        for len in lengths {
            damages.push(Damage {
                path: path.clone(),
                what: format!("cut to {len}"),
                content: Some(bytes[..len].to_vec()),
            });
        }
    }
    damages
}

/// Holds each set of damages to the promise; what they come to, by kind.
fn hold(fixture: &Fixture, sets: impl Iterator<Item = Vec<Damage>>) -> BTreeMap<&'static str, usize> {
    let (mut counts, mut broken, mut cases) = (BTreeMap::new(), Vec::new(), 0);
    for set in sets {
        cases += 1;
        let mut disk = fixture.disk.copy();
        set.iter().for_each(|damage| damage.apply(&mut disk));
        match judge(fixture, disk, RecoveryBug::None) {
            Ok(outcome) => *counts.entry(name(&outcome)).or_default() += 1,
            Err(error) => {
                let what: Vec<String> = set
                    .iter()
                    .map(|damage| format!("{} {}", damage.path.display(), damage.what))
                    .collect();
                broken.push(format!("{}: {error}", what.join(" and ")));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {cases}, among them {:#?}",
        broken.len(),
        &broken[..broken.len().min(12)]
    );
    counts
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome { refused: true, .. } => "refused",
        outcome if !outcome.reported.is_empty() => "quarantined",
        outcome if !outcome.unreadable.is_empty() => "refused when read",
        outcome if !outcome.unproven.is_empty() => "not proven",
        Outcome { set_aside: 1.., .. } => "set aside",
        _ => "whole",
    }
}

#[test]
fn any_file_may_be_lost_zeroed_exchanged_or_rolled_back() {
    for in_order in [true, false] {
        let fixture = write(in_order);
        let counts = hold(&fixture, coarse(&fixture).into_iter().map(|damage| vec![damage]));
        assert!(counts["whole"] > 10 && counts["quarantined"] > 3, "{counts:?}");
        println!("one file, in order {in_order}: {counts:?}");
    }
}

#[test]
fn any_file_may_be_cut_short() {
    for in_order in [true, false] {
        let fixture = write(in_order);
        let counts = hold(
            &fixture,
            truncations(&fixture).into_iter().map(|damage| vec![damage]),
        );
        assert!(counts["whole"] > 10 && counts["quarantined"] > 3, "{counts:?}");
        println!("cut short, in order {in_order}: {counts:?}");
    }
}

#[test]
fn any_two_files_may_be_lost_zeroed_exchanged_or_rolled_back() {
    for in_order in [true, false] {
        let fixture = write(in_order);
        let damages = coarse(&fixture);
        let mut pairs = Vec::new();
        for (nth, one) in damages.iter().enumerate() {
            for other in damages[nth + 1..].iter().filter(|other| other.path != one.path) {
                pairs.push(vec![one.clone(), other.clone()]);
            }
        }
        let sampled = if all_is_asked_for() { 1 } else { PAIRS_SAMPLED };
        let total = pairs.len();
        let counts = hold(&fixture, pairs.into_iter().step_by(sampled));
        assert!(counts["whole"] > 10 && counts["quarantined"] > 10, "{counts:?}");
        println!("two files, in order {in_order}: {total} pairs, one in {sampled}: {counts:?}");
    }
}
