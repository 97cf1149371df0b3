//! `perf-flamegraph`: stacks of `perf script` on standard input, a flame graph and a table of symbols out.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph;

/// Draws the stacks that `perf script` prints.
#[derive(Debug, Parser)]
#[command(name = "perf-flamegraph", version)]
struct Cli {
    /// Title of the picture.
    #[arg(long)]
    title: String,
    /// The picture; an SVG.
    #[arg(long)]
    svg: PathBuf,
    /// The table: self and inclusive share of each symbol; Markdown.
    #[arg(long)]
    table: PathBuf,
    /// Symbols in the table.
    #[arg(long, default_value_t = 40)]
    top: usize,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perf-flamegraph: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> io::Result<()> {
    let mut folded = Vec::new();
    Folder::default().collapse(BufReader::new(io::stdin().lock()), &mut folded)?;
    let text = String::from_utf8_lossy(&folded);
    if text.trim().is_empty() {
        return Err(io::Error::other("no stacks came in: did perf record anything?"));
    }
    let mut options = flamegraph::Options::default();
    options.title = cli.title.clone();
    let svg = BufWriter::new(File::create(&cli.svg)?);
    flamegraph::from_lines(&mut options, text.lines(), svg).map_err(io::Error::other)?;
    fs::write(&cli.table, table(&cli.title, &text, cli.top))
}

/// Shares of samples by symbol: as the innermost frame, and anywhere in the stack (once for each stack).
fn table(title: &str, folded: &str, top: usize) -> String {
    let (mut own, mut inclusive): (HashMap<&str, u64>, HashMap<&str, u64>) = Default::default();
    let mut total = 0u64;
    for (stack, count) in folded.lines().filter_map(|line| line.rsplit_once(' ')) {
        let count: u64 = count.parse().unwrap_or(0);
        total += count;
        // The first frame is the thread's name.
        let frames: Vec<&str> = stack.split(';').skip(1).collect();
        if let Some(last) = frames.last() {
            *own.entry(last).or_default() += count;
        }
        for frame in frames.into_iter().collect::<HashSet<_>>() {
            *inclusive.entry(frame).or_default() += count;
        }
    }
    let share = |count: u64| count as f64 * 100.0 / total.max(1) as f64;
    let mut text =
        format!("# {title}\n\nWeight of all samples: {total} (with `cpu-clock`, nanoseconds of CPU time).\n");
    for (heading, first, second) in [("Self", &own, &inclusive), ("Inclusive", &inclusive, &own)] {
        let mut rows: Vec<_> = first.iter().collect();
        rows.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let other = if heading == "Self" { "Inclusive" } else { "Self" };
        text.push_str(&format!(
            "\n| {heading} % | {other} % | symbol |\n|---|---|---|\n"
        ));
        for (symbol, count) in rows.into_iter().take(top) {
            let other = second.get(symbol).copied().unwrap_or(0);
            let symbol = symbol.replace('|', "\\|");
            text.push_str(&format!(
                "| {:.1} | {:.1} | `{symbol}` |\n",
                share(*count),
                share(other)
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_a_recursive_symbol_once_a_stack() {
        let text = table("t", "main;a;b 3\nmain;a;a 1\n", 10);
        assert!(text.contains("samples: 4 "), "{text}");
        assert!(text.contains("| 75.0 | 75.0 | `b` |"), "{text}");
        assert!(text.contains("| 100.0 | 25.0 | `a` |"), "{text}");
    }
}
