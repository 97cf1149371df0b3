//! `tidelog segment verify`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tidelog_segment_log::entry::{EntryHeader, EntryKind};
use tidelog_segment_log::ids::{Incarnation, Offset};
use tidelog_segment_log::producer_state::{ProducerStates, decode_log_start};

use super::derived::IndexCheck;
use super::evidence::Evidence;
use super::files::{Planned, find, plan};
use super::missing::{Kept, Named};
use super::scan::{Damage, End, Scan, scan};
use crate::failure::{DAMAGE, DONE, FAILED, Failure};
use crate::limits::{READ_CHUNK_BYTES, VERIFY_THREADS_MAX};
use crate::output::{OutputFormat, print_rows, progress_bytes};

const AFTER_HELP: &str = "\
Exit code 0 when all is good, 3 when damage was found: each place is named with its file, its bytes,
the offsets lost and why. A torn tail is not damage: nothing proves that it was acknowledged, and the
broker cuts it when it opens the log. Below a data directory its checkpoints are such proofs too, and
a segment that the newest one names and that is not there is damage. Index files and checkpoints are
derived: a bad one is reported and is no damage. Exit code 1 when a file cannot be read. Files are
only read; the broker may be running.

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

/// What became of one file.
#[derive(Debug)]
enum Outcome {
    Checked {
        scan: Box<Scan>,
        derived: Vec<String>,
        /// The highest log start that its entries name.
        log_start: Offset,
    },
    Failed(Failure),
    Gone,
}

/// Verifies the segments.
pub fn run(args: VerifyArgs) -> Result<u8, Failure> {
    // Checkpoints first: what is written after them can only be more than they say.
    let named = Named::read(&args.path);
    let found = find(&args.path)?;
    let files = plan(&found.segments, &mut Evidence::default());
    if let [file] = &files[..]
        && !args.path.is_dir()
        && let Err(error) = std::fs::File::open(&file.path)
    {
        return Err(Failure::new(
            FAILED,
            format!("cannot read {}: {error}", file.path.display()),
        ));
    }
    let threads = args
        .threads
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
        .clamp(1, VERIFY_THREADS_MAX);
    let outcomes = check_all(&files, threads);
    let mut report = Report::default();
    for (file, outcome) in files.iter().zip(outcomes) {
        report.take(file, outcome, args.path.is_dir());
    }
    let seen: HashSet<Incarnation> = files
        .iter()
        .filter_map(|file| file.header.map(|h| h.incarnation))
        .collect();
    report.take_missing(&named, &seen, &found.indexes);
    report.print(args.output, found.set_aside)
}

/// Checks the files, `threads` at a time; the outcomes are in the order of the files.
fn check_all(files: &[Planned], threads: usize) -> Vec<Outcome> {
    let bytes = |file: &Planned| file.path.metadata().map_or(0, |m| m.len());
    let bar = progress_bytes(files.iter().map(bytes).sum());
    let next = AtomicUsize::new(0);
    let outcomes: Vec<Mutex<Option<Outcome>>> = files.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while let Some((file, slot)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            files.get(at).zip(outcomes.get(at))
        } {
            let outcome = check(file, &bar);
            if let Ok(mut slot) = slot.lock() {
                *slot = Some(outcome);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(files.len()) {
            scope.spawn(work);
        }
        work();
    });
    bar.finish_and_clear();
    let taken = |slot: Mutex<Option<Outcome>>| {
        let outcome = slot.into_inner().ok().flatten();
        outcome.unwrap_or_else(|| Outcome::Failed(Failure::new(FAILED, "a thread ended early")))
    };
    outcomes.into_iter().map(taken).collect()
}

fn check(file: &Planned, bar: &ProgressBar) -> Outcome {
    match check_once(file, bar) {
        // A running broker may have been writing the index file: then it is right now.
        Outcome::Checked { derived, .. } if !derived.is_empty() => check_once(file, &ProgressBar::hidden()),
        outcome => outcome,
    }
}

