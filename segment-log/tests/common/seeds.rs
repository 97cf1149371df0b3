//! Which seeds a run takes: `TIDELOG_SIM_SEEDS` of them, from `TIDELOG_SIM_FIRST_SEED` (0) on.
//!
//! Long runs go on where the last one ended; `just sim` keeps the book of them.

use std::ops::Range;

/// The seeds of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    first: u64,
    count: u64,
}

impl Seeds {
    /// As the environment asks for, or `default` from 0 on.
    pub fn asked(default: u64) -> Self {
        let first = variable("TIDELOG_SIM_FIRST_SEED").unwrap_or(0);
        let count = variable("TIDELOG_SIM_SEEDS").unwrap_or(default);
        assert!(
            count > 0,
            "TIDELOG_SIM_SEEDS is 0: a run without seeds shows nothing"
        );
        assert!(
            first.checked_add(count).is_some(),
            "TIDELOG_SIM_FIRST_SEED is {first}: {count} seeds from there on do not fit in 64 bits"
        );
        Self { first, count }
    }

    /// How many.
    pub fn count(self) -> u64 {
        self.count
    }

    /// Each of them.
    pub fn range(self) -> Range<u64> {
        self.first..self.first + self.count
    }

    /// So many from the same first one.
    pub fn with_count(self, count: u64) -> Self {
        Self { count, ..self }
    }
}

/// What `TIDELOG_SIM_SEED` names: one seed alone, to look at.
pub fn only_seed() -> Option<u64> {
    variable("TIDELOG_SIM_SEED")
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{name} is {text:?}: it must be a number from 0 on"),
    }
}
