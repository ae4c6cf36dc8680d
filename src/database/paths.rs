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

/// The database that a spool is to become.
pub fn spooled(spool: &Path) -> Option<PathBuf> {
    let name = spool.to_str()?.strip_suffix("-replica-part")?;
    Some(PathBuf::from(name))
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

/// SQLite's log, index and rollback journal, and log and journal of an encrypted database.
pub fn journals(database: &Path) -> [PathBuf; 5] {
    ["-wal", "-shm", "-journal", SEALED_LOG, SEALED_JOURNAL].map(|suffix| beside(database, suffix))
}

/// The log, of a plain database or of an encrypted one.
pub fn logs(database: &Path) -> [PathBuf; 2] {
    ["-wal", SEALED_LOG].map(|suffix| beside(database, suffix))
}

/// Size of the log's file; asking for it opens nothing.
pub fn log_bytes(database: &Path) -> Option<u64> {
    logs(database)
        .iter()
        .find_map(|log| std::fs::metadata(log).ok())
        .map(|metadata| metadata.len())
}

/// What the log of an encrypted database has in place of `-wal`: SQLite without the extension
/// removes a log that it cannot read.
pub const SEALED_LOG: &str = "-swal";

/// What its rollback journal has in place of `-journal`, for the same reason.
pub const SEALED_JOURNAL: &str = "-sjournal";

/// The rollback journal of an encrypted database.
pub fn sealed_journal(database: &Path) -> PathBuf {
    beside(database, SEALED_JOURNAL)
}

/// The database whose state store this is.
pub fn owner(store: &Path) -> Option<PathBuf> {
    let name = store.to_str()?.strip_suffix("-replica")?;
    Some(PathBuf::from(name))
}
