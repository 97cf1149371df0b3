//! `tidelog segment repair`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use tidelog_segment_log::data_directory::{NewIdentity, make_identity_anew, remove_clean_flag};
use tidelog_segment_log::disk::DirectoryLock;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::read_only::ReadOnlyDisk;
use tidelog_segment_log::disk::std_disk::{LOCK_FILE, StdDisk};
use tidelog_segment_log::identity::{DirectoryUuid, Identity};
use tidelog_segment_log::ids::Incarnation;
use tidelog_segment_log::limits::{IDENTITY_FILE_BYTES_MAX, IDENTITY_NAME_BYTES_MAX, TERMS_PER_START};
use tidelog_segment_log::recovery::{Repair, RepairError, RepairStep, SET_ASIDE_DIRECTORY, repair};

use super::places::{
    IDENTITY_FILE, LostPlace, Place, Places, data_directory_of, failure, find, has_metadata, read_bounded,
};
use super::topics::Topics;
use super::verify::lost_offsets;
use crate::failure::{DAMAGE, DONE, FAILED, Failure, PARTLY, USAGE};
use crate::output::{OutputFormat, base64, print_rows};

const AFTER_HELP: &str = "\
Mends what `tidelog segment verify` finds, so that it finds nothing any more and the broker serves what is
left. Without --execute nothing is changed: what would be done is printed, with what is lost, exactly.

A segment with damage is written anew, under its next generation, with every entry that verifies. Empty
batches take the place of what is lost, so that readers go over those offsets. What a new file replaces,
and files that are no part of the log, go into the directory set-aside beside the segments; nothing is
deleted. A torn tail is left to the broker, which cuts it when it opens the log. Index files and
checkpoints are derived: the broker makes them anew. A partition of which a commit journal holds what its segments
do not is not repaired before the broker has run once and written that to them.

A data directory without its identity file is refused by the broker: else leader epochs would be given out
again. Restore it, or have one made with --new-identity and the node.id of the broker: its start counter is
above all that the checkpoints, journals and leader epochs say. Of several data directories, one without the
metadata log is found by an id of its own: give the one that holds that log with --metadata, which names that id,
and the cluster.

The broker must be stopped. Make a copy of the directory first: a disk that damaged files once may do so
again.

Exit code 0 when nothing is to be repaired or all was, 3 when something would be, 5 when some partitions
could not be repaired, 1 when the directory is in use.

Examples:
  tidelog segment repair tidelog-data
  tidelog segment repair tidelog-data --execute
  tidelog segment repair tidelog-data/partitions/<topic id>-0 --output jsonl | jq 'select(.action == \"lost\")'";

const COLUMNS: &[&str] = &[
    "topic",
    "topic_id",
    "partition",
    "action",
    "file",
    "becomes",
    "position",
    "bytes",
    "first_offset",
    "next_offset",
    "why",
];

/// Arguments of `tidelog segment repair`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RepairArgs {
    /// Data directory, or a partition's directory in it
    path: PathBuf,
    /// Repair; without it, only say what would be done
    #[arg(long)]
    execute: bool,
    /// Make an identity for a data directory that lost its own, as this node
    #[arg(long, value_name = "NODE_ID", value_parser = clap::value_parser!(i32).range(0..))]
    new_identity: Option<i32>,
    /// The data directory that holds the metadata log, where that is another one; it names topics, too
    #[arg(long, value_name = "DIR")]
    metadata: Option<PathBuf>,
    /// The cluster id it had before; a new one unless given
    #[arg(long, value_name = "ID", requires = "new_identity", value_parser = parse_cluster_id)]
    cluster_id: Option<String>,
    /// How data is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Table)]
    output: OutputFormat,
}

fn parse_cluster_id(text: &str) -> Result<String, String> {
    match text.len() {
        1..=IDENTITY_NAME_BYTES_MAX => Ok(text.to_owned()),
        _ => Err(format!("a cluster id has 1 to {IDENTITY_NAME_BYTES_MAX} bytes")),
    }
}

