//! Where reads begin and end.

use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::log::{LogConfig, OpenSpec, ReadPart};

use crate::common::batches::plain;
use crate::common::logs::{close, open, settle};
use crate::common::reads::{ReadRange, batches_by, read_once};
use crate::spec;

#[test]
fn a_read_starts_at_the_batch_that_holds_the_offset() {
    let root = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new();
    let (mut log, _) = open(&mut disk, spec(&root.path().join("p"), None, false, true));
    for at in 0..200 {
        log.append(1, &mut disk, &plain(3, 700, 5_000 + at)).unwrap();
        settle(&mut log, &mut disk, 1);
    }
    assert!(log.segment_count() > 3, "the log rolled");
    for offset in 0..600 {
        let end = log.high_watermark();
        let first = read_once(&mut log, &mut disk, Offset(offset), end, 1).unwrap();
        let [(header, _)] = first.as_slice() else {
            panic!("{first:?}")
        };
        assert!(header.base_offset.0 <= offset && offset <= header.last_offset().0);
    }
    let from = log.batch_at_or_after_timestamp(5_100).unwrap();
    assert!(from <= Offset(300), "the scan begins before the batch");
    assert!(from >= Offset(280), "and not much before it: {from}");
    assert_eq!(log.batch_at_or_after_timestamp(5_200), None);
    assert_eq!(log.max_timestamp(), Some((5_199, Offset(597))));
    assert!(log.read(&mut disk, Offset(601), Offset(601), 10).is_err());
    assert!(
        log.read(&mut disk, Offset(600), Offset(601), 10)
            .unwrap()
            .parts
            .is_empty()
    );
}

#[test]
fn a_cold_plan_is_bounded_by_what_was_asked_for_and_may_start_inside_a_batch() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let spec = |checkpoint, clean, created| OpenSpec {
        config: LogConfig {
            segment_bytes: 64 << 20,
            ..spec(&directory, None, false, false).config
        },
        ..spec(&directory, checkpoint, clean, created)
    };
    let (mut log, _) = open(&mut disk, spec(None, false, true));
    let mut sizes = Vec::new();
    for at in 0..600usize {
        // Small ones, ones about as large as the index is dense, and a few large ones.
        let len = match at % 100 {
            50 => 700_000,
            n if n % 10 == 3 => 1_500,
            n => n,
        };
        let batch = plain(3, len, 1);
        sizes.push(batch.len() as u64);
        log.append(1, &mut disk, &batch).unwrap();
        settle(&mut log, &mut disk, 1);
    }
    let checkpoint = close(log, &mut disk, 1);
    let mut disk = StdDisk::new();
    let (mut log, report) = open(&mut disk, spec(Some(checkpoint), true, false));
    assert!(report.clean);
    let size = log.size_bytes();
    assert!(size > 12 << 20, "far more than one request asks for: {size}");
    let end = log.high_watermark();
    for offset in (0..end.0).step_by(7) {
        for max_bytes in [1usize, 3_000, 100_000] {
            let plan = log.read(&mut disk, Offset(offset), end, max_bytes).unwrap();
            let [part @ ReadPart::Cold(range)] = plan.parts.as_slice() else {
                panic!("{plan:?}")
            };
            let batches = batches_by(part, |range| disk.read_range(range)).unwrap();
            let first = BatchHeader::parse(&batches[0]).unwrap();
            assert!(first.base_offset.0 <= offset && offset <= first.last_offset().0);
            let planned = range.position.end - range.position.start;
            // It begins less than an index interval in front of the batch, and ends with the entry
            // that reaches one interval beyond what was asked for.
            let own = first.total_len() as u64 + 200;
            let wanted = own.max(max_bytes as u64) + 2 * 4_096;
            let mut reached = 0;
            let crossing = sizes.iter().skip(offset as usize / 3).find(|size| {
                reached += **size + 64;
                reached >= wanted
            });
            let bound = wanted + crossing.map_or(0, |size| size + 200);
            assert!(
                planned <= bound,
                "offset {offset}, {max_bytes} bytes: {planned} planned, {bound} at most"
            );
        }
    }
}
