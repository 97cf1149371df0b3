//! Partitions of a topic as the command line names them: `-p 0,1`, or all.

use std::collections::BTreeSet;

use tidelog_bench::client::Topic;

use crate::failure::{FAILED, Failure};

/// Parses one partition of `-p`.
pub fn parse_partition(text: &str) -> Result<i32, String> {
    text.parse::<i32>()
        .ok()
        .filter(|partition| *partition >= 0)
        .ok_or_else(|| format!("`{text}` is not a partition; write numbers with commas, such as 0,1"))
}

/// The partitions that are named, or all when none is.
pub fn choose(topic: &Topic, named: &[i32]) -> Result<BTreeSet<i32>, Failure> {
    let all: BTreeSet<i32> = topic.partitions.iter().map(|p| p.partition).collect();
    if let Some(missing) = named.iter().find(|partition| !all.contains(partition)) {
        let text = format!("topic {} has no partition {missing}", topic.name);
        return Err(Failure::new(FAILED, text).hint(format!("It has 0 to {}.", all.len().saturating_sub(1))));
    }
    Ok(match named.is_empty() {
        true => all,
        false => named.iter().copied().collect(),
    })
}
