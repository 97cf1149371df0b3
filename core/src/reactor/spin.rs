//! Whether to look for work a little longer before sleeping (`runtime.spin_us`, ADR 0010).
//!
//! Owned by the shard's thread.
//! A sleep and its wake-up cost some microseconds of latency and CPU. Where the next input is likely to come sooner
//! than that, looking for it without a system call is cheaper. It is likely only where it was so before: after
//! [`SHORT_WAITS_MIN`] waits in a row that ended within the bound; one longer wait ends it.

use std::time::Duration;

/// Waits in a row that must have ended within the bound.
const SHORT_WAITS_MIN: u32 = 8;

#[derive(Debug)]
pub(super) struct Spin {
    bound: Duration,
    short_waits: u32,
}

impl Spin {
    /// Looks for at most `bound`; zero: never.
    pub(super) fn new(bound: Duration) -> Self {
        Self {
            bound,
            short_waits: 0,
        }
    }

    /// How long to look before sleeping, if at all.
    pub(super) fn wanted(&self) -> Option<Duration> {
        (!self.bound.is_zero() && self.short_waits >= SHORT_WAITS_MIN).then_some(self.bound)
    }

    /// A wait has ended, whether it was slept or not.
    pub(super) fn waited(&mut self, time: Duration) {
        self.short_waits = if time <= self.bound {
            self.short_waits.saturating_add(1)
        } else {
            0
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_micros(50);

    #[test]
    fn only_short_waits_in_a_row_are_worth_it_and_one_long_wait_ends_it() {
        let mut spin = Spin::new(BOUND);
        for _ in 0..SHORT_WAITS_MIN {
            assert_eq!(spin.wanted(), None);
            spin.waited(BOUND);
        }
        assert_eq!(spin.wanted(), Some(BOUND));
        spin.waited(BOUND * 2);
        assert_eq!(spin.wanted(), None, "the first that was in vain is the last");
    }

    /// A shard at rest waits for its ticks: it never looks.
    #[test]
    fn a_shard_at_rest_sleeps() {
        let mut spin = Spin::new(BOUND);
        for _ in 0..1_000 {
            assert_eq!(spin.wanted(), None);
            spin.waited(Duration::from_millis(50));
        }
    }

    #[test]
    fn a_bound_of_zero_is_never() {
        let mut spin = Spin::new(Duration::ZERO);
        (0..100).for_each(|_| spin.waited(Duration::ZERO));
        assert_eq!(spin.wanted(), None);
    }
}
