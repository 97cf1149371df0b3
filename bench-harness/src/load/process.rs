//! What a process on this machine spent: CPU time and context switches, from `/proc`.
//!
//! CPU time is user and system time of all threads, also of those that ended; its step is one clock tick
//! (10 ms), so a run must be long enough. Context switches are those of the threads that live.

use std::fs;

use super::LoadError;

/// Counters of a process; only differences mean something.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessCounters {
    /// User time in seconds.
    pub user_s: f64,
    /// System time in seconds.
    pub system_s: f64,
    /// Times a thread gave up its core to wait.
    pub voluntary_switches: u64,
    /// Times a thread was taken off its core.
    pub involuntary_switches: u64,
}

impl ProcessCounters {
    /// Reads the counters of `pid`.
    pub fn of(pid: u32) -> Result<Self, LoadError> {
        let failed = |detail: String| LoadError::Process { pid, detail };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| failed(e.to_string()))?;
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let (user_ticks, system_ticks) =
            cpu_ticks(&stat).ok_or_else(|| failed("its stat file has another shape".to_owned()))?;
        let mut counters = Self {
            user_s: user_ticks as f64 / ticks_per_s,
            system_s: system_ticks as f64 / ticks_per_s,
            ..Self::default()
        };
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| failed(e.to_string()))?;
        for task in tasks {
            let task = task.map_err(|e| failed(e.to_string()))?;
            // A thread that ended in between has nothing to say.
            let Ok(status) = fs::read_to_string(task.path().join("status")) else {
                continue;
            };
            let (voluntary, involuntary) = switches(&status);
            counters.voluntary_switches += voluntary;
            counters.involuntary_switches += involuntary;
        }
        Ok(counters)
    }

    /// User and system time together.
    pub fn cpu_s(&self) -> f64 {
        self.user_s + self.system_s
    }

    /// What was spent since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            user_s: self.user_s - earlier.user_s,
            system_s: self.system_s - earlier.system_s,
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
            involuntary_switches: self
                .involuntary_switches
                .saturating_sub(earlier.involuntary_switches),
        }
    }
}

/// User and system ticks of a `stat` line. The name before them may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Voluntary and involuntary switches of a `status` file.
fn switches(status: &str) -> (u64, u64) {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or(0)
    };
    (
        field("voluntary_ctxt_switches:"),
        field("nonvoluntary_ctxt_switches:"),
    )
}

/// CPU time of the calling thread in seconds.
pub fn thread_cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 0";
        assert_eq!(cpu_ticks(stat), Some((11, 12)));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn switches_of_both_kinds_are_told_apart() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(switches(status), (12, 3));
    }

    #[test]
    fn this_process_can_be_read_and_nobodys_cannot() {
        let counters = ProcessCounters::of(std::process::id()).expect("this process");
        assert!(counters.cpu_s() >= 0.0);
        assert!(ProcessCounters::of(u32::MAX).is_err());
    }
}
