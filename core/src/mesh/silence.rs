//! Who has fallen silent: shards count their turns, and others look whether the count moves.
//!
//! A count is written by its shard alone, once per turn, and read by the others at their ticks; an idle shard
//! ticks too. No ring is involved, so that a full one makes nobody look silent. Silence is summed up look by
//! look, at most [`LOOK_MAX_MS`] each: whoever was away itself blames nobody for that time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one look may add to a silence.
const LOOK_MAX_MS: u64 = 250;

/// One shard's turns, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Turns(AtomicU64);

/// The turns of all shards. Index = shard.
#[derive(Clone, Debug)]
pub struct Beats(Arc<[Turns]>);

impl Beats {
    pub(super) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Turns::default()).collect())
    }

    /// Counts a turn. Only by the shard's own thread, so that no read-modify-write is needed.
    pub(super) fn beat(&self, own: usize) {
        if let Some(Turns(turns)) = self.0.get(own) {
            turns.store(turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    fn turns(&self, shard: usize) -> u64 {
        self.0
            .get(shard)
            .map_or(0, |Turns(turns)| turns.load(Ordering::Relaxed))
    }

    fn shards(&self) -> usize {
        self.0.len()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    turns: u64,
    silent_ms: u64,
    is_silent: bool,
}

/// What a look has found of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It took no turn for the time given.
    Began(usize),
    /// It takes turns again, after so many milliseconds.
    Ended(usize, u64),
}

/// One observer's view of all shards.
#[derive(Debug)]
pub struct SilenceWatch {
    beats: Beats,
    seen: Vec<Seen>,
    looked_ms: u64,
    limit_ms: u64,
}

impl SilenceWatch {
    /// Nobody is silent yet; a shard that never took a turn is still starting.
    pub fn new(beats: Beats, limit_ms: u64) -> Self {
        Self {
            seen: vec![Seen::default(); beats.shards()],
            beats,
            looked_ms: 0,
            limit_ms,
        }
    }

    /// Looks at all shards but `except`. What has changed.
    pub fn look(&mut self, now_ms: u64, except: Option<usize>) -> Vec<Silence> {
        let passed_ms = now_ms.saturating_sub(self.looked_ms).min(LOOK_MAX_MS);
        self.looked_ms = now_ms;
        let mut changes = Vec::new();
        for (shard, seen) in self.seen.iter_mut().enumerate() {
            let turns = self.beats.turns(shard);
            if except == Some(shard) || turns == 0 {
                continue;
            }
            if turns != seen.turns {
                if seen.is_silent {
                    changes.push(Silence::Ended(shard, seen.silent_ms));
                }
                *seen = Seen {
                    turns,
                    ..Seen::default()
                };
                continue;
            }
            seen.silent_ms = seen.silent_ms.saturating_add(passed_ms);
            if seen.silent_ms >= self.limit_ms && !seen.is_silent {
                seen.is_silent = true;
                changes.push(Silence::Began(shard));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_begins_once_and_ends_with_a_turn() {
        let beats = Beats::new(3);
        let mut watch = SilenceWatch::new(beats.clone(), 1_000);
        beats.beat(0);
        beats.beat(1);
        let mut found = Vec::new();
        for now_ms in (0..=3_000).step_by(50) {
            beats.beat(0);
            found.extend(
                watch
                    .look(now_ms, None)
                    .into_iter()
                    .map(|change| (now_ms, change)),
            );
        }
        assert_eq!(found, [(1_000, Silence::Began(1))], "shard 2 never began");
        beats.beat(1);
        assert_eq!(watch.look(3_050, None), [Silence::Ended(1, 3_000)]);
        assert_eq!(watch.look(3_100, None), []);
    }

    #[test]
    fn an_observer_that_was_away_blames_nobody() {
        let beats = Beats::new(2);
        let mut watch = SilenceWatch::new(beats.clone(), 1_000);
        beats.beat(1);
        assert_eq!(watch.look(50, Some(0)), []);
        assert_eq!(watch.look(60_000, Some(0)), []);
        beats.beat(1);
        assert_eq!(watch.look(60_050, Some(0)), []);
    }
}
