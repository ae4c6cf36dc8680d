//! Writing pages, and setting the size of the file.

use super::SealedDatabase;
use crate::crypt::header::HEADER_BYTES;
use crate::crypt::page::{associated, place, records};
use crate::crypt::raw::{MOST_BYTES, RawFile, write_all};
use crate::crypt::seal::OVERHEAD;
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

impl SealedDatabase {
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

    /// Seals a page behind the records that wait in `scratch`.
    pub(super) fn append_record(&mut self, number: PageNumber, page: &[u8]) -> Result<()> {
        let nonce = self.nonces.next(&*self.keys.entropy)?;
        let start = self.scratch.len();
        self.scratch.resize(start + OVERHEAD + page.len(), 0);
        let (pages, associated) = (&self.keys.pages, associated(&self.id, number));
        pages
            .seal_record(nonce, &associated, page, &mut self.scratch[start..])
            .map(drop)
    }

    /// Writes the records that wait in `scratch`.
    pub(super) fn put(&mut self, raw: &dyn RawFile, offset: u64) -> Result<()> {
        self.forget_ahead();
        write_all(raw, &self.scratch, offset)
    }

    pub(super) fn wrote(&mut self, last: u32) {
        // What lies between was filled before.
        self.grown = self.grown.max(last);
    }

    /// The page size, which the first write of a new database tells: page 1 itself, or a page that
    /// did not fit the cache.
    pub(super) fn size_for(
        &mut self,
        raw: &dyn RawFile,
        data: &[u8],
        offset: u64,
    ) -> Result<PageSize> {
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
    pub(super) fn fill_before(
        &mut self,
        raw: &dyn RawFile,
        size: PageSize,
        number: PageNumber,
    ) -> Result<()> {
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
}
