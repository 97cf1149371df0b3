//! How long an append and its fdatasync take on this device: the floor of an acknowledged write.

use std::io;
use std::path::Path;
use std::time::Instant;

use crate::files::{Appender, Kind};

/// Prints one JSON object: p50, p99, p99.9 and max in microseconds.
pub fn run(dir: &Path, kind: Kind, bytes: usize, count: u32) -> io::Result<()> {
    let mut appender = Appender::new(dir, 0, 1, kind, &[])?;
    let piece = vec![0x5a; bytes];
    let mut times_us = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let started = Instant::now();
        appender.append(&piece)?;
        appender.file.sync_data()?;
        times_us.push(started.elapsed().as_secs_f64() * 1e6);
    }
    times_us.sort_by(f64::total_cmp);
    let at = |quantile: f64| {
        let index = (times_us.len() as f64 * quantile) as usize;
        times_us
            .get(index.min(times_us.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0.0)
    };
    println!(
        "{{\"count\":{count},\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\"max_us\":{:.1}}}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    Ok(())
}
