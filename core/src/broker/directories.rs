//! The data directories at start: probed, locked, and told which of them holds the metadata log.
//!
//! Control thread; blocks. Invariants: all belong to one node of one cluster; exactly one holds the metadata log,
//! and nothing is served without it; another one that cannot be used does not keep the broker from starting.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidelog_segment_log::data_directory::{DataDirectory, DataDirectoryError, NewIdentity};
use tidelog_segment_log::disk::StdDisk;
use tidelog_segment_log::reserve::is_full;

use super::space::Space;
use crate::directory_space::{DirectorySpace, RoomRules, SpaceKeeper};
use crate::settings::Settings;
use crate::shard::{DirectoriesSeed, DirectorySeed};
use crate::startup::{
    DirectoryFacts, StartupError, directory_locked, disk_failed, give_up_reserve, probe_data_directory,
};

/// Where the metadata log is in the directory that holds it.
const METADATA: &str = "metadata";
/// Where partitions are in each.
const PARTITIONS: &str = "partitions";

/// A directory that is in use.
pub(super) struct Opened {
    pub(super) facts: DirectoryFacts,
    pub(super) directory: Arc<DataDirectory>,
    pub(super) space: Arc<DirectorySpace>,
}

/// All of them, the one with the metadata log first.
pub(super) struct Directories {
    pub(super) opened: Vec<Opened>,
    /// Those that cannot be used now, and why.
    pub(super) unusable: Vec<(PathBuf, String)>,
}

impl Directories {
    /// Opens all directories of the settings.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub(super) fn open(settings: &Settings, space: &mut Space) -> Result<Self, StartupError> {
        let mut probed = Vec::new();
        let mut unusable = Vec::new();
        let is_only = settings.data_dirs.len() == 1;
        for path in &settings.data_dirs {
            match probe_data_directory(path, settings.storage_allow_network) {
                Ok(facts) => probed.push(facts),
                // What is asked for is wrong, or there is nothing else.
                Err(error) if error.exit_code == 2 || is_only => return Err(error),
                Err(error) => unusable.push((path.clone(), error.sentence)),
            }
        }
        let home = find_home(&probed, &unusable)?;
        let home = probed.remove(home);
        if probed.iter().any(|facts| facts.path == home.path) {
            let path = home.path.display();
            return Err(StartupError::usage(format!(
                "data.dirs names {path} twice, by different paths"
            )));
        }
        let mut this = Self {
            opened: Vec::new(),
            unusable,
        };
        this.take(home, settings, space, None)?;
        for facts in probed {
            let cluster_id = this.home().directory.identity().cluster_id.clone();
            let path = facts.path.clone();
            match this.take(facts, settings, space, Some(cluster_id)) {
                Ok(()) => {}
                Err(Refused::Unusable(error)) => this.unusable.push((path, error.sentence)),
                Err(Refused::Wrong(error)) => return Err(error),
            }
        }
        for (path, reason) in &this.unusable {
            tracing::error!(path = %path.display(), reason, "the data directory cannot be used: its partitions are unavailable");
        }
        Ok(this)
    }

    /// The one with the metadata log.
    pub(super) fn home(&self) -> &Opened {
        self.opened
            .first()
            .unwrap_or_else(|| unreachable!("a start without it has ended"))
    }

    /// What the shards are told.
    pub(super) fn seed(&self) -> DirectoriesSeed {
        let mut seeds = self.opened.iter().map(|opened| DirectorySeed {
            directory: Arc::clone(&opened.directory),
            space: Arc::clone(&opened.space),
        });
        DirectoriesSeed {
            home: seeds
                .next()
                .unwrap_or_else(|| unreachable!("a start without it has ended")),
            others: seeds.collect(),
            unusable: self.unusable.iter().map(|(path, _)| path.clone()).collect(),
        }
    }

    /// Marks all that work as closed in order.
    ///
    /// # Errors
    /// For the metadata log's directory; another one that cannot be marked is recovered at the next start.
    pub(super) fn mark_clean(&self) -> Result<(), StartupError> {
        for (place, opened) in self.opened.iter().enumerate() {
            if opened.space.has_failed() {
                continue;
            }
            let mark = || opened.directory.mark_clean(&mut StdDisk::new());
            let marked = match mark() {
                Err(error) if is_full(&error) && give_up_reserve(&opened.facts.path) => mark(),
                result => result,
            };
            if let Err(error) = marked {
                let error = disk_failed(&opened.facts.path, "be marked as cleanly closed", &error);
                if place == 0 {
                    return Err(error);
                }
                tracing::warn!("{error}");
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        facts: DirectoryFacts,
        settings: &Settings,
        space: &mut Space,
        cluster_id: Option<String>,
    ) -> Result<(), Refused> {
        tracing::info!(path = %facts.path.display(), file_system = facts.filesystem, "data directory");
        if let Some(warning) = &facts.warning {
            tracing::warn!("{warning}");
        }
        let directory = open(&facts.path, settings, cluster_id.as_deref())?;
        for name in directory.unreadable_checkpoints() {
            tracing::warn!("checkpoint {name} does not verify; the log itself is read instead");
        }
        let rules = RoomRules {
            min_free_bytes: settings.storage_min_free_bytes,
            reserve_bytes: settings.storage_reserve_bytes,
            recycle_bytes_max: settings.storage_recycle_max_bytes,
        };
        let keeper = SpaceKeeper::new(facts.path.clone(), rules);
        if facts.was_full {
            // What the reserve has given is not taken for it again at once.
            keeper.figures().note_full_disk();
        }
        let space = space.keep(keeper);
        self.opened.push(Opened {
            facts,
            directory: Arc::new(directory),
            space,
        });
        Ok(())
    }
}

/// Why a directory is not used.
enum Refused {
    /// The broker starts without it, unless the metadata log is there.
    Unusable(StartupError),
    /// The broker does not start.
    Wrong(StartupError),
}

impl From<Refused> for StartupError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unusable(error) | Refused::Wrong(error) => error,
        }
    }
}

