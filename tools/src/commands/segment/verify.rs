//! `tidelog segment verify`: recovery's own walk over every partition, without changing anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::recovery::{
    ExamineError, Examined, ExaminedDamage, ExaminedSegment, IN_JOURNAL, OtherFile, Quarantined,
};
use tidelog_segment_log::segment_header::SEGMENT_HEADER_LEN;

use super::derived::IndexCheck;
use super::places::{LostPlace, Place, find, read_header};
use crate::failure::{DAMAGE, DONE, FAILED, Failure};
use crate::limits::{READ_CHUNK_BYTES, VERIFY_THREADS_MAX};
use crate::output::{OutputFormat, print_rows, progress_bytes};

const AFTER_HELP: &str = "\
Exit code 0 when all is good, 3 when damage was found: each place is named with its file, its bytes,
the offsets lost and why. It is the walk that the broker's own recovery takes, over every byte. A torn
tail is not damage: nothing proves that it was acknowledged, and the broker cuts it when it opens the
log. Below a data directory its checkpoints are such proofs too, and a segment that the newest one
names and that is not there is damage. Index files and checkpoints are derived: a bad one is reported
and is no damage. Exit code 1 when a file cannot be read. Partitions are read side by side. Files are
only read; the broker may be running. What a commit journal of the data directory holds and the segments do
not counts as there: the next start writes it to them. `tidelog segment repair` mends what is found.

Examples:
  tidelog segment verify tidelog-data
  tidelog segment verify tidelog-data/partitions/<topic id>-0/<file>.log --output json
  tidelog segment verify tidelog-data --output jsonl | jq 'select(.damage != [])'";

/// The last two are lists, and left to JSON; the verdict says the same in words.
const COLUMNS: &[&str] = &["file", "entries", "bytes", "verdict", "damage", "derived"];
const TABLE_COLUMNS: usize = 4;

/// Arguments of `tidelog segment verify`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyArgs {
    /// Segment file, or a directory to find them in
    path: PathBuf,
    /// Threads; as many as there are cores unless given
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    /// How data is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Table)]
    output: OutputFormat,
}

fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=VERIFY_THREADS_MAX).contains(n))
        .ok_or_else(|| format!("`{text}` is not a number from 1 to {VERIFY_THREADS_MAX}"))
}

/// One line of the answer.
#[derive(Debug, PartialEq)]
struct Row {
    file: String,
    entries: u64,
    bytes: u64,
    words: Vec<String>,
    damage: Vec<Value>,
    derived: Vec<String>,
    is_damaged: bool,
    is_torn: bool,
}

impl Row {
    fn new(path: &Path) -> Self {
        Row {
            file: path.display().to_string(),
            entries: 0,
            bytes: 0,
            words: Vec::new(),
            damage: Vec::new(),
            derived: Vec::new(),
            is_damaged: false,
            is_torn: false,
        }
    }

    fn note_header_faults(&mut self, faults: &[String]) {
        for why in faults {
            self.words.push(why.clone());
            self.damage
                .push(json!({"position": 0, "end": SEGMENT_HEADER_LEN, "why": why}));
            self.is_damaged = true;
        }
    }

    fn note_damage(&mut self, damage: &ExaminedDamage) {
        self.words.push(in_words(damage));
        self.damage.push(damage_json(damage));
        self.is_damaged = true;
    }

    fn cells(&self) -> Vec<Value> {
        let verdict = match self.words.is_empty() {
            true => "good".to_owned(),
            false => self.words.join("; "),
        };
        vec![
            json!(self.file),
            json!(self.entries),
            json!(self.bytes),
            json!(verdict),
            json!(self.damage),
            json!(self.derived),
        ]
    }
}

/// Offsets lost, in words.
pub fn lost_offsets(lost: &Quarantined) -> String {
    match lost.offsets.is_empty() {
        true => "no offsets".to_owned(),
        false => format!("offsets {} to {}", lost.offsets.start, lost.offsets.end.0 - 1),
    }
}

