//! Finds partitions below a path and what the checkpoints of their data directories say of them.
//!
//! A data directory is read in this order: checkpoints, journals, then names, then files. So beside a running broker
//! what a checkpoint names is there, or was removed since; then all is read again. And what a journal holds no more
//! is in a segment by then.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::data_directory::{FoundCheckpoint, evidence_of, parse_checkpoint_name};
use tidelog_segment_log::disk::read_only::ReadOnlyDisk;
use tidelog_segment_log::ids::{PartitionKey, TopicId};
use tidelog_segment_log::journal::{FoundJournals, JournalDamage, JournalEvidence, journal_directory};
use tidelog_segment_log::limits::CHECKPOINT_FILE_BYTES_MAX;
use tidelog_segment_log::recovery::{
    ExamineError, ExamineSpec, Examined, SET_ASIDE_DIRECTORY, Visit, examine,
};
use tidelog_segment_log::segment_header::{SEGMENT_HEADER_LEN, SegmentHeader, parse_segment_file_name};

use crate::failure::{FAILED, Failure};
use crate::limits::{DIRECTORY_DEPTH_MAX, EXAMINE_ATTEMPTS_MAX};

const PARTITIONS_DIRECTORY: &str = "partitions";
const METADATA_DIRECTORY: &str = "metadata";
const CLEAN_FILE: &str = "clean";
pub const IDENTITY_FILE: &str = "identity";
/// How often journals are read in which something is missing.
const JOURNAL_READS: usize = 3;
/// How far above a partition its data directory is looked for.
const LEVELS_UP: usize = 3;

/// A partition, or one file of it.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where its files are.
    pub directory: PathBuf,
    /// Which partition it is.
    pub key: PartitionKey,
    /// The data directory it belongs to.
    pub root: Option<PathBuf>,
    /// The one file that is asked for.
    pub only: Option<String>,
    /// Bytes of what is asked for.
    pub bytes: u64,
    checkpoint: Option<PartitionCheckpoint>,
    journal: JournalEvidence,
}

/// A partition that the newest checkpoint names and whose directory is not there.
#[derive(Debug)]
pub struct LostPlace {
    /// Where it should be.
    pub directory: PathBuf,
    /// What is said of it.
    pub checkpoint: PartitionCheckpoint,
    /// The last start ended in order: then it was not deleted.
    pub is_certain: bool,
}

/// What was found below a path.
#[derive(Debug, Default)]
pub struct Places {
    /// Partitions, by directory.
    pub places: Vec<Place>,
    /// Partitions that are named and not there.
    pub lost: Vec<LostPlace>,
    /// Checkpoint files that cannot be used.
    pub faults: Vec<String>,
    /// What of journals was durable and is lost.
    pub journal_damage: Vec<(PathBuf, String)>,
    /// Journals that cannot be read: what they hold is not known.
    pub journal_failures: Vec<String>,
    /// The highest start counter that a journal names.
    pub journal_start_counter: u64,
    /// Index files without their segments.
    pub orphans: Vec<PathBuf>,
    /// Segment files that recovery or a repair set aside; they are no part of the log.
    pub set_aside: usize,
    /// The data directory that was asked for has no identity.
    pub identity_is_gone: bool,
}

/// What the checkpoints and journals of one data directory say.
#[derive(Debug, Default)]
pub struct Said {
    found: Vec<FoundCheckpoint>,
    journals: FoundJournals,
    journal_failure: Option<String>,
    /// Checkpoint files that cannot be used.
    pub faults: Vec<String>,
    is_clean: bool,
}

impl Said {
    /// Reads them.
    pub fn read(root: &Path) -> Self {
        let mut said = Said {
            is_clean: root.join(CLEAN_FILE).exists(),
            ..Said::default()
        };
        let mut names: Vec<String> = std::fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        for name in names {
            let Some((shard, is_previous)) = parse_checkpoint_name(&name) else {
                continue;
            };
            let path = root.join(&name);
            let read = read_bounded(&path, CHECKPOINT_FILE_BYTES_MAX).map_err(|e| e.to_string());
            match read.and_then(|bytes| Checkpoint::decode(&bytes).map_err(|e| e.to_string())) {
                Ok(checkpoint) => said.found.push(FoundCheckpoint {
                    shard,
                    is_previous,
                    checkpoint,
                }),
                // A running broker replaces them: one that is gone by now is no fault.
                Err(why) if path.exists() => said.faults.push(format!("{}: {why}", path.display())),
                Err(_) => {}
            }
        }
        for _ in 0..JOURNAL_READS {
            match FoundJournals::find(0, root).drive(&mut ReadOnlyDisk::new()) {
                Ok(journals) => (said.journals, said.journal_failure) = (journals, None),
                Err(error) => said.journal_failure = Some(error.to_string()),
            }
            // A running broker may have let a file go, or written to it, in the middle of the look.
            if said.journal_failure.is_none() && said.journals.damage().is_empty() {
                break;
            }
        }
        said
    }

