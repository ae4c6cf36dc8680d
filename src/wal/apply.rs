//! Entering a foreign transaction into a live log, beside readers and checkpointers.
//!
//! The order is everything, and any other one loses committed data:
//!
//! 1. WAL_WRITE; the header read under it.
//! 2. Where all frames are in the database file and no reader needs the log: *restart*. Count no
//!    frame as copied, publish a header with mxFrame 0 and new salts, and only then reset the read
//!    marks. This also takes the checkpoint lock, which SQLite does not: a checkpointer that read
//!    the old header, and acts after the restart, would count frames of the old log as copied.
//! 3. With mxFrame 0: write the log header and sync it, so that after a power loss no frame of
//!    the old log follows an old header.
//! 4. Write the frames, sync, enter them in the hash tables, publish the header, unlock.

use super::frame::{Chain, FRAME_HEADER_BYTES, FrameIndex, Salts};
use super::frames::log_header;
use super::index::IndexHeader;
use super::pushed::marked_page;
use super::restart::Exclusive;
use super::{Lock, LogFile, SharedIndex, hash};
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};
use crate::position::Nonce;

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
        self.enter(log, page_size, database_size, pages, None, random)
    }

    /// As [`try_append`](Writer::try_append), for a transaction that a replica has pushed: the log
    /// holds its nonce (`pushed.rs`).
    pub fn append_pushed<B: AsRef<[u8]>>(
        &mut self,
        log: &dyn LogFile,
        page_size: PageSize,
        database_size: u32,
        pages: impl IntoIterator<Item = Result<(PageNumber, B)>>,
        nonce: Nonce,
        random: Salts,
    ) -> Result<IndexHeader> {
        self.enter(log, page_size, database_size, pages, Some(nonce), random)
    }

    fn enter<B: AsRef<[u8]>>(
        &mut self,
        log: &dyn LogFile,
        page_size: PageSize,
        database_size: u32,
        pages: impl IntoIterator<Item = Result<(PageNumber, B)>>,
        nonce: Option<Nonce>,
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
        if let (Some(nonce), Some(Ok((first, _)))) = (nonce, pages.peek()) {
            frames.add(*first, &marked_page(nonce, page_size), false)?;
        }
        let mut before = None;
        while let Some(page) = pages.next() {
            let (number, page) = page?;
            if before
                .replace(number)
                .is_some_and(|before| before >= number)
            {
                return Err(frames.wrong(number, "is out of order"));
            }
            frames.add(number, page.as_ref(), pages.peek().is_none())?;
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
    fn wrong(&self, number: PageNumber, what: &str) -> Error {
        Error::Corrupt(format!("page {number} of a transaction {what}"))
    }

    fn add(&mut self, number: PageNumber, page: &[u8], commit: bool) -> Result<()> {
        if page.len() != self.page_size.bytes() {
            return Err(self.wrong(number, "has the wrong size"));
        }
        if number.get() > self.database_size || number == self.page_size.lock_page() {
            return Err(self.wrong(number, "is not a page of the database"));
        }
        self.last = self
            .last
            .checked_add(1)
            .ok_or_else(|| self.wrong(number, "finds the log full"))?;
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

#[cfg(test)]
mod tests {
    use super::super::checksum::{ByteOrder, Checksum};
    use super::super::frame::LogHeader;
    use super::super::memory::{Call, MemoryIndex};
    use super::super::oracle::{World, page, recover, recovered_index};
    use super::super::read_lock::{Keep, ReadLock};
    use super::*;

    fn number(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    #[test]
    fn a_new_log_is_synced_before_its_frames() {
        let mut world = World::new(512, 3);
        world.append(&[1, 3], 3).unwrap();
        let write = |offset, bytes| Call::Write { offset, bytes };
        let calls = world.log.take_calls();
        assert_eq!(
            calls,
            [write(0, 32), Call::Sync, write(32, 2 * 536), Call::Sync]
        );
        world.append(&[2], 3).unwrap();
        assert_eq!(
            world.log.take_calls(),
            [write(32 + 2 * 536, 536), Call::Sync]
        );
        // And so it is when the log is written anew.
        world.checkpoint();
        let before = world.header();
        world.log.take_calls();
        let header = world.append(&[2], 3).unwrap();
        assert_eq!(
            world.log.take_calls(),
            [write(0, 32), Call::Sync, write(32, 536), Call::Sync]
        );
        assert_eq!(header.mx_frame, 1);
        assert_eq!(header.salts.first(), before.salts.first().wrapping_add(1));
        assert_eq!(header.change_counter, 3);
        assert_eq!(
            LogHeader::read(&world.log).unwrap().map(|log| log.sequence),
            Some(2)
        );
        assert_eq!(world.index.held(), []);
    }

    #[test]
    fn many_frames_go_through_all_regions() {
        let mut world = World::new(512, 1);
        world.append(&[], 3000).unwrap();
        let old = world.index.connect();
        let lock = ReadLock::begin(&old, Keep::Snapshot).unwrap();
        let at = world.state().clone();
        world.log.take_calls();
        world.append(&(1..=3000).collect::<Vec<_>>(), 3000).unwrap();
        assert_eq!(
            world.log.take_calls().len(),
            (3000 * 536usize).div_ceil(BATCH_BYTES) + 1
        );
        // The last frames of the second region, and the first of the third, one by one.
        world.append(&(1..=2157).collect::<Vec<_>>(), 3000).unwrap();
        for i in 0..4 {
            assert_eq!(
                world.append(&[1, 2999 - i], 2999).unwrap().mx_frame,
                8158 + 2 * i
            );
        }
        world.check(&old, &lock, &at);
        world.check_newest();
        let (found, pages) = recover(&world.log);
        assert_eq!((found.anchor(), pages.len()), (world.anchor(), 8164));
        lock.release(&old);
        world.checkpoint();
        world.append(&[7], 2999).unwrap();
        assert_eq!(world.header().mx_frame, 1);
        world.check_newest();
    }

    #[test]
    fn big_endian_logs_stay_so_until_they_are_written_anew() {
        let mut world = World::new(512, 2);
        let mut start = LogHeader::new(world.page_size, 1, Salts([3; 8]));
        start.order = ByteOrder::Big;
        start.checksum = Checksum::default().update(&start.encode()[..24], start.order);
        let mut chain = Chain {
            order: start.order,
            salts: start.salts,
            checksum: start.checksum,
        };
        let first = page(world.page_size, number(1), 0);
        world.log.write(&start.encode(), 0).unwrap();
        world
            .log
            .write(&chain.next(number(1), 2, &first).encode(), 32)
            .unwrap();
        world.log.write(&first, 56).unwrap();
        world.index = recovered_index(&world.log);
        assert_eq!(world.append(&[2], 2).unwrap().order, ByteOrder::Big);
        assert_eq!(recover(&world.log).0.anchor(), world.anchor());
        world.check_newest();
        world.checkpoint();
        assert_eq!(world.append(&[2], 2).unwrap().order, ByteOrder::NATIVE);
        assert_eq!(recover(&world.log).0.anchor(), world.anchor());
    }

    #[test]
    fn what_is_no_transaction_is_refused_unseen() {
        let mut world = World::new(512, 3);
        world.append(&[1], 3).unwrap();
        let (before, size) = (world.header(), world.page_size);
        let (good, short) = ([1; 512], [1; 511]);
        let lock_page = size.lock_page().get();
        type Case<'a> = (&'a str, u32, u32, &'a [(u32, &'a [u8])]);
        let cases: [Case; 7] = [
            ("no page", 512, 3, &[]),
            ("beyond the end", 512, 3, &[(1, &good), (4, &good)]),
            ("twice", 512, 3, &[(1, &good), (1, &good)]),
            ("descending", 512, 3, &[(2, &good), (1, &good)]),
            ("short", 512, 3, &[(1, &short)]),
            ("lock page", 512, lock_page + 1, &[(lock_page, &good)]),
            ("page size", 1024, 3, &[(1, &[1; 1024])]),
        ];
        for (what, bytes, database_size, pages) in cases {
            let pages = pages.iter().map(|&(at, page)| (number(at), page));
            let mut writer = Writer::try_begin(&world.index).unwrap().unwrap();
            let size = PageSize::new(bytes).unwrap();
            let result = writer.append(&world.log, size, database_size, pages, Salts([1; 8]));
            assert!(
                matches!(result, Err(Error::Corrupt(_) | Error::Misuse(_))),
                "{what}"
            );
            drop(writer);
            assert_eq!(
                (world.header(), world.index.held()),
                (before, vec![]),
                "{what}"
            );
        }
        // Nothing in the way of the next one, shrinking to the first page.
        world.append(&[1], 1).unwrap();
        world.check_newest();
        // A log that is not the one of the index is left alone.
        world.log.truncate(0);
        assert!(matches!(world.append(&[1], 1), Err(Error::Corrupt(_))));
        assert!(world.log.bytes().is_empty());
    }

    #[test]
    fn one_writer_at_a_time() {
        let world = World::new(512, 1);
        let other = world.index.connect();
        let writer = Writer::try_begin(&world.index).unwrap().unwrap();
        assert!(Writer::try_begin(&other).unwrap().is_none());
        // Somebody who has the lock through another connection writes without taking it.
        let mut second = Writer::under_lock(&other).unwrap();
        let content = page(world.page_size, number(1), 0);
        let pages = [(number(1), &content[..])];
        second
            .append(&world.log, world.page_size, 1, pages, Salts([1; 8]))
            .unwrap();
        drop(second);
        assert!(Writer::try_begin(&other).unwrap().is_none());
        drop(writer);
        assert!(Writer::try_begin(&other).unwrap().is_some());
        assert_eq!(other.held(), []);

        let empty = MemoryIndex::new();
        assert!(matches!(Writer::try_begin(&empty), Err(Error::Misuse(_))));
        assert_eq!(empty.held(), []);
    }
}
