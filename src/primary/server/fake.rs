//! Databases that are none, for tests.

use std::io::Read;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::commits::Commits;
use super::super::followers::Followers;
use super::super::newest::Newest;
use super::super::turns::{Turn, Turns};
use super::admission::{Admission, Gate, NOT_KNOWN};
use super::{Database, REQUESTS_PER_SECOND, Service};
use crate::database::clock::SystemClock;
use crate::database::host::Spool;
use crate::database::tokens::Scope;
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::position::{DatabaseId, HistoryId, Lsn, Position};
use crate::wal::memory::MemoryFile;
use crate::wire::{Head, Page, PageData, PushReader, PushResponse, Request, Response};

/// A database of 300 pages that are all alike.
pub(super) struct Fake {
    pub(super) delay: Duration,
    pub(super) followers: Arc<Followers>,
}

impl Fake {
    /// One that answers at once.
    pub(super) fn new() -> Self {
        Self {
            delay: Duration::ZERO,
            followers: followers(),
        }
    }
}

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new())
}

fn followers() -> Arc<Followers> {
    let newest = Arc::new(Newest::new(head(), clock()));
    Followers::new(Commits::new(), newest, clock())
}

pub(super) const PAGES: u32 = 300;
const PART: u32 = 32;

pub(super) fn head() -> Head {
    Head {
        database: DatabaseId([1; 16]),
        position: Position {
            lsn: Lsn(7),
            id: HistoryId([2; 16]),
        },
        page_size: PageSize::new(65536).unwrap(),
        database_size: PAGES,
        content: ContentDigest::default(),
    }
}

pub(super) fn page(number: u32) -> Page {
    let data = vec![number as u8; head().page_size.bytes()];
    Page {
        number: PageNumber::new(number).unwrap(),
        data: PageData::Full(data.into()),
    }
}

impl Service for Fake {
    fn answer(&self, request: Request, _: Option<Turn>) -> Result<Response> {
        thread::sleep(self.delay);
        match request {
            Request::Begin(_) => Ok(Response::UpToDate(head())),
            Request::Release(release) => Ok(Response::Released(release.database)),
            Request::Pull(pull) if pull.since == Some(head().position) => {
                Ok(Response::UpToDate(head()))
            }
            Request::Pull(pull) => {
                let first = pull.after.map_or(1, |after| after.get() + 1);
                let last = PAGES.min(first + PART - 1);
                let next = PageNumber::new(last).filter(|last| last.get() < PAGES);
                Ok(Response::Pages {
                    head: head(),
                    pages: (first..=last).map(page).collect(),
                    next,
                })
            }
            Request::Hashes(_) => {
                let hash = |number| (page(number).number, PageHash::from_bytes([3; 16]));
                let hashes = (1..=PAGES).map(hash).collect();
                Ok(Response::Hashes {
                    head: head(),
                    hashes,
                    next: None,
                })
            }
            Request::Pages(asked) => {
                let pages = asked
                    .pages
                    .iter()
                    .map(|number| page(number.get()))
                    .collect();
                Ok(Response::Pages {
                    head: head(),
                    pages,
                    next: None,
                })
            }
        }
    }

    fn push(&self, push: &mut dyn Read, _: Turn) -> Result<PushResponse> {
        let mut reader = PushReader::start(push)?;
        while reader.next_page()?.is_some() {}
        reader.finish()?;
        Ok(PushResponse::Conflict(head()))
    }

    fn turns(&self) -> Arc<Turns> {
        Turns::new(clock())
    }

    fn followers(&self) -> Arc<Followers> {
        Arc::clone(&self.followers)
    }

    fn log_bytes(&self) -> u64 {
        4152
    }

    fn scratch(&self) -> Result<Box<dyn Spool>> {
        Ok(Box::new(MemoryFile::default()))
    }

    fn head(&self) -> Result<Head> {
        Ok(head())
    }
}

/// A database that fails in its own way.
pub(super) struct Failing(pub(super) fn() -> Error);

impl Service for Failing {
    fn answer(&self, _: Request, _: Option<Turn>) -> Result<Response> {
        Err((self.0)())
    }

    fn push(&self, _: &mut dyn Read, _: Turn) -> Result<PushResponse> {
        Err((self.0)())
    }

    fn turns(&self) -> Arc<Turns> {
        Turns::new(clock())
    }

    fn followers(&self) -> Arc<Followers> {
        followers()
    }

    fn log_bytes(&self) -> u64 {
        4152
    }

    fn scratch(&self) -> Result<Box<dyn Spool>> {
        Err((self.0)())
    }

    fn head(&self) -> Result<Head> {
        Err((self.0)())
    }
}

/// Lets everybody in.
pub(super) struct Open;

impl Gate for Open {
    fn is_current(&self) -> bool {
        true
    }

    fn refresh(&self) -> Result<()> {
        Ok(())
    }

    fn needs_token(&self) -> bool {
        false
    }

    fn admit(&self, _: &str) -> Admission {
        Admission::Anyone
    }
}

/// Lets in whoever says `good` or `writer`; looks it up each time.
pub(super) struct Guarded;

impl Gate for Guarded {
    fn is_current(&self) -> bool {
        false
    }

    fn refresh(&self) -> Result<()> {
        Ok(())
    }

    fn needs_token(&self) -> bool {
        true
    }

    fn admit(&self, token: &str) -> Admission {
        let (id, scope) = match token {
            "good" => (1, Scope::Read),
            "writer" => (2, Scope::Write),
            _ => return Admission::Refused(NOT_KNOWN),
        };
        Admission::Bearer { id, scope }
    }
}

/// A database that everybody may ask for.
pub(super) fn open(service: impl Service) -> Database {
    Database {
        service: Arc::new(service),
        streams: None,
        gate: Arc::new(Open),
        requests_per_second: REQUESTS_PER_SECOND,
    }
}

/// A database that wants a token.
pub(super) fn guarded(service: impl Service) -> Database {
    Database {
        gate: Arc::new(Guarded),
        ..open(service)
    }
}
