//! A damaged directory that was repaired verifies, opens, serves all that was not lost, and has lost
//! nothing besides what the repair said.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::data_directory::DataDirectory;
use tidelog_segment_log::disk::memory::MemoryDisk;
use tidelog_segment_log::log::{Opening, drive_open};
use tidelog_segment_log::recovery::{
    ExamineSpec, RecoveryOptions, Repair, SET_ASIDE_DIRECTORY, examine, repair,
};

use crate::bits::flipped;
use crate::crashes::{Dying, damaged, image, simulated};
use crate::files::{borders, coarse, truncations};
use crate::fixture::{Fixture, LOG_START, identity, key, partition, root, spec, write};
use crate::oracle::read_all;

const BITS_SAMPLED: usize = 1_009;
const TRUNCATIONS_SAMPLED: usize = 7;

fn what_to_examine(disk: &MemoryDisk) -> Option<ExamineSpec> {
    let data = DataDirectory::open(&mut disk.copy(), &root(), identity()).ok()?;
    Some(ExamineSpec {
        journal: Default::default(),
        directory: partition(),
        key: key(),
        checkpoint: spec(&data, false).0.checkpoint,
        only: None,
        batch_bytes: 0,
    })
}

fn is_clean(disk: &MemoryDisk, what: &ExamineSpec) -> Result<(), String> {
    let examined = examine(&mut disk.copy(), what, &mut |_, _, _, _| true).map_err(|e| e.to_string())?;
    let is_whole = examined
        .segments
        .iter()
        .all(|segment| segment.header_faults.is_empty());
    match examined.damage.is_empty() && examined.others.is_empty() && is_whole {
        true => Ok(()),
        false => Err(format!("not clean after the repair: {examined:#?}")),
    }
}

fn nothing_is_gone(before: &MemoryDisk, after: &MemoryDisk) -> Result<(), String> {
    for (path, bytes) in before.all_files() {
        let name = path.file_name().unwrap_or_default();
        let aside = partition().join(SET_ASIDE_DIRECTORY).join(name);
        let is_kept = |at| after.file(at).is_some_and(|kept| *kept == bytes);
        let is_index = path.extension().is_some_and(|ending| ending == "index");
        if !is_kept(&path) && !is_kept(&aside) && !is_index {
            return Err(format!("{} is gone or changed", path.display()));
        }
    }
    Ok(())
}

fn held(fixture: &Fixture, damaged: &MemoryDisk) -> Result<Option<Repair>, String> {
    let Some(what) = what_to_examine(damaged) else {
        return Ok(None);
    };
    let mut disk = damaged.copy();
    let planned = repair(&mut disk, &what, false).map_err(|error| error.to_string())?;
    if disk.all_files() != damaged.all_files() {
        return Err("a dry run changed something".into());
    }
    let done = repair(&mut disk, &what, true).map_err(|error| error.to_string())?;
    if planned.steps != done.steps || planned.found.damage != done.found.damage {
        return Err(format!("{planned:#?} was planned, {done:#?} done"));
    }
    nothing_is_gone(damaged, &disk)?;
    is_clean(&disk, &what)?;
    let again = repair(&mut disk.copy(), &what, false).map_err(|error| error.to_string())?;
    if !again.steps.is_empty() {
        return Err(format!("repaired, and yet {:?}", again.steps));
    }
    let served = serve(&mut disk)?;
    check_served(fixture, &served, &done)?;
    Ok(Some(done))
}

fn serve(disk: &mut MemoryDisk) -> Result<BTreeMap<i64, Bytes>, String> {
    let data = DataDirectory::open(disk, &root(), identity()).map_err(|error| error.to_string())?;
    let (spec, options) = spec(&data, false);
    let options = RecoveryOptions {
        incarnation_seed: Some(5),
        ..options
    };
    let (mut log, report) =
        drive_open(disk, Opening::with_options(spec, options)).map_err(|error| error.to_string())?;
    if !report.quarantined.is_empty() {
        return Err(format!("repaired, and yet {report:?}"));
    }
    let (served, unreadable) = read_all(disk, &mut log)?;
    match unreadable.is_empty() {
        true => Ok(served),
        false => Err(format!("{unreadable:?} cannot be read")),
    }
}

