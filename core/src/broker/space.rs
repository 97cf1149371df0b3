//! The room on the data directory's file system, measured beside the control thread: asking may block.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::directory_space::DirectorySpace;

/// How often it is measured.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// The figures, and who measures them.
pub(super) struct Space {
    pub figures: Arc<DirectorySpace>,
    path: PathBuf,
    measuring: Option<JoinHandle<()>>,
}

impl Space {
    /// As it is now: at start, where other questions to the file system may block as well.
    pub(super) fn measured(path: PathBuf) -> Self {
        let figures = Arc::new(DirectorySpace::default());
        measure(&figures, &path);
        Self {
            figures,
            path,
            measuring: None,
        }
    }

    /// Begins to measure, unless the last time has not ended.
    pub(super) fn measure_again(&mut self) {
        if self.measuring.as_ref().is_some_and(|last| !last.is_finished()) {
            return;
        }
        let (figures, path) = (Arc::clone(&self.figures), self.path.clone());
        self.measuring = Some(tokio::task::spawn_blocking(move || measure(&figures, &path)));
    }
}

fn measure(figures: &DirectorySpace, path: &std::path::Path) {
    if let Err(error) = figures.measure(path) {
        tracing::warn!(%error, path = %path.display(), "the room on its file system cannot be measured");
    }
}
