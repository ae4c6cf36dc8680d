//! What the engine needs from the SQLite it is loaded into.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use crate::crypt::cipher::Algorithm;
use crate::crypt::key::{Keys, Secret};
use crate::error::Result;
use crate::wal::{LogFile, SharedIndex};

/// An open database with its log, SHARED-locked as long as this lives: nobody removes the log
/// meanwhile. The fields close in this order.
pub struct DatabaseFiles {
    /// The write-ahead log.
    pub log: Box<dyn LogFile>,
    /// The shared index.
    pub index: Box<dyn SharedIndex>,
    /// The database file.
    pub content: Box<dyn LogFile>,
}

/// A file that is to become a database.
pub trait Spool: LogFile {
    /// Sets the size in bytes.
    fn truncate(&self, size: u64) -> Result<()>;
}

/// The host: its files, connections and sources of randomness and time.
pub trait Host: Send + Sync {
    /// Opens an existing database that is in WAL mode.
    fn open_database(&self, path: &Path) -> Result<DatabaseFiles>;
    /// Opens or creates a file that is to become a database.
    fn open_spool(&self, path: &Path) -> Result<Box<dyn Spool>>;
    /// Creates a file that nobody else has and that is gone when it is dropped, whatever ends the
    /// process. `path` is its name for a moment; what is left there by a crash in that moment is
    /// removed.
    fn open_scratch(&self, path: &Path) -> Result<Box<dyn Spool>>;
    /// The keys of the database at `path`, which `secret` opens, or is to encrypt where there is
    /// nothing yet, with this cipher. `None` for a plain one, where no secret is given.
    /// [`Error::NotADatabase`](crate::error::Error::NotADatabase) where the secret is missing, or
    /// another one.
    fn unlock(
        &self,
        path: &Path,
        secret: Option<&Secret>,
        algorithm: Option<Algorithm>,
    ) -> Result<Option<Arc<Keys>>>;
    /// Whether the data key of the encrypted file at `path` is wrapped under the secret of `keys`, as
    /// far as it is theirs.
    fn is_wrapped(&self, path: &Path, keys: &Keys) -> Result<bool>;
    /// Wraps the data key of one encrypted file under the secret of `keys`, durably. Nobody else
    /// may write to the file meanwhile.
    fn rewrap(&self, path: &Path, keys: &Keys) -> Result<()>;
    /// Opens an internal connection, private and unseen by our own hooks.
    fn connect(&self, path: &Path) -> Result<Connection>;
    /// Whether a file exists.
    fn exists(&self, path: &Path) -> Result<bool>;
    /// Sixteen random bytes from the operating system.
    fn random(&self) -> Result<[u8; 16]>;
    /// Milliseconds since 1970.
    fn now(&self) -> u64;
}
