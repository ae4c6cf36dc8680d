//! Sending what was committed here to the remote: all of it as one transaction.
//!
//! A push is put on record before it is sent, and stays there until it is known what became of it:
//! whoever finds it sends the very same again. Commits go on meanwhile; the images of the second
//! epoch tell what the pages were when the push began.

use std::time::Duration;

use crate::database::body::Body;
use crate::database::clock::Stopwatch;
use crate::database::handle::Handle;
use crate::database::offline::{Base, Epoch, Outgoing};
use crate::database::scan;
use crate::database::store::{State, Store};
use crate::error::{Error, Result};
use crate::page::{PageHash, PageNumber};
use crate::position::{Nonce, TransactionHasher};
use crate::remote::{Remote, Traffic};
use crate::replica::follower::Replica;
use crate::replica::push::{Outcome, Refusal};
use crate::replica::status::{Condition, Report};
use crate::replica::sync::Round;
use crate::wal::snapshot::Snapshot;
use crate::wire::{Change, Delta, Head, PushRequest, PushWriter};

/// Pushes in a row, while local commits go on.
const MOST_PUSHES: usize = 10;

/// What was pushed.
#[derive(Default)]
pub(in crate::replica) struct Pushed {
    /// Where the remote is now, where anything was.
    pub(in crate::replica) head: Option<Head>,
    /// Pages that travelled.
    pub(in crate::replica) pages: usize,
    /// Local transactions they hold.
    pub(in crate::replica) transactions: u64,
    /// What that moved.
    pub(in crate::replica) traffic: Traffic,
}

/// A push as it travels.
struct Message {
    request: PushRequest,
    body: Body,
    pages: usize,
}

impl Replica {
    /// Pulls, and pushes what was committed here, on top of what the remote has where that is wanted;
    /// somebody `waits` for it, or it is done in the background.
    pub(in crate::replica) fn sync_both(&self, remote: &dyn Remote, waits: bool) -> Result<Report> {
        if let Some(policy) = self.settings().on_conflict {
            return Ok(self.rebase_at(remote, policy, waits)?.report);
        }
        self.settle_outgoing(remote)?;
        let pulled = self.sync_at(remote, (!waits).then_some(Duration::ZERO))?;
        let pushed = self.push_to(remote)?;
        Ok(Report {
            from: pulled.from,
            to: pushed.to,
            transactions: pulled.transactions + pushed.transactions,
            pages: pulled.pages + pushed.pages,
            bytes_received: pulled.bytes_received + pushed.bytes_received,
            bytes_sent: pulled.bytes_sent + pushed.bytes_sent,
            milliseconds: pulled.milliseconds + pushed.milliseconds,
        })
    }

    /// Pushes what was committed here.
    pub fn push(&self) -> Result<Report> {
        self.make()?;
        let remote = self.remote()?;
        self.settle_pending_at(&*remote)?;
        self.push_to(&*remote)
    }

    pub(super) fn push_to(&self, remote: &dyn Remote) -> Result<Report> {
        let begun = Stopwatch::start(self.host().clock());
        let position = || Ok::<_, Error>(self.understood()?.position.to_string());
        let from = position()?;
        let pushed = self
            .push_local(remote)
            .inspect_err(|error| self.failed(error.to_string()))?;
        if let Some(head) = &pushed.head {
            let now = self.host().now();
            let mut progress = self.progress.lock();
            progress.exchanged(&Traffic::default(), head.position, now);
        }
        Ok(Report {
            from,
            to: position()?,
            transactions: pushed.transactions,
            pages: pushed.pages,
            bytes_received: pushed.traffic.received,
            bytes_sent: pushed.traffic.sent,
            milliseconds: begun.elapsed().as_secs_f64() * 1000.0,
        })
    }

    /// The remote is not at `base` any more: perhaps another process pushes, or has just done so.
    pub(in crate::replica) fn after_own_push(
        &self,
        remote: &dyn Remote,
        base: State,
    ) -> Result<Round> {
        // In this order: a push is on record before it is sent, and with its end the position moves.
        self.settle_outgoing(remote)?;
        match self.understood()?.position == base.position {
            true => Err(self.diverged()),
            false => Ok(Round::Moved),
        }
    }

    /// Finds out what became of a push that is under way.
    pub(super) fn settle_outgoing(&self, remote: &dyn Remote) -> Result<()> {
        let is_under_way = self.local().store()?.outgoing()?.is_some();
        match is_under_way {
            true => self.push_local(remote).map(drop),
            false => Ok(()),
        }
    }