/// A damaged place, in words.
pub fn in_words(damage: &ExaminedDamage) -> String {
    let lost = &damage.quarantined;
    format!(
        "damage at {} to {}, {}: {}",
        lost.position.start,
        lost.position.end,
        lost_offsets(lost),
        damage.why
    )
}

fn damage_json(damage: &ExaminedDamage) -> Value {
    let lost = &damage.quarantined;
    json!({
        "position": lost.position.start,
        "end": lost.position.end,
        "first_offset": lost.offsets.start.0,
        "next_offset": lost.offsets.end.0,
        "first_index": lost.indices.start.0,
        "next_index": lost.indices.end.0,
        "why": damage.why,
    })
}

/// Verifies the segments.
pub fn run(args: VerifyArgs) -> Result<u8, Failure> {
    let found = find(&args.path)?;
    let threads = args
        .threads
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
        .clamp(1, VERIFY_THREADS_MAX);
    let mut report = Report::default();
    for (place, outcome) in found.places.iter().zip(check_all(&found.places, threads)) {
        match outcome {
            Ok(Some(rows)) => report.rows.extend(rows),
            Ok(None) => report.take_gone(place),
            Err(failure) => report.failures.push(failure),
        }
    }
    found.lost.iter().for_each(|lost| report.take_lost(lost));
    for (directory, why) in &found.journal_damage {
        let mut row = Row::new(directory);
        row.words.push(format!("damage: {why}"));
        row.damage.push(json!({"why": why}));
        row.is_damaged = true;
        report.rows.push(row);
    }
    for failure in &found.journal_failures {
        report.failures.push(Failure::new(FAILED, failure));
    }
    if found.identity_is_gone {
        let failure = format!(
            "{} has no identity file, so no broker starts on it",
            args.path.display()
        );
        let hint = "Restore it from a backup, or see `tidelog segment repair --help`.";
        report.failures.push(Failure::new(FAILED, failure).hint(hint));
    }
    report.derived.extend(found.faults);
    for index in found.orphans.iter().filter(|index| index.exists()) {
        let name = index.display();
        report.derived.push(format!("{name}: its segment is not there"));
    }
    report.print(args.output, found.set_aside)
}

type Outcome = Result<Option<Vec<Row>>, Failure>;

/// Checks the partitions, `threads` at a time; the outcomes are in their order.
fn check_all(places: &[Place], threads: usize) -> Vec<Outcome> {
    let bar = progress_bytes(places.iter().map(|place| place.bytes).sum());
    let next = AtomicUsize::new(0);
    let outcomes: Vec<Mutex<Option<Outcome>>> = places.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while let Some((place, slot)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            places.get(at).zip(outcomes.get(at))
        } {
            let outcome = check(place, &bar);
            if let Ok(mut slot) = slot.lock() {
                *slot = Some(outcome);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(places.len()) {
            scope.spawn(work);
        }
        work();
    });
    bar.finish_and_clear();
    let taken = |slot: Mutex<Option<Outcome>>| {
        let outcome = slot.into_inner().ok().flatten();
        outcome.unwrap_or_else(|| Err(Failure::new(FAILED, "a thread ended early")))
    };
    outcomes.into_iter().map(taken).collect()
}

fn check(place: &Place, bar: &ProgressBar) -> Outcome {
    let rows = place.until_settled(|place| check_once(place, bar))?;
    let is_suspect = |rows: &Vec<Row>| rows.iter().any(|row| !row.derived.is_empty());
    match rows {
        // A running broker may have been writing the index file: then it is right now.
        Some(rows) if is_suspect(&rows) => {
            place.until_settled(|place| check_once(place, &ProgressBar::hidden()))
        }
        rows => Ok(rows),
    }
}

/// What was seen of one file.
#[derive(Default)]
struct Seen {
    entries: u64,
    index: Option<IndexCheck>,
    faults: Vec<String>,
}