fn check_served(fixture: &Fixture, served: &BTreeMap<i64, Bytes>, done: &Repair) -> Result<(), String> {
    for (base, stored) in served {
        let header = BatchHeader::parse(stored).map_err(|error| error.to_string())?;
        let is_acked = fixture
            .acked
            .iter()
            .any(|sent| sent.base == *base && sent.stored == *stored);
        if !is_acked && header.record_count != 0 {
            return Err(format!("offset {base} serves what was never written there"));
        }
    }
    for sent in &fixture.acked {
        let is_said = done.found.damage.iter().any(|damage| {
            let lost = &damage.quarantined.offsets;
            lost.start.0 <= sent.base && sent.next <= lost.end.0
        });
        let is_torn = sent.base >= done.found.next.1.0;
        let is_served = served.get(&sent.base) == Some(&sent.stored);
        if !is_served && !is_said && !is_torn && sent.next > LOG_START {
            return Err(format!("offset {} is lost without a word: {done:#?}", sent.base));
        }
        if is_served && is_said {
            return Err(format!("offset {} is said to be lost, and is there", sent.base));
        }
    }
    Ok(())
}

#[test]
fn a_repair_that_a_cut_of_power_ends_can_be_run_again() {
    let fixture = write(false);
    let segments = fixture.segments();
    let (first, last) = (&segments[0], segments.last().unwrap());
    let edges = borders(fixture.disk.file(last).unwrap());
    let middle = borders(fixture.disk.file(first).unwrap())[1];
    let mut disk = fixture.disk.copy();
    for (path, bytes) in damaged(&fixture, last, |bytes| bytes[edges[edges.len() - 3] + 30] ^= 4) {
        disk.put(&path, bytes.to_vec());
    }
    let mut bytes = disk.file(first).unwrap().to_vec();
    bytes[middle + 30] ^= 4;
    disk.put(first, bytes);
    disk.put(&partition().join("00000000000000000500-0.log"), vec![7; 9_000]);
    let what = what_to_examine(&disk).unwrap();
    let whole = held(&fixture, &disk).unwrap().unwrap();
    assert_eq!(whole.steps.len(), 3, "{:?}", whole.steps);
    let mut cuts = 0;
    for change in 1.. {
        let mut simulated = simulated(&disk.all_files(), change);
        let mut dying = Dying::at(&mut simulated, Some(change));
        let cut_off = repair(&mut dying, &what, true);
        let died = dying.is_dead();
        simulated.process_kill();
        simulated.power_cut();
        if died {
            cuts += 1;
        } else {
            cut_off.unwrap();
        }
        let again = repair(&mut Dying::at(&mut simulated, None), &what, true).unwrap();
        let mut after = disk.copy();
        for path in disk
            .all_files()
            .keys()
            .filter(|path| path.starts_with(partition()))
        {
            after.remove(path);
        }
        for (path, bytes) in image(&mut simulated).all_files() {
            after.put(&path, bytes.to_vec());
        }
        is_clean(&after, &what).unwrap();
        let served = serve(&mut after).unwrap();
        for sent in fixture.acked.iter().filter(|sent| sent.next > LOG_START) {
            let lost = |damage: &tidelog_segment_log::recovery::ExaminedDamage| {
                damage
                    .quarantined
                    .offsets
                    .contains(&tidelog_segment_log::ids::Offset(sent.base))
            };
            let is_lost = whole.found.damage.iter().any(lost);
            let is_served = served.get(&sent.base) == Some(&sent.stored);
            assert_eq!(
                is_served, !is_lost,
                "offset {}, change {change}: {again:?}",
                sent.base
            );
        }
        if !died {
            break;
        }
    }
    assert!(cuts > 10, "a repair changes more than {cuts} things");
    println!("{cuts} cuts of power inside a repair");
}

#[test]
fn a_repaired_directory_is_clean_and_has_lost_what_was_said() {
    let (mut count, mut repaired, mut broken) = (0, 0, Vec::new());
    for in_order in [true, false] {
        let fixture = write(in_order);
        let cut = truncations(&fixture).into_iter().step_by(TRUNCATIONS_SAMPLED);
        let files = coarse(&fixture).into_iter().chain(cut).map(|damage| {
            let mut disk = fixture.disk.copy();
            damage.apply(&mut disk);
            (format!("{} {}", damage.path.display(), damage.what), disk)
        });
        let segments = fixture.segments();
        let bits = segments.iter().flat_map(|path| {
            let bits = fixture.disk.file(path).unwrap().len() * 8;
            let each = (0..bits).step_by(BITS_SAMPLED);
            each.map(|bit| {
                (
                    format!("bit {bit} of {}", path.display()),
                    flipped(&fixture, path, bit),
                )
            })
            .collect::<Vec<_>>()
        });
        for (what, disk) in files.chain(bits) {
            count += 1;
            match held(&fixture, &disk) {
                Ok(done) => repaired += usize::from(done.is_some_and(|done| !done.steps.is_empty())),
                Err(error) => broken.push(format!("{what}: {error}")),
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {count}, among them {:#?}",
        broken.len(),
        &broken[..broken.len().min(4)]
    );
    assert!(
        count >= 300 && repaired >= 100,
        "{count} cases, {repaired} repaired"
    );
    println!("{count} damaged directories, {repaired} repaired");
}
