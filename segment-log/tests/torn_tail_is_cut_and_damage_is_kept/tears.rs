//! Tears: cut where they are, and what was cut stays away.

use std::fs;
use std::io::{Seek, SeekFrom, Write};

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::entry::entry_len;
use tidelog_segment_log::ids::{EntryIndex, Offset};
use tidelog_segment_log::log::{Opening, drive_open};
use tidelog_segment_log::segment_header::segment_file_name;

use crate::common::logs::settle;
use crate::{batch, spec, write_log};

#[test]
fn a_tear_at_any_byte_of_the_last_entries_is_cut_there() {
    let fixture = write_log(false);
    let whole = fs::read(fixture.segment()).unwrap();
    let end = fixture.edges[5];
    for tear in fixture.edges[3]..end {
        fs::write(fixture.segment(), &whole).unwrap();
        fixture.overwrite(tear, &vec![0; (end - tear) as usize]);
        let (log, report) = fixture.recover(None);
        // A tear inside zeros that were zeros anyway leaves the entry whole.
        let padding_only = whole[tear as usize..end as usize].iter().all(|byte| *byte == 0);
        let kept = if padding_only {
            5
        } else {
            let at = fixture.edges.iter().rposition(|edge| *edge <= tear).unwrap();
            let rest = fixture.edges.get(at + 1).copied().unwrap_or(end);
            let lost_zeros = whole[tear as usize..rest as usize].iter().all(|byte| *byte == 0);
            at + usize::from(lost_zeros)
        };
        assert_eq!(log.log_end_offset(), Offset(2 * kept as i64), "torn at {tear}");
        assert!(
            report.quarantined.is_empty() && report.set_aside.is_empty(),
            "{report:?}"
        );
        let after = fs::read(fixture.segment()).unwrap();
        let cut = fixture.edges[kept] as usize;
        let page_end = (cut / 4_096 + 1) * 4_096;
        let behind = after.get(cut..page_end.min(after.len())).unwrap();
        assert!(
            behind.iter().all(|byte| *byte == 0),
            "zero to the end of the page"
        );
    }
}

#[test]
fn a_tear_is_followed_by_appends_that_survive() {
    let fixture = write_log(false);
    fixture.flip(fixture.edges[3] + 10);
    let (mut log, _) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(6));
    let mut disk = StdDisk::new();
    drop(log);
    let (reopened, _) = drive_open(&mut disk, Opening::new(spec(&fixture.directory(), None, false))).unwrap();
    log = reopened;
    log.confirm_term();
    let appended = log.append(1, &mut disk, &batch(77)).unwrap();
    assert_eq!(appended.base_offset, Offset(6));
    settle(&mut log, &mut disk, 1);
    assert_eq!(log.durable_offset(), Offset(8));
    drop(log);
    let (log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(8));
    assert!(report.quarantined.is_empty());
}

#[test]
fn without_any_proof_the_same_damage_is_a_torn_tail() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[4] + 30);
    let (log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(8));
    assert!(report.quarantined.is_empty());
}

#[test]
fn what_was_cut_does_not_come_back_behind_later_damage() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let (mut log, _) = drive_open(&mut disk, Opening::new(spec(&directory, None, true))).unwrap();
    let big = |number: u8| Bytes::from(build_batch(&BatchSpec::default(), &[&[number; 9_000]]));
    let mut edges = Vec::new();
    for number in 0..4 {
        edges.push(log.size_bytes());
        log.append(1, &mut disk, &big(number)).unwrap();
    }
    settle(&mut log, &mut disk, 1);
    drop(log);
    let segment = directory.join(segment_file_name(EntryIndex(1), 0));
    let write = |position: u64, bytes: &[u8]| {
        let mut file = fs::File::options().write(true).open(&segment).unwrap();
        file.seek(SeekFrom::Start(position)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    };
    // The second entry is torn; the third and the fourth are not, and lie behind its pages.
    write(edges[1], &[0; 64]);
    let (mut log, report) = drive_open(&mut disk, Opening::new(spec(&directory, None, false))).unwrap();
    assert_eq!(log.log_end_offset(), Offset(1));
    assert!(report.torn_entries_seen);
    log.confirm_term();
    // A smaller one takes the place of the second, and is durable.
    log.append(1, &mut disk, &batch(9)).unwrap();
    settle(&mut log, &mut disk, 1);
    let checkpoint = log.checkpoint();
    let last = log.checkpoint().segments.last().copied().unwrap();
    drop(log);
    // Then it is damaged.
    let name = segment_file_name(last.base_index, last.generation);
    let path = directory.join(name);
    let mut bytes = fs::read(&path).unwrap();
    let at = last.length.0 as usize - entry_len(batch(9).len() as u32);
    bytes[at + 30] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (log, report) =
        drive_open(&mut disk, Opening::new(spec(&directory, Some(checkpoint), false))).unwrap();
    assert_eq!(report.quarantined.len(), 1, "{report:?}");
    assert_eq!(log.log_end_offset(), Offset(3), "not the third entry of old");
}