    /// Pushes what was committed here, until nothing is left.
    pub(in crate::replica) fn push_local(&self, remote: &dyn Remote) -> Result<Pushed> {
        let mut pushed = Pushed::default();
        for _ in 0..MOST_PUSHES {
            let Some(outgoing) = self.begin_push()? else {
                break;
            };
            // Without a message somebody else has settled it.
            if let Some(message) = self.message(&outgoing)? {
                pushed.pages += message.pages;
                pushed.transactions += outgoing.transactions;
                let (head, traffic) = self.exchange(remote, &outgoing, &message)?;
                pushed.head = Some(head);
                pushed.traffic.sent += traffic.sent;
                pushed.traffic.received += traffic.received;
            }
        }
        Ok(pushed)
    }

    /// The push that is under way, or one that is put on record now; `None` where nothing is to be
    /// pushed.
    fn begin_push(&self) -> Result<Option<Outgoing>> {
        let nonce = Nonce(self.host().random()?);
        self.with_state(|handle, store, _, state| {
            if let Some(outgoing) = store.outgoing()? {
                return Ok(Some(outgoing));
            }
            let Some(base) = store.unpushed(&state)? else {
                return Ok(None);
            };
            // What the remote has, a power loss does not take here; `synchronous` may say otherwise.
            handle.files.log.sync()?;
            handle.files.content.sync()?;
            let outgoing = Outgoing {
                nonce,
                base: state.position,
                database_size: state.database_size,
                content: state.content,
                transactions: base.transactions,
            };
            store.set_outgoing(&outgoing)?;
            Ok(Some(outgoing))
        })
    }

    /// The push as it travels, the same however often it is asked for; `None` where it is not on record
    /// any more.
    fn message(&self, outgoing: &Outgoing) -> Result<Option<Message>> {
        // A handle and a store of its own: other threads go on using the file.
        let handle = Handle::open(self.host(), self.path())?;
        let store = self.host().open_store(self.path())?;
        let lock = scan::begin_read(&handle)?;
        let files = &handle.files;
        let message = Snapshot::new(&*files.index, &*files.log, &*files.content, &lock).and_then(
            |snapshot| {
                // After the snapshot: what changed in between has its image.
                store.begin_read()?;
                let message = self.message_of(outgoing, &snapshot, &*store);
                store.end_read().and(message)
            },
        );
        lock.release(&*files.index);
        message
    }

    fn message_of(
        &self,
        outgoing: &Outgoing,
        snapshot: &Snapshot<'_>,
        store: &dyn Store,
    ) -> Result<Option<Message>> {
        let (Some(base), Some(state)) = (store.base()?, store.state()?) else {
            return Ok(None);
        };
        if store.outgoing()? != Some(*outgoing) {
            return Ok(None);
        }
        let pages = Pages {
            snapshot,
            store,
            base: &base,
        };
        let changed = pages.changed(outgoing)?;
        let mut digest = TransactionHasher::new(outgoing.database_size);
        for (number, _, hash) in &changed {
            digest.add(*number, *hash);
        }
        let lease = self.writes().lease();
        let request = PushRequest {
            database: self.database_id()?,
            base: outgoing.base,
            nonce: outgoing.nonce,
            lease,
            page_size: state.page_size,
            database_size: outgoing.database_size,
            content: outgoing.content,
            digest: digest.finish(),
        };
        let mut body = Body::new();
        let mut writer = PushWriter::start(&request, body.writer(self))?;
        for (number, replaced, _) in &changed {
            pages.write(&mut writer, *number, *replaced)?;
        }
        writer.finish()?;
        Ok(Some(Message {
            request,
            body,
            pages: changed.len(),
        }))
    }

    /// Sends a push, and records what became of it.
    fn exchange(
        &self,
        remote: &dyn Remote,
        outgoing: &Outgoing,
        message: &Message,
    ) -> Result<(Head, Traffic)> {
        let (outcome, traffic) = self.send(remote, &message.request, &message.body);
        let refusal = match outcome {
            Outcome::Accepted(head) => {
                self.accepted(outgoing, message)?;
                self.writes().accepted(&*self.host().clock());
                self.note_position(head.position);
                return Ok((head, traffic));
            }
            // It stays on record.
            Outcome::Unknown(error) | Outcome::Refused(Refusal::Unsent(error)) => {
                return Err(error);
            }
            Outcome::Refused(refusal) => refusal,
        };
        self.refused(outgoing)?;
        Err(match refusal {
            Refusal::OtherDatabase(other) => Error::Misuse(format!(
                "{} serves another database (id {other}) than {} follows: what was written here is kept",
                remote.url(),
                self.path().display()
            )),
            _ => self.diverged(),
        })
    }

