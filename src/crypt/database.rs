//! The pages of an encrypted database file.
//!
//! Behind the header (header.rs), which has 8192 bytes, lies a record for each page, in order. With
//! pages of N bytes, the record of page p begins at 8192 + (p - 1) * (N + 40):
//!
//! ```text
//!  0  24  nonce
//! 24  16  tag
//! 40   N  the page, sealed; authenticated with it: "page" and version (8 bytes), id of the file
//!         (16), page number (4, little-endian)
//! ```
//!
//! The log carries the same records: a checkpoint copies them. SQLite leaves holes for pages that
//! were freed before they were ever written; a plain file has zeros there. Here such a page gets a
//! record of its own when the file grows beyond it, and the header says up to which page there is
//! one for every page (`complete`): up to there a record that is missing, or zero, was taken away.

use std::sync::Arc;

use super::RawFile;
use super::header::{Backfill, HEADER_BYTES, Header, Journal, Rollback};
use super::key::Keys;
use super::nonces::Nonces;
use super::raw::{MOST_BYTES, read_all, write_all};
use super::seal::{OVERHEAD, Seal};
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

/// Times the same header is read again before it is believed that the file was cut.
const MOST_LOOKS: u32 = 3;

/// What is authenticated with a page.
pub(super) fn associated(file: &[u8; 16], page: PageNumber) -> [u8; 28] {
    let mut bytes = *b"page\0\0\0\x01--------------------";
    bytes[8..24].copy_from_slice(file);
    bytes[24..].copy_from_slice(&page.get().to_le_bytes());
    bytes
}

/// An encrypted database file, as one connection sees it.
pub struct SealedDatabase {
    keys: Arc<Keys>,
    header: Header,
    id: [u8; 16],
    nonces: Nonces,
    /// Records on their way.
    scratch: Vec<u8>,
    /// A page of which a part was asked for.
    page: Vec<u8>,
    /// Every page up to this one was looked at while the file grows: it has a record.
    grown: u32,
    /// What the checkpoint that is under way has copied.
    copied: Option<Backfill>,
    /// For reads one after the other.
    ahead: Option<Ahead>,
}

/// Records that were read ahead. They are good for as long as the locks of the connection stay as
/// they are: what a transaction reads from the database file nobody writes meanwhile.
#[derive(Default)]
struct Ahead {
    records: Vec<u8>,
    /// The page of the first, and how many there are.
    first: u32,
    count: u32,
    /// The page that was asked for last.
    last: u32,
}

impl Ahead {
    /// Where the record of a page lies in `records`.
    fn find(&self, number: PageNumber, length: usize) -> Option<std::ops::Range<usize>> {
        let at = number.get().checked_sub(self.first)?;
        let start = at as usize * length;
        (at < self.count).then_some(start..start + length)
    }
}

/// A page as it is sealed in the log.
pub struct SealedPage {
    /// Which page it is.
    pub number: PageNumber,
    /// Before its ciphertext.
    pub seal: Seal,
    /// The frame that holds it, from 1.
    pub frame: u32,
    /// Salts of the log.
    pub salts: [u8; 8],
}

impl SealedDatabase {
    /// A file whose header was found.
    pub fn new(keys: Arc<Keys>, header: Header) -> Self {
        Self {
            keys,
            id: header.id(),
            nonces: Nonces::new(),
            scratch: Vec::new(),
            page: Vec::new(),
            grown: header.complete(),
            copied: None,
            ahead: None,
            header,
        }
    }

    /// Has pages read ahead where they are read one after the other. Whoever asks for this says when
    /// locks change ([`SealedDatabase::forget_ahead`]).
    pub fn read_ahead(&mut self) {
        self.ahead = Some(Ahead::default());
    }

