//! Changes of the header of a database in use.

use super::{Backfill, Header, Journal, Rollback};
use crate::page::PageSize;

/// What may change in the header of a database in use.
pub struct Change<'a>(pub(super) &'a mut Header);

impl Change<'_> {
    /// Sets the page size, once.
    pub fn page_size(&mut self, size: PageSize) {
        self.0.page_size = Some(size);
        self.0.put(20, &size.get().to_le_bytes());
    }

    /// Says that every page up to this one has a record, where nobody has said more.
    pub fn grow(&mut self, pages: u32) {
        let complete = self.0.complete().max(pages);
        self.complete(complete);
    }

    /// Sets up to where every page has a record.
    pub fn complete(&mut self, pages: u32) {
        self.0.put(152, &pages.to_le_bytes());
    }

    /// Says what checkpoints have copied.
    pub fn backfill(&mut self, backfill: Backfill) {
        self.0
            .put(172, &u32::from(backfill.under_way).to_le_bytes());
        self.0.put(176, &backfill.frames.to_le_bytes());
        self.0.put(180, &backfill.salts);
    }

    /// Says what the rollback journal is needed for.
    pub fn rollback(&mut self, rollback: Rollback) {
        let (state, journal) = match rollback {
            Rollback::NotNeeded => (0_u32, Journal::default()),
            Rollback::Needed(journal) => (1, journal),
            Rollback::Complete(journal) => (2, journal),
        };
        self.0.put(156, &state.to_le_bytes());
        self.0.put(160, &journal.bytes.to_le_bytes());
        self.0.put(168, &journal.nonce.to_le_bytes());
    }
}