/// Which of them holds the metadata log, or is to.
fn find_home(probed: &[DirectoryFacts], unusable: &[(PathBuf, String)]) -> Result<usize, StartupError> {
    let with_log: Vec<usize> = (0..probed.len())
        .filter(|at| {
            probed
                .get(*at)
                .is_some_and(|facts| has_entries(&facts.path.join(METADATA)))
        })
        .collect();
    match with_log[..] {
        [home] => return Ok(home),
        [first, second, ..] => {
            let path = |at: usize| {
                probed
                    .get(at)
                    .map_or(Path::new(""), |facts| &facts.path)
                    .display()
            };
            return Err(StartupError::usage(format!(
                "data directories {} and {} both hold a metadata log: they are of two brokers, or one is a copy; give one of them",
                path(first),
                path(second)
            )));
        }
        [] => {}
    }
    let used = probed
        .iter()
        .find(|facts| has_entries(&facts.path.join(PARTITIONS)));
    match (used, unusable.first()) {
        (Some(facts), _) => Err(StartupError::usage(format!(
            "data directory {} has partitions, and none that is given holds the metadata log, without which nobody knows what they are; give the directory that holds it with --data-dir too",
            facts.path.display()
        ))),
        // The log may be there.
        (None, Some((_, sentence))) => Err(StartupError::machine(sentence.clone())),
        (None, None) if probed.is_empty() => Err(StartupError::usage(
            "no data directory is set; give --data-dir DIR",
        )),
        (None, None) => Ok(0),
    }
}

fn has_entries(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

fn random_id() -> Result<[u8; 16], StartupError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| StartupError::machine(format!("the system gives no random bytes: {error}")))?;
    Ok(id)
}

