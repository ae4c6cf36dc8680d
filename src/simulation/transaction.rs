//! A write transaction of SQLite: lock, frames, commit, as its wal.c does it, with the calls into the
//! engine that the VFS makes for a replica.

use std::collections::BTreeMap;

use super::faults::Fault;
use super::sqlite::{READ_LOCKS, Sqlite};
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};
use crate::replica::writing::Writing;
use crate::wal::checksum::ByteOrder;
use crate::wal::frame::{Chain, FRAME_HEADER_BYTES, FrameHeader, FrameIndex, LogHeader, Salts};
use crate::wal::index::{CheckpointInfo, IndexHeader, READ_MARK_NOT_USED, READ_SLOTS};
use crate::wal::read_lock::{Keep, ReadLock};
use crate::wal::{Lock, LogFile, SharedIndex, hash};

/// `SQLITE_NOMEM`.
pub(super) const NO_MEMORY: i32 = 7;

/// What a transaction does to the database.
pub(super) struct Change {
    /// New pages, by number.
    pub(super) pages: BTreeMap<u32, Vec<u8>>,
    /// Size in pages afterwards.
    pub(super) size: u32,
    /// Whether the cache is too small: pages are written before the commit, and again with it.
    pub(super) spills: bool,
    /// Whether the log is synced.
    pub(super) synced: bool,
}

/// A write transaction.
pub(super) struct Transaction<'a> {
    sqlite: &'a mut Sqlite,
    writing: Option<&'a mut Writing>,
    /// SQLite's private header.
    header: IndexHeader,
    /// `iReCksum`: the lowest frame that was overwritten.
    overwritten: Option<u32>,
    page_size: PageSize,
    /// The first frame of this transaction.
    first: u32,
    /// The page of each frame from there on.
    numbers: Vec<PageNumber>,
}

impl<'a> Transaction<'a> {
    /// A reader becomes the writer.
    pub(super) fn begin(
        sqlite: &'a mut Sqlite,
        mut writing: Option<&'a mut Writing>,
        lock: &ReadLock,
        page_size: PageSize,
    ) -> Result<Self> {
        if let Some(writing) = &mut writing {
            writing.prepare()?;
        }
        if !sqlite.index.lock_exclusive(Lock::Write)? {
            return Err(Error::Busy("database is locked".to_owned()));
        }
        if let Some(writing) = &mut writing
            && let Err(error) = writing.begin()
        {
            sqlite.index.unlock_exclusive(Lock::Write);
            writing.abandon();
            return Err(error);
        }
        let transaction = Self {
            header: *lock.header(),
            sqlite,
            writing,
            overwritten: None,
            page_size,
            first: 0,
            numbers: Vec::new(),
        };
        match IndexHeader::read(&transaction.sqlite.index) {
            Ok(Some(live)) if live == *lock.header() => Ok(transaction),
            read => {
                transaction.end();
                read?;
                Err(Error::Busy("the snapshot is old".to_owned()))
            }
        }
    }

    /// Gives the write lock back.
    pub(super) fn end(self) {
        let Self {
            sqlite,
            mut writing,
            ..
        } = self;
        if let Some(writing) = &mut writing {
            writing.end();
        }
        sqlite.index.unlock_exclusive(Lock::Write);
        if let Some(writing) = &mut writing {
            writing.ended();
        }
    }

    /// Writes and publishes.
    pub(super) fn commit(&mut self, lock: &mut ReadLock, change: &Change) -> Result<()> {
        self.restart_log(lock)?;
        self.first = self.header.mx_frame + 1;
        let pages: Vec<(PageNumber, &[u8])> = change
            .pages
            .iter()
            .filter_map(|(number, page)| Some((PageNumber::new(*number)?, &page[..])))
            .collect();
        if change.spills {
            // What they were like halfway.
            let early: Vec<Vec<u8>> = pages.iter().map(|(_, page)| halfway(page)).collect();
            let early: Vec<_> = pages
                .iter()
                .zip(&early)
                .map(|((number, _), page)| (*number, &page[..]))
                .collect();
            self.frames(&early, None)?;
        }
        self.frames(&pages, Some(change))
    }

