//! The connections of the host, as far as they decide how long a database is served.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Registry, SERVING, Stopped, end};
use crate::primary::commits::Commits;

/// A connection of the host that has a database open, until dropped: after the file was closed.
///
/// A database is served for as long as some connection of the process has it open. SQLite removes
/// the log when the last connection closes it, which no program should have to prepare for; with
/// the files of the capture open it would stay, and be taken for the log of whatever file is put
/// in this one's place.
pub struct Opened {
    path: PathBuf,
    commits: Arc<Commits>,
}

/// Whether a connection of the host has the database at `path` open.
pub fn is_open(path: &Path) -> bool {
    SERVING.lock().opened.contains_key(path)
}

/// All of one database.
pub(super) struct Openings {
    count: usize,
    commits: Arc<Commits>,
}

impl Opened {
    /// Counts a connection that is about to open the database at `path`.
    pub fn new(path: &Path) -> Self {
        let mut serving = SERVING.lock();
        let none = || Openings {
            count: 0,
            commits: Commits::new(),
        };
        let openings = serving.opened.entry(path.to_owned()).or_insert_with(none);
        openings.count += 1;
        Self {
            path: path.to_owned(),
            commits: Arc::clone(&openings.commits),
        }
    }

    /// The connection gave the write lock back: it may have committed.
    pub fn written(&self) {
        self.commits.tell();
    }

    /// The commits of this process to the database.
    pub fn commits(&self) -> &Commits {
        &self.commits
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let stopped = SERVING.lock().closed(&self.path);
        if let Some(stopped) = stopped {
            end(stopped);
        }
    }
}

impl Registry {
    /// The commits of the connections that have a database open.
    pub(super) fn commits(&self, path: &Path) -> Arc<Commits> {
        let openings = self.opened.get(path);
        openings.map_or_else(Commits::new, |openings| Arc::clone(&openings.commits))
    }

    /// A connection has closed a database: without another one it is served no longer.
    fn closed(&mut self, path: &Path) -> Option<Stopped> {
        let openings = self.opened.get_mut(path)?;
        openings.count -= 1;
        if openings.count > 0 {
            return None;
        }
        self.opened.remove(path);
        self.take_out(path)
    }
}
