//! Files and entries that this version does not know, or that have no header.

use std::fs;

use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::entry::{ENTRY_HEADER_LEN, EntryError};
use tidelog_segment_log::ids::{EntryIndex, Offset};
use tidelog_segment_log::log::{LogConfig, OpenError, OpenSpec, Opening, UnsupportedEntry, drive_open};
use tidelog_segment_log::recovery::SET_ASIDE_DIRECTORY;
use tidelog_segment_log::segment_header::{SegmentHeader, segment_file_name};

use crate::common::logs::{close, settle};
use crate::{Fixture, batch, spec, write_log};

#[test]
fn a_file_without_a_valid_header_is_kept_aside() {
    let fixture = write_log(true);
    let stray = "00000000000000000006-0.log";
    fs::write(fixture.directory().join(stray), b"not a segment").unwrap();
    let (log, report) = fixture.recover(None);
    assert_eq!(report.set_aside, [stray]);
    assert!(fixture.directory().join(SET_ASIDE_DIRECTORY).join(stray).exists());
    assert_eq!(log.log_end_offset(), Offset(10));
}

/// Gives the entry at `at` other bytes in its header under a checksum that holds, as another version
/// of this program would write it.
fn rewrite_header(fixture: &Fixture, at: u64, change: impl FnOnce(&mut [u8])) {
    let file = fs::read(fixture.segment()).unwrap();
    let incarnation = SegmentHeader::decode(&file).unwrap().incarnation;
    let at = at as usize;
    let mut header = file[at..at + ENTRY_HEADER_LEN].to_vec();
    change(&mut header);
    let is_batch = header[9] <= 2;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[8..]);
    crc.update(&incarnation.0);
    if is_batch {
        crc.update(&file[at + ENTRY_HEADER_LEN..at + ENTRY_HEADER_LEN + 21]);
    }
    header[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    fixture.overwrite(at as u64, &header);
}

fn refused(fixture: &Fixture, clean: bool) -> UnsupportedEntry {
    let spec = OpenSpec {
        clean,
        ..spec(&fixture.directory(), Some(fixture.checkpoint.clone()), false)
    };
    match drive_open(&mut StdDisk::new(), Opening::new(spec)) {
        Err(OpenError::UnsupportedEntry { name, cause, .. }) => {
            assert_eq!(name, "00000000000000000001-0.log");
            cause
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_of_another_version_is_not_damage() {
    for clean in [false, true] {
        for synced_each in [false, true] {
            let fixture = write_log(synced_each);
            rewrite_header(&fixture, fixture.edges[3], |header| header[8] = 1);
            let before = fs::read(fixture.segment()).unwrap();
            assert_eq!(
                refused(&fixture, clean),
                UnsupportedEntry::Entry(EntryError::Version(1))
            );
            assert_eq!(fs::read(fixture.segment()).unwrap(), before, "nothing is cut");

            let fixture = write_log(synced_each);
            rewrite_header(&fixture, fixture.edges[3], |header| header[9] = 200);
            assert_eq!(
                refused(&fixture, clean),
                UnsupportedEntry::Entry(EntryError::Kind(200))
            );
        }
    }
}

#[test]
fn an_entry_of_another_version_behind_the_end_is_not_cut_either() {
    let fixture = write_log(false);
    fixture.flip(fixture.edges[2] + 30);
    rewrite_header(&fixture, fixture.edges[3], |header| header[8] = 1);
    assert_eq!(
        refused(&fixture, false),
        UnsupportedEntry::Entry(EntryError::Version(1))
    );
}

#[test]
fn no_file_takes_the_name_of_one_that_was_set_aside() {
    let fixture = write_log(true);
    let mut disk = StdDisk::new();
    let (log, _) = fixture.recover(None);
    let checkpoint = close(log, &mut disk, 1);
    let aside = fixture.directory().join(SET_ASIDE_DIRECTORY);
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join(segment_file_name(EntryIndex(6), 0)), b"kept").unwrap();
    let spec = OpenSpec {
        clean: true,
        config: LogConfig {
            segment_bytes: 1,
            ..spec(&fixture.directory(), None, false).config
        },
        ..spec(&fixture.directory(), Some(checkpoint), false)
    };
    let (mut log, report) = drive_open(&mut disk, Opening::new(spec)).unwrap();
    assert!(report.clean);
    log.append(1, &mut disk, &batch(1)).unwrap();
    settle(&mut log, &mut disk, 1);
    let named = log.checkpoint().segments.last().copied().unwrap();
    assert_eq!((named.base_index, named.generation), (EntryIndex(6), 1));
}