    /// `walRestartLog`: all is in the database file, and nobody needs the log.
    fn restart_log(&mut self, lock: &mut ReadLock) -> Result<()> {
        if lock.slot() != 0 {
            return Ok(());
        }
        let index = &self.sqlite.index;
        let info = CheckpointInfo::of(index)?;
        if info.backfilled() > 0 {
            let mut taken = 0;
            while taken < 4 && index.lock_exclusive(READ_LOCKS[taken + 1])? {
                taken += 1;
            }
            if taken == 4 {
                let random = Salts(salts(self.sqlite));
                self.sqlite.sequence = self.sqlite.sequence.wrapping_add(1);
                self.header.mx_frame = 0;
                self.header.salts = self.header.salts.restarted(random);
                // A process that is killed between these two makes SQLite lose what follows: that is not
                // ours, where the next one who writes does not call us.
                let shield = usize::from(self.writing.is_none());
                index.process.with(|state| state.shields += shield);
                self.header.publish(index)?;
                info.set_backfilled(0);
                index.process.with(|state| state.shields -= shield);
                index.process.note(|| "begins the log anew".to_owned());
                info.set_backfill_attempted(0);
                info.set_read_mark(1, 0);
                for slot in 2..READ_SLOTS {
                    info.set_read_mark(slot, READ_MARK_NOT_USED);
                }
            }
            READ_LOCKS[1..=taken]
                .iter()
                .for_each(|lock| index.unlock_exclusive(*lock));
        }
        // The lock of the database file alone is of no use for what is written now.
        index.unlock_shared(READ_LOCKS[0]);
        *lock = self.sqlite.begin_read(Keep::Log)?;
        Ok(())
    }

    fn put(&mut self, data: &[u8], offset: u64) -> Result<()> {
        match &mut self.writing {
            Some(writing) => writing.write(&self.sqlite.log, data, offset),
            None => self.sqlite.log.write(data, offset),
        }
    }

    fn sync(&mut self) -> Result<()> {
        match &mut self.writing {
            Some(writing) => writing.sync(&self.sqlite.log),
            None => self.sqlite.log.sync(),
        }
    }

    /// `sqlite3WalFrames`.
    fn frames(&mut self, pages: &[(PageNumber, &[u8])], commit: Option<&Change>) -> Result<()> {
        let before = self.header.mx_frame;
        if before == 0 {
            self.start_log()?;
        }
        for (n, (number, page)) in pages.iter().enumerate() {
            let last = n + 1 == pages.len();
            let written = self.numbers.iter().position(|known| known == number);
            match written {
                Some(at) if !(last && commit.is_some()) => {
                    let frame = self.first + at as u32;
                    self.overwritten = Some(self.overwritten.unwrap_or(frame).min(frame));
                    self.put(page, self.offset(frame) + FRAME_HEADER_BYTES as u64)?;
                }
                _ => {
                    let size = commit.filter(|_| last).map_or(0, |change| change.size);
                    self.frame(*number, size, page)?;
                }
            }
        }
        if commit.is_some() && self.overwritten.is_some() {
            self.rewrite_checksums()?;
        }
        if commit.is_some_and(|change| change.synced) {
            self.sync()?;
        }
        if commit.is_some() {
            self.may_lack_memory()?;
        }
        for frame in before + 1..=self.header.mx_frame {
            let number = self.numbers[(frame - self.first) as usize];
            if let Some(frame) = FrameIndex::new(frame) {
                hash::insert(&self.sqlite.index, frame, number)?;
            }
        }
        if let Some(change) = commit {
            self.header.page_size = Some(self.page_size);
            self.header.change_counter = self.header.change_counter.wrapping_add(1);
            self.header.database_size = change.size;
            self.header.publish(&self.sqlite.index)?;
        }
        Ok(())
    }

