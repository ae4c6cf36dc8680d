//! Which other files the database cannot do without: its rollback journal, its log.

use super::{Header, double, word};

/// A rollback journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Journal {
    /// So many of the plain file.
    pub bytes: u64,
    /// The number in its header, drawn by SQLite: whether a journal is the one that is meant.
    pub nonce: u32,
}

/// What the database needs its rollback journal for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rollback {
    /// For nothing.
    NotNeeded,
    /// Pages are written whose former content is in the first bytes of the journal, so many, which
    /// were synced before.
    Needed(Journal),
    /// All pages of the transaction are written. Once they are synced the journal goes: where it is
    /// still whole, it counts. This stays here when it has gone, while later transactions write
    /// journals of their own.
    Complete(Journal),
}

/// What checkpoints have copied: of this log, the database holds pages and cannot do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backfill {
    /// Of the log's header.
    pub salts: [u8; 8],
    /// So many frames from the beginning, at least.
    pub frames: u32,
    /// Some pages were copied and others not yet.
    pub under_way: bool,
}

impl Header {
    /// What the rollback journal is needed for.
    pub fn rollback(&self) -> Rollback {
        let journal = Journal {
            bytes: double(&self.bytes, 160),
            nonce: word(&self.bytes, 168),
        };
        match word(&self.bytes, 156) {
            1 => Rollback::Needed(journal),
            2 => Rollback::Complete(journal),
            _ => Rollback::NotNeeded,
        }
    }

    /// What checkpoints have copied.
    pub fn backfill(&self) -> Backfill {
        let mut salts = [0; 8];
        salts.copy_from_slice(&self.bytes[180..188]);
        Backfill {
            salts,
            frames: word(&self.bytes, 176),
            under_way: word(&self.bytes, 172) == 1,
        }
    }
}
