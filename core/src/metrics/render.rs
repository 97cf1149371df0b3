//! Prometheus text format 0.0.4.

use std::fmt::Write as _;

use super::{COUNTERS, GAUGES, HISTOGRAM_BUCKETS, HISTOGRAMS, HistogramSnapshot, LABELLED, ShardMetrics};

/// Content type of what [`render`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes all families: `tidelog_NAME` for the broker, `tidelog_shard_NAME{shard="N"}` for each shard.
pub fn render(shards: &[ShardMetrics]) -> String {
    let mut total = ShardMetrics::default();
    for shard in shards {
        total.merge(shard);
    }
    let mut out = String::with_capacity(16 << 10);
    family(&mut out, "shards", "Shards that answered.", "gauge");
    line(&mut out, "shards", "", "", shards.len());
    for counter in COUNTERS {
        let name = format!("{}_total", counter.name);
        scalar(&mut out, &name, counter.help, "counter", (counter.read)(&total));
        per_shard(&mut out, &name, counter.help, "counter", shards, counter.read);
    }
    for gauge in GAUGES {
        scalar(&mut out, gauge.name, gauge.help, "gauge", (gauge.read)(&total));
        per_shard(&mut out, gauge.name, gauge.help, "gauge", shards, gauge.read);
    }
    for labelled in LABELLED {
        family(&mut out, labelled.name, labelled.help, "gauge");
        for (value, read) in labelled.values {
            let label = format!("{}=\"{value}\"", labelled.label);
            line(&mut out, labelled.name, "", &label, read(&total));
        }
        let name = format!("shard_{}", labelled.name);
        family(&mut out, &name, labelled.help, "gauge");
        for shard in shards {
            for (value, read) in labelled.values {
                let labels = format!("shard=\"{}\",{}=\"{value}\"", shard.shard, labelled.label);
                line(&mut out, &name, "", &labels, read(shard));
            }
        }
    }
    for histogram in HISTOGRAMS {
        let name = format!("{}_seconds", histogram.name);
        family(&mut out, &name, histogram.help, "histogram");
        buckets(&mut out, &name, "", &(histogram.read)(&total));
        let name = format!("shard_{name}");
        family(&mut out, &name, histogram.help, "histogram");
        for shard in shards {
            buckets(
                &mut out,
                &name,
                &format!("shard=\"{}\"", shard.shard),
                &(histogram.read)(shard),
            );
        }
    }
    out
}

fn family(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP tidelog_{name} {help}");
    let _ = writeln!(out, "# TYPE tidelog_{name} {kind}");
}

fn line(out: &mut String, name: &str, suffix: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(out, "tidelog_{name}{suffix} {value}"),
        labels => writeln!(out, "tidelog_{name}{suffix}{{{labels}}} {value}"),
    };
}

fn scalar(out: &mut String, name: &str, help: &str, kind: &str, value: impl std::fmt::Display) {
    family(out, name, help, kind);
    line(out, name, "", "", value);
}

fn per_shard<T: std::fmt::Display>(
    out: &mut String,
    name: &str,
    help: &str,
    kind: &str,
    shards: &[ShardMetrics],
    read: fn(&ShardMetrics) -> T,
) {
    let name = format!("shard_{name}");
    family(out, &name, help, kind);
    for shard in shards {
        line(out, &name, "", &format!("shard=\"{}\"", shard.shard), read(shard));
    }
}

fn buckets(out: &mut String, name: &str, labels: &str, histogram: &HistogramSnapshot) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut cumulated = 0_u64;
    for (at, count) in histogram.buckets.iter().enumerate() {
        cumulated += count;
        let bound = if at + 1 == HISTOGRAM_BUCKETS {
            "+Inf".to_owned()
        } else {
            seconds(1_u64 << at)
        };
        line(
            out,
            name,
            "_bucket",
            &format!("{labels}{comma}le=\"{bound}\""),
            cumulated,
        );
    }
    line(out, name, "_sum", labels, seconds(histogram.sum_us));
    line(out, name, "_count", labels, cumulated);
}

/// Microseconds as seconds, exact.
fn seconds(us: u64) -> String {
    let (whole, part) = (us / 1_000_000, us % 1_000_000);
    if part == 0 {
        return whole.to_string();
    }
    format!("{whole}.{part:06}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ShardCells;
    use std::collections::HashSet;
    use std::time::Duration;

    #[test]
    fn the_text_has_sums_and_shards() {
        let (a, b) = (ShardCells::new(0), ShardCells::new(1));
        a.produced_records.add(5);
        b.produced_records.add(7);
        b.connections.set(-1);
        b.request_time.observe(Duration::from_micros(1_500));
        let text = render(&[a.snapshot(), b.snapshot()]);
        for expected in [
            "tidelog_shards 2",
            "tidelog_produced_records_total 12",
            "tidelog_shard_produced_records_total{shard=\"0\"} 5",
            "tidelog_shard_produced_records_total{shard=\"1\"} 7",
            "tidelog_shard_connections{shard=\"1\"} -1",
            "tidelog_request_time_seconds_bucket{le=\"0.001024\"} 0",
            "tidelog_request_time_seconds_bucket{le=\"0.002048\"} 1",
            "tidelog_request_time_seconds_bucket{le=\"+Inf\"} 1",
            "tidelog_request_time_seconds_sum 0.0015",
            "tidelog_shard_request_time_seconds_count{shard=\"1\"} 1",
            "# TYPE tidelog_request_time_seconds histogram",
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn each_family_is_declared_once_and_each_series_is_unique() {
        let text = render(&[ShardCells::new(0).snapshot(), ShardCells::new(1).snapshot()]);
        let mut seen = HashSet::new();
        for line in text.lines() {
            let key = match line.strip_prefix("# ") {
                Some(comment) => comment.split(' ').take(2).collect::<Vec<_>>().join(" "),
                None => line.rsplit_once(' ').unwrap().0.to_owned(),
            };
            assert!(seen.insert(key), "{line}");
        }
        assert!(text.ends_with('\n'));
    }
}
