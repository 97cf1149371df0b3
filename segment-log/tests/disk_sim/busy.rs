//! Everything at once: the same seed gives the same run, and all that can happen does.

use std::collections::BTreeSet;
use std::io::IoSlice;

use bytes::Bytes;
use tidelog_segment_log::disk::sim::{OpKind, SimConfig, SimDisk, SimFaults, SimRng};
use tidelog_segment_log::disk::{Disk, DiskOp, DiskOutput, FileHandle, ReadSource};

use crate::{Sim, path};

/// A busy run with everything in it, steered by a generator of its own.
fn busy_run(seed: u64) -> SimDisk {
    let mut faults = SimFaults {
        no_space_ppm: 10_000,
        short_write_ppm: 20_000,
        writeback_error_ppm: 20_000,
        would_stall_ppm: 20_000,
        cold_ppm: 20_000,
        ..SimFaults::default()
    };
    for kind in OpKind::ALL {
        faults = faults.with_eio(kind, 10_000);
    }
    let mut sim = Sim::new(SimConfig {
        seed,
        faults,
        keep_trace: true,
        ..SimConfig::default()
    });
    let mut steer = SimRng::new(42);
    let mut files: Vec<FileHandle> = Vec::new();
    let mut in_flight = BTreeSet::new();
    for step in 0..600u64 {
        let name = path(&format!("f{}", steer.below(6)));
        let file = files.get(steer.index(files.len())).cloned();
        let at = steer.below(20_000);
        let op = match (steer.below(9), file) {
            (0, _) | (_, None) => DiskOp::Create { path: name },
            (1, _) => DiskOp::Open { path: name },
            (2, Some(file)) => DiskOp::Sync { file },
            (3, _) => DiskOp::SyncDir { path: path("") },
            (4, _) if steer.below(4) == 0 => DiskOp::Unlink { path: name },
            (5, Some(file)) => DiskOp::ZeroRange {
                file,
                range: at..at + 3_000,
            },
            (6, Some(file)) => DiskOp::Read {
                file,
                position: at,
                len: 5_000,
                source: ReadSource::Device,
            },
            (_, Some(file)) => {
                let data = Bytes::from(vec![step as u8; 1 + steer.index(5_000)]);
                if steer.coin() {
                    // Errors are part of the run; the trace tells them.
                    drop(sim.disk.write_now(&file, at, &[IoSlice::new(&data)]));
                }
                DiskOp::Write {
                    file,
                    position: at,
                    data,
                }
            }
        };
        in_flight.insert(sim.submit(op));
        for _ in 0..steer.below(3) {
            sim.disk.advance();
        }
        let mut out = Vec::new();
        sim.disk.take_completions(&mut out);
        for completion in out {
            assert!(in_flight.remove(&completion.token), "exactly once");
            if let Ok(DiskOutput::File(file)) = completion.result {
                files.push(file);
            }
        }
        match steer.below(60) {
            0 => sim.disk.power_cut(),
            1 => sim.disk.process_kill(),
            _ => continue,
        }
        in_flight.clear();
        files.clear();
    }
    sim.disk
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut hashes = BTreeSet::new();
    for seed in 0..20 {
        let (one, two) = (busy_run(seed), busy_run(seed));
        assert_eq!(one.trace_lines(), two.trace_lines());
        assert_eq!(one.trace_hash(), two.trace_hash());
        assert_eq!(one.events(), two.events());
        assert!(one.trace_lines().len() > 600);
        hashes.insert(one.trace_hash());
    }
    assert_eq!(hashes.len(), 20);
}

#[test]
fn a_busy_run_meets_everything_that_can_happen() {
    let mut missing: BTreeSet<&str> = BTreeSet::new();
    let mut met: BTreeSet<&str> = BTreeSet::new();
    for seed in 0..20 {
        let disk = busy_run(seed);
        let e = disk.events();
        for (what, count) in [
            ("short writes", e.short_writes),
            ("stalls", e.would_stall),
            ("syncs", e.syncs),
            ("failed syncs", e.failed_syncs),
            ("lost pages", e.lost_pages),
            ("write-back errors", e.writeback_errors),
            ("EIO", e.io_errors),
            ("ENOSPC", e.no_space),
            ("power cuts", e.power_cuts),
            ("kills", e.process_kills),
            ("outstanding done", e.outstanding_done),
            ("outstanding dropped", e.outstanding_dropped),
            ("stale sectors", e.stale_sectors),
            ("unsynced sectors kept", e.unsynced_sectors_kept),
            ("torn pages", e.torn_pages),
            ("lost lengths", e.lost_lengths),
            ("lost names", e.lost_names),
            ("unsynced names kept", e.unsynced_names_kept),
            ("device reads", e.device_reads),
        ] {
            missing.insert(what);
            if count > 0 {
                met.insert(what);
            }
        }
    }
    assert_eq!(missing, met);
}