    /// The header of a log that begins anew.
    fn start_log(&mut self) -> Result<()> {
        if self.sqlite.sequence == 0 {
            self.header.salts = Salts(salts(self.sqlite));
        }
        let header = LogHeader::new(self.page_size, self.sqlite.sequence, self.header.salts);
        self.header.order = ByteOrder::NATIVE;
        self.header.frame_checksum = header.checksum;
        self.put(&header.encode(), 0)?;
        self.sync()
    }

    fn offset(&self, frame: u32) -> u64 {
        FrameIndex::new(frame).map_or(0, |frame| frame.offset(self.page_size))
    }

    /// `walWriteOneFrame`.
    fn frame(&mut self, number: PageNumber, database_size: u32, page: &[u8]) -> Result<()> {
        let mut header = [0; FRAME_HEADER_BYTES];
        header[..4].copy_from_slice(&number.get().to_be_bytes());
        header[4..8].copy_from_slice(&database_size.to_be_bytes());
        if self.overwritten.is_none() {
            header = self.next(number, database_size, page).encode();
        }
        let offset = self.offset(self.header.mx_frame + 1);
        self.put(&header, offset)?;
        self.put(page, offset + FRAME_HEADER_BYTES as u64)?;
        self.header.mx_frame += 1;
        self.numbers.push(number);
        Ok(())
    }

    fn next(&mut self, number: PageNumber, database_size: u32, page: &[u8]) -> FrameHeader {
        let mut chain = Chain {
            order: self.header.order,
            salts: self.header.salts,
            checksum: self.header.frame_checksum,
        };
        let header = chain.next(number, database_size, page);
        self.header.frame_checksum = chain.checksum;
        header
    }

    /// `walRewriteChecksums`: all headers from the first overwritten frame on.
    fn rewrite_checksums(&mut self) -> Result<()> {
        let Some(from) = self.overwritten.take() else {
            return Ok(());
        };
        let mut before = [0; FRAME_HEADER_BYTES];
        self.header.frame_checksum = match FrameIndex::new(from - 1) {
            Some(frame) => {
                self.sqlite
                    .log
                    .read(&mut before, frame.offset(self.page_size))?;
                FrameHeader::parse(&before).map(|header| header.checksum)
            }
            None => LogHeader::read(&self.sqlite.log)?.map(|header| header.checksum),
        }
        .unwrap_or_default();
        let mut page = vec![0; self.page_size.bytes()];
        for frame in from..=self.header.mx_frame {
            let offset = self.offset(frame);
            let mut header = [0; FRAME_HEADER_BYTES];
            self.sqlite.log.read(&mut header, offset)?;
            self.sqlite
                .log
                .read(&mut page, offset + FRAME_HEADER_BYTES as u64)?;
            let Some(old) = FrameHeader::parse(&header) else {
                return Err(Error::Corrupt("a frame of page 0".to_owned()));
            };
            let new = self.next(old.page, old.database_size, &page);
            self.put(&new.encode(), offset)?;
        }
        Ok(())
    }

    fn may_lack_memory(&self) -> Result<()> {
        let process = &self.sqlite.process;
        let lacks = process.with(|state| {
            let memory = state.plan.memory;
            let number = state.happens(memory)?;
            state.faults.count(Fault::Memory);
            state.note(process.actor(), || {
                format!("fault {number}: SQLite has no memory for the commit")
            });
            Some(())
        });
        match lacks {
            None => Ok(()),
            Some(()) => Err(Error::Io {
                action: "allocate",
                path: "memory".to_owned(),
                code: NO_MEMORY,
            }),
        }
    }
}

fn salts(sqlite: &Sqlite) -> [u8; 8] {
    let bytes = sqlite.process.with(|state| state.entropy.bytes());
    let mut salts = [0; 8];
    salts.copy_from_slice(&bytes[..8]);
    salts
}

fn halfway(page: &[u8]) -> Vec<u8> {
    let mut early = page.to_vec();
    let middle = early.len() / 2;
    early[middle] ^= 0x55;
    early
}
