//! The clock that records are aged by: the wall clock, unless it has leapt ahead.
//!
//! A state machine of one shard. A wall clock that is set forward, by mistake or by a time server gone wrong,
//! makes every record look old at once, and what retention removes is gone. So a leap is held for an hour, in
//! which the clock goes on as the monotonic one does and the log says why; whoever looks has that long to set it
//! right. Invariants: the clock is never ahead of the wall clock; one set back is believed at once, since that
//! only keeps more.

use super::Now;

/// Steps of the wall clock beyond what the monotonic clock went are believed up to this, milliseconds.
const LEAP_MAX_MS: i64 = 10 * 60 * 1_000;
/// A time between the last checkpoint and a start up to this is believed, milliseconds.
const STOPPED_MAX_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// How long a leap is held, milliseconds.
pub(super) const HOLD_MS: u64 = 3_600 * 1_000;

/// See the file's head.
#[derive(Debug)]
pub(super) struct RetentionClock {
    /// When the data directory was last written to by the start before this one.
    stopped_ms: Option<i64>,
    last: Option<Reading>,
    held_until_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    clock_ms: i64,
    monotonic_ms: u64,
}

impl RetentionClock {
    pub(super) fn new(stopped_ms: Option<i64>) -> Self {
        Self {
            stopped_ms,
            last: None,
            held_until_ms: None,
        }
    }

    /// What records are aged by now, milliseconds since 1970.
    pub(super) fn read(&mut self, now: Now) -> i64 {
        let (expected_ms, leap_max_ms) = match (self.last, self.stopped_ms) {
            (Some(last), _) => {
                let passed_ms = now.monotonic_ms.saturating_sub(last.monotonic_ms);
                let passed_ms = i64::try_from(passed_ms).unwrap_or(i64::MAX);
                (last.clock_ms.saturating_add(passed_ms), LEAP_MAX_MS)
            }
            (None, Some(stopped_ms)) => (stopped_ms, STOPPED_MAX_MS),
            (None, None) => (now.wall_ms, 0),
        };
        let leap_ms = now.wall_ms.saturating_sub(expected_ms);
        let is_held = match self.held_until_ms {
            _ if leap_ms <= leap_max_ms => false,
            Some(until_ms) => now.monotonic_ms < until_ms,
            None => {
                tracing::warn!(
                    leap_ms,
                    held_ms = HOLD_MS,
                    "the clock of this machine has leapt ahead: retention by age goes by the time before \
                     that for an hour, then by the clock"
                );
                self.held_until_ms = Some(now.monotonic_ms.saturating_add(HOLD_MS));
                true
            }
        };
        if !is_held {
            self.held_until_ms = None;
        }
        let clock_ms = if is_held { expected_ms } else { now.wall_ms };
        self.last = Some(Reading {
            clock_ms,
            monotonic_ms: now.monotonic_ms,
        });
        clock_ms
    }

    /// Whether a leap is held.
    pub(super) fn is_held(&self) -> bool {
        self.held_until_ms.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: i64 = 1_700_000_000_000;
    const YEAR_MS: i64 = 365 * 24 * 3_600 * 1_000;

    fn at(monotonic_ms: u64, wall_ms: i64) -> Now {
        Now {
            monotonic_ms,
            wall_ms,
            instant: std::time::Instant::now(),
        }
    }

    #[test]
    fn it_follows_the_wall_clock_and_small_corrections_of_it() {
        let mut clock = RetentionClock::new(None);
        assert_eq!(clock.read(at(0, START_MS)), START_MS);
        assert_eq!(clock.read(at(1_000, START_MS + 1_300)), START_MS + 1_300);
        let corrected = START_MS + 2_000 + LEAP_MAX_MS;
        assert_eq!(clock.read(at(2_000, corrected)), corrected);
        assert_eq!(
            clock.read(at(3_000, START_MS - YEAR_MS)),
            START_MS - YEAR_MS,
            "set back"
        );
        assert!(!clock.is_held());
    }

    #[test]
    fn a_leap_is_held_for_an_hour_and_then_believed() {
        let mut clock = RetentionClock::new(None);
        clock.read(at(0, START_MS));
        assert_eq!(clock.read(at(1_000, START_MS + YEAR_MS)), START_MS + 1_000);
        assert!(clock.is_held());
        let late = HOLD_MS + 999;
        assert_eq!(
            clock.read(at(late, START_MS + YEAR_MS + 5)),
            START_MS + late as i64
        );
        let wall_ms = START_MS + YEAR_MS + 6;
        assert_eq!(clock.read(at(late + 1, wall_ms)), wall_ms);
        assert!(!clock.is_held());
        assert_eq!(
            clock.read(at(late + 2, wall_ms + 1)),
            wall_ms + 1,
            "and from then on"
        );
    }

    #[test]
    fn a_leap_that_is_set_right_was_none() {
        let mut clock = RetentionClock::new(None);
        clock.read(at(0, START_MS));
        clock.read(at(1_000, START_MS + YEAR_MS));
        assert_eq!(clock.read(at(2_000, START_MS + 2_000)), START_MS + 2_000);
        assert!(!clock.is_held());
        assert_eq!(
            clock.read(at(3_000, START_MS + YEAR_MS)),
            START_MS + 3_000,
            "held anew"
        );
        let again = HOLD_MS + 2_999;
        assert_eq!(clock.read(at(again, START_MS + YEAR_MS)), START_MS + again as i64);
    }

    #[test]
    fn a_clock_that_was_wrong_before_the_start_is_held_too() {
        let mut clock = RetentionClock::new(Some(START_MS));
        assert_eq!(clock.read(at(5, START_MS + YEAR_MS)), START_MS);
        assert!(clock.is_held());
        let mut clock = RetentionClock::new(Some(START_MS));
        let wall_ms = START_MS + STOPPED_MAX_MS;
        assert_eq!(clock.read(at(5, wall_ms)), wall_ms, "a week's stop is believed");
        let mut clock = RetentionClock::new(Some(START_MS));
        assert_eq!(clock.read(at(5, START_MS - 9)), START_MS - 9);
    }
}