/// Repairs the partitions.
pub fn run(args: RepairArgs) -> Result<u8, Failure> {
    if args.path.is_file() {
        let failure = format!(
            "{} is a file; a repair needs all segments of a partition",
            args.path.display()
        );
        return Err(Failure::new(USAGE, failure).hint("Give its directory, or the data directory."));
    }
    let root = args
        .path
        .exists()
        .then(|| data_directory_of(&args.path))
        .flatten();
    let _lock = root.as_deref().map(|root| lock(root, args.execute)).transpose()?;
    let found = find(&args.path)?;
    if let Some(failure) = found.journal_failures.first() {
        return Err(
            Failure::new(FAILED, failure).hint("Nothing was changed: what they hold would count as lost.")
        );
    }
    if args.new_identity.is_some() && !found.identity_is_gone {
        let failure = format!("{} is no data directory without an identity", args.path.display());
        return Err(Failure::new(USAGE, failure).hint("Leave --new-identity out."));
    }
    if let Some(metadata) = args
        .metadata
        .as_deref()
        .filter(|metadata| !has_metadata(metadata))
    {
        let failure = format!("{} holds no metadata log", metadata.display());
        return Err(
            Failure::new(USAGE, failure).hint("Give the data directory with the directory `metadata`.")
        );
    }
    let topics = args.metadata.as_deref().or(root.as_deref()).map(Topics::read);
    let topics = topics.unwrap_or_default();
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    let mut repaired = 0usize;
    let mut is_clean_flag_removed = false;
    for place in &found.places {
        let planned = match plan(place) {
            Ok(planned) => planned,
            Err(error) => {
                failures.push(refused(place, &topics, &error));
                continue;
            }
        };
        if planned.steps.is_empty() {
            continue;
        }
        if let (true, Some(root), false) = (args.execute, &root, is_clean_flag_removed) {
            // Files that changed are no more what the checkpoint says: that is the first change.
            remove_clean_flag(&mut StdDisk::new(), root)
                .map_err(|error| Failure::new(FAILED, format!("cannot remove the clean flag: {error}")))?;
            is_clean_flag_removed = true;
        }
        match act(place, planned, args.execute) {
            Ok(done) => {
                repaired += 1;
                rows.extend(rows_of(place, &topics, &done));
            }
            Err(error) => failures.push(refused(place, &topics, &error)),
        }
    }
    for lost in found.lost.iter().filter(|lost| lost.is_certain) {
        failures.push(no_directory(lost));
    }
    if found.identity_is_gone {
        match (args.new_identity, &root) {
            (Some(node_id), Some(root)) => {
                rows.push(new_identity(&args, root, node_id, &found, &topics)?);
                repaired += 1;
            }
            _ => failures.push(
                Failure::new(FAILED, format!("{} has no identity file", args.path.display()))
                    .hint("Restore it from a backup, or give --new-identity NODE_ID."),
            ),
        }
    }
    print_rows(args.output, COLUMNS, &rows)?;
    failures.iter().for_each(Failure::print);
    say(&args, repaired);
    Ok(match (repaired, failures.is_empty(), args.execute) {
        (0, false, _) => FAILED,
        (_, false, true) => PARTLY,
        (0, true, _) | (_, true, true) => DONE,
        (_, _, false) => DAMAGE,
    })
}

fn say(args: &RepairArgs, repaired: usize) {
    match (repaired, args.execute) {
        (0, _) => eprintln!("nothing to repair"),
        (n, false) => eprintln!("{n} partitions would be repaired; give --execute to do it"),
        (n, true) => eprintln!(
            "{n} partitions repaired; what was replaced is in their {SET_ASIDE_DIRECTORY} directories"
        ),
    }
}

/// Makes the identity, if it is told to; the line that says so.
fn new_identity(
    args: &RepairArgs,
    root: &Path,
    node_id: i32,
    found: &Places,
    topics: &Topics,
) -> Result<Vec<Value>, Failure> {
    let path = root.join(IDENTITY_FILE);
    let directory_id = directory_id(args, root, found, topics)?;
    let cluster_id = cluster_id(args, node_id)?;
    if args.execute {
        let mut term_max = 0;
        let journal_start_counter = found.journal_start_counter;
        for place in &found.places {
            let seen = place.examine(0, &mut |_, _, entry, _| {
                term_max = term_max.max(entry.term.0);
                true
            });
            seen.map_err(|error| failure(&error))?;
        }
        let new = NewIdentity {
            node_id,
            cluster_id,
            rack: None,
            directory_id,
        };
        // Above the start that gave out the highest leader epoch found.
        let floor = (u64::from(term_max.unsigned_abs()) / TERMS_PER_START).max(journal_start_counter);
        make_identity_anew(&mut StdDisk::new(), root, new, floor)
            .map_err(|error| Failure::new(FAILED, format!("cannot write {}: {error}", path.display())))?;
    }
    let mut row = vec![Value::Null; COLUMNS.len()];
    let said = [(3, "new identity".to_owned()), (4, path.display().to_string())];
    for (at, text) in said {
        if let Some(cell) = row.get_mut(at) {
            *cell = Value::from(text);
        }
    }
    Ok(row)
}

