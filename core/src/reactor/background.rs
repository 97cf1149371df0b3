//! Background work: steps that the loop takes between its turns.
//!
//! The machine owns the work and cuts it into steps; the loop decides when one may begin and how long it may
//! take. A step ends within [`STEP_BOUND`] and is followed by a *poll point*: a look, without a system call, at
//! everything a turn would handle. If anything is there, a turn comes before the next step.
//!
//! The rule of fairness: while turns find something to do, steps wait, but after [`STEP_OWED_AFTER`] without one
//! a single step is taken. So the background gets at least one step a millisecond (or one a turn, where a turn
//! takes longer), and at most [`STEP_BOUND`] of each millisecond that the foreground could use.

use std::time::{Duration, Instant};

/// What a step may take. One that took longer is counted.
pub const STEP_BOUND: Duration = Duration::from_micros(100);
/// No item is begun in a step that has taken this long: the last item ends within the bound.
const STEP_TARGET: Duration = Duration::from_micros(50);
/// After this long without a step one is taken although turns find something to do.
const STEP_OWED_AFTER: Duration = Duration::from_millis(1);
/// Items that are begun without a look at the clock.
const ITEMS_PER_LOOK: u32 = 8;

const _: () = assert!(STEP_TARGET.as_micros() < STEP_BOUND.as_micros());
const _: () = assert!(STEP_BOUND.as_micros() * 10 <= STEP_OWED_AFTER.as_micros());

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more of it.
    Pending,
    /// It is done.
    Done,
}

/// How much one step may do, asked before each item.
///
/// The first item of a step may always be begun, so that work goes on however slow the clock says it is.
#[derive(Debug)]
pub struct StepBudget {
    end: End,
    begun: u32,
    /// Items until the clock is looked at again.
    unlooked: u32,
}

#[derive(Debug)]
enum End {
    At(Instant),
    Items(u32),
}

impl StepBudget {
    /// A step that began at `began`.
    pub fn starting(began: Instant) -> Self {
        Self::of(End::At(began + STEP_TARGET))
    }

    /// A step of so many items, whatever the time: for what must not depend on a clock.
    pub fn items(count: u32) -> Self {
        Self::of(End::Items(count))
    }

    fn of(end: End) -> Self {
        Self {
            end,
            begun: 0,
            unlooked: ITEMS_PER_LOOK,
        }
    }

    /// Whether another item may be begun.
    pub fn take(&mut self) -> bool {
        let allowed = self.begun == 0
            || match self.end {
                End::Items(count) => self.begun < count,
                End::At(_) if self.unlooked > 0 => true,
                End::At(at) => {
                    self.unlooked = ITEMS_PER_LOOK;
                    Instant::now() < at
                }
            };
        if allowed {
            self.begun = self.begun.saturating_add(1);
            self.unlooked = self.unlooked.saturating_sub(1);
        }
        allowed
    }

    /// What was just done may have cost more than an item usually does: look at the clock before the next.
    pub fn look(&mut self) {
        self.unlooked = 0;
    }

    /// Nothing more in this step.
    pub fn end(&mut self) {
        self.begun = self.begun.max(1);
        self.end = End::Items(0);
    }
}

/// When a step may be taken: the rule of fairness in the file's head.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last_step: Option<Instant>,
}

impl Pace {
    /// Whether a step of work that waits may follow a turn that ended at `now`. `progressed`: the turn found
    /// something to do, and the next may as well.
    pub(super) fn may_step(&self, now: Instant, progressed: bool) -> bool {
        let is_owed = |last| now.saturating_duration_since(last) >= STEP_OWED_AFTER;
        !progressed || self.last_step.is_none_or(is_owed)
    }

    /// A step has ended.
    pub(super) fn stepped(&mut self, now: Instant) {
        self.last_step = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_items_ends_after_them_and_always_has_one() {
        for (count, expected) in [(0, 1), (1, 1), (5, 5)] {
            let mut budget = StepBudget::items(count);
            let begun = std::iter::repeat_with(|| budget.take())
                .take_while(|allowed| *allowed)
                .count();
            assert_eq!(begun, expected, "of {count}");
        }
    }

    #[test]
    fn a_step_whose_time_is_over_ends_at_its_next_look() {
        let over = Instant::now().checked_sub(STEP_BOUND).expect("a time");
        let mut budget = StepBudget::starting(over);
        let begun = std::iter::repeat_with(|| budget.take())
            .take_while(|allowed| *allowed)
            .count();
        assert_eq!(begun as u32, ITEMS_PER_LOOK);
        let mut budget = StepBudget::starting(over);
        assert!(budget.take(), "the first item always");
        budget.look();
        assert!(!budget.take(), "the clock was looked at");
    }

    #[test]
    fn an_ended_step_begins_nothing() {
        let mut budget = StepBudget::starting(Instant::now());
        assert!(budget.take());
        budget.end();
        assert!(!budget.take());
    }

    /// A minute of 20 us turns that all find something to do, and steps as long as they may be.
    #[test]
    fn constant_load_gets_nine_tenths_and_the_background_a_step_a_millisecond() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        let (mut now, mut steps, mut waited, mut last) = (begin, 0_u32, Duration::ZERO, begin);
        while now - begin < Duration::from_secs(60) {
            now += Duration::from_micros(20);
            if pace.may_step(now, true) {
                waited = waited.max(now - last);
                now += STEP_BOUND;
                (steps, last) = (steps + 1, now);
                pace.stepped(now);
            }
        }
        let in_steps = steps * STEP_BOUND;
        assert!(in_steps.as_secs_f64() / 60.0 < 0.1, "{in_steps:?}");
        assert!(
            waited <= STEP_OWED_AFTER + Duration::from_micros(40),
            "{waited:?}"
        );
        assert!(steps > 50_000, "{steps}");
    }

    #[test]
    fn an_idle_loop_steps_at_once_and_a_busy_one_when_a_step_is_owed() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        assert!(pace.may_step(begin, true), "none was taken yet");
        pace.stepped(begin);
        let soon = begin + STEP_OWED_AFTER / 2;
        assert!(!pace.may_step(soon, true), "the foreground first");
        assert!(pace.may_step(soon, false), "nothing else to do");
        assert!(pace.may_step(begin + STEP_OWED_AFTER, true), "owed");
    }
}
