//! Bringing a replica up to date: ask without any lock, enter under WAL_WRITE, and only over the
//! very content the answer was made for.

use std::time::Duration;

use super::batch::Batch;
use super::enter::{self, Current, Entered};
use super::fetch::{Conversation, Fetched, Newest};
use super::follower::{Local, Replica};
use super::heal;
use super::resolve::{self, Standing};
use super::status::{Activity, Condition, Report};
use super::transfer::Kind;
use crate::database::clock::Stopwatch;
use crate::database::handle::Handle;
use crate::database::scan;
use crate::database::store::State;
use crate::database::unchanged;
use crate::error::{Error, Result};
use crate::page::PageNumber;
use crate::planted::{self, Bug};
use crate::position::Position;
use crate::remote::Remote;
use crate::wal::anchor::Anchor;
use crate::wal::frame::Salts;
use crate::wire::Head;

/// How long a sync waits for WAL_WRITE, together.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Times another process may get in first before a sync gives up.
const MOST_ROUNDS: usize = 100;

/// Log size in bytes from which a sync also checkpoints. Tests have small ones.
const CHECKPOINT_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };

/// One round of [`Replica::sync`].
pub(super) enum Round {
    /// The replica holds the remote's newest position.
    Current(State, Head, usize),
    /// Another process got in first: the answer is of no use.
    Moved,
    /// Pages must be compared.
    Heal,
}

impl Replica {
    /// Pulls what the remote has and enters it, and pushes what was written here.
    pub fn sync(&self) -> Result<Report> {
        self.make()?;
        let remote = self.remote()?;
        match self.is_offline()? {
            true => self.sync_both(&*remote, true),
            false => self.sync_at(&*remote, None),
        }
    }

    /// Pulls what the remote has and enters it.
    pub fn pull(&self) -> Result<Report> {
        self.make()?;
        self.sync_at(&*self.remote()?, None)
    }

    /// The same, where the thread in the background does it over its own line; the remote is asked to
    /// wait until it has something new.
    pub(super) fn sync_in_background(&self, remote: &dyn Remote, wait: Duration) -> Result<Report> {
        self.make()?;
        self.set_activity(match wait.is_zero() {
            true => Activity::Syncing,
            false => Activity::Following,
        });
        // A waiting is broken off for what is committed meanwhile.
        if wait.is_zero() && self.unpushed()?.is_some() {
            return self.sync_both(remote, false);
        }
        self.writes().follow(!wait.is_zero());
        let done = self.sync_at(remote, Some(wait));
        if done.is_err() {
            self.writes().follow(false);
        }
        done
    }

    /// With a time to `wait` for something new nobody waits for the sync itself.
    pub(super) fn sync_at(&self, remote: &dyn Remote, wait: Option<Duration>) -> Result<Report> {
        self.settle_pending_at(remote)?;
        self.report(remote, wait.is_none(), |replica, conversation| {
            conversation.wait(wait.unwrap_or_default());
            replica.advance(conversation)
        })
    }

    /// Throws away what did not come from the remote, by comparing every page with it.
    pub fn discard(&self) -> Result<Report> {
        match self.host().exists(self.path())? && self.recorded_state()?.is_none() {
            true => self.adopt()?,
            false => self.make()?,
        }
        if self.unpushed()?.is_some()
            && self.known()?.is_some()
            && let Some(report) = self.discard_local()?
        {
            let mut progress = self.progress.lock();
            (progress.condition, progress.last_error) = (Condition::Known, None);
            return Ok(report);
        }
        // A transaction of ours may be here and not on record: its intent is not forgotten for that of
        // the healing, which may be cut off. (What nobody understands is what is thrown away.)
        if let Err(error @ (Error::Busy(_) | Error::Io { .. } | Error::Store { .. })) = self.known()
        {
            return Err(error);
        }
        let remote = self.remote()?;
        self.report(&*remote, true, |replica, conversation| {
            let from = replica.recorded_state()?.map(|state| state.position);
            let healed = replica.healed(conversation, None)?;
            let (state, head, pages) = healed.ok_or_else(|| replica.contended())?;
            Ok((from.unwrap_or(state.position), state, head, pages))
        })
    }

