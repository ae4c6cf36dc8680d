//! A connection of SQLite: what it does to a database in WAL mode, as its wal.c does it.
//!
//! A model of it, call for call: recovery, checkpoints, reading and closing here, writing in
//! `transaction`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::File;
use super::host::{log_path, not_there};
use super::memory::Index;
use super::process::Process;
use crate::database::connection::Connection;
use crate::database::host::Spool;
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::wal::index::{CheckpointInfo, IndexHeader, READ_MARK_NOT_USED, READ_SLOTS};
use crate::wal::read_lock::{Keep, ReadLock};
use crate::wal::snapshot::Snapshot;
use crate::wal::{Lock, LogFile, SharedIndex, hash, oracle};

/// The locks of readers by slot.
pub(super) const READ_LOCKS: [Lock; READ_SLOTS] = [
    Lock::Read0,
    Lock::Read1,
    Lock::Read2,
    Lock::Read3,
    Lock::Read4,
];

/// How often a lock is tried, a millisecond apart.
const ATTEMPTS: usize = 5000;

/// A connection.
pub(super) struct Sqlite {
    pub(super) process: Process,
    path: PathBuf,
    pub(super) log: File,
    pub(super) content: File,
    pub(super) index: Index,
    /// `nCkpt`: how often the log was begun, as far as this connection knows.
    pub(super) sequence: u32,
    /// Whether the last one removes the log: not the host's connections to a followed database.
    removes: bool,
}

/// All pages of a snapshot.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) size: PageSize,
    pub(super) pages: Vec<Vec<u8>>,
}

impl Content {
    /// Its digest.
    pub(super) fn digest(&self) -> ContentDigest {
        let mut digest = ContentDigest::default();
        for (number, page) in (1..).zip(&self.pages) {
            if let Some(number) = PageNumber::new(number) {
                digest.add(PageHash::of(number, page));
            }
        }
        digest
    }
}

fn busy(what: &str) -> Error {
    Error::Busy(format!("database is locked: {what}"))
}

impl Sqlite {
    /// Opens a database that is there.
    pub(super) fn open(process: &Process, path: &Path, removes: bool) -> Result<Self> {
        let content = File::open(process, path, "database")?.ok_or_else(|| not_there(path))?;
        let index = Index::open(process, path)?;
        Ok(Self {
            process: process.clone(),
            path: path.to_owned(),
            log: File::create(process, &log_path(path), "log")?,
            content,
            index,
            sequence: 0,
            removes,
        })
    }

