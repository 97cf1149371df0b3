//! What a run measured, as JSON or as a table.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::process::ProcessCounters;
use crate::limits::LOAD_LATENCY_MAX;

const GIB: f64 = (1u64 << 30) as f64;

/// An empty histogram of nanoseconds, three digits exact.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LOAD_LATENCY_MAX.as_nanos() as u64, 3).expect("bounds that are right")
}

/// Notes a latency; one beyond the bound counts as the bound.
pub fn note(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
}

/// Quantiles of latencies in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Quantiles {
    /// How many.
    pub count: u64,
    /// Half are below.
    pub p50_us: f64,
    /// 99 of 100 are below.
    pub p99_us: f64,
    /// 999 of 1,000 are below.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Quantiles {
    /// The quantiles of `histogram`, or none when nothing was noted.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
        })
    }
}

/// What the loaded process spent.
#[derive(Debug, Clone, Serialize)]
pub struct Spent {
    /// User time.
    pub user_s: f64,
    /// System time.
    pub system_s: f64,
    /// Both, for each GiB of batches.
    pub cpu_s_per_gib: f64,
    /// Both, for each request.
    pub cpu_us_per_request: f64,
    /// Both, for each record.
    pub cpu_us_per_record: f64,
    /// Context switches of all its threads, both kinds.
    pub context_switches: u64,
    /// The same for each record.
    pub context_switches_per_record: f64,
}

/// Work done in a run.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Requests answered.
    pub requests: u64,
    /// Records in them, or in their answers.
    pub records: u64,
    /// Bytes of record batches.
    pub bytes: u64,
    /// From the first send to the last answer.
    pub wall: Duration,
    /// CPU time of the generator's own threads.
    pub generator_cpu_s: f64,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The mode.
    pub mode: &'static str,
    /// Connections.
    pub connections: usize,
    /// Requests of one connection in flight.
    pub in_flight: usize,
    /// Partitions.
    pub partitions: usize,
    /// Requests answered.
    pub requests: u64,
    /// Records.
    pub records: u64,
    /// Bytes of record batches.
    pub bytes: u64,
    /// Seconds.
    pub wall_s: f64,
    /// Throughput of batches.
    pub gib_per_s: f64,
    /// Throughput of requests.
    pub requests_per_s: f64,
    /// Throughput of records.
    pub records_per_s: f64,
    /// The generator's own CPU time for each GiB.
    pub generator_cpu_s_per_gib: f64,
    /// Share of the wall time in which the generator was busy: near 1 for each thread, it is the limit.
    pub generator_busy: f64,
    /// From send to answer; in the latency mode from the intended send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Quantiles>,
    /// From the intended send to the arrival at the consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_to_end: Option<Quantiles>,
    /// How late the generator itself sent: what of the latencies is its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_send: Option<Quantiles>,
    /// What the loaded process spent, when its id was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<Spent>,
}

impl Report {
    /// A report of `work`.
    pub fn new(mode: &'static str, work: &Work, spent: Option<&ProcessCounters>) -> Self {
        let wall_s = work.wall.as_secs_f64();
        let gib = work.bytes as f64 / GIB;
        Self {
            mode,
            connections: 1,
            in_flight: 1,
            partitions: 1,
            requests: work.requests,
            records: work.records,
            bytes: work.bytes,
            wall_s,
            gib_per_s: ratio(gib, wall_s),
            requests_per_s: ratio(work.requests as f64, wall_s),
            records_per_s: ratio(work.records as f64, wall_s),
            generator_cpu_s_per_gib: ratio(work.generator_cpu_s, gib),
            generator_busy: ratio(work.generator_cpu_s, wall_s),
            answer: None,
            end_to_end: None,
            late_send: None,
            broker: spent.map(|spent| {
                let switches = spent.voluntary_switches + spent.involuntary_switches;
                Spent {
                    user_s: spent.user_s,
                    system_s: spent.system_s,
                    cpu_s_per_gib: ratio(spent.cpu_s(), gib),
                    cpu_us_per_request: ratio(spent.cpu_s() * 1e6, work.requests as f64),
                    cpu_us_per_record: ratio(spent.cpu_s() * 1e6, work.records as f64),
                    context_switches: switches,
                    context_switches_per_record: ratio(switches as f64, work.records as f64),
                }
            }),
        }
    }

    /// Says how the load was laid out.
    #[must_use]
    pub fn laid_out(mut self, connections: usize, in_flight: usize, partitions: usize) -> Self {
        self.connections = connections;
        self.in_flight = in_flight;
        self.partitions = partitions;
        self
    }

    /// The report for people: one figure a line.
    pub fn table(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        let mut lines = String::new();
        write_fields("", &value, &mut lines);
        lines
    }
}

fn write_fields(prefix: &str, value: &serde_json::Value, lines: &mut String) {
    let serde_json::Value::Object(fields) = value else {
        return;
    };
    for (name, field) in fields {
        match field {
            serde_json::Value::Object(_) => write_fields(&format!("{prefix}{name}."), field, lines),
            serde_json::Value::Number(n) if n.is_f64() => {
                let number = n.as_f64().unwrap_or_default();
                lines.push_str(&format!("{:<40} {number:.3}\n", format!("{prefix}{name}")));
            }
            serde_json::Value::String(text) => {
                lines.push_str(&format!("{:<40} {text}\n", format!("{prefix}{name}")));
            }
            other => lines.push_str(&format!("{:<40} {other}\n", format!("{prefix}{name}"))),
        }
    }
}

fn ratio(above: f64, below: f64) -> f64 {
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_per_gib_request_and_record() {
        let work = Work {
            requests: 1_000,
            records: 64_000,
            bytes: 1 << 31,
            wall: Duration::from_secs(4),
            generator_cpu_s: 1.0,
        };
        let spent = ProcessCounters {
            user_s: 0.25,
            system_s: 0.75,
            voluntary_switches: 600,
            involuntary_switches: 40,
        };
        let report = Report::new("produce", &work, Some(&spent));
        let broker = report.broker.as_ref().expect("given");
        assert_eq!((report.gib_per_s, report.generator_busy), (0.5, 0.25));
        assert_eq!((broker.cpu_s_per_gib, broker.cpu_us_per_request), (0.5, 1_000.0));
        assert_eq!(broker.context_switches_per_record, 0.01);
        assert!(
            report.table().contains("broker.cpu_s_per_gib"),
            "{}",
            report.table()
        );
    }

    #[test]
    fn quantiles_are_of_what_was_noted() {
        let mut histogram = latencies();
        assert!(Quantiles::of(&histogram).is_none());
        for us in 1..=1_000 {
            note(&mut histogram, Duration::from_micros(us));
        }
        note(&mut histogram, Duration::from_secs(3_600));
        let quantiles = Quantiles::of(&histogram).expect("noted");
        assert!((499.0..=502.0).contains(&quantiles.p50_us), "{quantiles:?}");
        assert!(
            quantiles.max_us >= 59e6,
            "what is beyond the bound counts as the bound"
        );
    }
}