    /// What was pushed is the remote's state now.
    fn accepted(&self, outgoing: &Outgoing, message: &Message) -> Result<()> {
        self.with_state(|_, store, _, state| {
            let Some(base) = under_way(store, outgoing)? else {
                return Ok(());
            };
            let base = Base {
                database_size: outgoing.database_size,
                content: outgoing.content,
                transactions: base.transactions.saturating_sub(outgoing.transactions),
            };
            let is_base =
                (base.content, base.database_size) == (state.content, state.database_size);
            store.transaction(|store| {
                match is_base {
                    true => store.clear_local()?,
                    false => store.advance_epoch(&base)?,
                }
                store.set_state(&State {
                    position: message.request.target(),
                    ..state
                })
            })
        })
    }

    /// The remote has moved on: what was pushed is local still.
    fn refused(&self, outgoing: &Outgoing) -> Result<()> {
        self.with_state(|_, store, _, _| match under_way(store, outgoing)? {
            Some(base) => store.transaction(|store| store.merge_epochs(&base)),
            None => Ok(()),
        })
    }

    /// What a user of a replica is told that has local changes and whose remote has moved on.
    pub(in crate::replica) fn diverged(&self) -> Error {
        self.progress.lock().condition = Condition::Diverged;
        Error::Diverged(format!(
            "{} was written here and its remote has moved on: nothing is lost, reads and writes go on. \
             SELECT replica_rebase() puts what was written here on top of what the remote has by now, \
             replica_discard() goes back to what it had",
            self.path().display()
        ))
    }
}

/// The base, where this push is still on record.
fn under_way(store: &dyn Store, outgoing: &Outgoing) -> Result<Option<Base>> {
    match store.outgoing()? == Some(*outgoing) {
        true => store.base(),
        false => Ok(None),
    }
}

/// Pages before and after what is pushed.
struct Pages<'a> {
    snapshot: &'a Snapshot<'a>,
    store: &'a dyn Store,
    base: &'a Base,
}

impl Pages<'_> {
    /// The pages that are others than those of the base: hash of the one before, and of the one now.
    fn changed(
        &self,
        outgoing: &Outgoing,
    ) -> Result<Vec<(PageNumber, Option<PageHash>, PageHash)>> {
        let mut numbers = self.store.pages_of(Epoch::Base)?;
        let new = self.base.database_size + 1..=outgoing.database_size;
        numbers.extend(new.filter_map(PageNumber::new));
        numbers.remove(&self.snapshot.page_size().lock_page());
        numbers.retain(|number| number.get() <= outgoing.database_size);
        let mut changed = Vec::with_capacity(numbers.len());
        for number in numbers {
            let before = self.before(number)?;
            let replaced = before.map(|page| PageHash::of(number, &page));
            let hash = PageHash::of(number, &self.after(number)?);
            if replaced != Some(hash) {
                changed.push((number, replaced, hash));
            }
        }
        Ok(changed)
    }

    /// A page of the base.
    fn before(&self, number: PageNumber) -> Result<Option<Vec<u8>>> {
        match number.get() <= self.base.database_size {
            true => self.store.image(Epoch::Base, number),
            false => Ok(None),
        }
    }

    /// The page as it was when the push began.
    fn after(&self, number: PageNumber) -> Result<Vec<u8>> {
        if let Some(image) = self.store.image(Epoch::Push, number)? {
            return Ok(image);
        }
        let mut page = vec![0; self.snapshot.page_size().bytes()];
        self.snapshot.read_page(number, &mut page)?;
        Ok(page)
    }

    fn write<W: std::io::Write>(
        &self,
        writer: &mut PushWriter<W>,
        number: PageNumber,
        replaced: Option<PageHash>,
    ) -> Result<()> {
        let page = self.after(number)?;
        let delta = match (replaced, self.before(number)?) {
            (Some(hash), Some(before)) => Delta::between(hash, &before, &page)?,
            _ => None,
        };
        let change = match (&delta, replaced) {
            (Some(delta), _) => Change::Delta(delta),
            (None, Some(hash)) => Change::Replaced(hash, &page),
            (None, None) => Change::New(&page),
        };
        writer.page(number, &change)
    }
}