impl Seen {
    fn begin(path: &Path) -> Self {
        let mut seen = Seen::default();
        // What cannot be read is said by the walk.
        let header = read_header(path).ok().flatten();
        match header.and_then(|header| IndexCheck::begin(path, &header)) {
            Some(Ok(index)) => seen.index = Some(index),
            Some(Err(why)) => seen.faults.push(why),
            None => {}
        }
        seen
    }

    fn finish(self) -> (u64, Vec<String>) {
        let mut faults = self.faults;
        faults.extend(self.index.and_then(IndexCheck::finish));
        (self.entries, faults)
    }
}

fn check_once(place: &Place, bar: &ProgressBar) -> Result<Vec<Row>, ExamineError> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut drawn: (String, u64) = Default::default();
    let examined = place.examine(0, &mut |name, position, entry, _| {
        if drawn.0 != name {
            drawn = (name.to_owned(), 0);
        }
        if position - drawn.1 >= READ_CHUNK_BYTES as u64 {
            bar.inc(position - drawn.1);
            drawn.1 = position;
        }
        if !seen.contains_key(name) {
            seen.insert(name.to_owned(), Seen::begin(&place.path(name)));
        }
        if let Some(seen) = seen.get_mut(name) {
            seen.entries += 1;
            if let Some(index) = &mut seen.index {
                index.observe(position, entry);
            }
        }
        true
    })?;
    Ok(rows_of(place, &examined, seen))
}

fn rows_of(place: &Place, examined: &Examined, mut seen: BTreeMap<String, Seen>) -> Vec<Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let behind_all = seen.remove(IN_JOURNAL).map_or(0, |seen| seen.entries);
    for segment in &examined.segments {
        let path = place.path(&segment.name);
        let seen = seen.remove(&segment.name).unwrap_or_else(|| Seen::begin(&path));
        let mut row = Row::new(&path);
        (row.entries, row.derived) = seen.finish();
        row.bytes = segment.end;
        row.note_header_faults(&segment.header_faults);
        rows.insert(segment.name.clone(), row);
    }
    for segment in &examined.behind {
        rows.insert(segment.name.clone(), behind_row(place, segment));
    }
    for other in &examined.others {
        rows.insert(other.name.clone(), other_row(place, other));
    }
    for damage in &examined.damage {
        let name = &damage.quarantined.segment;
        let row = rows
            .entry(name.clone())
            .or_insert_with(|| Row::new(&place.path(name)));
        row.note_damage(damage);
    }
    for segment in &examined.segments {
        if let (Some(why), Some(row)) = (&segment.torn, rows.get_mut(&segment.name)) {
            row.words.push(format!("torn tail at {}: {why}", segment.end));
            row.is_torn = true;
        }
    }
    if examined.from_journal > 0 {
        let last = examined.segments.last().map(|last| last.name.clone());
        let name = last.unwrap_or_default();
        let row = rows
            .entry(name.clone())
            .or_insert_with(|| Row::new(&place.path(&name)));
        row.entries += behind_all;
        row.words.push(format!(
            "{} entries of this partition are in the journal only; they are whole, and the next start writes them here",
            examined.from_journal
        ));
    }
    rows.into_values().collect()
}

fn behind_row(place: &Place, segment: &ExaminedSegment) -> Row {
    let mut row = Row::new(&place.path(&segment.name));
    row.words
        .push("torn tail: it lies behind the end of the log".to_owned());
    row.is_torn = true;
    row
}

fn other_row(place: &Place, other: &OtherFile) -> Row {
    let mut row = Row::new(&place.path(&other.name));
    match &other.header {
        Some(header) if header.partition_key() == place.key && header.file_name() == other.name => {
            row.words.push("replaced by a later generation".to_owned());
        }
        Some(header) => {
            row.is_damaged = true;
            row.words.push(format!(
                "its header is that of {} of partition {}-{}, so it is no part of this log",
                header.file_name(),
                header.topic,
                header.partition
            ));
            row.damage
                .push(json!({"position": 0, "end": other.file_len, "why": row.words.last()}));
        }
        None if other.is_blank => row.words.push("nothing is in it yet".to_owned()),
        None => {
            row.note_header_faults(&other.header_faults);
            row.words.push("no header, so no entry can be checked".to_owned());
        }
    }
    row
}

