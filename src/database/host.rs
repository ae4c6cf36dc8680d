//! What the engine needs from the SQLite it is loaded into.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::clock::Clock;
use super::connection::Connection;
use super::fingerprint::Fingerprint;
use super::paths;
use super::store::Store;
use super::views::Views;
use crate::crypt::cipher::Algorithm;
use crate::crypt::key::{Keys, Secret};
use crate::error::{Error, Result};
use crate::merge::{self, Merged, Policy, States};
use crate::page::PageNumber;
use crate::rows::view::View;
use crate::wal::{LogFile, SharedIndex};

/// An open database with its log, SHARED-locked as long as this lives: nobody removes the log
/// meanwhile. The fields close in this order.
pub struct DatabaseFiles {
    /// The write-ahead log.
    pub log: Box<dyn LogFile + Send>,
    /// The shared index.
    pub index: Box<dyn SharedIndex>,
    /// The database file.
    pub content: Box<dyn LogFile + Send>,
}

/// A file that is to become a database.
pub trait Spool: LogFile + Send {
    /// Sets the size in bytes.
    fn truncate(&self, size: u64) -> Result<()>;
}

/// What [`Host::lock_process`] gives, held until dropped.
pub type ProcessLock = Box<dyn Send>;

/// Memory that is set aside until dropped.
pub type Reserve = Box<dyn Send>;

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
    /// Opens an internal connection to the database at `path`.
    fn connect(&self, path: &Path) -> Result<Box<dyn Connection>>;
    /// Opens a connection to the database at `path` for the SQL of others.
    fn connect_for_sql(&self, path: &Path) -> Result<rusqlite::Connection> {
        Err(Error::Misuse(format!(
            "{}: no SQL is run here",
            path.display()
        )))
    }
    /// Opens states of the database at `path` for SQL: `main`, to be written to, and others under the
    /// name of their schema, to be read. Nothing of the database itself is touched. What is too much for
    /// memory lies beside it, in files without a name.
    fn open_views(
        &self,
        path: &Path,
        main: &Arc<dyn View>,
        others: &[(&str, Arc<dyn View>)],
    ) -> Result<Box<dyn Views>>;
    /// Merges states of the database at `path` by rows, and hands every page of what comes out that is
    /// another one than the remote's, or may be, to `take`. Returns the size of that in pages as well.
    fn merge(
        &self,
        path: &Path,
        states: &States,
        policy: Policy,
        take: &mut dyn FnMut(PageNumber, &[u8]) -> Result<()>,
    ) -> Result<(Merged, u32)> {
        let others = [
            ("base", Arc::clone(&states.base)),
            ("local", Arc::clone(&states.local)),
            ("remote", Arc::clone(&states.remote)),
        ];
        let views = self.open_views(path, &states.remote, &others)?;
        let merged = merge::merge(views.connection(), states, policy)?;
        let size = views.written(take)?;
        Ok((merged, size))
    }
    /// Opens the state store of the database at `path`, creating an empty one where there is none.
    fn open_store(&self, path: &Path) -> Result<Box<dyn Store>>;
    /// Whether the database at `path` has a state store.
    fn store_exists(&self, path: &Path) -> Result<bool> {
        match self.exists(&paths::store(path)) {
            // A name that leaves no room for ours beside it.
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::InvalidFilename => {
                Ok(false)
            }
            other => other,
        }
    }
    /// Whether a file exists.
    fn exists(&self, path: &Path) -> Result<bool>;
    /// The fingerprint of the file at `path`; `None` where none would tell anything.
    fn fingerprint(&self, _path: &Path) -> Result<Option<Fingerprint>> {
        Ok(None)
    }
    /// A fingerprint of the file at `path` that any later write changes. Nobody may be writing to it.
    fn stamp(&self, _path: &Path) -> Result<Option<Fingerprint>> {
        Ok(None)
    }
    /// Size in bytes of the log of the database at `path`, where there is one.
    fn log_bytes(&self, path: &Path) -> Option<u64> {
        paths::log_bytes(path)
    }
    /// Gives a file a second name, never taking it from another file.
    fn link(&self, path: &Path, name: &Path) -> Result<()>;
    /// Takes a name away, where there is one.
    fn remove(&self, path: &Path) -> Result<()>;
    /// Makes the names in the folder of `path` durable.
    fn sync_folder(&self, path: &Path) -> Result<()>;
    /// Tries to become the one process that makes, or serves, the database at `path`; `None` where
    /// another one is, or this one already.
    fn lock_process(&self, path: &Path) -> Result<Option<ProcessLock>>;
    /// Whether threads may use this host at once.
    fn has_threads(&self) -> bool;
    /// Sets memory aside that SQLite gets when it is dropped; `None` where there is none to be had, or
    /// no need.
    fn reserve(&self, _bytes: usize) -> Option<Reserve> {
        None
    }
    /// Sixteen random bytes from the operating system.
    fn random(&self) -> Result<[u8; 16]>;
    /// The time.
    fn clock(&self) -> Arc<dyn Clock>;
    /// Milliseconds since 1970.
    fn now(&self) -> u64 {
        self.clock().now()
    }
}
