//! What a rollback journal is beyond a file of blocks: which blocks of it must open, and which
//! super-journal it names.

use std::sync::Arc;

use super::SealedBlocks;
use crate::crypt::header::{Journal, Rollback};
use crate::crypt::key::Keys;
use crate::crypt::raw::RawFile;
use crate::crypt::super_journal;
use crate::error::Result;

/// Bytes of a block of a journal: SQLite's sector, with SQLITE_IOCAP_POWERSAFE_OVERWRITE.
pub(super) const JOURNAL_BLOCK: usize = 512;

/// Where the header of a journal has the number that is another one in each.
pub(super) const NONCE_AT: usize = 12;

/// Which blocks of a file must open.
#[derive(Clone, Copy)]
pub(super) enum Reliable {
    /// All.
    Whole,
    /// Of a journal: those that hold its first bytes, so many; but the first only where it is not
    /// about to go, which is done by writing over it.
    Start { journal: Journal, first: bool },
}

impl SealedBlocks {
    /// The rollback journal of the database file with this id, for which that needs it.
    pub fn journal(keys: Arc<Keys>, file_id: [u8; 16], rollback: Rollback) -> Self {
        let (journal, first) = match rollback {
            Rollback::NotNeeded => (Journal::default(), true),
            Rollback::Needed(journal) => (journal, true),
            Rollback::Complete(journal) => (journal, false),
        };
        Self {
            reliable: Reliable::Start { journal, first },
            // A super-journal goes when all databases of its transaction are complete. As long as one
            // is not, it has to be rolled back, even where somebody took the super-journal away.
            hides_super: matches!(rollback, Rollback::Needed(_)),
            ..Self::new(keys, file_id, JOURNAL_BLOCK)
        }
    }

    /// The journal of the present transaction, as far as it was written.
    pub fn as_journal(&self) -> Journal {
        match self.reliable {
            Reliable::Whole => Journal::default(),
            Reliable::Start { journal, .. } => journal,
        }
    }

    /// The number in the header of this journal.
    pub fn journal_nonce(&mut self, raw: &dyn RawFile) -> Result<u32> {
        let mut nonce = [0; 4];
        self.read(raw, &mut nonce, NONCE_AT as u64)?;
        Ok(u32::from_be_bytes(nonce))
    }

    /// A journal that was complete may have gone long ago: nothing relies on another one.
    pub fn recognise(&mut self, raw: &dyn RawFile) -> Result<()> {
        if let Reliable::Start {
            journal,
            first: false,
        } = self.reliable
            && self.journal_nonce(raw)? != journal.nonce
        {
            self.reliable = Reliable::Start {
                journal: Journal::default(),
                first: true,
            };
        }
        Ok(())
    }

    /// The super-journal that this journal names, and whose name is kept from SQLite.
    pub fn hidden_super(&mut self, raw: &dyn RawFile) -> Result<Option<String>> {
        if !self.hides_super {
            return Ok(None);
        }
        let size = self.size(raw)?;
        super_journal::named_at_end(size, |buffer, offset| self.read_range(raw, buffer, offset))
    }

    /// That is still there: SQLite may see its name, and takes it away when it has rolled back.
    pub fn show_super(&mut self) {
        self.hides_super = false;
    }

    /// A journal was written: its header begins another one.
    pub(super) fn note_write(&mut self, data: &[u8], offset: u64) {
        self.hides_super = false;
        if data.len() == 1 {
            // Takes the magic of an older journal away, where the next header is to come: nothing
            // relies on it.
            return;
        }
        if let Reliable::Start { journal, first } = &mut self.reliable {
            let end = offset + data.len() as u64;
            if offset == 0 && data.len() >= JOURNAL_BLOCK {
                *first = true;
                journal.bytes = end;
                journal.nonce = data[NONCE_AT..]
                    .first_chunk()
                    .map_or(0, |nonce| u32::from_be_bytes(*nonce));
            } else if offset <= journal.bytes.next_multiple_of(JOURNAL_BLOCK as u64) {
                // Further headers begin at a sector.
                journal.bytes = journal.bytes.max(end);
            }
        }
    }

    pub(super) fn must_open(&self, number: u64) -> bool {
        match self.reliable {
            Reliable::Whole => true,
            Reliable::Start { journal, first } => {
                number * (self.size as u64) < journal.bytes && (first || number > 0)
            }
        }
    }
}
