//! Fetching what changed, part by part, until it is one consistent batch.
//!
//! Each part is read at the primary's newest position. Where that moved between the first and the
//! last part, pages fetched early may be older than the rest: what changed since the first part is
//! then fetched on top, until one round sees a single position.

use std::mem::take;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::bounded;

use super::bases::Bases;
use super::batch::Batch;
use crate::database::pages::{Pages, Room};
use crate::error::{Error, Result};
use crate::page::{PageHash, PageNumber};
use crate::position::{DatabaseId, Position};
use crate::remote::{Remote, Traffic};
use crate::wire::{
    BeginRequest, HashesRequest, Head, Lease, Page, PagesRequest, PeerId, PullRequest, Request,
    Response,
};

/// Whole pages by number.
pub type Whole = Vec<(PageNumber, Bytes)>;

/// A part of all pages: the state it was read at, and the page to go on after.
pub type Part = (Head, Whole, Option<PageNumber>);

/// Rounds after which a remote that never stands still is given up for now.
const MOST_ROUNDS: usize = 1000;

/// What a remote has for a replica.
pub enum Fetched {
    /// Nothing new.
    UpToDate(Head),
    /// Something new.
    Batch(Batch),
    /// The replica's position is not part of the remote's history.
    Diverged(Head),
}

/// Whether a position is the remote's newest.
pub enum Newest {
    /// It is.
    Known(Head),
    /// The remote has moved on, or never was there.
    Other,
}

/// Whoever looks on while pages arrive.
pub trait Watcher: Sync {
    /// So many pages, or hashes of pages, came; `bytes` since the conversation began. `whole` is the state
    /// they are part of, where all of its pages come.
    fn received(&self, pages: usize, bytes: u64, whole: Option<&Head>);
}

/// A conversation with one remote about one database, counting what travels.
pub struct Conversation<'a> {
    remote: &'a dyn Remote,
    database: Option<DatabaseId>,
    /// Who asks.
    peer: PeerId,
    watcher: Option<&'a dyn Watcher>,
    /// Whether the last question was answered.
    answered: bool,
    /// How long the remote is to wait, at the next question about changes, until there are any.
    wait: Duration,
    /// Bytes moved so far.
    pub traffic: Traffic,
}

impl<'a> Conversation<'a> {
    /// Begins to ask `remote` about `database`, or about whatever it has.
    pub fn new(remote: &'a dyn Remote, database: Option<DatabaseId>) -> Self {
        Self {
            remote,
            database,
            peer: PeerId::UNKNOWN,
            watcher: None,
            answered: false,
            wait: Duration::ZERO,
            traffic: Traffic::default(),
        }
    }

    /// Says who asks.
    pub fn by(mut self, peer: PeerId) -> Self {
        self.peer = peer;
        self
    }

    /// Somebody looks on.
    pub fn watched(mut self, watcher: &'a dyn Watcher) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// Whom it is with.
    pub fn remote(&self) -> &'a dyn Remote {
        self.remote
    }

    /// The next question about changes is to be answered when there are any, or that time is over.
    pub fn wait(&mut self, time: Duration) {
        self.wait = time;
    }

    /// A line that breaks in the middle of a long conversation is no reason to begin it again, as
    /// long as it brings an answer each time. Questions change nothing: they may be repeated.
    fn exchange(&mut self, request: &Request) -> Result<(Response, Traffic)> {
        let answer = match self.remote.ask(request) {
            Err(Error::Unreachable { .. }) if self.answered => self.remote.ask(request),
            answer => answer,
        };
        self.answered = answer.is_ok();
        answer
    }

