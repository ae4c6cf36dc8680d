//! A lock between processes that ends with its holder: one process makes a replica, one process
//! serves a primary.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::paths;
use crate::error::{Error, Result};

/// The exclusive lock on `app.db-replica-lock`, held until dropped.
pub struct LockFile(#[expect(dead_code, reason = "held for its lock")] File);

impl LockFile {
    /// Tries to take the lock; `None` when another process, or this one, has it.
    pub fn try_take(database: &Path) -> Result<Option<Self>> {
        let path = paths::lock(database);
        let failed = |source| Error::File {
            action: "lock",
            path: path.display().to_string(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            // Whoever forgets a database removes the file it has locked: only the file that has the
            // name counts.
            Ok(()) if has_name(&file, &path) => Ok(Some(Self(file))),
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

fn has_name(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(locked), Ok(named)) => (locked.dev(), locked.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}