/// What is said in the end.
#[derive(Debug, Default)]
struct Report {
    rows: Vec<Row>,
    failures: Vec<Failure>,
    derived: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    fn take_gone(&mut self, place: &Place) {
        match &place.only {
            Some(name) => {
                let path = place.path(name);
                let failure = Failure::new(FAILED, format!("{} is gone", path.display()));
                self.failures.push(failure);
            }
            None => self
                .notes
                .push(format!("{} is gone; skipped", place.directory.display())),
        }
    }

    fn take_lost(&mut self, lost: &LostPlace) {
        let directory = lost.directory.display();
        if !lost.is_certain {
            self.notes.push(format!(
                "{directory} is named by the checkpoint and not there: a deleted topic, or lost"
            ));
            return;
        }
        let checkpoint = &lost.checkpoint;
        let first = checkpoint.segments.first();
        let quarantined = Quarantined {
            segment: String::new(),
            position: 0..0,
            indices: first.map_or_else(Default::default, |first| first.base_index)
                ..tidelog_segment_log::ids::EntryIndex(checkpoint.durable_index.0 + 1),
            offsets: checkpoint.log_start..Offset::max(checkpoint.log_start, checkpoint.next_offset),
        };
        let mut row = Row::new(&lost.directory);
        row.note_damage(&ExaminedDamage {
            quarantined,
            why: "the checkpoint names this partition, and it is not there".to_owned(),
        });
        self.rows.push(row);
    }