    /// What they say of a partition.
    pub fn of(&self, key: &PartitionKey) -> Option<PartitionCheckpoint> {
        evidence_of(&self.found, 0, key).checkpoint
    }

    /// What its journals hold of a partition.
    fn journal_of(&self, key: &PartitionKey) -> JournalEvidence {
        self.journals.evidence(key)
    }

    fn newest_keys(&self) -> HashSet<PartitionKey> {
        let newest = self.found.iter().filter(|found| !found.is_previous);
        newest
            .flat_map(|found| &found.checkpoint.partitions)
            .map(|partition| partition.key)
            .collect()
    }
}

/// The data directory that `path` is or lies in.
pub fn data_directory_of(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let is_one = |directory: &&Path| {
        directory.join(IDENTITY_FILE).is_file()
            || directory.join(PARTITIONS_DIRECTORY).is_dir()
            || std::fs::read_dir(directory).is_ok_and(|entries| {
                let mut names = entries
                    .flatten()
                    .filter_map(|entry| entry.file_name().into_string().ok());
                names.any(|name| parse_checkpoint_name(&name).is_some())
            })
    };
    let found = path.ancestors().take(LEVELS_UP + 1).find(is_one);
    found.map(Path::to_path_buf)
}

/// `path` itself, or all partitions below it.
pub fn find(path: &Path) -> Result<Places, Failure> {
    let meta = path.metadata().map_err(|e| cannot_read(path, &e))?;
    if !meta.is_dir() {
        return find_file(path, meta.len());
    }
    let mut saids: HashMap<PathBuf, Said> = HashMap::new();
    let root = data_directory_of(path);
    if let Some(root) = &root {
        saids.insert(root.clone(), Said::read(root));
    }
    let mut places = Places::default();
    let mut directories = BTreeMap::new();
    list(path, &mut places, &mut directories)?;
    for (directory, names) in directories {
        let root = data_directory_of(&directory);
        let said = root
            .as_ref()
            .map(|root| saids.entry(root.clone()).or_insert_with(|| Said::read(root)));
        let bytes = |name: &String| directory.join(name).metadata().map_or(0, |meta| meta.len());
        let Some(key) = key_of(&directory, &names) else {
            continue;
        };
        places.places.push(Place {
            key,
            bytes: names.iter().map(bytes).sum(),
            checkpoint: said.as_ref().and_then(|said| said.of(&key)),
            journal: said.map(|said| said.journal_of(&key)).unwrap_or_default(),
            root,
            only: None,
            directory,
        });
    }
    if let Some(root) = root.filter(|root| path.canonicalize().is_ok_and(|path| path == *root)) {
        places.identity_is_gone = !root.join(IDENTITY_FILE).exists();
        find_lost(path, saids.entry(root).or_default(), &mut places);
    }
    for (root, said) in saids {
        places.take_journals(&root, &said);
        places.faults.extend(said.faults);
    }
    places.faults.sort();
    match places.places.is_empty() && places.lost.is_empty() {
        true => Err(
            Failure::new(FAILED, format!("no segment file in {}", path.display()))
                .hint("Give a data directory, a partition's directory, or a .log file."),
        ),
        false => Ok(places),
    }
}

fn find_file(path: &Path, bytes: u64) -> Result<Places, Failure> {
    let header = read_header(path).map_err(|e| cannot_read(path, &e))?;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if parse_segment_file_name(name).is_none() {
        let failure = Failure::new(FAILED, format!("{} is not a segment file", path.display()));
        return Err(match header {
            Some(header) => failure.hint(format!("By its header its name is {}.", header.file_name())),
            None => failure.hint("Segments are the .log files below a data directory."),
        });
    }
    let directory = match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => parent.to_path_buf(),
        None => PathBuf::from("."),
    };
    let named = vec![name.to_owned()];
    let key = header.map(|header| header.partition_key());
    let key = key.or_else(|| key_of(&directory, &named)).unwrap_or_default();
    let root = data_directory_of(&directory);
    let said = root.as_ref().map(|root| Said::read(root)).unwrap_or_default();
    let mut places = Places::default();
    if let Some(root) = &root {
        places.take_journals(root, &said);
    }
    places.places.push(Place {
        key,
        checkpoint: said.of(&key),
        journal: said.journal_of(&key),
        root,
        only: Some(name.to_owned()),
        bytes,
        directory,
    });
    Ok(places)
}