    /// Locks were taken or given back: what was read ahead may be old.
    pub fn forget_ahead(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.count = 0;
        }
    }

    /// A lock was taken: others may have written since.
    pub fn refresh(&mut self, raw: &dyn RawFile) -> Result<()> {
        self.forget_ahead();
        self.header.refresh(raw, &self.keys)
    }

    /// A lock was taken under which the file may be written: others may have cut it since, and what
    /// was looked at before counts no more.
    pub fn begin_write(&mut self, raw: &dyn RawFile) -> Result<()> {
        self.refresh(raw)?;
        self.grown = self.header.complete();
        // Another checkpointer may have come further with the same log.
        self.copied = None;
        // Power failed when the first pages were written, and none is there: nothing needs the
        // journal, which SQLite is about to take away.
        if matches!(self.header.rollback(), Rollback::Needed(_)) && self.size(raw)? == 0 {
            self.set_rollback(raw, Rollback::NotNeeded)?;
            self.sync(raw)?;
        }
        Ok(())
    }

    /// The lock is given back after a transaction or a checkpoint that was not synced
    /// (`synchronous=OFF`): what there is counts as well.
    pub fn end_write(&mut self, raw: &dyn RawFile) -> Result<()> {
        if self.grown <= self.header.complete()
            || matches!(self.header.rollback(), Rollback::Needed(_))
        {
            return Ok(());
        }
        self.before_sync(raw)?;
        let grown = self.grown;
        self.header
            .update(raw, &self.keys, |header| header.grow(grown))
    }

    /// Before pages are written whose former content is in the rollback journal: in its first
    /// bytes, which were synced.
    pub fn needs_journal(&mut self, raw: &dyn RawFile, journal: Journal) -> Result<()> {
        self.set_rollback(raw, Rollback::Needed(journal))
    }

    /// Before the sync that ends a transaction with a rollback journal.
    pub fn all_written(&mut self, raw: &dyn RawFile) -> Result<()> {
        match self.header.rollback() {
            Rollback::Needed(journal) => self.set_rollback(raw, Rollback::Complete(journal)),
            _ => Ok(()),
        }
    }

    fn set_rollback(&mut self, raw: &dyn RawFile, rollback: Rollback) -> Result<()> {
        if self.header.rollback() == rollback {
            return Ok(());
        }
        self.header
            .update(raw, &self.keys, |header| header.rollback(rollback))
    }

    /// A page is about to be copied from the log.
    fn copies(&mut self, raw: &dyn RawFile, page: &SealedPage) -> Result<()> {
        let copied = match self.copied {
            Some(copied) if copied.salts == page.salts => copied,
            _ => {
                let before = self.header.backfill();
                let under_way = Backfill {
                    salts: page.salts,
                    frames: match before.salts == page.salts {
                        true => before.frames,
                        false => 0,
                    },
                    under_way: true,
                };
                self.set_backfill(raw, under_way)?;
                under_way
            }
        };
        self.copied = Some(Backfill {
            frames: copied.frames.max(page.frame),
            ..copied
        });
        Ok(())
    }

    /// A checkpoint has copied what it could; readers may have kept it from the rest.
    pub fn some_copied(&mut self, raw: &dyn RawFile) -> Result<()> {
        match self.copied {
            Some(copied) => self.set_backfill(raw, copied),
            None => Ok(()),
        }
    }

    /// A checkpoint has copied the whole log.
    pub fn all_copied(&mut self, raw: &dyn RawFile) -> Result<()> {
        let copied = self.copied.take().unwrap_or(self.header.backfill());
        let done = Backfill {
            under_way: false,
            ..copied
        };
        self.set_backfill(raw, done)
    }

    fn set_backfill(&mut self, raw: &dyn RawFile, backfill: Backfill) -> Result<()> {
        if self.header.backfill() == backfill {
            return Ok(());
        }
        self.header
            .update(raw, &self.keys, |header| header.backfill(backfill))
    }

    /// The header as it was last read.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The keys.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The page size, once there is a page.
    pub fn page_size(&self) -> Option<PageSize> {
        self.header.page_size()
    }

    /// The size of the plain file, in whole pages.
    pub fn size(&mut self, raw: &dyn RawFile) -> Result<u64> {
        let Some(size) = self.known_page_size(raw)? else {
            return Ok(0);
        };
        let mut seen = 0;
        loop {
            let (records, complete) = (records(raw, size)?, self.header.complete());
            if records >= complete {
                return Ok(u64::from(records) * u64::from(size.get()));
            }
            // Others may have cut it, and have said so before; or they are saying it.
            self.header.refresh(raw, &self.keys)?;
            seen += u32::from(self.header.complete() == complete);
            if seen == MOST_LOOKS {
                return Err(Error::Tampered(format!(
                    "the encrypted database has {records} pages, and had {complete}"
                )));
            }
        }
    }

    /// The page size, which others may have told first.
    fn known_page_size(&mut self, raw: &dyn RawFile) -> Result<Option<PageSize>> {
        if self.page_size().is_none() {
            self.header.refresh(raw, &self.keys)?;
        }
        Ok(self.page_size())
    }

    /// Reads any range of the plain file; returns how many bytes there were before its end.
    pub fn read(&mut self, raw: &dyn RawFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let Some(size) = self.known_page_size(raw)? else {
            return Ok(0);
        };
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let (page, start) = (
                at / u64::from(size.get()),
                (at % u64::from(size.get())) as usize,
            );
            let Some(number) = u32::try_from(page + 1).ok().and_then(PageNumber::new) else {
                return Ok(done);
            };
            let count = (size.bytes() - start).min(buffer.len() - done);
            let target = &mut buffer[done..done + count];
            let there = if count == size.bytes() {
                self.read_page(raw, size, number, target)?
            } else {
                let mut page = std::mem::take(&mut self.page);
                page.resize(size.bytes(), 0);
                let there = self.read_page(raw, size, number, &mut page);
                target.copy_from_slice(&page[start..start + count]);
                self.page = page;
                there?
            };
            if !there {
                return Ok(done);
            }
            done += count;
        }
        Ok(done)
    }

    /// Reads one page; false where the file ends before it.
    fn read_page(
        &mut self,
        raw: &dyn RawFile,
        size: PageSize,
        number: PageNumber,
        page: &mut [u8],
    ) -> Result<bool> {
        let (mut read, opened) = self.open_record(raw, size, number, page)?;
        if opened {
            return Ok(true);
        }
        // Others may have written it since the header was read.
        self.refresh(raw)?;
        let again = self.open_record(raw, size, number, page)?;
        read = read.max(again.0);
        if again.1 {
            return Ok(true);
        }
        // A page that was never written reads as zeros, anything else was changed.
        let empty = self.scratch[..again.0].iter().all(|byte| *byte == 0);
        if !empty || (number.get() <= self.header.complete() && number != size.lock_page()) {
            return Err(Error::Tampered(format!(
                "page {number} of the encrypted database was changed, moved or cut off"
            )));
        }
        page.fill(0);
        Ok(read == size.bytes() + OVERHEAD || number.get() <= records(raw, size)?)
    }

    /// Reads the record of a page into `scratch`: how many bytes there were, and whether it opened.
    fn open_record(
        &mut self,
        raw: &dyn RawFile,
        size: PageSize,
        number: PageNumber,
        page: &mut [u8],
    ) -> Result<(usize, bool)> {
        let length = size.bytes() + OVERHEAD;
        if self.look_ahead(raw, size, number)? {
            return Ok((length, self.open_ahead(number, page)));
        }
        self.scratch.resize(length, 0);
        let read = read_all(raw, &mut self.scratch, place(size, number))?;
        let (pages, associated) = (&self.keys.pages, associated(&self.id, number));
        let opened = pages.open_record(&self.scratch[..read], &associated, page);
        Ok((read, opened))
    }

    /// Whether the record of a page was read ahead; where pages are read one after the other, the
    /// next ones are.
    fn look_ahead(
        &mut self,
        raw: &dyn RawFile,
        size: PageSize,
        number: PageNumber,
    ) -> Result<bool> {
        let length = size.bytes() + OVERHEAD;
        let Some(ahead) = &mut self.ahead else {
            return Ok(false);
        };
        let next = ahead.last > 0 && number.get() == ahead.last.wrapping_add(1);
        ahead.last = number.get();
        if ahead.find(number, length).is_some() {
            return Ok(true);
        }
        let count = MOST_BYTES / length;
        if !next || count < 2 {
            return Ok(false);
        }
        ahead.count = 0;
        ahead.records.resize(count * length, 0);
        let read = raw.read(&mut ahead.records, place(size, number))?;
        (ahead.first, ahead.count) = (number.get(), (read / length) as u32);
        Ok(ahead.count > 0)
    }

    fn open_ahead(&self, number: PageNumber, page: &mut [u8]) -> bool {
        let (pages, associated) = (&self.keys.pages, associated(&self.id, number));
        let record = self
            .ahead
            .as_ref()
            .and_then(|ahead| Some(&ahead.records[ahead.find(number, page.len() + OVERHEAD)?]));
        record.is_some_and(|record| pages.open_record(record, &associated, page))
    }

    /// Writes whole pages. The first write of a new file, of one page or from page 1 on, tells the page
    /// size.
    pub fn write(&mut self, raw: &dyn RawFile, data: &[u8], offset: u64) -> Result<()> {
        let size = self.size_for(raw, data, offset)?;
        let (length, first) = (size.bytes() + OVERHEAD, offset / u64::from(size.get()) + 1);
        let wrong = || Error::Misuse("a write that is not of whole pages".to_owned());
        if !offset.is_multiple_of(size.get().into()) || !data.len().is_multiple_of(size.bytes()) {
            return Err(wrong());
        }
        let pages = (MOST_BYTES / length).max(1);
        let first = u32::try_from(first).map_err(|_| wrong())?;
        for (run, chunk) in (0_u32..).zip(data.chunks(pages * size.bytes())) {
            let start = first
                .checked_add(run * pages as u32)
                .and_then(PageNumber::new)
                .ok_or_else(wrong)?;
            self.fill_before(raw, size, start)?;
            self.scratch.clear();
            for (number, page) in (start.get()..).zip(chunk.chunks(size.bytes())) {
                let number = PageNumber::new(number).ok_or_else(wrong)?;
                self.append_record(number, page)?;
            }
            self.put(raw, place(size, start))?;
            self.wrote(start.get() + (chunk.len() / size.bytes()) as u32 - 1);
        }
        Ok(())
    }

    /// Writes a page as it is sealed already, for a checkpoint.
    pub fn write_sealed(
        &mut self,
        raw: &dyn RawFile,
        page: &SealedPage,
        ciphertext: &[u8],
    ) -> Result<()> {
        let number = page.number;
        let size = self
            .page_size()
            .filter(|size| size.bytes() == ciphertext.len());
        let size = size.ok_or_else(|| {
            Error::Misuse("a sealed page has not the page size of the database".to_owned())
        })?;
        self.copies(raw, page)?;
        self.fill_before(raw, size, number)?;
        self.scratch.clear();
        self.scratch.extend_from_slice(&page.seal.encode());
        self.scratch.extend_from_slice(ciphertext);
        self.put(raw, place(size, number))?;
        self.wrote(number.get());
        Ok(())
    }

    /// Seals a page behind the records that wait in `scratch`.
    fn append_record(&mut self, number: PageNumber, page: &[u8]) -> Result<()> {
        let nonce = self.nonces.next(&*self.keys.entropy)?;
        let start = self.scratch.len();
        self.scratch.resize(start + OVERHEAD + page.len(), 0);
        let (pages, associated) = (&self.keys.pages, associated(&self.id, number));
        pages
            .seal_record(nonce, &associated, page, &mut self.scratch[start..])
            .map(drop)
    }

    /// Writes the records that wait in `scratch`.
    fn put(&mut self, raw: &dyn RawFile, offset: u64) -> Result<()> {
        self.forget_ahead();
        write_all(raw, &self.scratch, offset)
    }

    fn wrote(&mut self, last: u32) {
        // What lies between was filled before.
        self.grown = self.grown.max(last);
    }

    /// The page size, which the first write of a new database tells: page 1 itself, or a page that
    /// did not fit the cache.
    fn size_for(&mut self, raw: &dyn RawFile, data: &[u8], offset: u64) -> Result<PageSize> {
        let known = self.known_page_size(raw)?;
        let told = match offset == 0 && data.len() >= 100 {
            true => match u16::from_be_bytes([data[16], data[17]]) {
                1 => 65536,
                size => u32::from(size),
            },
            false => known.map_or(data.len() as u32, PageSize::get),
        };
        match known {
            Some(size) if size.get() == told => return Ok(size),
            Some(size) if records(raw, size)? > 0 => {
                return Err(Error::Misuse(
                    "an encrypted database keeps its page size: VACUUM INTO makes another one"
                        .to_owned(),
                ));
            }
            _ => {}
        }
        let size = PageSize::new(told)?;
        // Pages of a transaction that power failed in, before the size was there.
        if raw.size()? > HEADER_BYTES {
            self.forget_ahead();
            raw.truncate(HEADER_BYTES)?;
        }
        self.header
            .update(raw, &self.keys, |header| header.page_size(size))?;
        Ok(size)
    }

    /// Gives every page before `number` that has no record one of zeros.
    fn fill_before(&mut self, raw: &dyn RawFile, size: PageSize, number: PageNumber) -> Result<()> {
        if number.get() <= self.grown + 1 {
            return Ok(());
        }
        self.header.refresh(raw, &self.keys)?;
        self.grown = self.grown.max(self.header.complete());
        let mut head = [0; OVERHEAD];
        let zeros = vec![0; size.bytes()];
        for hole in (self.grown + 1..number.get()).filter_map(PageNumber::new) {
            let read = raw.read(&mut head, place(size, hole))?;
            if head[..read].iter().all(|byte| *byte == 0) {
                self.scratch.clear();
                self.append_record(hole, &zeros)?;
                self.put(raw, place(size, hole))?;
            }
            self.grown = hole.get();
        }
        Ok(())
    }

    /// After a rollback journal that a crash has left was played back: the former content of free
    /// pages is in no journal, so that one of them may have been torn. Nobody misses it, but whoever
    /// copies the whole file reads it.
    pub fn heal_free_pages(&mut self, raw: &dyn RawFile) -> Result<()> {
        let Some(size) = self.page_size() else {
            return Ok(());
        };
        let count = records(raw, size)?;
        let mut page = vec![0; size.bytes()];
        if !self.open_record(raw, size, PageNumber::FIRST, &mut page)?.1 {
            return Ok(());
        }
        // File format, sections 1.3.7 and 1.5: the first trunk; then the next one, how many leaves
        // follow, and their numbers.
        let mut trunk = word(&page, 32);
        for _ in 0..count {
            let Some(number) = PageNumber::new(trunk).filter(|number| number.get() <= count) else {
                break;
            };
            if !self.open_record(raw, size, number, &mut page)?.1 {
                break;
            }
            let leaves = (word(&page, 4) as usize).min(size.bytes() / 4 - 2);
            trunk = word(&page, 0);
            for leaf in 0..leaves {
                let leaf = PageNumber::new(word(&page, 8 + 4 * leaf));
                if let Some(leaf) = leaf.filter(|leaf| leaf.get() <= count) {
                    self.heal_page(raw, size, leaf)?;
                }
            }
        }
        Ok(())
    }

    fn heal_page(&mut self, raw: &dyn RawFile, size: PageSize, number: PageNumber) -> Result<()> {
        let mut zeros = vec![0; size.bytes()];
        if self.open_record(raw, size, number, &mut zeros)?.1 {
            return Ok(());
        }
        log::warn!(target: "replica", "page {number}, which is free, was torn; it is zeros now");
        zeros.fill(0);
        self.scratch.clear();
        self.append_record(number, &zeros)?;
        self.put(raw, place(size, number))
    }

    /// Cuts the plain file, or lets it grow by pages of zeros.
    pub fn truncate(&mut self, raw: &dyn RawFile, size: u64) -> Result<()> {
        let Some(page_size) = self.known_page_size(raw)? else {
            return Ok(());
        };
        let pages = u32::try_from(size / u64::from(page_size.get()))
            .map_err(|_| Error::Misuse("a database of too many pages".to_owned()))?;
        if pages > records(raw, page_size)? {
            let end = PageNumber::new(pages.saturating_add(1));
            return end.map_or(Ok(()), |end| self.fill_before(raw, page_size, end));
        }
        self.header.refresh(raw, &self.keys)?;
        if self.header.complete() > pages {
            self.header
                .update(raw, &self.keys, |header| header.complete(pages))?;
            // A file that is shorter than its header says was cut by somebody else.
            self.sync(raw)?;
        }
        self.grown = self.grown.min(pages);
        self.forget_ahead();
        raw.truncate(HEADER_BYTES + u64::from(pages) * (page_size.bytes() + OVERHEAD) as u64)
    }

    /// Before the file is synced: every page up to its end gets a record.
    pub fn before_sync(&mut self, raw: &dyn RawFile) -> Result<()> {
        let Some(size) = self.page_size() else {
            return Ok(());
        };
        if self.grown <= self.header.complete() {
            return Ok(());
        }
        let end = PageNumber::new(records(raw, size)?.saturating_add(1));
        end.map_or(Ok(()), |end| self.fill_before(raw, size, end))
    }

    fn sync(&mut self, raw: &dyn RawFile) -> Result<()> {
        raw.sync()?;
        self.header.synced();
        Ok(())
    }

    /// After it: the header says so.
    pub fn after_sync(&mut self, raw: &dyn RawFile) -> Result<()> {
        self.header.synced();
        let grown = self.grown;
        if grown <= self.header.complete() {
            return Ok(());
        }
        self.header
            .update(raw, &self.keys, |header| header.grow(grown))
    }
}

