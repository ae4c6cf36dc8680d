//! Reading any range of the plain file.

use super::SealedDatabase;
use crate::crypt::page::{associated, place, records};
use crate::crypt::raw::{RawFile, read_all};
use crate::crypt::seal::OVERHEAD;
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

impl SealedDatabase {
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
    pub(super) fn read_page(
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
    pub(super) fn open_record(
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
}
