//! The shard's timer wheel: 1 ms ticks, 1,024 slots, one turn per 1.024 s; later deadlines stay in
//! their slot and are looked at once per turn.
//!
//! Owned by the shard's thread. Setting is O(1); firing looks at the slots that are due, and finding the next
//! deadline at the occupied slots up to it, at most all 1,024, however many timers there are. A timer is never
//! early and at most one turn of the shard's loop late.

const SLOTS: usize = 1024;
const WORD: usize = u64::BITS as usize;

/// Timers of the same millisecond, modulo the wheel's turn.
struct Slot<T> {
    timers: Vec<(u64, T)>,
    /// The earliest of them.
    next_ms: u64,
}

/// Deadlines with a payload, in milliseconds of the shard's monotonic clock.
pub struct TimerWheel<T> {
    slots: Vec<Slot<T>>,
    /// One bit per slot that has timers.
    occupied: [u64; SLOTS / WORD],
    /// Everything before this has fired.
    now_ms: u64,
    next_ms: Option<u64>,
}

impl<T> TimerWheel<T> {
    /// An empty wheel that begins at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        let empty = || Slot {
            timers: Vec::new(),
            next_ms: u64::MAX,
        };
        Self {
            slots: std::iter::repeat_with(empty).take(SLOTS).collect(),
            occupied: [0; SLOTS / WORD],
            now_ms,
            next_ms: None,
        }
    }

    /// Sets a timer. One in the past fires at the next [`TimerWheel::fire`].
    pub fn set(&mut self, at_ms: u64, payload: T) {
        let at_ms = at_ms.max(self.now_ms);
        let at = at_ms as usize % SLOTS;
        let slot = &mut self.slots[at];
        slot.timers.push((at_ms, payload));
        slot.next_ms = slot.next_ms.min(at_ms);
        self.occupied[at / WORD] |= 1 << (at % WORD);
        self.next_ms = Some(self.next_ms.map_or(at_ms, |next| next.min(at_ms)));
    }

    /// The earliest deadline.
    pub fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }

    /// Moves what is due at `now_ms` into `due`.
    pub fn fire(&mut self, now_ms: u64, due: &mut Vec<T>) {
        if self.next_ms.is_none_or(|next| next > now_ms) {
            return;
        }
        let ticks = (now_ms - self.now_ms.min(now_ms) + 1).min(SLOTS as u64);
        let first = now_ms + 1 - ticks;
        for tick in first..=now_ms {
            let at = tick as usize % SLOTS;
            let slot = &mut self.slots[at];
            if slot.next_ms > now_ms {
                continue;
            }
            let fired = slot.timers.extract_if(.., |(at_ms, _)| *at_ms <= now_ms);
            due.extend(fired.map(|(_, payload)| payload));
            let left = slot.timers.iter().map(|(at_ms, _)| *at_ms).min();
            slot.next_ms = left.unwrap_or(u64::MAX);
            if left.is_none() {
                self.occupied[at / WORD] &= !(1 << (at % WORD));
            }
        }
        self.now_ms = now_ms;
        self.next_ms = self.find_next();
    }

    /// The earliest deadline: that of the first slot from now on with one in this turn of the wheel, or else
    /// the least of all slots.
    fn find_next(&self) -> Option<u64> {
        let turn_ends_ms = self.now_ms + SLOTS as u64;
        let first = self.now_ms as usize % SLOTS;
        let mut least = None::<u64>;
        for step in 0..=self.occupied.len() {
            let word = (first / WORD + step) % self.occupied.len();
            // The word of the first slot is met twice: its upper part first, its lower one last.
            let upper = u64::MAX << (first % WORD);
            let mask = match step {
                0 => upper,
                step if step == self.occupied.len() => !upper,
                _ => u64::MAX,
            };
            let mut bits = self.occupied[word] & mask;
            while bits != 0 {
                let next_ms = self.slots[word * WORD + bits.trailing_zeros() as usize].next_ms;
                if next_ms < turn_ends_ms {
                    return Some(next_ms);
                }
                least = Some(least.map_or(next_ms, |least| least.min(next_ms)));
                bits &= bits - 1;
            }
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_their_millisecond_and_not_before() {
        let mut wheel = TimerWheel::new(5);
        for at in [7, 7, 1030, 6000, 2] {
            wheel.set(at, at);
        }
        let mut fired = Vec::new();
        assert_eq!(wheel.next_ms(), Some(5), "one set in the past is due at once");
        let mut step = |wheel: &mut TimerWheel<u64>, now| {
            let mut due = Vec::new();
            wheel.fire(now, &mut due);
            due.sort_unstable();
            fired.extend(due.iter().map(|at| (now, *at)));
        };
        for now in [5, 6, 7, 1029, 1031, 5999, 6000, 6001] {
            step(&mut wheel, now);
        }
        assert_eq!(fired, [(5, 2), (7, 7), (7, 7), (1031, 1030), (6000, 6000)]);
        assert_eq!(wheel.next_ms(), None);
    }

    #[test]
    fn a_long_pause_loses_no_timer() {
        let mut wheel = TimerWheel::new(0);
        for at in (0..5000).step_by(7) {
            wheel.set(at, at);
        }
        let mut due = Vec::new();
        wheel.fire(100_000, &mut due);
        assert_eq!(due.len(), 5000_usize.div_ceil(7));
    }

    proptest::proptest! {
        /// Against a sorted list: the same timers at the same times, and the same next deadline.
        #[test]
        fn it_is_a_sorted_list(
            steps in proptest::collection::vec((0_u64..3_000, proptest::collection::vec(0_u64..5_000, 0..8)), 1..60),
            begin in 0_u64..10_000,
        ) {
            let mut wheel = TimerWheel::new(begin);
            let mut model: Vec<(u64, usize)> = Vec::new();
            let (mut now, mut floor, mut set) = (begin, begin, 0);
            for (passed, ahead) in steps {
                for ms in ahead {
                    let at = (floor + ms).saturating_sub(100);
                    wheel.set(at, set);
                    model.push((at.max(floor), set));
                    set += 1;
                }
                model.sort_unstable();
                proptest::prop_assert_eq!(wheel.next_ms(), model.first().map(|(at, _)| *at));
                now += passed;
                let mut due = Vec::new();
                wheel.fire(now, &mut due);
                due.sort_unstable();
                let split = model.partition_point(|(at, _)| *at <= now);
                let mut expected: Vec<usize> = model.drain(..split).map(|(_, payload)| payload).collect();
                expected.sort_unstable();
                if !expected.is_empty() {
                    floor = now;
                }
                proptest::prop_assert_eq!(due, expected);
                proptest::prop_assert_eq!(wheel.next_ms(), model.first().map(|(at, _)| *at));
            }
        }
    }
}
