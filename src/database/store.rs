//! The state store beside a database: who it is, which position its content is at, what is about to
//! be done to it. A trait: the engine knows what is remembered, not where.

use super::fingerprint::Fingerprint;
use super::offline::OfflineStore;
use super::tokens::TokenStore;
use crate::error::Result;
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::position::{DatabaseId, Lsn, Position, TransactionDigest};
use crate::wal::anchor::Anchor;
use crate::wire::PeerId;

/// Who a database is to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Others follow it.
    Primary,
    /// It follows a remote.
    Replica,
}

impl Role {
    /// The word used in the store and in `replica_status`.
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
        }
    }
}

/// A position, the content it stands for, and the index state it was recorded at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// The newest transaction the content holds.
    pub position: Position,
    /// Page size in bytes.
    pub page_size: PageSize,
    /// Size in pages.
    pub database_size: u32,
    /// Digest of the whole content.
    pub content: ContentDigest,
    /// The wal-index at that moment; `None` until the content was verified once.
    pub anchor: Option<Anchor>,
}

/// A transaction that is about to enter the log, or has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Intent {
    /// The position it leads to.
    pub position: Position,
    /// Size in pages afterwards.
    pub database_size: u32,
    /// Digest of the whole content afterwards.
    pub content: ContentDigest,
    /// Digest of the transaction's pages.
    pub digest: TransactionDigest,
}

/// How far the making of a replica has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Position of the first part: a pull since then completes the copy.
    pub first: Position,
    /// Page size in bytes.
    pub page_size: PageSize,
    /// Pages up to this one are in the spool; 0 for none.
    pub after: u32,
}

/// An open state store. A change is durable when it returns, or with the transaction it is part of.
pub trait Store: TokenStore + OfflineStore + Send {
    /// Begins a transaction that changes the store: [`transaction`](dyn Store::transaction) runs one.
    fn begin(&self) -> Result<()>;
    /// Makes the transaction durable.
    fn commit(&self) -> Result<()>;
    /// Takes back what the transaction changed.
    fn rollback(&self) -> Result<()>;
    /// Whether what is changed from here on is durable when that ends (`true`, as in the beginning), or
    /// with the next change that is; if only the process dies, neither is lost. For what can be found
    /// out again. Not within a transaction.
    fn set_durable(&self, on: bool) -> Result<()>;
    /// Fixes what the store shows until [`Store::end_read`].
    fn begin_read(&self) -> Result<()>;
    /// Ends the read.
    fn end_read(&self) -> Result<()>;
    /// Role and database id; `None` in an empty store.
    fn identity(&self) -> Result<Option<(Role, Option<DatabaseId>)>>;
    /// Says who the database is.
    fn set_identity(&self, role: Role, database: Option<DatabaseId>) -> Result<()>;
    /// The recorded state.
    fn state(&self) -> Result<Option<State>>;
    /// Records the state.
    fn set_state(&self, state: &State) -> Result<()>;
    /// The file's fingerprint, and the position it was taken at.
    fn fingerprint(&self) -> Result<Option<(Position, Fingerprint)>>;
    /// Records a fingerprint of the file.
    fn set_fingerprint(&self, position: Position, file: &Fingerprint) -> Result<()>;
    /// The id by which a primary tells this replica from others.
    fn peer(&self) -> Result<Option<PeerId>>;
    /// Records that id.
    fn set_peer(&self, peer: PeerId) -> Result<()>;
    /// The pending intent.
    fn intent(&self) -> Result<Option<Intent>>;
    /// Records an intent.
    fn set_intent(&self, intent: &Intent) -> Result<()>;
    /// Forgets the pending intent.
    fn clear_intent(&self) -> Result<()>;
    /// How far the making of the replica has come; `None` when it is not under way.
    fn progress(&self) -> Result<Option<Progress>>;
    /// Records how far the making of the replica has come.
    fn set_progress(&self, progress: &Progress) -> Result<()>;
    /// Forgets position, intent, progress and what was written here: the replica is to be made from the
    /// start.
    fn clear_content(&self) -> Result<()>;
    /// Forgets the progress: the replica is complete.
    fn clear_progress(&self) -> Result<()>;
    /// All stored settings.
    fn settings(&self) -> Result<Vec<(String, String)>>;
    /// Remembers one setting.
    fn set_setting(&self, name: &str, value: &str) -> Result<()>;
    /// Primary: drops the page map and the history, for a database that begins a new one.
    fn clear_history(&self) -> Result<()>;
    /// Primary: the hash on record for a page.
    fn page_hash(&self, page: PageNumber) -> Result<Option<PageHash>>;
    /// Primary: the newest transaction of a page, and the hash on record for it.
    fn page_version(&self, page: PageNumber) -> Result<Option<(Lsn, PageHash)>>;
    /// Primary: records the newest transaction and hash of a page.
    fn set_page(&self, page: PageNumber, lsn: Lsn, hash: PageHash) -> Result<()>;
    /// Primary: forgets the pages above `size` and returns their hashes.
    fn cut_pages(&self, size: u32) -> Result<Vec<PageHash>>;
    /// Primary: up to `limit` pages after `after` that changed after `since`, ascending; all
    /// pages without `since`.
    fn pages_changed(
        &self,
        since: Option<Lsn>,
        after: u32,
        limit: usize,
    ) -> Result<Vec<PageNumber>>;
    /// Primary: the hashes of the pages above `size`.
    fn hashes_above(&self, size: u32) -> Result<Vec<PageHash>>;
    /// Primary: up to `limit` page hashes after `after`, ascending.
    fn page_hashes(&self, after: u32, limit: usize) -> Result<Vec<(PageNumber, PageHash)>>;
    /// Primary: adds a position to the history.
    fn add_history(&self, position: Position) -> Result<()>;
    /// Primary: whether a position is part of the history.
    fn in_history(&self, position: Position) -> Result<bool>;
    /// Primary: notes that comparing all pages made this transaction.
    fn add_gap(&self, lsn: Lsn) -> Result<()>;
    /// Primary: whether comparing all pages made this transaction.
    fn is_gap(&self, lsn: Lsn) -> Result<bool>;
}

impl dyn Store + '_ {
    /// Runs `work` in one durable transaction.
    pub fn transaction<T>(&self, work: impl FnOnce(&dyn Store) -> Result<T>) -> Result<T> {
        self.begin()?;
        match work(self).and_then(|value| self.commit().map(|()| value)) {
            Ok(value) => Ok(value),
            Err(error) => {
                // The first error is the one to report; a failed COMMIT may have ended it already.
                let _ = self.rollback();
                Err(error)
            }
        }
    }
}