    /// One question and its answer. The first answer settles which database is meant.
    fn ask(&mut self, request: &Request) -> Result<Response> {
        let (response, traffic) = self.exchange(request)?;
        self.traffic.sent += traffic.sent;
        self.traffic.received += traffic.received;
        self.tell(request, &response);
        let head = match &response {
            Response::UpToDate(head)
            | Response::Diverged(head)
            | Response::Pages { head, .. }
            | Response::Hashes { head, .. } => head.database,
            Response::OtherDatabase(other) | Response::Released(other) => *other,
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

    fn tell(&self, request: &Request, response: &Response) {
        let Some(watcher) = self.watcher else {
            return;
        };
        let bytes = self.traffic.received;
        match response {
            Response::Pages { head, pages, .. } => {
                let whole = matches!(request, Request::Pull(pull) if pull.since.is_none());
                watcher.received(pages.len(), bytes, whole.then_some(head));
            }
            Response::Hashes { head, hashes, .. } => {
                watcher.received(hashes.len(), bytes, Some(head));
            }
            _ => {}
        }
    }

    /// One part of all pages, after page number `after`.
    fn part(&mut self, after: Option<PageNumber>) -> Result<Part> {
        let request = PullRequest {
            database: self.database,
            since: None,
            after,
            deltas: false,
            wait_milliseconds: 0,
            peer: self.peer,
        };
        match self.ask(&Request::Pull(request))? {
            Response::Pages { head, pages, next } => Ok((head, whole(pages)?, next)),
            other => Err(unexpected(&other)),
        }
    }

    /// Hands every page to `take`, part by part, after page number `after`. Where the host has
    /// `threads`, the next part is asked for while one is taken: two wait for that at most.
    pub fn parts(
        &mut self,
        after: Option<PageNumber>,
        threads: bool,
        mut take: impl FnMut(Part) -> Result<()>,
    ) -> Result<()> {
        if !threads {
            return self.each_part(after, |part| take(part?).map(|()| true));
        }
        thread::scope(|scope| {
            let (sender, parts) = bounded(1);
            let asking = thread::Builder::new()
                .name("replica-parts".to_owned())
                .spawn_scoped(scope, move || {
                    self.each_part(after, |part| Ok(sender.send(part).is_ok()))
                })
                .map_err(|error| Error::Internal(format!("start a thread: {error}")))?;
            // A failure here drops the receiver, and that ends the thread.
            parts.into_iter().try_for_each(|part| take(part?))?;
            asking.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Asks for part after part until there is no more, or `hand_over` wants none.
    fn each_part(
        &mut self,
        mut after: Option<PageNumber>,
        mut hand_over: impl FnMut(Result<Part>) -> Result<bool>,
    ) -> Result<()> {
        loop {
            let part = self.part(after);
            after = part.as_ref().ok().and_then(|(_, _, next)| *next);
            if !hand_over(part)? || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Everything that changed since `since`. Where `bases` has the pages as they were then,
    /// deltas travel; where it turns out not to, everything is asked for again without them.
    pub fn changes(
        &mut self,
        since: Position,
        room: &dyn Room,
        bases: Option<&dyn Bases>,
    ) -> Result<Fetched> {
        match self.gather(since, None, room, bases)? {
            Some(fetched) => Ok(fetched),
            None => self
                .gather(since, None, room, None)?
                .ok_or_else(|| Error::Internal("a delta that was not asked for".to_owned())),
        }
    }

    /// The same at the start of a write, with a lease or without.
    pub fn begin(
        &mut self,
        at: Position,
        lease: Option<Lease>,
        room: &dyn Room,
        bases: Option<&dyn Bases>,
    ) -> Result<Fetched> {
        match self.gather(at, Some(lease), room, bases)? {
            Some(fetched) => Ok(fetched),
            None => self.changes(at, room, None),
        }
    }

    /// Asks whether a position is the remote's newest; what it has beyond is not fetched.
    pub fn newest(&mut self, position: Position) -> Result<Newest> {
        let request = PullRequest {
            database: self.database,
            since: Some(position),
            after: None,
            deltas: false,
            wait_milliseconds: 0,
            peer: self.peer,
        };
        match self.ask(&Request::Pull(request))? {
            Response::UpToDate(head) => Ok(Newest::Known(head)),
            Response::Pages { .. } | Response::Diverged(_) => Ok(Newest::Other),
            other => Err(unexpected(&other)),
        }
    }

    /// `None` where a delta has no base. With a lease, or `Some(None)`, the first question begins a
    /// write.
    fn gather(
        &mut self,
        since: Position,
        mut begin: Option<Option<Lease>>,
        room: &dyn Room,
        bases: Option<&dyn Bases>,
    ) -> Result<Option<Fetched>> {
        let mut pages = None::<Pages>;
        let (mut base, mut first, mut after) = (since, None::<Head>, None);
        let mut rounds = 0;
        // However many parts a round has, each begins behind the one before.
        while rounds < MOST_ROUNDS {
            // Only the pages at `since` are at hand, not those of a batch under way.
            let bases = bases.filter(|_| base == since);
            let request = PullRequest {
                database: self.database,
                since: Some(base),
                after,
                deltas: bases.is_some(),
                wait_milliseconds: milliseconds(take(&mut self.wait)),
                peer: self.peer,
            };
            let request = match (begin.take(), self.database) {
                (Some(lease), Some(database)) => Request::Begin(BeginRequest {
                    database,
                    at: since,
                    deltas: request.deltas,
                    lease,
                }),
                _ => Request::Pull(request),
            };
            match self.ask(&request)? {
                Response::UpToDate(head) if base == since => {
                    return Ok(Some(Fetched::UpToDate(head)));
                }
                Response::UpToDate(head) => return Ok(Some(complete(head, pages))),
                Response::Diverged(head) => return Ok(Some(Fetched::Diverged(head))),
                Response::Pages {
                    head,
                    pages: part,
                    next,
                } => {
                    let part = match bases {
                        Some(bases) => bases.whole(&head, part)?,
                        None => Some(whole(part)?),
                    };
                    let Some(part) = part else { return Ok(None) };
                    let all = pages.get_or_insert_with(|| Pages::new(head.page_size));
                    for (number, data) in part {
                        all.put(room, number, &data)?;
                    }
                    let begun = *first.get_or_insert(head);
                    after = next;
                    if next.is_none() {
                        if head.position == begun.position {
                            return Ok(Some(complete(head, pages)));
                        }
                        (base, first) = (begun.position, None);
                        rounds += 1;
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

    /// Hands every page hash to `visit`, ascending by page, and returns the state of the first
    /// part. They are too many to keep.
    pub fn hashes(&mut self, mut visit: impl FnMut(&Head, PageNumber, PageHash)) -> Result<Head> {
        let (mut first, mut after) = (None, None);
        loop {
            let request = HashesRequest {
                database: self.database,
                after,
            };
            match self.ask(&Request::Hashes(request))? {
                Response::Hashes { head, hashes, next } => {
                    let begun = *first.get_or_insert(head);
                    for (number, hash) in hashes {
                        visit(&begun, number, hash);
                    }
                    match next {
                        Some(_) => after = next,
                        None => return Ok(begun),
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Some pages by number.
    pub fn pages(&mut self, pages: Vec<PageNumber>) -> Result<Whole> {
        let request = PagesRequest {
            database: self.database,
            pages,
        };
        match self.ask(&Request::Pages(request))? {
            Response::Pages { pages, .. } => whole(pages),
            other => Err(unexpected(&other)),
        }
    }
}

fn whole(pages: Vec<Page>) -> Result<Whole> {
    pages.into_iter().map(Page::into_full).collect()
}

fn complete(head: Head, pages: Option<Pages>) -> Fetched {
    let mut pages = pages.unwrap_or_else(|| Pages::new(head.page_size));
    pages.cut(head.database_size);
    Fetched::Batch(Batch { head, pages })
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn unexpected(response: &Response) -> Error {
    let kind = match response {
        Response::UpToDate(_) => "up to date",
        Response::Pages { .. } => "pages",
        Response::Hashes { .. } => "hashes",
        Response::Diverged(_) => "diverged",
        Response::OtherDatabase(_) => "another database",
        Response::Released(_) => "released",
    };
    Error::Protocol(format!("'{kind}' does not answer the question"))
}

#[cfg(test)]
mod tests;
