//! The names of a simulated disk: what the running system sees, and what the device holds.
//!
//! Owned by one [`SimDisk`](super::SimDisk).
//!
//! Invariants:
//! - each change (create, link, rename, unlink) is one unit: at a cut of power it reached the
//!   device or not, independently of all others, unless a sync of a directory it touches covered it;
//! - a covered change takes with it the earlier changes of the same names;
//! - syncing a *file* makes no name durable, and syncing a directory not its own name.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use super::rng::SimRng;

/// A file or directory, whatever its names. Never used twice.
pub(super) type NodeId = u64;

/// The directory `/`.
pub(super) const ROOT: NodeId = 0;

/// A name in a directory.
type Key = (NodeId, String);

#[derive(Debug)]
struct Change {
    at: u64,
    added: Option<(Key, NodeId)>,
    removed: Option<(Key, NodeId)>,
}

impl Change {
    fn keys(&self) -> impl Iterator<Item = &Key> {
        let sides = [&self.added, &self.removed];
        sides.into_iter().flatten().map(|(key, _)| key)
    }

    fn apply(&self, entries: &mut BTreeMap<Key, NodeId>) {
        if let Some((key, node)) = &self.removed
            && entries.get(key) == Some(node)
        {
            entries.remove(key);
        }
        if let Some((key, node)) = &self.added {
            entries.insert(key.clone(), *node);
        }
    }
}

/// The directory tree, twice.
#[derive(Debug)]
pub(super) struct Names {
    directories: BTreeSet<NodeId>,
    seen: BTreeMap<Key, NodeId>,
    durable: BTreeMap<Key, NodeId>,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            directories: BTreeSet::from([ROOT]),
            seen: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    pub(super) fn is_directory(&self, node: NodeId) -> bool {
        self.directories.contains(&node)
    }

    /// The node of a path.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in components(path)? {
            if !self.is_directory(node) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            let next = self.seen.get(&(node, name));
            node = *next.ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    pub(super) fn resolve_directory(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.resolve(path)?;
        if self.is_directory(node) {
            Ok(node)
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    /// The directory and name that a path means; the name may be missing.
    fn key(&self, path: &Path) -> io::Result<Key> {
        let mut names = components(path)?;
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.resolve_directory(path.parent().unwrap_or(Path::new("/")))?;
        Ok((parent, name))
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    /// Gives a new or existing node a name that must be free.
    pub(super) fn add(&mut self, path: &Path, node: NodeId, at: u64) -> io::Result<()> {
        let key = self.key(path)?;
        if self.seen.contains_key(&key) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(Change {
            at,
            added: Some((key, node)),
            removed: None,
        });
        Ok(())
    }

    pub(super) fn add_directory(&mut self, path: &Path, node: NodeId, at: u64) -> io::Result<()> {
        self.add(path, node, at)?;
        self.directories.insert(node);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, at: u64) -> io::Result<()> {
        let node = self.resolve(from)?;
        let from_key = self.key(from)?;
        let to_key = self.key(to)?;
        if let Some(&target) = self.seen.get(&to_key) {
            if target == node {
                return Ok(());
            }
            match (self.is_directory(node), self.is_directory(target)) {
                (false, true) => return Err(io::ErrorKind::IsADirectory.into()),
                (true, false) => return Err(io::ErrorKind::NotADirectory.into()),
                (true, true) if !self.list(target).is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            }
        }
        if self.is_directory(node) && to.starts_with(from) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.change(Change {
            at,
            added: Some((to_key, node)),
            removed: Some((from_key, node)),
        });
        Ok(())
    }

    /// Removes the name of a file, or of an empty directory if `directory`.
    pub(super) fn remove(&mut self, path: &Path, directory: bool, at: u64) -> io::Result<()> {
        let node = self.resolve(path)?;
        match (self.is_directory(node), directory) {
            (true, false) => return Err(io::ErrorKind::IsADirectory.into()),
            (false, true) => return Err(io::ErrorKind::NotADirectory.into()),
            (true, true) if !self.list(node).is_empty() => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            _ => {}
        }
        let key = self.key(path)?;
        self.change(Change {
            at,
            added: None,
            removed: Some((key, node)),
        });
        Ok(())
    }

    /// How many names a node has.
    pub(super) fn links(&self, node: NodeId) -> u64 {
        self.seen.values().filter(|named| **named == node).count() as u64
    }

    /// Names in a directory, sorted.
    pub(super) fn list(&self, directory: NodeId) -> Vec<String> {
        let from = (directory, String::new());
        self.seen
            .range(from..)
            .take_while(|((parent, _), _)| *parent == directory)
            .map(|((_, name), _)| name.clone())
            .collect()
    }

    /// Makes the changes of a directory up to `upto` durable.
    pub(super) fn sync(&mut self, directory: NodeId, upto: u64) {
        let mut covered_keys = BTreeSet::new();
        let mut covered = vec![false; self.pending.len()];
        for (change, covered) in self.pending.iter().zip(&mut covered).rev() {
            let touches = |key: &Key| key.0 == directory || covered_keys.contains(key);
            if change.at <= upto && change.keys().any(touches) {
                covered_keys.extend(change.keys().cloned());
                *covered = true;
            }
        }
        let pending = std::mem::take(&mut self.pending);
        for (change, covered) in pending.into_iter().zip(covered) {
            if covered {
                change.apply(&mut self.durable);
            } else {
                self.pending.push(change);
            }
        }
    }

    /// Decides for each change whether it reached the device. Returns how many did not and did.
    pub(super) fn power_cut(&mut self, rng: &mut SimRng) -> (u64, u64) {
        let (mut lost, mut kept) = (0, 0);
        for change in std::mem::take(&mut self.pending) {
            if rng.coin() {
                change.apply(&mut self.durable);
                kept += 1;
            } else {
                lost += 1;
            }
        }
        let reachable = self.reachable_durable();
        self.durable.retain(|(parent, _), _| reachable.contains(parent));
        self.directories.retain(|node| reachable.contains(node));
        self.seen = self.durable.clone();
        (lost, kept)
    }

    fn reachable_durable(&self) -> BTreeSet<NodeId> {
        let mut reachable = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(directory) = todo.pop() {
            let entries = self
                .durable
                .range((directory, String::new())..)
                .take_while(|((parent, _), _)| *parent == directory);
            for (_, &node) in entries {
                if reachable.insert(node) && self.is_directory(node) {
                    todo.push(node);
                }
            }
        }
        reachable
    }

    /// Nodes that have a name now.
    pub(super) fn named(&self) -> BTreeSet<NodeId> {
        self.seen.values().copied().collect()
    }
}

fn components(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
                names.push(name.to_owned());
            }
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
    }
    Ok(names)
}
