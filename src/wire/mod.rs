//! What a primary and its replicas say to each other, as bytes. Pure: no network, no clock.

mod delta;
pub mod hrana;
mod push;
mod records;
mod request;
mod response;
mod stream;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;

pub use self::delta::Delta;
pub use self::push::{Change, PushReader, PushRequest, PushResponse, PushWriter, PushedPage};
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::position::{DatabaseId, Position};

/// How many bytes of raw pages a part holds before it is full: the page that fills it is the last.
/// Small enough that the sixteen answers a server holds at most, and their pages, stay within the
/// memory that a host can spare.
pub const PART_BYTES: usize = 2 << 20;

/// How many hashes a part holds at most.
pub const PART_HASHES: usize = 65_536;

/// How many pages a request may name, whatever their size turns out to be. Who knows the page size
/// asks for at most [`PART_BYTES`] worth.
pub const ASK_PAGES: usize = PART_BYTES / 512;

/// The longest body: a full part that does not compress, with its records' heads.
pub const BODY_BYTES: u64 = (PART_BYTES + PART_BYTES / 8) as u64;

/// How many pages a part holds at most: [`PART_BYTES`] and one page more.
pub fn part_pages(size: PageSize) -> usize {
    PART_BYTES / size.bytes() + 1
}

/// The state a part was read at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Whose content this is.
    pub database: DatabaseId,
    /// The newest durable transaction.
    pub position: Position,
    /// Page size in bytes.
    pub page_size: PageSize,
    /// Database size in pages at `position`.
    pub database_size: u32,
    /// Digest of the whole content at `position`.
    pub content: ContentDigest,
}

/// One page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Its number.
    pub number: PageNumber,
    /// What is in it.
    pub data: PageData,
}

/// The content of a page as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PageData {
    /// All of it, of the head's page size. The pages of a part share one buffer.
    Full(Bytes),
    /// The difference from what it was at the asker's position.
    Delta(Delta),
}

impl Page {
    /// The page where deltas were not asked for.
    pub fn into_full(self) -> Result<(PageNumber, Bytes)> {
        match self.data {
            PageData::Full(data) => Ok((self.number, data)),
            PageData::Delta(_) => Err(Error::Internal(format!("{:?} is a delta", self.number))),
        }
    }
}

/// The random number a replica is known by while it follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerId(pub [u8; 8]);

impl PeerId {
    /// That of whoever does not say.
    pub const UNKNOWN: PeerId = PeerId([0; 8]);

    /// Whether it tells who asks.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }
}

/// 16 lower-case hexadecimal digits.
impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// Asks for the pages changed since a position, or for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PullRequest {
    /// The database the asker follows; `None` before the first answer.
    pub database: Option<DatabaseId>,
    /// What the asker holds; `None` asks for every page.
    pub since: Option<Position>,
    /// Continue after this page: the `next` of the part before.
    pub after: Option<PageNumber>,
    /// The asker has the pages as they were at `since`: deltas do. Only with a position.
    pub deltas: bool,
    /// How long to wait for something new where there is nothing: then the answer is that it is up
    /// to date. With 0 that is the answer at once.
    pub wait_milliseconds: u32,
    /// Who asks.
    pub peer: PeerId,
}

/// Asks for page hashes, ascending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashesRequest {
    /// The database the asker follows.
    pub database: Option<DatabaseId>,
    /// Continue after this page.
    pub after: Option<PageNumber>,
}

/// Asks for pages by number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PagesRequest {
    /// The database the asker follows.
    pub database: Option<DatabaseId>,
    /// Which pages, ascending.
    pub pages: Vec<PageNumber>,
}

/// The random number a lease is known by: only whoever drew it can use it or give it back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeaseId(pub [u8; 16]);

/// Asks to be the only writer for a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Its name, drawn by the asker.
    pub id: LeaseId,
    /// How long the asker is willing to wait for its turn.
    pub wait_milliseconds: u32,
}

/// Asks, at the start of a write, for what changed since a position; answered as a pull is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BeginRequest {
    /// The database that is to be written to.
    pub database: DatabaseId,
    /// What the asker holds.
    pub at: Position,
    /// The asker has the pages as they were at `at`: deltas do.
    pub deltas: bool,
    /// Nobody else is to write until the asker has pushed, or given up. The answer is of a moment
    /// at which the lease was granted.
    pub lease: Option<Lease>,
}

impl BeginRequest {
    /// The pull that it is besides.
    pub fn pull(&self) -> PullRequest {
        PullRequest {
            database: Some(self.database),
            since: Some(self.at),
            after: None,
            deltas: self.deltas,
            wait_milliseconds: 0,
            peer: PeerId::UNKNOWN,
        }
    }
}

/// Gives a lease back that was not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReleaseRequest {
    /// The database.
    pub database: DatabaseId,
    /// The lease.
    pub lease: LeaseId,
}

/// A request of a replica that fits in one message. (A push may be of any length:
/// [`PushRequest`].)
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// `POST {url}/v1/pull`
    Pull(PullRequest),
    /// `POST {url}/v1/hashes`
    Hashes(HashesRequest),
    /// `POST {url}/v1/pages`
    Pages(PagesRequest),
    /// `POST {url}/v1/begin`
    Begin(BeginRequest),
    /// `POST {url}/v1/release`
    Release(ReleaseRequest),
}

/// The answer of a primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// Nothing has changed since the asker's position.
    UpToDate(Head),
    /// Some pages at `head`; with `next`, more follow when asked for. A batch whose parts all
    /// carry one head is the state at that head; pages changed while parts were fetched come
    /// with another pull since the first part's position.
    Pages {
        /// The state the pages were read at.
        head: Head,
        /// Ascending by number.
        pages: Vec<Page>,
        /// The last page looked at, when there is more after it.
        next: Option<PageNumber>,
    },
    /// Page hashes at `head`.
    Hashes {
        /// The state the hashes belong to.
        head: Head,
        /// Ascending by number.
        hashes: Vec<(PageNumber, PageHash)>,
        /// The last page listed, when there is more after it.
        next: Option<PageNumber>,
    },
    /// The asker's position is not in the history of this database.
    Diverged(Head),
    /// The asker follows another database.
    OtherDatabase(DatabaseId),
    /// The lease is given back, or was no more.
    Released(DatabaseId),
}
