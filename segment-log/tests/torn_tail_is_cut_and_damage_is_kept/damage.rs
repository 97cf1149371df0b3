//! Damage to what was durable: gone around, reported and kept.

use std::fs;

use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::ids::{EntryIndex, Offset};
use tidelog_segment_log::log::{Opening, ReadError, ReadPart, drive_open, verify_cold};

use crate::{batch, spec, write_log};

#[test]
fn a_durable_entry_with_a_bad_payload_is_quarantined_alone() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[1] + 64 + 70);
    let (mut log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(10));
    let [damage] = report.quarantined.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(damage.position, fixture.edges[1]..fixture.edges[2]);
    assert_eq!(damage.indices, EntryIndex(2)..EntryIndex(3));
    assert_eq!(damage.offsets, Offset(2)..Offset(4));
    let mut disk = StdDisk::new();
    let refused = log.read(&mut disk, Offset(3), Offset(10), 1_000).unwrap_err();
    assert_eq!(
        refused,
        ReadError::Quarantined {
            from: Offset(3),
            next: Offset(4)
        }
    );
    assert_eq!(
        log.read(&mut disk, Offset(4), Offset(10), 1_000)
            .unwrap()
            .parts
            .len(),
        1
    );
}

#[test]
fn a_durable_entry_with_a_bad_header_is_gone_around() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[2] + 30);
    let (log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(10));
    let [damage] = report.quarantined.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(damage.position, fixture.edges[2]..fixture.edges[3]);
    assert_eq!(damage.offsets, Offset(4)..Offset(6));
}

#[test]
fn a_claim_that_the_walk_went_around_still_counts_behind_it() {
    let fixture = write_log(true);
    let whole = fs::read(fixture.segment()).unwrap();
    let bytes_of = |at: usize| &whole[fixture.edges[at] as usize..fixture.edges[at + 1] as usize];
    // The last entry landed in the place of the second one too; there it is all that is left of it, and
    // that says the fourth one was durable.
    assert_eq!(bytes_of(1).len(), bytes_of(4).len());
    fixture.overwrite(fixture.edges[1], bytes_of(4));
    fixture.overwrite(
        fixture.edges[3],
        &vec![0; (fixture.edges[5] - fixture.edges[3]) as usize],
    );
    for start in 0..2 {
        let (log, report) = fixture.recover(None);
        let lost: Vec<_> = report
            .quarantined
            .iter()
            .map(|damage| (damage.indices.clone(), damage.offsets.clone()))
            .collect();
        let entry = |n: u64| {
            let indices = EntryIndex(n)..EntryIndex(n + 1);
            (indices, Offset(2 * n as i64 - 2)..Offset(2 * n as i64))
        };
        assert_eq!(lost, [entry(2), entry(4)], "start {start}");
        assert_eq!(log.log_end_offset(), Offset(8));
    }
}

#[test]
fn a_plan_in_front_of_damage_does_not_reach_into_it() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[2] + 30);
    let (mut log, _) = fixture.recover(None);
    let mut disk = StdDisk::new();
    let mut planned = |from: i64| {
        let plan = log.read(&mut disk, Offset(from), Offset(10), 1 << 20).unwrap();
        match plan.parts.as_slice() {
            [ReadPart::Cold(range)] => range.position.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(planned(0), fixture.edges[0]..fixture.edges[2]);
    assert_eq!(planned(3), fixture.edges[0]..fixture.edges[2]);
    assert_eq!(planned(6), fixture.edges[3]..fixture.edges[5]);
}

#[test]
fn damage_at_the_very_end_keeps_the_log_end_that_the_checkpoint_proves() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[4] + 30);
    let (mut log, report) = fixture.recover(Some(fixture.checkpoint.clone()));
    assert_eq!(log.log_end_offset(), Offset(10));
    assert_eq!(log.segment_count(), 2, "the log goes on in a new segment");
    let [damage] = report.quarantined.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(damage.indices, EntryIndex(5)..EntryIndex(6));
    assert_eq!(damage.offsets, Offset(8)..Offset(10));
    log.confirm_term();
    let mut disk = StdDisk::new();
    drop(log);
    let checkpoint = Some(fixture.checkpoint.clone());
    let (mut log, report) = drive_open(
        &mut disk,
        Opening::new(spec(&fixture.directory(), checkpoint, false)),
    )
    .unwrap();
    assert_eq!(report.quarantined.len(), 1, "damage is found again at each open");
    log.confirm_term();
    assert_eq!(
        log.append(1, &mut disk, &batch(9)).unwrap().base_offset,
        Offset(10)
    );
}

#[test]
fn a_lost_segment_file_is_damage_when_a_checkpoint_names_it() {
    let fixture = write_log(true);
    fs::remove_file(fixture.segment()).unwrap();
    let (log, report) = fixture.recover(Some(fixture.checkpoint.clone()));
    assert_eq!(log.log_end_offset(), Offset(10));
    assert_eq!(report.quarantined.len(), 1);
    assert_eq!(log.log_start_offset(), Offset(0));
}

#[test]
fn cold_bytes_are_served_only_if_they_verify() {
    let fixture = write_log(true);
    let (mut log, _) = fixture.recover(None);
    let mut disk = StdDisk::new();
    let plan = log.read(&mut disk, Offset(3), Offset(8), 1 << 20).unwrap();
    let [ReadPart::Cold(range)] = plan.parts.as_slice() else {
        panic!("{plan:?}")
    };
    let file = fs::read(fixture.segment()).unwrap();
    let bytes = &file[range.position.start as usize..range.position.end as usize];
    let batches = verify_cold(range, bytes).unwrap();
    assert_eq!(batches.len(), 3, "the batches of offsets 2 to 7");
    for at in batches[0].clone() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        assert!(
            verify_cold(range, &damaged).is_err(),
            "byte {at} of the first batch"
        );
    }
    for len in 0..batches[0].end {
        assert!(verify_cold(range, &bytes[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn damaged_bytes_at_the_very_end_are_left_as_they_are() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[4] + 30);
    let before = fs::read(fixture.segment()).unwrap();
    let (_, report) = fixture.recover(Some(fixture.checkpoint.clone()));
    assert_eq!(report.quarantined.len(), 1);
    assert_eq!(fs::read(fixture.segment()).unwrap(), before, "for a later repair");
}
