//! That the oracles can fail: a recovery with a planted fault is found out under the same damages.

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::data_directory::DataDirectory;
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault, SimDisk};
use tidelog_segment_log::disk::{Completion, Disk};
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::log::{LogStatus, Opening, PartitionLog, drive_open};
use tidelog_segment_log::recovery::{RecoveryBug, RecoveryOptions};

use crate::bits::flipped;
use crate::crashes::{Dying, image, simulated};
use crate::files::{borders, coarse};
use crate::fixture::{identity, root, spec, write};
use crate::oracle::{judge, read_all};

#[test]
fn a_recovery_that_checks_headers_only_is_found_out() {
    let fixture = write(false);
    // What it accepts is not served, since reads check; but the damage is not reported, and a torn entry
    // is taken for one that is there.
    let taken = |bug| {
        let path = fixture.segments().pop().unwrap();
        let edges = borders(fixture.disk.file(&path).unwrap());
        let payload = (edges[edges.len() - 2] + 64 + 40) * 8;
        judge(&fixture, flipped(&fixture, &path, payload), bug).unwrap()
    };
    let (sound, faulty) = (taken(RecoveryBug::None), taken(RecoveryBug::TrustPayload));
    assert_eq!(
        (sound.unproven.len(), sound.unreadable.len()),
        (1, 0),
        "{sound:?}"
    );
    assert_eq!(
        (faulty.unproven.len(), faulty.unreadable.len()),
        (0, 1),
        "{faulty:?}"
    );
}

/// Losses that a recovery owns up to by no word, of all single damages of files.
fn broken_promises(bug: RecoveryBug) -> Vec<String> {
    let mut broken = Vec::new();
    for in_order in [true, false] {
        let fixture = write(in_order);
        for damage in coarse(&fixture) {
            let mut disk = fixture.disk.copy();
            damage.apply(&mut disk);
            if let Err(error) = judge(&fixture, disk, bug) {
                broken.push(format!("{} {}: {error}", damage.path.display(), damage.what));
            }
        }
    }
    broken
}

#[test]
fn a_recovery_that_trusts_an_index_over_the_log_is_found_out() {
    let broken = broken_promises(RecoveryBug::TrustIndex);
    let by_index = broken.iter().filter(|error| error.contains(".index rolled back"));
    assert!(
        by_index.count() > 0,
        "an index file put back to an older state: {broken:?}"
    );
    let silent = broken
        .iter()
        .filter(|error| error.contains("lost without a word"));
    assert!(silent.count() > 0, "{broken:?}");
    assert_eq!(broken_promises(RecoveryBug::None), Vec::<String>::new());
}

fn open(disk: &mut SimDisk, bug: RecoveryBug) -> Box<PartitionLog> {
    let mut living = Dying::at(disk, None);
    let data = DataDirectory::open(&mut living, &root(), identity()).unwrap();
    let (spec, options) = spec(&data, false);
    let options = RecoveryOptions {
        incarnation_seed: Some(3),
        bug,
        ..options
    };
    let (mut log, _) = drive_open(&mut living, Opening::with_options(spec, options)).unwrap();
    log.confirm_term();
    log
}

fn settle(log: &mut PartitionLog, disk: &mut SimDisk) {
    let mut completions: Vec<Completion> = Vec::new();
    log.flush(1, disk);
    while disk.advance() {
        disk.take_completions(&mut completions);
        for completion in completions.drain(..) {
            log.on_completion(1, disk, completion);
        }
    }
}

/// A batch whose sync fails, a new process, and then a cut of power: what is served before the cut, and
/// whether it still is after it.
fn after_a_failed_sync(seed: u64, bug: RecoveryBug) -> (Offset, bool) {
    let mut disk = simulated(&write(false).disk.all_files(), seed);
    let mut log = open(&mut disk, RecoveryBug::None);
    let before = log.high_watermark();
    disk.script(ScriptedFault {
        kind: OpKind::Sync,
        // One of those of the new segment or of the batch.
        nth: 1 + seed % 3,
        fault: Fault::Eio,
    });
    let batch = build_batch(&BatchSpec::default(), &[&[9; 30_000]]);
    log.append(1, &mut disk, &Bytes::from(batch)).unwrap();
    settle(&mut log, &mut disk);
    if log.status() != LogStatus::Fenced {
        return (before, false);
    }
    assert_eq!(log.high_watermark(), before, "nothing is acknowledged");
    drop(log);
    disk.process_kill();
    let log = open(&mut disk, bug);
    // What an open hands out is durable, and may be served.
    let promised = log.high_watermark();
    drop(log);
    disk.process_kill();
    disk.power_cut();
    let mut log = open(&mut disk, RecoveryBug::None);
    let mut image = image(&mut disk);
    let (served, _) = read_all(&mut image, &mut log).unwrap();
    let end = served.last_key_value().map_or(0, |(base, _)| base + 1);
    (promised, promised > before && end < promised.0)
}

#[test]
fn a_recovery_from_the_page_cache_after_a_failed_sync_is_found_out() {
    let lost = |bug| {
        let runs = (0..40).map(|seed| after_a_failed_sync(seed, bug));
        runs.filter(|(_, is_lost)| *is_lost).count()
    };
    let (sound, faulty) = (lost(RecoveryBug::None), lost(RecoveryBug::ReadFromCache));
    assert_eq!(sound, 0, "what was read from the device is on it");
    assert!(faulty > 0, "what was only in the page cache must be found out");
    println!("served and lost by a cut of power: {faulty} of 40 runs that believe the page cache");
}