fn open(path: &Path, settings: &Settings, cluster_id: Option<&str>) -> Result<DataDirectory, Refused> {
    let fresh = || random_id().map(super::cluster_id_text).map_err(Refused::Wrong);
    let new = NewIdentity {
        node_id: settings.node_id,
        cluster_id: cluster_id.map_or_else(fresh, |id| Ok(id.to_owned()))?,
        rack: settings.rack.clone(),
        directory_id: random_id().map_err(Refused::Wrong)?,
    };
    let directory = DataDirectory::open(&mut StdDisk::new(), path, new).map_err(|error| match error {
        DataDirectoryError::Locked { path } => Refused::Wrong(directory_locked(
            &path,
            &io::Error::from(io::ErrorKind::WouldBlock),
        )),
        DataDirectoryError::Io { doing, path, cause } => Refused::Unusable(disk_failed(&path, doing, &cause)),
        other => Refused::Wrong(StartupError::machine(other.to_string())),
    })?;
    let identity = directory.identity();
    let (shown, node_id) = (path.display(), identity.node_id);
    if node_id != settings.node_id {
        let wanted = settings.node_id;
        return Err(Refused::Wrong(StartupError::usage(format!(
            "{shown} belongs to node {node_id}, and node.id is {wanted}; set node.id = {node_id}, or use another directory"
        ))));
    }
    if let Some(wanted) = cluster_id.filter(|wanted| *wanted != identity.cluster_id) {
        return Err(Refused::Wrong(StartupError::usage(format!(
            "{shown} belongs to cluster {}, and the metadata log to {wanted}; use another directory",
            identity.cluster_id
        ))));
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::HealthRegistry;
    use crate::settings::{HostFacts, SettingsBuilder};
    use std::sync::Mutex;

    struct Root(tempfile::TempDir);

    impl Root {
        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn put(&self, name: &str) {
            let path = self.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }

        fn open(&self, names: &[&str], node: i32) -> Result<Directories, StartupError> {
            let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
            let settings = SettingsBuilder::new(HostFacts::detect())
                .set("shards=1")
                .and_then(|builder| builder.set(&format!("node.id={node}")))
                .and_then(|builder| builder.data_dirs(&paths))
                .and_then(SettingsBuilder::build)
                .unwrap();
            let health = Arc::new(Mutex::new(HealthRegistry::new()));
            Directories::open(&settings, &mut Space::new(health))
        }
    }

    fn root() -> Root {
        Root(tempfile::tempdir().unwrap())
    }

    fn refused(result: Result<Directories, StartupError>, part: &str) {
        let error = result.err().expect("refused");
        assert!(error.sentence.contains(part), "{error}");
    }

    #[test]
    fn the_directory_with_the_metadata_log_comes_first_and_all_are_of_one_cluster() {
        let root = root();
        let first = root.open(&["a", "b"], 1).unwrap();
        assert_eq!(first.home().facts.path, root.path("a").canonicalize().unwrap());
        let identities: Vec<_> = first
            .opened
            .iter()
            .map(|opened| opened.directory.identity().clone())
            .collect();
        assert_eq!(identities[0].cluster_id, identities[1].cluster_id);
        assert_ne!(identities[0].directory_id, identities[1].directory_id);
        refused(root.open(&["a"], 1), "in use");
        drop(first);
        root.put("a/metadata/log");
        root.put("b/partitions/x");
        let again = root.open(&["b", "c", "a"], 1).unwrap();
        assert_eq!(again.home().facts.path, root.path("a").canonicalize().unwrap());
        let ids: Vec<_> = again.opened.iter().map(|opened| opened.directory.id()).collect();
        assert_eq!(ids[..2], [identities[0].directory_id, identities[1].directory_id]);
        assert_eq!(again.seed().others.len(), 2);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let root = root();
        drop(root.open(&["a", "b"], 1).unwrap());
        root.put("a/metadata/log");
        root.put("b/partitions/x");
        refused(root.open(&["b"], 1), "none that is given holds the metadata log");
        refused(
            root.open(&["b", "new"], 1),
            "none that is given holds the metadata log",
        );
        refused(root.open(&["a", "b"], 2), "belongs to node 1");
        drop(root.open(&["other"], 1).unwrap());
        refused(root.open(&["a", "other"], 1), "belongs to cluster");
        root.put("other/metadata/log");
        refused(root.open(&["a", "other"], 1), "both hold a metadata log");
        std::os::unix::fs::symlink(root.path("a"), root.path("link")).unwrap();
        refused(root.open(&["a", "link"], 1), "both hold a metadata log");
    }

    #[test]
    fn a_directory_that_cannot_be_used_does_not_keep_the_others_from_it() {
        let root = root();
        drop(root.open(&["a", "b"], 1).unwrap());
        root.put("a/metadata/log");
        std::fs::remove_dir_all(root.path("b")).unwrap();
        root.put("b");
        let without = root.open(&["a", "b"], 1).unwrap();
        assert_eq!((without.opened.len(), without.unusable.len()), (1, 1));
        assert!(without.unusable[0].1.contains("is a file"));
        drop(without);
        // But not where it may be the one with the metadata log.
        refused(root.open(&["b"], 1), "is a file");
        refused(root.open(&["b", "new"], 1), "is a file");
    }
}