    fn print(mut self, output: OutputFormat, set_aside: usize) -> Result<u8, Failure> {
        self.rows.sort_by(|one, other| one.file.cmp(&other.file));
        let cells: Vec<Vec<Value>> = self.rows.iter().map(Row::cells).collect();
        match output {
            OutputFormat::Table => {
                print_rows(output, COLUMNS.get(..TABLE_COLUMNS).unwrap_or(COLUMNS), &cells)?
            }
            _ => print_rows(output, COLUMNS, &cells)?,
        }
        for line in &self.notes {
            eprintln!("{line}");
        }
        let derived = self.rows.iter().flat_map(|row| &row.derived);
        for line in derived.chain(&self.derived) {
            eprintln!("derived, rebuilt by the broker, no damage: {line}");
        }
        if set_aside > 0 {
            eprintln!("{set_aside} segments that recovery set aside were not looked at");
        }
        if self.rows.iter().any(|row| row.is_torn) {
            eprintln!(
                "a torn tail was never acknowledged: a broker is writing it now, or was stopped in the midst"
            );
        }
        for failure in &self.failures {
            failure.print();
        }
        let damaged = self.rows.iter().filter(|row| row.is_damaged).count();
        match (damaged, self.failures.is_empty()) {
            (0, true) => Ok(DONE),
            (0, false) => Ok(FAILED),
            (n, _) => {
                eprintln!("tidelog: {n} of {} segments are damaged", self.rows.len());
                Ok(DAMAGE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::segment::testing::Partition;

    fn verify(path: &Path) -> Result<u8, Failure> {
        run(VerifyArgs {
            path: path.to_owned(),
            threads: Some(2),
            output: OutputFormat::Jsonl,
        })
    }

    #[test]
    fn a_directory_is_verified_whole_and_damage_is_exit_code_3() {
        let partition = Partition::with_batches(4);
        std::fs::write(partition.directory().join("notes.txt"), "x").expect("write");
        assert_eq!(verify(partition.root()), Ok(DONE));
        partition.flip(SEGMENT_HEADER_LEN as u64 + 70);
        assert_eq!(verify(partition.root()), Ok(DAMAGE));
        assert_eq!(
            verify(&partition.file()),
            Ok(DAMAGE),
            "a file alone is judged alike"
        );
    }

    #[test]
    fn the_last_entry_is_damage_only_where_a_checkpoint_proves_it() {
        let partition = Partition::with_batches(3);
        partition.flip(partition.end() - 20);
        assert_eq!(verify(partition.root()), Ok(DONE), "a torn tail");
        partition.write_checkpoint();
        assert_eq!(verify(partition.root()), Ok(DAMAGE));
        assert_eq!(verify(&partition.file()), Ok(DAMAGE));
    }

    #[test]
    fn a_segment_that_is_being_created_is_no_damage_and_garbage_is() {
        let partition = Partition::with_batches(2);
        let next = partition.directory().join("00000000000000000009-0.log");
        std::fs::write(&next, vec![0; 8_192]).expect("write");
        assert_eq!(verify(partition.root()), Ok(DONE));
        std::fs::write(&next, vec![7; 8_192]).expect("write");
        assert_eq!(verify(partition.root()), Ok(DAMAGE));
    }

    fn rows(partition: &Partition) -> Vec<Row> {
        let found = find(partition.root()).expect("found");
        let outcomes = check_all(&found.places, 1).into_iter();
        outcomes
            .flat_map(|outcome| outcome.expect("read").expect("there"))
            .collect()
    }

    #[test]
    fn entries_that_only_a_journal_holds_are_there_and_nothing_is_changed() {
        let partition = Partition::with_batches(4);
        partition.write_checkpoint();
        partition.move_to_journal(2);
        let before = std::fs::read(partition.file()).expect("read");
        assert_eq!(verify(partition.root()), Ok(DONE));
        let rows = rows(&partition);
        assert_eq!((rows.len(), rows[0].entries), (1, 4));
        let said = rows[0].words.join("; ");
        assert!(
            said.starts_with("2 entries of this partition are in the journal only"),
            "{said}"
        );
        assert_eq!(
            verify(&partition.file()),
            Ok(DONE),
            "a file alone is judged alike"
        );
        assert_eq!(std::fs::read(partition.file()).expect("read"), before);
        // Without the journal they are lost.
        let journal = partition.root().join("journal");
        std::fs::rename(&journal, partition.root().join("elsewhere")).expect("renamed");
        assert_eq!(verify(partition.root()), Ok(DAMAGE));
        std::fs::rename(partition.root().join("elsewhere"), &journal).expect("renamed");
        assert_eq!(partition.start(), 2);
        assert_eq!(verify(partition.root()), Ok(DONE));
    }

    #[test]
    fn a_segment_whose_name_a_power_cut_took_is_in_the_journal() {
        let partition = Partition::with_batches(3);
        partition.move_to_journal(0);
        std::fs::remove_file(partition.file()).expect("removed");
        assert_eq!(verify(partition.root()), Ok(DONE));
        assert_eq!(rows(&partition)[0].entries, 3);
        assert!(!partition.file().exists());
        assert_eq!(partition.start(), 3);
        assert_eq!(rows(&partition).iter().map(|row| row.entries).sum::<u64>(), 3);
    }

    #[test]
    fn a_journal_that_is_damaged_is_named() {
        let partition = Partition::with_batches(3);
        partition.move_to_journal(1);
        let mut journals = std::fs::read_dir(partition.root().join("journal")).expect("journals");
        let journal = journals.next().expect("one").expect("read").path();
        let mut bytes = std::fs::read(&journal).expect("read");
        bytes[100] ^= 1;
        std::fs::write(&journal, bytes).expect("write");
        assert_eq!(verify(partition.root()), Ok(DAMAGE));
    }

    #[test]
    fn nothing_to_verify_is_said() {
        let directory = tempfile::tempdir().expect("directory");
        let refused = verify(directory.path()).expect_err("empty");
        assert!(refused.message().contains("no segment"), "{}", refused.message());
        let missing = verify(Path::new("/does/not/exist")).expect_err("missing");
        assert_eq!(missing.code(), FAILED);
    }
}
