//! The shard's timer wheel: 1 ms ticks, 1,024 slots, one turn per 1.024 s; later deadlines stay in
//! their slot and are looked at once per turn.
//!
//! Owned by the shard's thread. Setting and firing are O(1) per timer and turn; a timer is never
//! early and at most one turn of the shard's loop late.

const SLOTS: usize = 1024;

/// Deadlines with a payload, in milliseconds of the shard's monotonic clock.
pub struct TimerWheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    /// Everything before this has fired.
    now_ms: u64,
    len: usize,
    next_ms: Option<u64>,
}

impl<T> TimerWheel<T> {
    /// An empty wheel that begins at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            now_ms,
            len: 0,
            next_ms: None,
        }
    }

    /// Sets a timer. One in the past fires at the next [`TimerWheel::fire`].
    pub fn set(&mut self, at_ms: u64, payload: T) {
        let at_ms = at_ms.max(self.now_ms);
        self.slots[at_ms as usize % SLOTS].push((at_ms, payload));
        self.len += 1;
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
            let slot = &mut self.slots[tick as usize % SLOTS];
            let mut at = 0;
            while at < slot.len() {
                if slot[at].0 <= now_ms {
                    due.push(slot.swap_remove(at).1);
                    self.len -= 1;
                } else {
                    at += 1;
                }
            }
        }
        self.now_ms = now_ms;
        self.next_ms = self.slots.iter().flatten().map(|(at, _)| *at).min();
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
}
