//! Free pages that were torn.

use super::SealedDatabase;
use crate::crypt::page::{place, records};
use crate::crypt::raw::RawFile;
use crate::error::Result;
use crate::page::{PageNumber, PageSize};

impl SealedDatabase {
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

    pub(super) fn heal_page(
        &mut self,
        raw: &dyn RawFile,
        size: PageSize,
        number: PageNumber,
    ) -> Result<()> {
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
}

/// A number as SQLite writes it.
fn word(page: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}