/// The id that the directory has to have: that of the metadata log's own is named nowhere.
fn directory_id(
    args: &RepairArgs,
    root: &Path,
    found: &Places,
    topics: &Topics,
) -> Result<DirectoryUuid, Failure> {
    if has_metadata(root) {
        return random_bytes();
    }
    let root = root.display();
    let Some(metadata) = &args.metadata else {
        let failure = format!("{root} does not hold the metadata log, which names the id it had");
        let hint = "Give the data directory that holds that log with --metadata DIR.";
        return Err(Failure::new(USAGE, failure).hint(hint));
    };
    let metadata = metadata.display();
    if let Some(fault) = &topics.fault {
        let failure = format!("the metadata log in {metadata} cannot be read: {fault}");
        return Err(Failure::new(FAILED, failure));
    }
    let ids = topics.directories_of(found.places.iter().map(|place| &place.key));
    match ids.len() {
        1 => Ok(ids.into_iter().next().unwrap_or_default()),
        0 => {
            let failure = format!(
                "the metadata log in {metadata} places no partition of {root} in a directory of its own"
            );
            let hint = "It may be that of another broker, or all topics of this directory were deleted.";
            Err(Failure::new(FAILED, failure).hint(hint))
        }
        n => {
            let failure = format!(
                "the metadata log in {metadata} says that {root} holds partitions of {n} data directories"
            );
            Err(Failure::new(FAILED, failure).hint("Move those of the others back to where they belong."))
        }
    }
}

/// The id that was given, that of the directory with the metadata log, or a new one.
fn cluster_id(args: &RepairArgs, node_id: i32) -> Result<String, Failure> {
    if let Some(id) = &args.cluster_id {
        return Ok(id.clone());
    }
    let Some(metadata) = &args.metadata else {
        return random_cluster_id();
    };
    let path = metadata.join(IDENTITY_FILE);
    let read = read_bounded(&path, IDENTITY_FILE_BYTES_MAX).map_err(|error| error.to_string());
    let identity = read.and_then(|bytes| Identity::decode(&bytes).map_err(|error| error.to_string()));
    let identity = identity.map_err(|why| {
        Failure::new(FAILED, format!("{} cannot be read: {why}", path.display()))
            .hint("Make that directory's identity first, or give --cluster-id.")
    })?;
    if identity.node_id != node_id {
        let failure = format!(
            "{} is of node {}, not {node_id}",
            metadata.display(),
            identity.node_id
        );
        return Err(Failure::new(USAGE, failure).hint("Give that node id with --new-identity."));
    }
    Ok(identity.cluster_id)
}

/// As the broker makes one: 128 random bits in URL-safe base 64.
fn random_cluster_id() -> Result<String, Failure> {
    let text = base64(&random_bytes()?).replace('+', "-").replace('/', "_");
    Ok(text.trim_end_matches('=').to_owned())
}

fn random_bytes() -> Result<[u8; 16], Failure> {
    Incarnation::random()
        .map(|random| random.0)
        .map_err(|error| Failure::new(FAILED, format!("the system gives no random bytes: {error}")))
}

/// Holds the data directory, so that no broker starts on it. One on which no broker ever ran has no lock
/// file, and a dry run makes none.
fn lock(root: &Path, execute: bool) -> Result<Option<DirectoryLock>, Failure> {
    if !execute && !root.join(LOCK_FILE).exists() {
        return Ok(None);
    }
    StdDisk::new()
        .lock_directory(root)
        .map(Some)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => {
                Failure::new(FAILED, format!("{} is in use by a broker", root.display()))
                    .hint("Stop the broker first; `tidelog segment verify` works beside it.")
            }
            _ => Failure::new(FAILED, format!("cannot lock {}: {error}", root.display())),
        })
}

fn plan(place: &Place) -> Result<Repair, RepairError> {
    repair(&mut ReadOnlyDisk::new(), &place.spec(0), false)
}

/// Does what was planned, and makes sure that it is so then.
fn act(place: &Place, planned: Repair, execute: bool) -> Result<Repair, RepairError> {
    if !execute {
        return Ok(planned);
    }
    let mut disk = StdDisk::new();
    let done = repair(&mut disk, &place.spec(0), true)?;
    let left = plan(place)?;
    match left.steps.is_empty() {
        true => Ok(done),
        false => Err(RepairError::Io {
            directory: place.directory.clone(),
            cause: std::io::Error::other("it does not verify after the repair"),
        }),
    }
}