fn check_once(file: &Planned, bar: &ProgressBar) -> Outcome {
    let mut derived = Vec::new();
    let mut index = match file
        .header
        .as_ref()
        .and_then(|h| IndexCheck::begin(&file.path, h))
    {
        Some(Ok(index)) => Some(index),
        Some(Err(why)) => {
            derived.push(why);
            None
        }
        None => None,
    };
    let (mut drawn, mut log_start) = (0, Offset(0));
    let scanned = scan(&file.path, &file.around, |position, entry, payload| {
        log_start = log_start.max(log_start_in(entry, payload));
        if let Some(index) = &mut index {
            index.observe(position, entry);
        }
        if position - drawn >= READ_CHUNK_BYTES as u64 {
            bar.inc(position - drawn);
            drawn = position;
        }
        Ok(())
    });
    match scanned {
        Ok(scan) => {
            derived.extend(index.and_then(IndexCheck::finish));
            Outcome::Checked {
                scan: Box::new(scan),
                derived,
                log_start,
            }
        }
        Err(_) if !file.path.exists() => Outcome::Gone,
        Err(failure) => Outcome::Failed(failure),
    }
}

/// The log start that an entry names, or 0.
fn log_start_in(entry: &EntryHeader, payload: &[u8]) -> Offset {
    let named = match entry.kind {
        EntryKind::LogStart => decode_log_start(payload),
        EntryKind::ProducerState => ProducerStates::decode(payload).map(|(_, log_start)| log_start),
        _ => return Offset(0),
    };
    named.unwrap_or(Offset(0))
}

/// What is said in the end.
#[derive(Debug, Default)]
struct Report {
    kept: Kept,
    rows: Vec<Vec<Value>>,
    failures: Vec<Failure>,
    damaged: u64,
    torn: u64,
    derived: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    fn take(&mut self, file: &Planned, outcome: Outcome, in_directory: bool) {
        let name = file.path.display().to_string();
        let (scan, derived) = match outcome {
            Outcome::Checked {
                scan,
                derived,
                log_start,
            } => {
                if let Some(header) = &file.header {
                    let next = scan.last.map_or(header.base_offset, |last| last.next_offset());
                    self.kept.note(&file.path, header, next, log_start);
                }
                (scan, derived)
            }
            Outcome::Gone if in_directory => {
                self.notes.push(format!("{name} is gone; skipped"));
                return;
            }
            Outcome::Gone => {
                self.failures
                    .push(Failure::new(FAILED, format!("{name} is gone")));
                return;
            }
            Outcome::Failed(failure) => {
                self.failures.push(failure);
                return;
            }
        };
        let mut verdict = scan.verdict();
        if file.is_superseded {
            verdict = format!("replaced by a later generation; {verdict}");
        } else {
            self.damaged += u64::from(scan.is_damaged());
            self.torn += u64::from(matches!(scan.end, End::TornTail { .. }));
        }
        if let End::Unsupported { why, .. } = &scan.end {
            let failure = Failure::new(FAILED, format!("{name}: {why}"));
            self.failures
                .push(failure.hint("Another version of this program wrote it; use that one."));
        }
        self.derived.extend(derived.iter().cloned());
        self.rows.push(vec![
            Value::from(name),
            json!(scan.entries),
            json!(scan.end_position),
            Value::from(verdict),
            damage_of(&scan),
            json!(derived),
        ]);
    }

    fn take_missing(&mut self, named: &Named, seen: &HashSet<Incarnation>, indexes: &[PathBuf]) {
        for (file, damage, is_certain) in named.missing(seen, &self.kept) {
            let name = file.display().to_string();
            if !is_certain {
                self.notes.push(format!(
                    "{name} is not there, nor its directory: a deleted topic, or lost"
                ));
                continue;
            }
            self.damaged += 1;
            self.rows.push(vec![
                Value::from(name),
                json!(0),
                json!(0),
                Value::from(format!("damage: {}, {}", damage.why, damage.offsets())),
                Value::Array(vec![damage_json(&damage)]),
                json!([]),
            ]);
        }
        self.derived.extend(named.faults.iter().cloned());
        let orphans = indexes.iter().filter(|index| {
            let segment = index.with_extension("log");
            index.exists() && !segment.exists()
        });
        self.derived
            .extend(orphans.map(|index| format!("{}: its segment is not there", index.display())));
    }

