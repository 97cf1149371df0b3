//! Round trips of one client while the shard has background work without an end.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tidelog_bench::load::bare::{self, ECHO_ANSWER_BYTES, ECHO_REQUEST_BYTES};
use tidelog_core::reactor::STEP_BOUND;

use crate::Running;
use crate::machine::Work;

/// Round trips before counting begins.
const WARM_UP: usize = 100;
/// An answer that takes longer is none: the shard stands still.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs and prints a line of JSON.
pub fn run(work: Work, seconds: f64, core: usize, client_core: usize) -> io::Result<()> {
    let shard = Running::start("127.0.0.1:0", work, Duration::ZERO, Some(core))?;
    pin_to(client_core)?;
    let mut client = TcpStream::connect(shard.address)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    for number in 0..WARM_UP {
        round_trip(&mut client, number as i32)?;
    }
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed().as_secs_f64() < seconds {
        times.push(round_trip(&mut client, times.len() as i32)?);
    }
    drop(client);
    let metrics = shard.stop()?;
    times.sort_unstable();
    let us = |quantile: f64| quantile_of(&times, quantile).as_secs_f64() * 1e6;
    let steps = metrics.background_step_time;
    println!(
        r#"{{"round_trips": {}, "p50_us": {:.1}, "p99_us": {:.1}, "p999_us": {:.1}, "max_us": {:.1}, "steps": {}, "step_mean_us": {:.1}, "steps_late": {}, "step_bound_us": {}}}"#,
        times.len(),
        us(0.5),
        us(0.99),
        us(0.999),
        us(1.0),
        steps.count(),
        steps.sum_us as f64 / steps.count().max(1) as f64,
        metrics.background_steps_late,
        STEP_BOUND.as_micros(),
    );
    Ok(())
}

fn round_trip(client: &mut TcpStream, id: i32) -> io::Result<Duration> {
    let mut request = [0; ECHO_REQUEST_BYTES];
    request[..8].copy_from_slice(&bare::head(ECHO_REQUEST_BYTES, id));
    let mut answer = [0; ECHO_ANSWER_BYTES];
    let sent = Instant::now();
    client.write_all(&request)?;
    client.read_exact(&mut answer)?;
    let time = sent.elapsed();
    if answer[..8] != bare::head(ECHO_ANSWER_BYTES, id) {
        return Err(io::Error::other(format!("request {id} got another answer")));
    }
    Ok(time)
}

/// The least time that at least this share of all does not exceed; `sorted` ascends.
fn quantile_of(sorted: &[Duration], quantile: f64) -> Duration {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .or(sorted.last())
        .copied()
        .unwrap_or_default()
}

fn pin_to(core: usize) -> io::Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &cores)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        for (quantile, us) in [(0.5, 100), (0.99, 198), (0.999, 200), (1.0, 200)] {
            assert_eq!(quantile_of(&times, quantile), Duration::from_micros(us));
        }
        assert_eq!(quantile_of(&[], 0.5), Duration::ZERO);
    }
}