impl Places {
    fn take_journals(&mut self, root: &Path, said: &Said) {
        let directory = journal_directory(root);
        if let Some(failure) = &said.journal_failure {
            let failure = format!(
                "the journals in {} cannot be read: {failure}",
                directory.display()
            );
            self.journal_failures.push(failure);
        }
        for damage in said.journals.damage() {
            self.journal_damage.push((directory.clone(), in_words(damage)));
        }
        self.journal_start_counter = self.journal_start_counter.max(said.journals.start_counter());
    }
}

fn in_words(damage: &JournalDamage) -> String {
    match damage {
        JournalDamage::Frames {
            start_counter,
            shard,
            first,
            count,
        } => format!(
            "{count} frames of the journal that shard {shard} wrote in start {start_counter} were durable and are lost, from number {} on",
            first.0
        ),
        JournalDamage::Page { name, cause } => format!("the first page of {name} does not verify: {cause}"),
    }
}

/// Whether a data directory holds the metadata log.
pub fn has_metadata(root: &Path) -> bool {
    root.join(METADATA_DIRECTORY).is_dir()
}

/// The metadata log of a data directory, as a partition; `None`: it is not there.
#[cfg(feature = "serve")]
pub fn metadata_place(root: &Path) -> Option<Place> {
    let said = Said::read(root);
    let key = PartitionKey::default();
    has_metadata(root).then(|| Place {
        directory: root.join(METADATA_DIRECTORY),
        key,
        root: Some(root.to_path_buf()),
        only: None,
        bytes: 0,
        checkpoint: said.of(&key),
        journal: said.journal_of(&key),
    })
}

/// Every directory below `path` that holds segment files, with their names.
fn list(
    path: &Path,
    places: &mut Places,
    directories: &mut BTreeMap<PathBuf, Vec<String>>,
) -> Result<(), Failure> {
    let mut open = vec![(path.to_owned(), 0)];
    while let Some((directory, depth)) = open.pop() {
        let is_aside = depth > 0
            && directory
                .file_name()
                .is_some_and(|name| name == SET_ASIDE_DIRECTORY);
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            // A running broker may have removed it since.
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(cannot_read(&directory, &error)),
        };
        let mut segments = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| cannot_read(&directory, &e))?;
            let kind = entry.file_type().map_err(|e| cannot_read(&entry.path(), &e))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let segment = name.strip_suffix(".index").map(|stem| format!("{stem}.log"));
            if kind.is_dir() && depth < DIRECTORY_DEPTH_MAX {
                open.push((entry.path(), depth + 1));
            } else if kind.is_file() && parse_segment_file_name(&name).is_some() {
                match is_aside {
                    true => places.set_aside += 1,
                    false => segments.push(name),
                }
            } else if kind.is_file()
                && !is_aside
                && segment.is_some_and(|segment| {
                    parse_segment_file_name(&segment).is_some() && !directory.join(segment).exists()
                })
            {
                places.orphans.push(entry.path());
            }
        }
        let is_partition = depth > 0
            && !is_aside
            && directory
                .parent()
                .is_some_and(|parent| parent.ends_with(PARTITIONS_DIRECTORY));
        if !segments.is_empty() || (is_partition && named_key(&directory).is_some()) {
            segments.sort();
            directories.insert(directory, segments);
        }
    }
    places.orphans.sort();
    Ok(())
}

/// The partition that a directory's name says.
fn named_key(directory: &Path) -> Option<PartitionKey> {
    let (topic, partition) = directory.file_name()?.to_str()?.rsplit_once('-')?;
    let partition = partition.parse().ok().filter(|partition| *partition >= 0)?;
    if topic.len() != 32 || !topic.is_ascii() {
        return None;
    }
    let mut id = [0; 16];
    for (byte, at) in id.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(topic.get(at..at + 2)?, 16).ok()?;
    }
    let topic = TopicId(id);
    Some(PartitionKey { topic, partition })
}

/// The partition of a directory: by its name, or by most of its files.
fn key_of(directory: &Path, names: &[String]) -> Option<PartitionKey> {
    if let Some(key) = named_key(directory) {
        return Some(key);
    }
    let mut counts: Vec<(PartitionKey, usize)> = Vec::new();
    for name in names {
        let Ok(Some(header)) = read_header(&directory.join(name)) else {
            continue;
        };
        let key = header.partition_key();
        match counts.iter_mut().find(|(known, _)| *known == key) {
            Some((_, count)) => *count += 1,
            None => counts.push((key, 1)),
        }
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(key, _)| key).or(Some(PartitionKey::default()))
}