    pub(super) fn report(
        &self,
        remote: &dyn Remote,
        waits: bool,
        work: impl FnOnce(&Self, &mut Conversation<'_>) -> Result<(Position, State, Head, usize)>,
    ) -> Result<Report> {
        let begun = Stopwatch::start(self.host().clock());
        let database = self.local().store()?.identity()?.and_then(|(_, id)| id);
        let transfer = self.begin_transfer(Kind::Sync, waits);
        let mut conversation = Conversation::new(remote, database)
            .by(self.peer()?)
            .watched(&transfer);
        let result = work(self, &mut conversation);
        let traffic = conversation.traffic;
        drop(transfer);
        let (from, state, head, pages) = match result {
            Ok(done) => done,
            Err(error) => {
                self.progress.lock().last_error = Some(error.to_string());
                return Err(error);
            }
        };
        self.remember(head.database)?;
        if state.position == head.position {
            self.writes().at_head(&*self.host().clock());
        }
        {
            let mut progress = self.progress.lock();
            progress.exchanged(&traffic, head.position, self.host().now());
            progress.condition = Condition::Known;
        }
        self.checkpoint_if_grown()?;
        let report = Report {
            from: from.to_string(),
            to: state.position.to_string(),
            transactions: state.position.lsn.0.saturating_sub(from.lsn.0),
            pages,
            bytes_received: traffic.received,
            bytes_sent: traffic.sent,
            milliseconds: begun.elapsed().as_secs_f64() * 1000.0,
        };
        log::debug!(
            target: "replica",
            "{}: synced with {}: at {}, {} transactions and {} pages further, {} bytes received, {:.1} ms",
            self.path().display(),
            remote.url(),
            report.to,
            report.transactions,
            report.pages,
            report.bytes_received,
            report.milliseconds
        );
        Ok(report)
    }

    fn advance(
        &self,
        conversation: &mut Conversation<'_>,
    ) -> Result<(Position, State, Head, usize)> {
        let mut from = None;
        for _ in 0..MOST_ROUNDS {
            let base = self.understood()?;
            let from = *from.get_or_insert(base.position);
            let round = match self.unpushed()? {
                None => self.round(conversation, base)?,
                Some(_) => match conversation.newest(base.position)? {
                    Newest::Known(head) => Round::Current(base, head, 0),
                    Newest::Other => self.after_own_push(conversation.remote(), base)?,
                },
            };
            match round {
                Round::Current(state, head, pages) => return Ok((from, state, head, pages)),
                Round::Moved => {}
                Round::Heal => {
                    if let Some((state, head, pages)) = self.healed(conversation, base.anchor)? {
                        return Ok((from, state, head, pages));
                    }
                }
            }
        }
        Err(self.contended())
    }

    pub(super) fn contended(&self) -> Error {
        Error::Busy(format!(
            "{}: other processes keep getting in first",
            self.path().display()
        ))
    }

    fn round(&self, conversation: &mut Conversation<'_>, base: State) -> Result<Round> {
        match conversation.changes(base.position, self, Some(self))? {
            Fetched::UpToDate(head) => Ok(Round::Current(base, head, 0)),
            Fetched::Diverged(_) => Ok(Round::Heal),
            Fetched::Batch(batch) if self.comes_again(&batch)? => {
                let (head, pages) = (batch.head, batch.pages.len());
                match self.enter_renewed(&base, batch)? {
                    true => Ok(Round::Current(self.understood()?, head, pages)),
                    false => Ok(Round::Moved),
                }
            }
            Fetched::Batch(batch) => self.enter(base, &batch),
        }
    }

    /// Enters a batch made for `base`, if the content is still there.
    pub(super) fn enter(&self, base: State, batch: &Batch) -> Result<Round> {
        if base.page_size != batch.head.page_size {
            return Err(Error::Misuse(format!(
                "the remote's pages have {} bytes now, {} has {}: make the replica anew",
                batch.head.page_size.get(),
                self.path().display(),
                base.page_size.get()
            )));
        }
        let random = self.fresh_salts()?;
        self.under_write_lock(|local| {
            let (handle, store) = local.handle(self.host(), self.path())?;
            let Some(mut writer) = handle.try_writer()? else {
                return Ok(None);
            };
            let state = match resolve::resolve(handle, store, &mut writer)? {
                // Committed here since.
                Standing::Known(state) if store.unpushed(&state)?.is_some() => {
                    return Ok(Some(Round::Moved));
                }
                Standing::Known(state) if state.position == base.position => state,
                // Never in the product.
                Standing::Known(state) if planted::is(Bug::ApplyOverNewerContent) => state,
                _ => return Ok(Some(Round::Moved)),
            };
            let current = Current {
                content: state.content,
                database_size: state.database_size,
            };
            match enter::enter(handle, store, writer, current, batch, random)? {
                Entered::Done(state) => {
                    Ok(Some(Round::Current(state, batch.head, batch.pages.len())))
                }
                Entered::Mismatch => Ok(Some(Round::Heal)),
            }
        })
    }

    /// The state the content is at.
    pub(super) fn understood(&self) -> Result<State> {
        self.known()?.ok_or_else(|| self.foreign())
    }

    /// Why nothing is synced.
    pub(super) fn foreign(&self) -> Error {
        Error::Misuse(format!(
            "{} holds changes that did not come from its remote. They are kept, and nothing is \
             synced over them: copy what you need, then SELECT replica_discard()",
            self.path().display()
        ))
    }

    /// The state the content is at; `None` where it holds changes that did not come from its remote.
    /// Reading all of it, where that is needed, holds up nobody.
    pub(super) fn known(&self) -> Result<Option<State>> {
        for _ in 0..MOST_ROUNDS {
            let standing = match self.under_write_lock(|local| self.look(local))? {
                Standing::Unverified => match self.unchanged()? {
                    Some(standing) => Some(standing),
                    None => self.examined()?,
                },
                standing => Some(standing),
            };
            match standing {
                Some(Standing::Known(state)) => {
                    let mut progress = self.progress.lock();
                    if matches!(
                        progress.condition,
                        Condition::Unverified | Condition::Foreign
                    ) {
                        progress.condition = Condition::Known;
                    }
                    return Ok(Some(state));
                }
                Some(_) => {
                    self.progress.lock().condition = Condition::Foreign;
                    return Ok(None);
                }
                None => {}
            }
        }
        Err(self.contended())
    }

    /// What state and index tell; `None` while WAL_WRITE is not to be had.
    fn look(&self, local: &mut Local) -> Result<Option<Standing>> {
        let (handle, store) = local.handle(self.host(), self.path())?;
        // Without the lock first: an equal anchor needs none, and is the common case.
        let header = handle.header()?;
        if let Some(state) = store.state()?
            && state
                .anchor
                .is_some_and(|anchor| !anchor.is_blank() && anchor == header.anchor())
            && store.intent()?.is_none()
        {
            return Ok(Some(Standing::Known(state)));
        }
        let Some(mut writer) = handle.try_writer()? else {
            return Ok(None);
        };
        resolve::resolve(handle, store, &mut writer).map(Some)
    }

    /// What the file system tells of a file that was closed; `None` where it does not tell enough.
    fn unchanged(&self) -> Result<Option<Standing>> {
        let random = self.fresh_salts()?;
        self.under_write_lock(|local| {
            let (handle, store) = local.handle(self.host(), self.path())?;
            let Some(writer) = handle.try_writer()? else {
                return Ok(None);
            };
            match unchanged::state(self.host(), store, self.path(), writer.header())? {
                Some(state) => enter::anchor(handle, store, writer, state, random)
                    .map(|standing| Some(Some(standing))),
                None => Ok(Some(None)),
            }
        })
    }

    /// What a full read tells; `None` when the file changed meanwhile.
    fn examined(&self) -> Result<Option<Standing>> {
        let random = self.fresh_salts()?;
        self.name_content()?;
        // A handle of its own: other threads go on using the file.
        let reading = Handle::open(self.host(), self.path())?;
        let (base, dirty) = {
            let local = self.local();
            let store = local.store()?;
            (store.base()?, store.dirty_pages()?)
        };
        let size = base.map_or(u32::MAX, |base| base.database_size);
        let is_clean = |number: PageNumber| number.get() <= size && !dirty.contains(&number);
        let scanned = scan::digest(&reading, is_clean)?;
        self.under_write_lock(|local| {
            let (handle, store) = local.handle(self.host(), self.path())?;
            let Some(mut writer) = handle.try_writer()? else {
                return Ok(None);
            };
            if *writer.header() != scanned.header {
                return Ok(Some(None));
            }
            if scanned.header.mx_frame > 0 && store.intent()?.is_some() {
                // Whoever wrote it may have been stopped before all headers were right.
                let start = Anchor::log_start(scanned.header.salts);
                writer.repair(&*handle.files.log, &start)?;
            }
            match resolve::compare(store, &scanned, &dirty)? {
                Standing::Known(state) => enter::anchor(handle, store, writer, state, random)
                    .map(|state| Some(Some(state))),
                other => Ok(Some(Some(other))),
            }
        })
    }

    /// Makes sure that the header of the index changes with the content, before the two are looked at.
    pub(super) fn name_content(&self) -> Result<()> {
        let random = self.fresh_salts()?;
        self.under_write_lock(|local| {
            let (handle, _) = local.handle(self.host(), self.path())?;
            match handle.try_writer()? {
                Some(mut writer) => enter::name_content(handle, &mut writer, random).map(Some),
                None => Ok(None),
            }
        })
    }

    /// Random salts for a log that is begun anew.
    pub(super) fn fresh_salts(&self) -> Result<Salts> {
        let mut salts = [0; 8];
        salts.copy_from_slice(&self.host().random()?[..8]);
        Ok(Salts(salts))
    }

    /// Repeats `attempt` until it gets WAL_WRITE (it answers `None` while it does not). Nothing
    /// of ours is held while waiting.
    pub(super) fn under_write_lock<T>(
        &self,
        mut attempt: impl FnMut(&mut Local) -> Result<Option<T>>,
    ) -> Result<T> {
        let begun = Stopwatch::start(self.host().clock());
        loop {
            if let Some(value) = attempt(&mut self.local())? {
                return Ok(value);
            }
            if begun.elapsed() > BUSY_TIMEOUT {
                return Err(Error::Busy(format!("{} is locked", self.path().display())));
            }
            begun.sleep(Duration::from_millis(1));
        }
    }

    /// Compares all pages with the remote's; `None` when the content is no longer what `anchor`
    /// says: somebody wrote to it, and that has to be looked at first.
    fn healed(
        &self,
        conversation: &mut Conversation<'_>,
        anchor: Option<Anchor>,
    ) -> Result<Option<(State, Head, usize)>> {
        self.progress.lock().condition = Condition::Healing;
        heal::heal(self, conversation, anchor)
    }

    fn checkpoint_if_grown(&self) -> Result<()> {
        let mut local = self.local();
        let (handle, _) = local.handle(self.host(), self.path())?;
        let header = handle.header()?;
        let bytes = u64::from(header.mx_frame) * u64::from(self.page_size().unwrap_or(0));
        if bytes > CHECKPOINT_BYTES {
            handle.checkpoint()?;
        }
        Ok(())
    }
}
