//! Entering a foreign transaction into a live log, beside readers and checkpointers.
//!
//! The order is everything, and any other one loses committed data:
//!
//! 1. WAL_WRITE; the header read under it.
//! 2. Where all frames are in the database file and no reader needs the log: *restart*. Publish
//!    a header with mxFrame 0 and new salts, and only then reset what checkpointers keep. This
//!    also takes the checkpoint lock, which SQLite does not: a checkpointer that read the old
//!    header, and acts after the restart, would count frames of the old log as copied.
//! 3. With mxFrame 0: write the log header and sync it, so that after a power loss no frame of
//!    the old log follows an old header.
//! 4. Write the frames, sync, enter them in the hash tables, publish the header, unlock.

use super::frame::{Chain, FRAME_HEADER_BYTES, FrameIndex, LogHeader, Salts};
use super::frames::log_header;
use super::index::{CheckpointInfo, IndexHeader, READ_MARK_NOT_USED, READ_SLOTS};
use super::{Lock, LogFile, SharedIndex, hash};
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

/// How much is written at once.
const BATCH_BYTES: usize = 256 * 1024;

/// The one writer of a log: holds WAL_WRITE until it is dropped.
pub struct Writer<'a> {
    pub(super) index: &'a dyn SharedIndex,
    pub(super) header: IndexHeader,
    /// Released on drop, on every way out.
    _lock: Option<Exclusive<'a>>,
}

impl<'a> Writer<'a> {
    /// Takes WAL_WRITE and reads the header under it. `None` where another writer has it. An
    /// index that is not initialised is [`Error::Misuse`].
    pub fn try_begin(index: &'a dyn SharedIndex) -> Result<Option<Self>> {
        let Some(lock) = Exclusive::try_take(index, &[Lock::Write])? else {
            return Ok(None);
        };
        let header = IndexHeader::require(index)?;
        Ok(Some(Self {
            index,
            header,
            _lock: Some(lock),
        }))
    }

    /// A writer for a caller who has WAL_WRITE already, through another connection of this
    /// process: locks nothing and unlocks nothing.
    pub fn under_lock(index: &'a dyn SharedIndex) -> Result<Self> {
        Ok(Self {
            index,
            header: IndexHeader::require(index)?,
            _lock: None,
        })
    }

    /// The published header.
    pub fn header(&self) -> &IndexHeader {
        &self.header
    }

    /// Appends one transaction and publishes it; returns the new header. `pages` ascends by page
    /// number, and has at least one page (page 1 where only the size changed). `random` must be
    /// fresh on every call. On an error nothing was published, save perhaps a restart, which
    /// changes no content.
    ///
    /// The frames are synced before they are seen, but recovery reaches them only if those
    /// before are intact: see [`transactions`](super::frames::transactions) and
    /// [`repair`](Writer::repair).
    pub fn append<'p>(
        &mut self,
        log: &dyn LogFile,
        page_size: PageSize,
        database_size: u32,
        pages: impl IntoIterator<Item = (PageNumber, &'p [u8])>,
        random: Salts,
    ) -> Result<IndexHeader> {
        self.try_append(
            log,
            page_size,
            database_size,
            pages.into_iter().map(Ok),
            random,
        )
    }

    /// [`append`](Writer::append) from a source that may fail, such as a spool file.
    pub fn try_append<B: AsRef<[u8]>>(
        &mut self,
        log: &dyn LogFile,
        page_size: PageSize,
        database_size: u32,
        pages: impl IntoIterator<Item = Result<(PageNumber, B)>>,
        random: Salts,
    ) -> Result<IndexHeader> {
        let mut pages = pages.into_iter().peekable();
        if pages.peek().is_none() {
            return Err(Error::Misuse("a transaction has at least one page".into()));
        }
        if self.header.page_size.is_some_and(|size| size != page_size) {
            return Err(Error::Corrupt(format!(
                "the database has not the page size {}",
                page_size.get()
            )));
        }
        self.restart(random)?;
        let mut header = self.header;
        header.page_size = Some(page_size);
        let checksum = if header.mx_frame == 0 {
            let start = self.start_log(log, page_size, random)?;
            (header.salts, header.order) = (start.salts, start.order);
            start.checksum
        } else {
            log_header(log, &header)?;
            header.frame_checksum
        };

        let mut frames = FrameWriter {
            log,
            page_size,
            database_size,
            chain: Chain {
                order: header.order,
                salts: header.salts,
                checksum,
            },
            last: header.mx_frame,
            numbers: Vec::new(),
            buffer: Vec::new(),
        };
        while let Some(page) = pages.next() {
            let (number, page) = page?;
            frames.push(number, page.as_ref(), pages.peek().is_none())?;
        }
        frames.flush()?;
        log.sync()?;
        for (frame, number) in (header.mx_frame + 1..).zip(&frames.numbers) {
            if let Some(frame) = FrameIndex::new(frame) {
                hash::insert(self.index, frame, *number)?;
            }
        }

        header.mx_frame = frames.last;
        header.database_size = database_size;
        header.frame_checksum = frames.chain.checksum;
        header.change_counter = header.change_counter.wrapping_add(1);
        header.publish(self.index)?;
        self.header = header;
        Ok(header)
    }