fn find_lost(root: &Path, said: &Said, places: &mut Places) {
    let seen: HashSet<PartitionKey> = places.places.iter().map(|place| place.key).collect();
    for key in said.newest_keys() {
        if seen.contains(&key) {
            continue;
        }
        let Some(checkpoint) = said.of(&key).filter(|checkpoint| checkpoint.durable_index.0 > 0) else {
            continue;
        };
        let directory = match key == PartitionKey::default() {
            true => root.join(METADATA_DIRECTORY),
            false => root
                .join(PARTITIONS_DIRECTORY)
                .join(format!("{}-{}", key.topic, key.partition)),
        };
        places.lost.push(LostPlace {
            is_certain: said.is_clean || directory.is_dir(),
            directory,
            checkpoint,
        });
    }
    places
        .lost
        .sort_by(|one, other| one.directory.cmp(&other.directory));
}

impl Place {
    /// The path of one of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Walks it once as recovery would. Its files may be gone by the time they are opened.
    pub fn examine(&self, batch_bytes: usize, visit: &mut Visit<'_>) -> Result<Examined, ExamineError> {
        examine(&mut ReadOnlyDisk::new(), &self.spec(batch_bytes), visit)
    }

    /// What is to be examined of it, and of each batch how much.
    pub fn spec(&self, batch_bytes: usize) -> ExamineSpec {
        ExamineSpec {
            directory: self.directory.clone(),
            key: self.key,
            checkpoint: self.checkpoint.clone(),
            journal: self.journal.clone(),
            only: self.only.clone(),
            batch_bytes,
        }
    }

    /// Walks it, and again where files went away meanwhile: `attempt` walks once and keeps what it sees to
    /// itself. `None` when all of it is gone.
    pub fn until_settled<T>(
        &self,
        mut attempt: impl FnMut(&Place) -> Result<T, ExamineError>,
    ) -> Result<Option<T>, Failure> {
        let mut place = self.clone();
        for left in (0..EXAMINE_ATTEMPTS_MAX).rev() {
            match attempt(&place) {
                Ok(done) => return Ok(Some(done)),
                Err(error) if is_gone(&error) && left > 0 => {
                    if !place.is_there() {
                        return Ok(None);
                    }
                    let said = place
                        .root
                        .as_ref()
                        .map(|root| Said::read(root))
                        .unwrap_or_default();
                    place.checkpoint = said.of(&place.key);
                    place.journal = said.journal_of(&place.key);
                }
                Err(error) => return Err(failure(&error)),
            }
        }
        Ok(None)
    }

    fn is_there(&self) -> bool {
        match &self.only {
            Some(name) => self.path(name).exists(),
            None => self.directory.is_dir(),
        }
    }
}

fn is_gone(error: &ExamineError) -> bool {
    matches!(error, ExamineError::Io { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
}

/// An error of the walk, for the user.
pub fn failure(error: &ExamineError) -> Failure {
    let failure = Failure::new(FAILED, error);
    match error {
        ExamineError::Unsupported { .. } | ExamineError::UnsupportedEntry { .. } => {
            failure.hint("Another version of this program wrote it; use that one.")
        }
        _ => failure,
    }
}

/// That a path cannot be read.
pub fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot read {}: {error}", path.display()))
}

/// The header of the segment at `path`, if one copy verifies.
pub fn read_header(path: &Path) -> io::Result<Option<SegmentHeader>> {
    // Opening a pipe would wait for a writer.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(SEGMENT_HEADER_LEN as u64)
        .read_to_end(&mut bytes)?;
    Ok(SegmentHeader::decode(&bytes).ok())
}

/// A whole small file, or an error where it is larger than such a file may be.
pub fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() > bytes_max {
        true => Err(io::Error::other(format!("it is larger than {bytes_max} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_names_its_partition() {
        let key = named_key(Path::new("/d/000102030405060708090a0b0c0d0e0f-12")).expect("a key");
        assert_eq!((key.topic.0[1], key.topic.0[15], key.partition), (1, 15, 12));
        for name in [
            "topic-0",
            "metadata",
            "000102030405060708090a0b0c0d0e0f--1",
            "é-1",
        ] {
            assert!(named_key(&Path::new("/d").join(name)).is_none(), "{name}");
        }
    }

    #[test]
    fn a_data_directory_is_found_from_what_lies_in_it() {
        let root = tempfile::tempdir().expect("directory");
        let partition = root.path().join("partitions").join("x-0");
        std::fs::create_dir_all(&partition).expect("create");
        let expected = root.path().canonicalize().expect("there");
        for path in [root.path(), &partition] {
            assert_eq!(data_directory_of(path), Some(expected.clone()));
        }
        let elsewhere = tempfile::tempdir().expect("directory");
        assert_eq!(data_directory_of(elsewhere.path()), None);
    }
}
