//! Fetching what changed, part by part, until it is one consistent batch.
//!
//! Each part is read at the primary's newest position. Where that moved between the first and the
//! last part, pages fetched early may be older than the rest: what changed since the first part is
//! then fetched on top, until one round sees a single position.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::page::PageNumber;
use crate::position::{DatabaseId, Position};
use crate::remote::{Remote, Traffic};
use crate::wire::{HashesRequest, Head, Page, PagesRequest, PullRequest, Request, Response};

/// Rounds after which a remote that never stands still is given up for now.
const MOST_ROUNDS: usize = 1000;

/// The newest images of pages, complete at `head`.
pub struct Batch {
    /// The state the batch leads to.
    pub head: Head,
    /// The pages, ascending, none above the head's database size.
    pub pages: BTreeMap<PageNumber, Vec<u8>>,
}

/// What a remote has for a replica.
pub enum Fetched {
    /// Nothing new.
    UpToDate(Head),
    /// Something new.
    Batch(Batch),
    /// The replica's position is not part of the remote's history.
    Diverged(Head),
}

/// A conversation with one remote about one database, counting what travels.
pub struct Conversation<'a> {
    remote: &'a dyn Remote,
    database: Option<DatabaseId>,
    /// Bytes moved so far.
    pub traffic: Traffic,
}

impl<'a> Conversation<'a> {
    /// Begins to ask `remote` about `database`, or about whatever it has.
    pub fn new(remote: &'a dyn Remote, database: Option<DatabaseId>) -> Self {
        Self {
            remote,
            database,
            traffic: Traffic::default(),
        }
    }

    /// One question and its answer. The first answer settles which database is meant.
    fn ask(&mut self, request: &Request) -> Result<Response> {
        let (response, traffic) = self.remote.ask(request)?;
        self.traffic.sent += traffic.sent;
        self.traffic.received += traffic.received;
        let head = match &response {
            Response::UpToDate(head)
            | Response::Diverged(head)
            | Response::Pages { head, .. }
            | Response::Hashes { head, .. } => head.database,
            Response::OtherDatabase(other) => *other,
        };
        match self.database {
            None => self.database = Some(head),
            Some(known) if known == head => {}
            Some(known) => {
                return Err(Error::Misuse(format!(
                    "{} serves another database (id {head}) than this file follows (id {known}); \
                     nothing was changed",
                    self.remote.url()
                )));
            }
        }
        Ok(response)
    }

    /// One part of all pages, after page number `after`.
    pub fn part(
        &mut self,
        after: Option<PageNumber>,
    ) -> Result<(Head, Vec<Page>, Option<PageNumber>)> {
        let request = PullRequest {
            database: self.database,
            since: None,
            after,
        };
        match self.ask(&Request::Pull(request))? {
            Response::Pages { head, pages, next } => Ok((head, pages, next)),
            other => Err(unexpected(&other)),
        }
    }

    /// Everything that changed since `since`.
    pub fn changes(&mut self, since: Position) -> Result<Fetched> {
        let mut pages = BTreeMap::new();
        let (mut base, mut first, mut after) = (since, None::<Head>, None);
        for _ in 0..MOST_ROUNDS {
            let request = PullRequest {
                database: self.database,
                since: Some(base),
                after,
            };
            match self.ask(&Request::Pull(request))? {
                Response::UpToDate(head) if base == since => return Ok(Fetched::UpToDate(head)),
                Response::UpToDate(head) => return Ok(Fetched::Batch(complete(head, pages))),
                Response::Diverged(head) => return Ok(Fetched::Diverged(head)),
                Response::Pages {
                    head,
                    pages: part,
                    next,
                } => {
                    pages.extend(part.into_iter().map(|page| (page.number, page.data)));
                    let begun = *first.get_or_insert(head);
                    after = next;
                    if next.is_none() {
                        if head.position == begun.position {
                            return Ok(Fetched::Batch(complete(head, pages)));
                        }
                        (base, first) = (begun.position, None);
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
        Err(Error::Busy(format!(
            "{} changes faster than it can be read",
            self.remote.url()
        )))
    }

    /// All page hashes, by page number, and the state of the first part.
    pub fn hashes(&mut self) -> Result<(Head, BTreeMap<PageNumber, crate::page::PageHash>)> {
        let mut all = BTreeMap::new();
        let (mut first, mut after) = (None, None);
        loop {
            let request = HashesRequest {
                database: self.database,
                after,
            };
            match self.ask(&Request::Hashes(request))? {
                Response::Hashes { head, hashes, next } => {
                    let begun = *first.get_or_insert(head);
                    all.extend(hashes);
                    match next {
                        Some(_) => after = next,
                        None => return Ok((begun, all)),
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Some pages by number.
    pub fn pages(&mut self, pages: Vec<PageNumber>) -> Result<Vec<Page>> {
        let request = PagesRequest {
            database: self.database,
            pages,
        };
        match self.ask(&Request::Pages(request))? {
            Response::Pages { pages, .. } => Ok(pages),
            other => Err(unexpected(&other)),
        }
    }
}

fn complete(head: Head, mut pages: BTreeMap<PageNumber, Vec<u8>>) -> Batch {
    pages.retain(|number, _| number.get() <= head.database_size);
    Batch { head, pages }
}

fn unexpected(response: &Response) -> Error {
    let kind = match response {
        Response::UpToDate(_) => "up to date",
        Response::Pages { .. } => "pages",
        Response::Hashes { .. } => "hashes",
        Response::Diverged(_) => "diverged",
        Response::OtherDatabase(_) => "another database",
    };
    Error::Protocol(format!("'{kind}' does not answer the question"))
}
