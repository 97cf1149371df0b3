//! `tidelog segment verify`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use tidelog_segment_log::segment_header::parse_segment_file_name;

use super::evidence::Evidence;
use super::scan::{End, scan};
use crate::failure::{DAMAGE, DONE, FAILED, Failure};
use crate::limits::DIRECTORY_DEPTH_MAX;
use crate::output::{OutputFormat, print_rows, progress};

const AFTER_HELP: &str = "\
Exit code 0 when all is good, 3 when damage was found. A torn tail is not damage: nothing proves that
it was acknowledged, and the broker cuts it when it opens the log. Below a data directory its
checkpoints are such proofs too. Files are only read.

Examples:
  tidelog segment verify tidelog-data
  tidelog segment verify tidelog-data/<topic id>-0/<file>.log --output json";

const COLUMNS: &[&str] = &["file", "entries", "bytes", "verdict"];

/// Arguments of `tidelog segment verify`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyArgs {
    /// Segment file, or a directory to find them in
    path: PathBuf,
    /// How data is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Table)]
    output: OutputFormat,
}

/// Verifies the segments.
pub fn run(args: VerifyArgs) -> Result<u8, Failure> {
    let files = find_segments(&args.path)?;
    if files.is_empty() {
        return Err(
            Failure::new(FAILED, format!("no segment file in {}", args.path.display()))
                .hint("Give a data directory, a partition's directory, or a .log file."),
        );
    }
    let bar = progress(true);
    let mut rows = Vec::new();
    let mut evidence = Evidence::default();
    let (mut damaged, mut torn) = (0, 0);
    for file in &files {
        bar.set_message(file.display().to_string());
        // A running broker may have removed it since: then there is nothing to verify.
        if files.len() > 1 && !file.exists() {
            bar.suspend(|| eprintln!("{} is gone; skipped", file.display()));
            continue;
        }
        let mut scan = scan(file, |_, _| bar.inc(1))?;
        evidence.judge(file, &mut scan);
        damaged += u64::from(scan.is_damaged());
        torn += u64::from(matches!(scan.end, End::TornTail { .. }));
        rows.push(vec![
            Value::from(file.display().to_string()),
            json!(scan.entries),
            json!(scan.end_position),
            Value::from(scan.verdict()),
        ]);
    }
    bar.finish_and_clear();
    print_rows(args.output, COLUMNS, &rows)?;
    if torn > 0 {
        eprintln!(
            "a torn tail was never acknowledged: a broker is writing it now, or was stopped in the midst"
        );
    }
    match damaged {
        0 => Ok(DONE),
        n => {
            eprintln!("tidelog: {n} of {} segments are damaged", files.len());
            Ok(DAMAGE)
        }
    }
}

/// `path` itself, or every segment file below it, in order.
fn find_segments(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed =
        |at: &Path, e: std::io::Error| Failure::new(FAILED, format!("cannot read {}: {e}", at.display()));
    if !path.metadata().map_err(|e| failed(path, e))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut open = vec![(path.to_owned(), 0)];
    while let Some((directory, depth)) = open.pop() {
        for entry in std::fs::read_dir(&directory).map_err(|e| failed(&directory, e))? {
            let entry = entry.map_err(|e| failed(&directory, e))?;
            let kind = entry.file_type().map_err(|e| failed(&entry.path(), e))?;
            let is_segment = entry
                .file_name()
                .to_str()
                .is_some_and(|n| parse_segment_file_name(n).is_some());
            if kind.is_dir() && depth < DIRECTORY_DEPTH_MAX {
                open.push((entry.path(), depth + 1));
            } else if kind.is_file() && is_segment {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use tidelog_segment_log::ids::EntryIndex;
    use tidelog_segment_log::segment_header::{SEGMENT_HEADER_LEN, segment_file_name};

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
                output: OutputFormat::Jsonl,
            })
        };
        assert_eq!(find_segments(directory.path()), Ok(vec![file.clone()]));
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
