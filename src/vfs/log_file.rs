//! The log of a database the host has open, and what log and rollback journal share with the database
//! file: a checkpoint copies sealed pages from one to the other, locks are taken on the database, and
//! it says for what it needs them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::base::BaseFile;
use crate::crypt::RawFile;
use crate::crypt::header::{Backfill, Journal};
use crate::crypt::log::{Damage, SealedLog};
use crate::crypt::page::SealedPage;
use crate::error::{Error, Result};
use crate::replica::writing::Writing;
use crate::wal;

/// A log the host has open.
pub struct LogFile {
    /// The database.
    pub database: PathBuf,
    /// The writes of its connection, where its database is a replica.
    pub writing: Option<Arc<Mutex<Writing>>>,
    /// Of an encrypted database.
    pub sealed: Option<Arc<Link>>,
}

impl LogFile {
    /// The log beneath the writes of its connection.
    pub fn beneath<'a>(&'a self, base: &'a BaseFile) -> HostLog<'a> {
        HostLog {
            base,
            sealed: self.sealed.as_deref(),
        }
    }
}

/// The log as the engine writes it: beneath the writes of the host's connection.
pub struct HostLog<'a> {
    /// The file.
    pub base: &'a BaseFile,
    /// Of an encrypted database.
    pub sealed: Option<&'a Link>,
}

impl wal::LogFile for HostLog<'_> {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        match self.sealed {
            Some(link) => link.read(self.base, buffer, offset),
            None => RawFile::read(self.base, buffer, offset),
        }
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        match self.sealed {
            Some(link) => link.with(|log| log.write(self.base, data, offset)),
            None => RawFile::write(self.base, data, offset),
        }
    }

    fn sync(&self) -> Result<()> {
        if let Some(link) = self.sealed {
            link.with(|log| log.flush(self.base))?;
        }
        RawFile::sync(self.base)
    }

    fn size(&self) -> Result<u64> {
        match self.sealed {
            Some(link) => link.size(self.base),
            None => RawFile::size(self.base),
        }
    }
}

/// Between the database file, the log and the rollback journal of one connection. Used by one
/// thread at a time.
pub struct Link {
    database: PathBuf,
    log: Mutex<Option<SealedLog>>,
    /// Whether pages are handed out as they are sealed.
    copying: AtomicBool,
    /// Whether this connection writes, and does not recover the index.
    writing: AtomicBool,
    /// The page handed out last.
    copied: Mutex<Option<SealedPage>>,
    journal: Mutex<OpenJournal>,
}

/// How far the open rollback journal was written, and synced.
#[derive(Clone, Copy, Default)]
struct OpenJournal {
    written: Journal,
    synced: Option<Journal>,
    /// Whether a crash has left it: this connection has not written it.
    left: bool,
}

impl Link {
    /// Of a connection to this database.
    pub fn new(database: PathBuf) -> Self {
        Self {
            database,
            log: Mutex::default(),
            copying: AtomicBool::default(),
            writing: AtomicBool::default(),
            copied: Mutex::default(),
            journal: Mutex::default(),
        }
    }

    /// The database.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// The log was opened.
    pub fn open(&self, log: SealedLog) {
        *self.log.lock() = Some(log);
    }

    /// Locks were taken or given back: another writer may have been there, which the salts in the
    /// index tell.
    pub fn forget(&self, salts: Option<[u8; 8]>) {
        if let Some(log) = &mut *self.log.lock() {
            match salts {
                Some(salts) => log.forget_unless(salts),
                None => log.forget(),
            }
        }
    }

    /// The write lock was taken or given back, or the index is about to be recovered.
    pub fn end_transaction(&self, writing: bool) {
        self.writing.store(writing, Ordering::Relaxed);
        if let Some(log) = &mut *self.log.lock() {
            log.end_transaction();
        }
    }

    /// What the header of the database says of its log.
    pub fn need(&self, backfill: Backfill) {
        if let Some(log) = &mut *self.log.lock() {
            log.need(backfill);
        }
    }

    /// Whether a checkpoint copies.
    pub fn copy(&self, on: bool) {
        self.copying.store(on, Ordering::Relaxed);
        *self.copied.lock() = None;
    }

    /// The page handed out last, for the write that follows.
    pub fn take_copied(&self) -> Option<SealedPage> {
        self.copied.lock().take()
    }

    /// A rollback journal was opened.
    pub fn journal_opened(&self, written: Journal) {
        *self.journal.lock() = OpenJournal {
            written,
            synced: None,
            left: true,
        };
    }

    /// It was closed.
    pub fn journal_closed(&self) {
        *self.journal.lock() = OpenJournal::default();
    }

    /// Whether pages that are written now come from a rollback journal that a crash has left.
    pub fn plays_back(&self) -> bool {
        self.journal.lock().left
    }

    /// Notes how far the rollback journal is written now.
    pub fn journal_written(&self, written: Journal) {
        let mut journal = self.journal.lock();
        if written.nonce != journal.written.nonce || written.bytes < journal.written.bytes {
            // Of the next transaction, or closed.
            journal.synced = None;
        }
        (journal.written, journal.left) = (written, false);
    }

    /// Notes that what was written of it is synced.
    pub fn journal_synced(&self) {
        let mut journal = self.journal.lock();
        journal.synced = Some(journal.written);
    }

    /// The rollback journal, as far as the database relies on it when it is written now. Without
    /// syncs (`synchronous=OFF`) it relies on all that was written.
    pub fn journal(&self) -> Journal {
        let journal = self.journal.lock();
        journal.synced.unwrap_or(journal.written)
    }

    fn damage(&self) -> Damage {
        match self.writing.load(Ordering::Relaxed) {
            true => Damage::IsAnError,
            false => Damage::EndsTheLog,
        }
    }

    /// The size SQLite sees.
    pub fn size(&self, base: &BaseFile) -> Result<u64> {
        self.with(|log| log.size(base, self.damage()))
    }

    /// Reads as SQLite asks; returns how much there was.
    pub fn read(&self, base: &BaseFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.with(|log| {
            if self.copying.load(Ordering::Relaxed) {
                let copied = log.read_sealed(base, buffer, offset)?;
                *self.copied.lock() = Some(copied);
                return Ok(buffer.len());
            }
            log.read(base, buffer, offset, self.damage())
        })
    }

    /// Calls the log.
    pub fn with<T>(&self, call: impl FnOnce(&mut SealedLog) -> Result<T>) -> Result<T> {
        match &mut *self.log.lock() {
            Some(log) => call(log),
            None => Err(Error::Internal("the log is not open".to_owned())),
        }
    }
}
