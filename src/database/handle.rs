//! A database opened by the engine itself: its files, and an internal connection beside them.

use std::path::Path;
use std::sync::Arc;

use super::clock::Clock;
use super::connection::Connection;
use super::host::{DatabaseFiles, Host};
use crate::error::{Error, Result};
use crate::wal::apply::Writer;
use crate::wal::index::IndexHeader;

/// The engine's own way into a database.
pub struct Handle {
    /// Files and locks.
    pub files: DatabaseFiles,
    connection: Box<dyn Connection>,
    clock: Arc<dyn Clock>,
}

impl Handle {
    /// Opens a database in WAL mode and makes sure that its shared index is initialised.
    pub fn open(host: &dyn Host, path: &Path) -> Result<Self> {
        let connection = host.connect(path)?;
        let mode = connection.journal_mode()?;
        if mode != "wal" {
            return Err(Error::CannotOpen(format!(
                "{} is in journal mode '{mode}', not in WAL mode",
                path.display()
            )));
        }
        let files = host.open_database(path)?;
        let handle = Self {
            files,
            connection,
            clock: host.clock(),
        };
        handle.initialise_index()?;
        // Locks of the index may be taken only once it is mapped.
        handle.header()?;
        Ok(handle)
    }

    /// Lets SQLite read, which recovers the index where that is needed.
    pub fn initialise_index(&self) -> Result<()> {
        self.connection.initialise_index()
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

    /// Tries to take WAL_WRITE; `None` while someone else has it.
    pub fn try_writer(&self) -> Result<Option<Writer<'_>>> {
        for _ in 0..10 {
            self.header()?;
            match Writer::try_begin(&*self.files.index) {
                // A writer was killed since, while publishing.
                Err(Error::Misuse(_)) => {}
                writer => return writer,
            }
        }
        Err(Error::Busy(
            "the shared index has to be recovered again and again".to_owned(),
        ))
    }

    /// The host's clock, for those who wait for a lock of this database.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Copies what the readers allow from the log to the database, waiting for nobody.
    pub fn checkpoint(&self) -> Result<()> {
        self.connection.checkpoint()
    }
}
