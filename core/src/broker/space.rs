//! The room on the data directories' file systems, looked at beside the control thread: asking may block.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidelog_segment_log::disk::StdDisk;
use tokio::task::JoinHandle;

use crate::directory_space::{DirectorySpace, RoomChange, SpaceKeeper, file_system_bytes};
use crate::health::{Health, HealthRegistry};
use crate::settings::format_size;

/// How often it is looked at.
pub(super) const INTERVAL: Duration = Duration::from_millis(250);

/// One directory's keeper, and the look at it that is under way.
struct Kept {
    keeper: Arc<Mutex<SpaceKeeper>>,
    looking: Option<JoinHandle<()>>,
}

/// Who looks at each directory.
pub(super) struct Space {
    kept: Vec<Kept>,
    health: Arc<Mutex<HealthRegistry>>,
}

impl Space {
    pub(super) fn new(health: Arc<Mutex<HealthRegistry>>) -> Self {
        Self {
            kept: Vec::new(),
            health,
        }
    }

    /// Takes a directory on, and looks at it: at start, where other questions to the file system may block as well.
    pub(super) fn keep(&mut self, mut keeper: SpaceKeeper) -> Arc<DirectorySpace> {
        look(&mut keeper, &self.health);
        let figures = Arc::clone(keeper.figures());
        self.kept.push(Kept {
            keeper: Arc::new(Mutex::new(keeper)),
            looking: None,
        });
        figures
    }

    /// Begins to look again at each, unless the last time has not ended.
    pub(super) fn look_again(&mut self) {
        for kept in &mut self.kept {
            if kept.looking.as_ref().is_some_and(|last| !last.is_finished()) {
                continue;
            }
            let (keeper, health) = (Arc::clone(&kept.keeper), Arc::clone(&self.health));
            kept.looking = Some(tokio::task::spawn_blocking(move || {
                look(
                    &mut keeper.lock().unwrap_or_else(PoisonError::into_inner),
                    &health,
                );
            }));
        }
    }
}

fn look(keeper: &mut SpaceKeeper, health: &Mutex<HealthRegistry>) {
    let path = keeper.directory().display().to_string();
    if keeper.figures().has_failed() {
        let why = keeper.figures().health().failure().unwrap_or("unknown");
        let reason = format!(
            "it has failed, {why}: its partitions are unavailable until a restart; look at its device (dmesg, smartctl) and mend or replace it, or restart without this directory"
        );
        health.lock().unwrap_or_else(PoisonError::into_inner).set(
            &format!("storage {path}"),
            Health::Degraded,
            reason,
        );
        return;
    }
    let total = file_system_bytes(keeper.directory()).ok();
    let changes = match keeper.look(&mut StdDisk::new(), total) {
        Ok(changes) => changes,
        Err(error) => {
            tracing::warn!(%error, path, "the room on its file system cannot be measured");
            return;
        }
    };
    let component = format!("storage {path}");
    let free = u64::try_from(keeper.figures().usable_bytes()).unwrap_or(0);
    let (free, min_free) = (format_size(free), format_size(keeper.min_free_bytes(total)));
    for change in changes {
        let mut health = health.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            RoomChange::Low => {
                tracing::error!(path, %free, %min_free, "the disk is full: producers get KAFKA_STORAGE_ERROR until there is room; delete records or topics, or enlarge it");
                let reason = format!(
                    "{free} are free and storage.min_free is {min_free}: producers get KAFKA_STORAGE_ERROR until there is room"
                );
                health.set(&component, Health::Degraded, reason);
            }
            RoomChange::Roomy => {
                tracing::warn!(path, %free, "there is room on the disk: writes are taken again");
                health.remove(&component);
            }
            RoomChange::ReserveReleased => {
                tracing::warn!(path, %free, "the reserve is given up for metadata, checkpoints and deletions");
            }
            RoomChange::ReserveMade => tracing::debug!(path, "the reserve is there"),
        }
    }
}
