//! Pages that a checkpoint copies from the log as they are sealed, and what the header says of it.

use super::SealedDatabase;
use crate::crypt::header::Backfill;
use crate::crypt::page::{SealedPage, place};
use crate::crypt::raw::RawFile;
use crate::error::{Error, Result};

impl SealedDatabase {
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

    /// A page is about to be copied from the log.
    pub(super) fn copies(&mut self, raw: &dyn RawFile, page: &SealedPage) -> Result<()> {
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

    pub(super) fn set_backfill(&mut self, raw: &dyn RawFile, backfill: Backfill) -> Result<()> {
        if self.header.backfill() == backfill {
            return Ok(());
        }
        self.header
            .update(raw, &self.keys, |header| header.backfill(backfill))
    }
}
