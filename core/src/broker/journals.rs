//! The commit journals that a start finds: what is lost of them is reported, and when all partitions that they hold
//! something of are open, they are removed.
//!
//! Main thread, which it may block.

use tidelog_segment_log::data_directory::DataDirectory;
use tidelog_segment_log::disk::StdDisk;

/// Partitions named in one line of the log.
const NAMED_MAX: usize = 8;

/// Says what was found, and what of it is damaged.
pub(super) fn report(directory: &DataDirectory) {
    let journals = directory.journals();
    if !journals.files().is_empty() {
        tracing::info!(
            files = journals.files().len(),
            partitions = journals.partitions().count(),
            "replaying the commit journals of an earlier start"
        );
    }
    for damage in journals.damage() {
        tracing::error!(
            ?damage,
            "a commit journal is damaged; what only it held is lost, and reported where a log misses it"
        );
    }
}

/// Removes the journals whose partitions are all open. What stays is replayed again at the next start.
pub(super) fn remove_replayed(directory: &DataDirectory) {
    let waiting = directory.journals().waiting();
    if !waiting.is_empty() {
        let named: Vec<String> = waiting.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        tracing::warn!(
            partitions = waiting.len(),
            first = named.join(", "),
            "journals are kept: they hold records of partitions that are not open"
        );
    }
    // Where it fails they stay, and are replayed again.
    if let Err(error) = directory.remove_replayed_journals(0).drive(&mut StdDisk::new()) {
        tracing::error!(%error, "replayed journals could not be removed");
    }
}