    /// Starts the log anew where all of it is in the database file and nobody needs it.
    fn restart(&mut self, random: Salts) -> Result<()> {
        let info = CheckpointInfo::of(self.index)?;
        if info.backfilled() > self.header.mx_frame {
            return self.reset_backfill(info);
        }
        if self.header.mx_frame == 0 || info.backfilled() < self.header.mx_frame {
            return Ok(());
        }
        const LOCKS: [Lock; 5] = [
            Lock::Checkpoint,
            Lock::Read1,
            Lock::Read2,
            Lock::Read3,
            Lock::Read4,
        ];
        let Some(_locks) = Exclusive::try_take(self.index, &LOCKS)? else {
            return Ok(());
        };
        let mut header = self.header;
        header.mx_frame = 0;
        header.salts = header.salts.restarted(random);
        header.publish(self.index)?;
        self.header = header;
        info.set_backfilled(0);
        info.set_backfill_attempted(0);
        info.set_read_mark(1, 0);
        for slot in 2..READ_SLOTS {
            info.set_read_mark(slot, READ_MARK_NOT_USED);
        }
        Ok(())
    }

    /// nBackfill beyond mxFrame is what a restart leaves whose process was killed in the middle:
    /// it would hide every frame appended from here on. Nothing of this log counts as copied.
    fn reset_backfill(&self, info: CheckpointInfo<'_>) -> Result<()> {
        let Some(_lock) = Exclusive::try_take(self.index, &[Lock::Checkpoint])? else {
            return Err(Error::Busy("a checkpoint is under way".into()));
        };
        if info.backfilled() > self.header.mx_frame {
            info.set_backfilled(0);
            info.set_backfill_attempted(self.header.mx_frame);
        }
        Ok(())
    }

    /// Writes the header of a new log. The salts a restart published stay, so that an anchor of
    /// that state still stands; those recovery found in a log without a commit may be on frames
    /// that are still there, and go. The sequence number makes every header another one, so that
    /// frames of a transaction given up under the same salts do not follow it.
    fn start_log(
        &self,
        log: &dyn LogFile,
        page_size: PageSize,
        random: Salts,
    ) -> Result<LogHeader> {
        let sequence = LogHeader::read(log)?.map_or(1, |old| old.sequence.wrapping_add(1).max(1));
        let blank = self.header.anchor().is_blank();
        let salts = if blank { random } else { self.header.salts };
        let header = LogHeader::new(page_size, sequence, salts);
        log.write(&header.encode(), 0)?;
        log.sync()?;
        Ok(header)
    }
}

/// Writes frames behind each other, many at a time.
struct FrameWriter<'a> {
    log: &'a dyn LogFile,
    page_size: PageSize,
    database_size: u32,
    chain: Chain,
    /// The last frame written or waiting.
    last: u32,
    /// The pages since the start, in the order of their frames.
    numbers: Vec<PageNumber>,
    /// Frames not written yet; they end with frame `last`.
    buffer: Vec<u8>,
}

impl FrameWriter<'_> {
    fn push(&mut self, number: PageNumber, page: &[u8], commit: bool) -> Result<()> {
        let wrong = |what: &str| Error::Corrupt(format!("page {number} of a transaction {what}"));
        if page.len() != self.page_size.bytes() {
            return Err(wrong("has the wrong size"));
        }
        if number.get() > self.database_size || number == self.page_size.lock_page() {
            return Err(wrong("is not a page of the database"));
        }
        if self.numbers.last().is_some_and(|&last| last >= number) {
            return Err(wrong("is out of order"));
        }
        self.last = self
            .last
            .checked_add(1)
            .ok_or_else(|| wrong("finds the log full"))?;
        self.numbers.push(number);
        let database_size = if commit { self.database_size } else { 0 };
        let header = self.chain.next(number, database_size, page);
        self.buffer.extend_from_slice(&header.encode());
        self.buffer.extend_from_slice(page);
        if self.buffer.len() >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let frames = self.buffer.len() / (FRAME_HEADER_BYTES + self.page_size.bytes());
        let first = FrameIndex::new(self.last - frames as u32 + 1);
        if let (1.., Some(first)) = (frames, first) {
            self.log.write(&self.buffer, first.offset(self.page_size))?;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// Exclusive locks, all or none, released on drop.
struct Exclusive<'a> {
    index: &'a dyn SharedIndex,
    locks: &'a [Lock],
}

impl<'a> Exclusive<'a> {
    fn try_take(index: &'a dyn SharedIndex, locks: &'a [Lock]) -> Result<Option<Self>> {
        let mut taken = Self { index, locks: &[] };
        for (i, &lock) in locks.iter().enumerate() {
            if !index.lock_exclusive(lock)? {
                return Ok(None);
            }
            taken.locks = &locks[..=i];
        }
        Ok(Some(taken))
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        for &lock in self.locks.iter().rev() {
            self.index.unlock_exclusive(lock);
        }
    }
}