    fn print(self, output: OutputFormat, set_aside: usize) -> Result<u8, Failure> {
        match output {
            OutputFormat::Table => {
                let columns = COLUMNS.get(..TABLE_COLUMNS).unwrap_or(COLUMNS);
                print_rows(output, columns, &self.rows)?;
            }
            _ => print_rows(output, COLUMNS, &self.rows)?,
        }
        for line in self.notes {
            eprintln!("{line}");
        }
        for line in &self.derived {
            eprintln!("derived, rebuilt by the broker, no damage: {line}");
        }
        if set_aside > 0 {
            eprintln!("{set_aside} segments that recovery set aside were not looked at");
        }
        if self.torn > 0 {
            eprintln!(
                "a torn tail was never acknowledged: a broker is writing it now, or was stopped in the midst"
            );
        }
        for failure in &self.failures {
            failure.print();
        }
        match (self.damaged, self.failures.is_empty()) {
            (0, true) => Ok(DONE),
            (0, false) => Ok(FAILED),
            (n, _) => {
                eprintln!("tidelog: {n} of {} segments are damaged", self.rows.len());
                Ok(DAMAGE)
            }
        }
    }
}

fn damage_of(scan: &Scan) -> Value {
    let copies = scan.header_faults.iter().map(|why| {
        json!({"position": 0, "end": tidelog_segment_log::segment_header::SEGMENT_HEADER_LEN, "why": why})
    });
    copies.chain(scan.damage.iter().map(damage_json)).collect()
}

fn damage_json(damage: &Damage) -> Value {
    json!({
        "position": damage.position.start,
        "end": damage.position.end,
        "first_offset": damage.first_offset.0,
        "next_offset": damage.next_offset.map(|offset| offset.0),
        "why": damage.why,
    })
}

#[cfg(test)]
mod tests {
    use tidelog_segment_log::ids::EntryIndex;
    use tidelog_segment_log::segment_header::{SEGMENT_HEADER_LEN, segment_file_name};

    use std::path::Path;

    use super::*;
    use crate::commands::segment::scan::tests::make_segment;

    #[test]
    fn a_directory_is_verified_whole_and_damage_is_exit_code_3() {
        let directory = tempfile::tempdir().expect("directory");
        let partition = directory.path().join("topic-0");
        std::fs::create_dir(&partition).expect("partition");
        let file = partition.join(segment_file_name(EntryIndex(1), 0));
        let mut bytes = make_segment(4);
        std::fs::write(&file, &bytes).expect("write");
        std::fs::write(partition.join("notes.txt"), "x").expect("write");
        let verify = || {
            run(VerifyArgs {
                path: directory.path().to_owned(),
                threads: Some(2),
                output: OutputFormat::Jsonl,
            })
        };
        assert_eq!(find(directory.path()).map(|f| f.segments), Ok(vec![file.clone()]));
        assert_eq!(verify(), Ok(DONE));
        bytes[SEGMENT_HEADER_LEN + 70] ^= 1;
        std::fs::write(&file, &bytes).expect("write");
        assert_eq!(verify(), Ok(DAMAGE));
    }

    #[test]
    fn nothing_to_verify_is_said() {
        let directory = tempfile::tempdir().expect("directory");
        let run = |path: &Path| {
            run(VerifyArgs {
                path: path.to_owned(),
                threads: None,
                output: OutputFormat::Table,
            })
        };
        assert!(
            run(directory.path())
                .expect_err("empty")
                .message()
                .contains("no segment")
        );
        assert_eq!(
            run(Path::new("/does/not/exist")).expect_err("missing").code(),
            FAILED
        );
    }
}
