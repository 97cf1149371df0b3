//! What the offline walk says of a damaged directory is what recovery then finds in it.
//!
//! Index files let recovery spare what the checkpoint calls durable; the offline walk reads everything. So
//! they agree to the letter where there are none, and elsewhere recovery finds nothing besides.

use std::path::Path;

use tidelog_segment_log::data_directory::DataDirectory;
use tidelog_segment_log::disk::memory::MemoryDisk;
use tidelog_segment_log::ids::EntryIndex;
use tidelog_segment_log::log::{Opening, drive_open};
use tidelog_segment_log::recovery::{ExamineSpec, Quarantined, RecoveryOptions, examine};

use crate::bits::flipped;
use crate::files::coarse;
use crate::fixture::{Fixture, identity, key, partition, root, spec, write};

/// Of the single damages of files and of the bits one in this many is taken.
const FILES_SAMPLED: usize = 1;
const BITS_SAMPLED: usize = 503;

fn without_index_files(disk: &MemoryDisk) -> MemoryDisk {
    let mut bare = disk.copy();
    for (path, _) in disk.all_files() {
        if path.extension().is_some_and(|ending| ending == "index") {
            bare.remove(&path);
        }
    }
    bare
}

/// Whether something is lost; an error where the two differ.
fn agree(disk: &MemoryDisk) -> Result<bool, String> {
    let bare = without_index_files(disk);
    let is_damaged = agree_on(&bare, |lost, found| lost == found)?;
    agree_on(disk, |lost, found| {
        found.iter().all(|damage| lost.contains(damage))
    })?;
    Ok(is_damaged)
}

fn agree_on(
    disk: &MemoryDisk,
    are_alike: impl Fn(&[Quarantined], &[Quarantined]) -> bool,
) -> Result<bool, String> {
    let mut examined_disk = disk.copy();
    let mut opened_disk = disk.copy();
    let Ok(data) = DataDirectory::open(&mut opened_disk, &root(), identity()) else {
        return Ok(false);
    };
    let (mut spec, options) = spec(&data, false);
    spec.clean = false;
    let options = RecoveryOptions {
        incarnation_seed: Some(9),
        ..options
    };
    let checkpoint = spec.checkpoint.clone();
    let before = opened_disk.all_files();
    let (_, report) = drive_open(&mut opened_disk, Opening::with_options(spec, options))
        .map_err(|error| format!("the log does not open: {error}"))?;
    let examine_spec = ExamineSpec {
        journal: Default::default(),
        directory: partition(),
        key: key(),
        checkpoint,
        only: None,
        batch_bytes: 0,
    };
    let mut indices: Vec<EntryIndex> = Vec::new();
    let examined = examine(&mut examined_disk, &examine_spec, &mut |_, _, header, _| {
        if header.kind.has_index() {
            indices.push(header.index);
        }
        true
    })
    .map_err(|error| error.to_string())?;
    if examined_disk.all_files() != disk.all_files() || !examined_disk.gone().is_empty() {
        return Err("looking changed something".into());
    }
    let lost: Vec<Quarantined> = examined.damage.iter().map(|d| d.quarantined.clone()).collect();
    if !are_alike(&lost, &report.quarantined) {
        return Err(format!("{lost:#?} and {:#?}", report.quarantined));
    }
    // What a new segment takes the place of is set aside besides.
    let mut aside: Vec<String> = report.set_aside.clone();
    aside.retain(|name| before.contains_key(&partition().join(name)));
    aside.sort();
    let replaced = examined.segments.last().map(|last| last.name.clone());
    let mut said = examined.set_aside();
    if said != aside {
        said.extend(replaced);
        said.sort();
    }
    if said != aside {
        return Err(format!("{said:?} and {aside:?} are set aside"));
    }
    if !indices.is_sorted_by(|one, next| one < next) {
        return Err(format!("{indices:?}"));
    }
    Ok(!lost.is_empty())
}

fn hold<'a>(cases: impl Iterator<Item = (String, MemoryDisk)> + 'a) -> (usize, usize) {
    let (mut count, mut damaged, mut broken) = (0, 0, Vec::new());
    for (what, disk) in cases {
        count += 1;
        match agree(&disk) {
            Ok(is_damaged) => damaged += usize::from(is_damaged),
            Err(error) => broken.push(format!("{what}: {error}")),
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {count}, among them {:#?}",
        broken.len(),
        &broken[..broken.len().min(5)]
    );
    (count, damaged)
}

fn bits<'a>(fixture: &'a Fixture, path: &'a Path) -> impl Iterator<Item = (String, MemoryDisk)> + 'a {
    let bits = fixture.disk.file(path).unwrap().len() * 8;
    (8_192 * 8..bits).step_by(BITS_SAMPLED).map(|bit| {
        let what = format!("bit {bit} of {}", path.display());
        (what, flipped(fixture, path, bit))
    })
}

#[test]
fn looking_at_a_damaged_directory_says_what_recovery_finds() {
    let (mut count, mut damaged) = (0, 0);
    for in_order in [true, false] {
        let fixture = write(in_order);
        let files = coarse(&fixture).into_iter().step_by(FILES_SAMPLED).map(|damage| {
            let mut disk = fixture.disk.copy();
            damage.apply(&mut disk);
            (format!("{} {}", damage.path.display(), damage.what), disk)
        });
        let segments = fixture.segments();
        let flipped = segments.iter().flat_map(|path| bits(&fixture, path));
        let (cases, with_damage) = hold(files.chain(flipped));
        count += cases;
        damaged += with_damage;
    }
    assert!(
        count >= 300 && damaged >= 50,
        "{count} cases, {damaged} with damage"
    );
    println!("{count} damaged directories, {damaged} with something lost");
}
