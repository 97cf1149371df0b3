//! Finds segment files and puts the segments of a partition in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidelog_segment_log::ids::EntryIndex;
use tidelog_segment_log::recovery::SET_ASIDE_DIRECTORY;
use tidelog_segment_log::segment_header::{SegmentHeader, parse_segment_file_name};

use super::evidence::Evidence;
use super::scan::{Surroundings, read_header};
use crate::failure::{FAILED, Failure};
use crate::limits::DIRECTORY_DEPTH_MAX;

/// What was found below a path.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Segment files, in order.
    pub segments: Vec<PathBuf>,
    /// Index files, in order.
    pub indexes: Vec<PathBuf>,
    /// Segment files that recovery set aside; they are no part of the log.
    pub set_aside: usize,
}

/// A segment file and what is known around it.
#[derive(Debug)]
pub struct Planned {
    /// The file.
    pub path: PathBuf,
    /// Its header, if it can be read and a copy verifies.
    pub header: Option<SegmentHeader>,
    /// A later generation took its place: nothing of it is served.
    pub is_superseded: bool,
    /// What the walk may believe.
    pub around: Surroundings,
}

/// `path` itself, or everything of interest below it.
pub fn find(path: &Path) -> Result<Found, Failure> {
    let mut found = Found::default();
    let failed =
        |at: &Path, e: std::io::Error| Failure::new(FAILED, format!("cannot read {}: {e}", at.display()));
    if !path.metadata().map_err(|e| failed(path, e))?.is_dir() {
        found.segments.push(path.to_owned());
        return Ok(found);
    }
    let mut open = vec![(path.to_owned(), 0)];
    while let Some((directory, depth)) = open.pop() {
        let is_aside = depth > 0
            && directory
                .file_name()
                .is_some_and(|name| name == SET_ASIDE_DIRECTORY);
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            // A running broker may have removed it since.
            Err(error) if depth > 0 && error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&directory, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| failed(&directory, e))?;
            let kind = entry.file_type().map_err(|e| failed(&entry.path(), e))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_segment = parse_segment_file_name(name).is_some();
            let is_index = name
                .strip_suffix(".index")
                .is_some_and(|stem| parse_segment_file_name(&format!("{stem}.log")).is_some());
            if kind.is_dir() && depth < DIRECTORY_DEPTH_MAX {
                open.push((entry.path(), depth + 1));
            } else if kind.is_file() && is_segment && is_aside {
                found.set_aside += 1;
            } else if kind.is_file() && is_segment {
                found.segments.push(entry.path());
            } else if kind.is_file() && is_index && !is_aside {
                found.indexes.push(entry.path());
            }
        }
    }
    found.segments.sort();
    found.indexes.sort();
    match found.segments.is_empty() {
        true => Err(
            Failure::new(FAILED, format!("no segment file in {}", path.display()))
                .hint("Give a data directory, a partition's directory, or a .log file."),
        ),
        false => Ok(found),
    }
}

/// Reads the headers of `segments` and says of each what the walk through it may believe.
///
/// A single file is seen without its neighbours: nothing else was asked for.
pub fn plan(segments: &[PathBuf], evidence: &mut Evidence) -> Vec<Planned> {
    let mut partitions: BTreeMap<PathBuf, Vec<Planned>> = BTreeMap::new();
    for path in segments {
        // What cannot be read is said when it is walked.
        let header = read_header(path).ok().flatten();
        let claim = header.and_then(|header| evidence.claim(path, &header.incarnation));
        let planned = Planned {
            path: path.clone(),
            header,
            is_superseded: false,
            around: Surroundings {
                claim,
                ..Surroundings::default()
            },
        };
        let directory = path.parent().unwrap_or(Path::new("")).to_path_buf();
        partitions.entry(directory).or_default().push(planned);
    }
    for files in partitions.values_mut() {
        put_in_order(files);
    }
    partitions.into_values().flatten().collect()
}

fn put_in_order(files: &mut [Planned]) {
    let place = |file: &Planned| file.header.map(|h| (h.base_index, h.generation));
    files.sort_by_key(place);
    let places: Vec<Option<(EntryIndex, u32)>> = files.iter().map(place).collect();
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    for (at, file) in files.iter_mut().enumerate() {
        let Some((base_index, _)) = places.get(at).copied().flatten() else {
            continue;
        };
        let next = places.get(at + 1).copied().flatten();
        file.is_superseded = next.is_some_and(|(next, _)| next == base_index);
        file.around.limit = places
            .iter()
            .flatten()
            .map(|(index, _)| *index)
            .find(|index| *index > base_index);
        file.around.later = paths.get(at + 1..).unwrap_or_default().to_vec();
    }
}
