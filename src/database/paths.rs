//! The files that lie beside a database.

use std::path::{Path, PathBuf};

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The state store.
pub fn store(database: &Path) -> PathBuf {
    beside(database, "-replica")
}

/// The spool of a replica that is being made.
pub fn spool(database: &Path) -> PathBuf {
    beside(database, "-replica-part")
}

/// Room for a batch that is too large for memory. It has this name for a moment only.
pub fn batch(database: &Path) -> PathBuf {
    beside(database, "-replica-batch")
}

/// The file whose lock says who makes or serves the database.
pub fn lock(database: &Path) -> PathBuf {
    beside(database, "-replica-lock")
}

/// Everything of ours that lies beside a database, with what SQLite keeps beside the store.
pub fn all(database: &Path) -> Vec<PathBuf> {
    let store = store(database);
    let mut files = vec![spool(database), batch(database), lock(database)];
    files.extend(journals(&store));
    files.push(store);
    files
}

/// SQLite's log, index and rollback journal.
pub fn journals(database: &Path) -> [PathBuf; 3] {
    ["-wal", "-shm", "-journal"].map(|suffix| beside(database, suffix))
}
