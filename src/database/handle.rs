//! A database opened by the engine itself: its files, and an internal connection beside them.

use std::path::Path;

use rusqlite::Connection;

use super::host::{DatabaseFiles, Host};
use crate::error::{Error, Result, StoreContext};
use crate::wal::index::IndexHeader;

/// The engine's own way into a database.
pub struct Handle {
    /// Files and locks.
    pub files: DatabaseFiles,
    connection: Connection,
}

impl Handle {
    /// Opens a database in WAL mode and makes sure that its shared index is initialised.
    pub fn open(host: &dyn Host, path: &Path) -> Result<Self> {
        let connection = host.connect(path)?;
        let mode: String = connection
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .during("read the journal mode")?;
        if mode != "wal" {
            return Err(Error::CannotOpen(format!(
                "{} is in journal mode '{mode}', not in WAL mode",
                path.display()
            )));
        }
        let files = host.open_database(path)?;
        let handle = Self { files, connection };
        handle.initialise_index()?;
        // Locks of the index may be taken only once it is mapped.
        handle.header()?;
        Ok(handle)
    }

    /// Lets SQLite read, which recovers the index where that is needed.
    pub fn initialise_index(&self) -> Result<()> {
        self.connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
                row.get::<_, i64>(0)
            })
            .map(drop)
            .during("read the database")
    }

    /// The header of the shared index, recovered if a writer died while publishing it.
    pub fn header(&self) -> Result<IndexHeader> {
        for _ in 0..10 {
            if let Some(header) = IndexHeader::read(&*self.files.index)? {
                return Ok(header);
            }
            self.initialise_index()?;
        }
        Err(Error::Busy(
            "the shared index is being recovered".to_owned(),
        ))
    }

    /// Copies what the readers allow from the log to the database, waiting for nobody.
    pub fn checkpoint(&self) -> Result<()> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .during("checkpoint")
    }
}