fn refused(place: &Place, topics: &Topics, error: &RepairError) -> Failure {
    let name = match topics.name(&place.key.topic) {
        Some(name) => format!("{name} ({})", place.key.topic),
        None => place.key.topic.to_string(),
    };
    let failure = Failure::new(FAILED, format!("{name}-{}: {error}", place.key.partition));
    match error {
        RepairError::TooMuch { .. } => failure.hint(
            "What is named lost is mostly a checkpoint or an entry that names too much; nothing was changed.",
        ),
        RepairError::InJournal { .. } => failure.hint(
            "Nothing was changed. Start the broker once, which writes them to the segments, stop it, and repair then.",
        ),
        RepairError::Encrypted { .. } => failure.hint("Nothing was changed."),
        RepairError::Io { .. } => failure.hint("What was there is still there; run it again."),
        RepairError::Examine(_) => failure,
    }
}

fn no_directory(lost: &LostPlace) -> Failure {
    let directory = lost.directory.display();
    Failure::new(
        FAILED,
        format!(
            "{directory} is gone, and with it offsets up to {}",
            lost.checkpoint.next_offset
        ),
    )
    .hint("Restore it from a backup, or make an empty directory of that name and repair again.")
}

fn rows_of(place: &Place, topics: &Topics, done: &Repair) -> Vec<Vec<Value>> {
    let row = |action: &str, file: &str, becomes: Option<String>, rest: [Value; 5]| {
        let [position, bytes, first, next, why] = rest;
        vec![
            json!(topics.name(&place.key.topic)),
            json!(place.key.topic.to_string()),
            json!(place.key.partition),
            json!(action),
            json!(place.path(file).display().to_string()),
            json!(becomes),
            position,
            bytes,
            first,
            next,
            why,
        ]
    };
    let nothing = || [Value::Null, Value::Null, Value::Null, Value::Null, Value::Null];
    let mut rows = Vec::new();
    for damage in &done.found.damage {
        let lost = &damage.quarantined;
        let rest = [
            json!(lost.position.start),
            json!(lost.position.end.saturating_sub(lost.position.start)),
            json!(lost.offsets.start.0),
            json!(lost.offsets.end.0),
            json!(format!("{}: {}", lost_offsets(lost), damage.why)),
        ];
        rows.push(row("lost", &lost.segment, None, rest));
    }
    for step in &done.steps {
        let (action, file, becomes) = match step {
            RepairStep::Rewrite { from, to } => ("rewrite", from, to.clone()),
            RepairStep::Fill { to } => ("fill", to, to.clone()),
            RepairStep::SetAside { name } => ("set aside", name, format!("{SET_ASIDE_DIRECTORY}/{name}")),
        };
        rows.push(row(action, file, Some(becomes), nothing()));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::segment::testing::Partition;
    use tidelog_segment_log::segment_header::SEGMENT_HEADER_LEN;

    fn repair(partition: &Partition, execute: bool) -> Result<u8, Failure> {
        run(RepairArgs {
            path: partition.root().to_owned(),
            execute,
            new_identity: None,
            metadata: None,
            cluster_id: None,
            output: OutputFormat::Jsonl,
        })
    }

    #[test]
    fn what_only_a_journal_holds_is_not_lost_by_a_repair() {
        let partition = Partition::with_batches(4);
        partition.write_checkpoint();
        partition.move_to_journal(2);
        assert_eq!(repair(&partition, false), Ok(DONE), "there is nothing to repair");
        partition.flip(SEGMENT_HEADER_LEN as u64 + 70);
        let before = std::fs::read(partition.file()).expect("read");
        for execute in [false, true] {
            assert_eq!(repair(&partition, execute), Ok(FAILED));
            assert_eq!(std::fs::read(partition.file()).expect("read"), before);
        }
        let place = &find(partition.root()).expect("found").places[0];
        let refused = plan(place).expect_err("refused");
        assert!(
            matches!(refused, RepairError::InJournal { entries: 2 }),
            "{refused}"
        );
        assert_eq!(partition.start(), 2, "a start takes them from there");
        assert_eq!(repair(&partition, false), Ok(DAMAGE));
        assert_eq!(repair(&partition, true), Ok(DONE));
        assert_eq!(repair(&partition, true), Ok(DONE), "nothing is left to do");
    }
}