    /// Tries again and again, as a busy handler does.
    fn patiently<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS {
            if let Some(value) = attempt(self)? {
                return Ok(value);
            }
            self.process.sleep(Duration::from_millis(1))?;
        }
        Err(busy("nobody lets go"))
    }

    /// The header of the index; recovered where nobody can read it.
    pub(super) fn header(&mut self) -> Result<IndexHeader> {
        self.patiently(|sqlite| {
            if let Some(header) = IndexHeader::read(&sqlite.index)? {
                return Ok(Some(header));
            }
            if !sqlite.index.lock_exclusive(Lock::Write)? {
                return Ok(None);
            }
            let recovered = match IndexHeader::read(&sqlite.index)? {
                Some(header) => Ok(Some(header)),
                None => sqlite.recover(),
            };
            sqlite.index.unlock_exclusive(Lock::Write);
            recovered
        })
    }

    /// Makes the index from the log, under the write lock.
    fn recover(&mut self) -> Result<Option<IndexHeader>> {
        let locks = [Lock::Checkpoint, Lock::Recover];
        let mut taken = Vec::new();
        for lock in locks {
            if self.index.lock_exclusive(lock)? {
                taken.push(lock);
            }
        }
        let recovered = match taken.len() == locks.len() {
            true => self.recover_under_locks().map(Some),
            false => Ok(None),
        };
        taken
            .into_iter()
            .for_each(|lock| self.index.unlock_exclusive(lock));
        recovered
    }

    fn recover_under_locks(&mut self) -> Result<IndexHeader> {
        self.index.region(0, true)?;
        let (header, _) = oracle::recover(&self.log);
        let made = oracle::recovered_index(&self.log);
        self.index.memory.copy_frames(&made)?;
        self.sequence =
            crate::wal::frame::LogHeader::read(&self.log)?.map_or(0, |log| log.sequence);
        header.publish(&self.index)?;
        let info = CheckpointInfo::of(&self.index)?;
        info.set_backfilled(0);
        info.set_backfill_attempted(header.mx_frame);
        info.set_read_mark(0, 0);
        for (slot, lock) in (0..).zip(READ_LOCKS).skip(1) {
            if self.index.lock_exclusive(lock)? {
                let used = slot == 1 && header.mx_frame > 0;
                info.set_read_mark(
                    slot,
                    if used {
                        header.mx_frame
                    } else {
                        READ_MARK_NOT_USED
                    },
                );
                self.index.unlock_exclusive(lock);
            }
        }
        self.process
            .note(|| format!("recovers the index: {} frames", header.mx_frame));
        Ok(header)
    }

    /// Begins to read.
    pub(super) fn begin_read(&mut self, keep: Keep) -> Result<ReadLock> {
        self.patiently(|sqlite| {
            sqlite.header()?;
            match ReadLock::begin(&sqlite.index, keep) {
                Ok(lock) => Ok(Some(lock)),
                Err(Error::Busy(_) | Error::Misuse(_)) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    /// Reads all pages of a snapshot.
    pub(super) fn read(&self, lock: &ReadLock) -> Result<Content> {
        let snapshot = Snapshot::new(&self.index, &self.log, &self.content, lock)?;
        let size = snapshot.page_size();
        let mut pages = Vec::new();
        for number in (1..=snapshot.database_size()).filter_map(PageNumber::new) {
            let mut page = vec![0; size.bytes()];
            snapshot.read_page(number, &mut page)?;
            pages.push(page);
        }
        Ok(Content { size, pages })
    }

    /// `PRAGMA wal_checkpoint(PASSIVE)`.
    pub(super) fn copy(&mut self) -> Result<()> {
        if !self.index.lock_exclusive(Lock::Checkpoint)? {
            return Ok(());
        }
        let copied = self
            .header_for_checkpoint()
            .and_then(|header| match header {
                Some(header) => self.copy_frames(&header),
                None => Ok(()),
            });
        self.index.unlock_exclusive(Lock::Checkpoint);
        copied
    }

    /// Recovery needs the lock that a checkpoint has: it does without then.
    fn header_for_checkpoint(&mut self) -> Result<Option<IndexHeader>> {
        IndexHeader::read(&self.index)
    }

    fn copy_frames(&mut self, header: &IndexHeader) -> Result<()> {
        let info = CheckpointInfo::of(&self.index)?;
        let mut safe = header.mx_frame;
        if info.backfilled() >= header.mx_frame {
            return Ok(());
        }
        for (slot, lock) in (0..).zip(READ_LOCKS).skip(1) {
            let mark = info.read_mark(slot);
            if safe <= mark {
                continue;
            }
            match self.index.lock_exclusive(lock)? {
                true => {
                    info.set_read_mark(slot, if slot == 1 { safe } else { READ_MARK_NOT_USED });
                    self.index.unlock_exclusive(lock);
                }
                false => safe = mark,
            }
        }
        if info.backfilled() >= safe || !self.index.lock_exclusive(Lock::Read0)? {
            return Ok(());
        }
        // Older versions of SQLite do not look again, and lose what follows where a writer has begun the
        // log anew meanwhile. Nothing of ours can help that.
        let live = IndexHeader::read(&self.index)?.map(|live| live.salts);
        let copied = match live == Some(header.salts) {
            true => self.copy_up_to(header, safe),
            false => Ok(()),
        };
        self.index.unlock_exclusive(Lock::Read0);
        copied
    }

    fn copy_up_to(&mut self, header: &IndexHeader, safe: u32) -> Result<()> {
        let info = CheckpointInfo::of(&self.index)?;
        let first = info.backfilled() + 1;
        info.set_backfill_attempted(safe);
        self.log.sync()?;
        let Some(size) = header.page_size else {
            return Ok(());
        };
        let mut page = vec![0; size.bytes()];
        for number in (1..=header.database_size).filter_map(PageNumber::new) {
            let newest = hash::find(&self.index, number, first, header.mx_frame)?;
            if let Some(frame) = newest.filter(|frame| frame.get() <= safe) {
                crate::wal::frames::read_frame(&self.log, size, frame, &mut page)?;
                self.content.write(&page, number.offset(size))?;
            }
        }
        let live = IndexHeader::read(&self.index)?.map(|header| header.mx_frame);
        if live == Some(safe) {
            let bytes = u64::from(header.database_size) * u64::from(size.get());
            self.content.truncate(bytes)?;
            self.content.sync()?;
        }
        info.set_backfilled(safe);
        self.process
            .note(|| format!("copies frames {first} to {safe} of {}", header.mx_frame));
        Ok(())
    }

    /// What SQLite does when a connection is closed: the last one copies the log and removes it.
    fn close(&mut self) -> Result<()> {
        if !self.removes || !self.index.memory.keep_others_out() {
            return Ok(());
        }
        let removed = self.remove_log();
        self.index.memory.let_others_in();
        removed
    }

    fn remove_log(&mut self) -> Result<()> {
        self.header()?;
        self.copy()?;
        let header = self.header()?;
        let info = CheckpointInfo::of(&self.index)?;
        if info.backfilled() == header.mx_frame {
            self.process.step("remove log")?;
            let log = log_path(&self.path);
            self.process.machine(|machine| machine.disk.remove(&log));
            self.process.note(|| "removes the log".to_owned());
        }
        Ok(())
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        if !self.process.is_dead() && !std::thread::panicking() {
            // Whoever cannot leaves the log to the next one.
            let _ = self.close();
        }
    }
}

impl Connection for std::cell::RefCell<Sqlite> {
    fn journal_mode(&self) -> Result<String> {
        Ok("wal".to_owned())
    }

    fn enter_wal_mode(&self) -> Result<String> {
        Ok("wal".to_owned())
    }

    fn initialise_index(&self) -> Result<()> {
        let mut sqlite = self.borrow_mut();
        let lock = sqlite.begin_read(Keep::Snapshot)?;
        lock.release(&sqlite.index);
        Ok(())
    }

    fn checkpoint(&self) -> Result<()> {
        self.borrow_mut().copy()
    }

    fn hold_writers(&self) -> Result<()> {
        Err(Error::Misuse("not here".to_owned()))
    }

    fn release_writers(&self) -> Result<()> {
        Err(Error::Misuse("not here".to_owned()))
    }
}