/// A number as SQLite writes it.
fn word(page: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

/// Where the record of a page begins.
fn place(size: PageSize, number: PageNumber) -> u64 {
    HEADER_BYTES + u64::from(number.get() - 1) * (size.bytes() + OVERHEAD) as u64
}

/// How many records the file has, the last one perhaps cut.
fn records(raw: &dyn RawFile, size: PageSize) -> Result<u32> {
    let bytes = raw.size()?.saturating_sub(HEADER_BYTES);
    u32::try_from(bytes / (size.bytes() + OVERHEAD) as u64)
        .map_err(|_| Error::Corrupt("the encrypted database is too large".to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::cipher::Algorithm;
    use super::super::header::Found;
    use super::super::memory::{Bytes, keys, keys_for};
    use super::*;

    const SIZE: usize = 512;

    fn create(keys: &Arc<Keys>) -> (Bytes, SealedDatabase) {
        let raw = Bytes::default();
        keys.new_header(None).unwrap().create(&raw).unwrap();
        let database = open(&raw, keys);
        (raw, database)
    }

    fn open(raw: &Bytes, keys: &Arc<Keys>) -> SealedDatabase {
        match Header::find(raw).unwrap() {
            Found::Sealed(header) => SealedDatabase::new(Arc::clone(keys), *header),
            _ => panic!("no header"),
        }
    }

    /// A page filled with a byte that says its size where page 1 has to.
    fn page(fill: u8) -> [u8; SIZE] {
        let mut page = [fill; SIZE];
        page[16..18].copy_from_slice(&(SIZE as u16).to_be_bytes());
        page
    }

    fn put(database: &mut SealedDatabase, raw: &Bytes, number: usize, fill: u8) {
        let offset = (number - 1) * SIZE;
        database.write(raw, &page(fill), offset as u64).unwrap();
    }

    fn get(database: &mut SealedDatabase, raw: &Bytes, number: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![9; SIZE];
        let read = database.read(raw, &mut bytes, ((number - 1) * SIZE) as u64)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn sync(database: &mut SealedDatabase, raw: &Bytes) {
        database.before_sync(raw).unwrap();
        database.after_sync(raw).unwrap();
    }

    #[test]
    fn the_first_page_tells_the_size_to_all() {
        let keys = keys();
        let (raw, mut database) = create(&keys);
        let mut other = open(&raw, &keys);
        assert_eq!(other.read(&raw, &mut [0; 100], 0).unwrap(), 0);
        put(&mut database, &raw, 1, 1);
        assert_eq!(other.read(&raw, &mut [0; 100], 0).unwrap(), 100);
        assert_eq!(other.page_size(), PageSize::new(512).ok());
        assert_eq!(other.size(&raw).unwrap(), 512);
        let mut range = [0; 600];
        put(&mut other, &raw, 2, 2);
        assert_eq!(database.read(&raw, &mut range, 500).unwrap(), 524);
        assert_eq!((range[11], range[12]), (1, 2));
    }

    #[test]
    fn what_was_never_written_is_zero_and_what_was_taken_away_an_error() {
        let keys = keys();
        let (raw, mut database) = create(&keys);
        put(&mut database, &raw, 1, 1);
        put(&mut database, &raw, 4, 4);
        assert_eq!(get(&mut database, &raw, 3).unwrap(), [0; SIZE]);
        assert!(get(&mut database, &raw, 5).unwrap().is_empty());
        // As another process leaves it that was killed before it filled the gap.
        raw.truncate(HEADER_BYTES + 6 * 552).unwrap();
        assert_eq!(get(&mut database, &raw, 5).unwrap(), [0; SIZE]);
        sync(&mut database, &raw);
        let whole = raw.copy();
        let mut other = open(&raw, &keys);
        assert_eq!(other.header().complete(), 6);
        assert_eq!(get(&mut other, &raw, 5).unwrap(), [0; SIZE]);
        for number in 1..=6 {
            let mut bytes = whole.clone();
            let at = HEADER_BYTES as usize + (number - 1) * 552;
            bytes[at..at + 552].fill(0);
            let raw = Bytes::of(bytes);
            let result = get(&mut open(&raw, &keys), &raw, number);
            assert!(matches!(result, Err(Error::Tampered(_))), "{number}");
            raw.truncate(at as u64 + 100).unwrap();
            let result = get(&mut open(&raw, &keys), &raw, number);
            assert!(matches!(result, Err(Error::Tampered(_))), "{number}");
            let result = open(&raw, &keys).size(&raw);
            assert!(matches!(result, Err(Error::Tampered(_))), "{number}");
        }
        // A shrunk file may end earlier.
        database.truncate(&raw, 2 * SIZE as u64).unwrap();
        assert!(get(&mut open(&raw, &keys), &raw, 3).unwrap().is_empty());
        database.truncate(&raw, 5 * SIZE as u64).unwrap();
        assert_eq!(get(&mut database, &raw, 5).unwrap(), [0; SIZE]);
    }

    #[test]
    fn every_damage_of_a_page_is_an_error_as_is_another_place() {
        for algorithm in Algorithm::ALL {
            damage_pages(&keys_for(algorithm));
        }
    }

    fn damage_pages(keys: &Arc<Keys>) {
        let (raw, mut database) = create(keys);
        let (other_raw, mut other) = create(keys);
        for number in 1..=3 {
            put(&mut database, &raw, number, number as u8);
            put(&mut other, &other_raw, number, number as u8);
        }
        let whole = raw.copy();
        let at = HEADER_BYTES as usize + 552;
        for byte in 0..552 {
            let mut bytes = whole.clone();
            bytes[at + byte] ^= 4;
            let raw = Bytes::of(bytes);
            let result = get(&mut database, &raw, 2);
            assert!(matches!(result, Err(Error::Tampered(_))), "{byte}");
        }
        for from in [&whole[at - 552..at], &other_raw.copy()[at..at + 552]] {
            let mut bytes = whole.clone();
            bytes[at..at + 552].copy_from_slice(from);
            let result = get(&mut database, &Bytes::of(bytes), 2);
            assert!(matches!(result, Err(Error::Tampered(_))));
        }
    }

    #[test]
    fn a_sealed_page_is_copied_as_it_is() {
        let keys = keys();
        let (raw, mut database) = create(&keys);
        put(&mut database, &raw, 1, 1);
        put(&mut database, &raw, 3, 7);
        let at = HEADER_BYTES as usize + 2 * 552;
        let record = raw.copy()[at..at + 552].to_vec();
        put(&mut database, &raw, 3, 8);
        let seal = Seal::parse(&record).unwrap();
        let sealed = SealedPage {
            number: PageNumber::new(3).unwrap(),
            seal,
            frame: 12,
            salts: [5; 8],
        };
        database
            .write_sealed(&raw, &sealed, &record[OVERHEAD..])
            .unwrap();
        assert_eq!(get(&mut database, &raw, 3).unwrap(), page(7));
        let backfill = |frames, under_way| Backfill {
            salts: [5; 8],
            frames,
            under_way,
        };
        assert_eq!(open(&raw, &keys).header().backfill(), backfill(0, true));
        database.some_copied(&raw).unwrap();
        assert_eq!(open(&raw, &keys).header().backfill(), backfill(12, true));
        database.all_copied(&raw).unwrap();
        assert_eq!(open(&raw, &keys).header().backfill(), backfill(12, false));
    }

    #[test]
    fn a_torn_write_is_an_error_on_its_page_only() {
        let keys = keys();
        let (raw, mut database) = create(&keys);
        for number in 1..=3 {
            put(&mut database, &raw, number, 1);
        }
        *raw.fail_after.borrow_mut() = Some(0);
        assert!(database.write(&raw, &page(2), SIZE as u64).is_err());
        *raw.fail_after.borrow_mut() = None;
        assert!(get(&mut database, &raw, 2).is_err());
        assert_eq!(get(&mut database, &raw, 1).unwrap(), page(1));
        assert_eq!(get(&mut database, &raw, 3).unwrap(), page(1));
    }

    /// Power failed in the first transaction, and its page is not there.
    #[test]
    fn a_journal_of_nothing_is_not_needed() {
        let keys = keys();
        let (raw, mut database) = create(&keys);
        let journal = Journal {
            bytes: 512,
            nonce: 7,
        };
        database.needs_journal(&raw, journal).unwrap();
        let mut other = open(&raw, &keys);
        other.begin_write(&raw).unwrap();
        assert_eq!(open(&raw, &keys).header().rollback(), Rollback::NotNeeded);
        // As long as there is a page it is.
        put(&mut other, &raw, 1, 1);
        other.needs_journal(&raw, journal).unwrap();
        other.begin_write(&raw).unwrap();
        let rollback = open(&raw, &keys).header().rollback();
        assert_eq!(rollback, Rollback::Needed(journal));
    }

    /// Power failed in the first transaction: its pages are there, their size is not.
    #[test]
    fn pages_without_a_size_go() {
        let keys = keys();
        let (raw, mut database) = create(&keys);
        raw.bytes.borrow_mut().resize(9000, 3);
        assert_eq!(database.size(&raw).unwrap(), 0);
        put(&mut database, &raw, 1, 1);
        assert_eq!(database.size(&raw).unwrap(), SIZE as u64);
    }

    #[test]
    fn pages_that_are_read_one_after_the_other_come_with_one_call() {
        let keys = keys();
        let (raw, mut database) = create(&keys);
        for number in 1..=100 {
            put(&mut database, &raw, number, number as u8);
        }
        let mut reader = open(&raw, &keys);
        reader.read_ahead();
        let reads = *raw.reads.borrow();
        for number in 1..=100 {
            assert_eq!(get(&mut reader, &raw, number).unwrap(), page(number as u8));
        }
        assert_eq!(*raw.reads.borrow() - reads, 2);
        // What others write is seen once they could write, and what was damaged is not hidden.
        put(&mut database, &raw, 50, 7);
        reader.forget_ahead();
        assert_eq!(get(&mut reader, &raw, 49).unwrap(), page(49));
        assert_eq!(get(&mut reader, &raw, 50).unwrap(), page(7));
        raw.bytes.borrow_mut()[HEADER_BYTES as usize + 50 * 552 + 300] ^= 1;
        reader.forget_ahead();
        assert_eq!(get(&mut reader, &raw, 50).unwrap(), page(7));
        assert!(get(&mut reader, &raw, 51).is_err());
        put(&mut reader, &raw, 51, 3);
        assert_eq!(get(&mut reader, &raw, 51).unwrap(), page(3));
    }

    /// Page 1 stays in SQLite's cache while others no longer fit.
    #[test]
    fn the_first_write_may_be_another_page() {
        let keys = keys();
        let (raw, mut database) = create(&keys);
        put(&mut database, &raw, 3, 3);
        assert_eq!(database.size(&raw).unwrap(), 3 * 512);
        assert_eq!(get(&mut database, &raw, 1).unwrap(), [0; SIZE]);
        put(&mut database, &raw, 1, 1);
        sync(&mut database, &raw);
        assert_eq!(get(&mut open(&raw, &keys), &raw, 3).unwrap(), page(3));
        // Another page size has no room in the same file.
        let mut larger = [0; 1024];
        larger[16..18].copy_from_slice(&1024_u16.to_be_bytes());
        assert!(database.write(&raw, &larger, 0).is_err());
        database.truncate(&raw, 0).unwrap();
        database.write(&raw, &larger, 0).unwrap();
        assert_eq!(open(&raw, &keys).page_size(), PageSize::new(1024).ok());
    }

    #[test]
    fn a_torn_page_is_healed_where_it_is_free() {
        let keys = keys();
        let (raw, mut database) = create(&keys);
        let mut first = page(1);
        first[32..36].copy_from_slice(&2_u32.to_be_bytes());
        database.write(&raw, &first, 0).unwrap();
        let mut trunk = [0; SIZE];
        for (at, value) in [(0, 99_u32), (4, 3), (8, 3), (12, 0), (16, 1000)] {
            trunk[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        database.write(&raw, &trunk, SIZE as u64).unwrap();
        for number in 3..=4 {
            put(&mut database, &raw, number, 7);
            raw.bytes.borrow_mut()[HEADER_BYTES as usize + (number - 1) * 552 + 300] ^= 1;
        }
        assert!(get(&mut database, &raw, 3).is_err());
        database.heal_free_pages(&raw).unwrap();
        assert_eq!(get(&mut database, &raw, 3).unwrap(), [0; SIZE]);
        assert!(get(&mut database, &raw, 4).is_err());
        assert_eq!(get(&mut database, &raw, 2).unwrap(), trunk);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize, usize, u8),
        Truncate(usize),
        Sync,
        Reopen,
        Read(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (1..12_usize, 1..4_usize, any::<u8>()).prop_map(|(at, n, fill)| Step::Write(at, n, fill)),
            1 => (1..14_usize).prop_map(Step::Truncate),
            1 => Just(Step::Sync),
            1 => Just(Step::Reopen),
            4 => (0..7000_usize, 0..2000_usize).prop_map(|(at, n)| Step::Read(at, n)),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_file_of_pages(steps in prop::collection::vec((0..2_usize, step()), 1..40), algorithm in prop::sample::select(&Algorithm::ALL[..])) {
            let keys = keys_for(algorithm);
            let (raw, mut first) = create(&keys);
            put(&mut first, &raw, 1, 5);
            let mut model = page(5).to_vec();
            let mut databases = [first, open(&raw, &keys)];
            databases.iter_mut().for_each(SealedDatabase::read_ahead);
            for (which, step) in steps {
                let database = &mut databases[which];
                database.begin_write(&raw).unwrap();
                match step {
                    Step::Write(at, n, fill) => {
                        let data = page(fill).repeat(n);
                        database.write(&raw, &data, ((at - 1) * SIZE) as u64).unwrap();
                        model.resize(model.len().max((at - 1 + n) * SIZE), 0);
                        model[(at - 1) * SIZE..(at - 1 + n) * SIZE].copy_from_slice(&data);
                    }
                    Step::Truncate(pages) => {
                        database.truncate(&raw, (pages * SIZE + 100) as u64).unwrap();
                        model.resize(pages * SIZE, 0);
                    }
                    Step::Sync => sync(database, &raw),
                    Step::Reopen => {
                        *database = open(&raw, &keys);
                        database.read_ahead();
                    }
                    Step::Read(at, n) => {
                        let mut bytes = vec![3; n];
                        let read = database.read(&raw, &mut bytes, at as u64).unwrap();
                        let there = model.len().saturating_sub(at).min(n);
                        prop_assert_eq!(read, there);
                        if there > 0 {
                            prop_assert_eq!(&bytes[..there], &model[at..at + there]);
                        }
                    }
                }
                prop_assert_eq!(database.size(&raw).unwrap(), model.len() as u64);
            }
        }
    }
}
