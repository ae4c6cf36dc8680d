//! Putting what was written here on top of what the remote has by now.
//!
//! What the remote has is fetched without any lock. Under WAL_WRITE, and without the network, both
//! sides are merged by rows, and what comes out enters the local log as one transaction: from then on
//! the remote's newer state is the base, and what was written here is pushed as usual, as one
//! transaction fenced by that base. Where the remote has moved on once more, all of it is done again.
//!
//! Before the transaction can become visible, the new base and the images that lead back to it are
//! durable beside the old ones. They count once the content is the one they belong to: whatever ends
//! the process or the machine leaves the state before, or the one after.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::entry::Entry;
use super::version;
use super::view::{BaseView, LocalView, RemoteView};
use crate::database::clock::Stopwatch;
use crate::database::offline::Base;
use crate::database::pages::Pages;
use crate::database::store::State;
use crate::error::{Error, Result};
use crate::merge::{Merged, Policy, States};
use crate::remote::{Remote, Traffic};
use crate::replica::batch::Batch;
use crate::replica::follower::Replica;
use crate::replica::status::{Condition, Report};

/// Times the remote, or another process, may get in first.
const MOST_ROUNDS: usize = 20;

/// What a rebase did, as the function returns it.
#[derive(Clone, Default, Serialize)]
pub struct RebaseReport {
    /// What was fetched and pushed.
    #[serde(flatten)]
    pub report: Report,
    /// Rows of the remote's state that were changed.
    pub rows: usize,
    /// Rows that both sides had changed in different ways.
    pub conflicts: usize,
    /// Whether all rows with overflow pages had to be looked at.
    pub scanned: bool,
}

/// One attempt to merge.
enum Round {
    /// It has entered the log.
    Entered(Merged),
    /// These were in the way; nothing was changed.
    Conflicts(usize),
    /// Another process was at work.
    Moved,
}

impl Replica {
    /// Puts what was written here on top of what the remote has, and pushes it. Rows that both sides
    /// changed are decided by `policy`.
    pub fn rebase(&self, policy: Option<Policy>) -> Result<RebaseReport> {
        self.make()?;
        let remote = self.remote()?;
        self.settle_pending_at(&*remote)?;
        let policy = policy.or(self.settings().on_conflict);
        self.rebase_at(&*remote, policy.unwrap_or(Policy::Fail), true)
    }

    /// The same over a line; somebody `waits` for it, or it is done in the background.
    pub(super) fn rebase_at(
        &self,
        remote: &dyn Remote,
        policy: Policy,
        waits: bool,
    ) -> Result<RebaseReport> {
        let done = self.rebase_rounds(remote, policy, waits);
        if !matches!(done, Err(Error::Unreachable { .. })) {
            // One that did not serve.
            self.release_lease_at(remote);
        }
        if let Err(error) = &done {
            self.failed(error.to_string());
        }
        done
    }

    fn rebase_rounds(
        &self,
        remote: &dyn Remote,
        policy: Policy,
        waits: bool,
    ) -> Result<RebaseReport> {
        let begun = Stopwatch::start(self.host().clock());
        let from = self.understood()?.position;
        let mut done = RebaseReport::default();
        for _ in 0..MOST_ROUNDS {
            // What it is refused for is what this is about.
            let _ = unless_diverged(self.settle_outgoing(remote))?;
            if self.unpushed()?.is_none() {
                let wait = (!waits).then_some(Duration::ZERO);
                done.add(&self.sync_at(remote, wait)?);
            } else if !self.rebase_once(remote, policy, waits, &mut done)? {
                continue;
            }
            match unless_diverged(self.push_to(remote))? {
                Some(pushed) => done.add(&pushed),
                None => continue,
            }
            done.report.from = from.to_string();
            done.report.to = self.understood()?.position.to_string();
            done.report.milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
            return Ok(done);
        }
        Err(self.contended())
    }

    /// Fetches what the remote has beyond the base, and puts what was written here on top of that. False
    /// where another process was at work.
    fn rebase_once(
        &self,
        remote: &dyn Remote,
        policy: Policy,
        waits: bool,
        done: &mut RebaseReport,
    ) -> Result<bool> {
        let state = self.understood()?;
        let (fetched, traffic) = self.fetch_beyond(remote, &state, waits);
        self.note_traffic(&traffic);
        done.report.bytes_received += traffic.received;
        done.report.bytes_sent += traffic.sent;
        let Some(batch) = fetched? else {
            // Only one side has moved.
            return Ok(true);
        };
        let (head, pages) = (batch.head, batch.pages.len());
        match self.put_on_top(&state, batch, policy)? {
            Round::Moved => Ok(false),
            Round::Conflicts(count) => Err(self.in_the_way(count)),
            Round::Entered(merged) => {
                done.rows += merged.rows;
                done.conflicts += merged.conflicts.len();
                done.scanned |= merged.is_scan;
                done.report.pages += pages;
                let now = self.host().now();
                let mut progress = self.progress.lock();
                progress.exchanged(&Traffic::default(), head.position, now);
                progress.condition = Condition::Known;
                Ok(true)
            }
        }
    }

    /// Enters what was fetched over `state`, where nothing was written, under a version of the schema that
    /// was never seen here. False where another process was at work.
    pub(in crate::replica) fn enter_renewed(&self, state: &State, batch: Batch) -> Result<bool> {
        let round = self.put_on_top(state, batch, Policy::Fail)?;
        Ok(matches!(round, Round::Entered(_)))
    }

    /// Merges both sides, and enters what comes out, if the content is still `state`.
    fn put_on_top(&self, state: &State, batch: Batch, policy: Policy) -> Result<Round> {
        let random = self.fresh_salts()?;
        let mut batch = Some(batch);
        self.with_state(|handle, store, writer, now| {
            let base = store.unpushed(&now)?.unwrap_or(version::base_of(&now));
            let is_same = now.position == state.position && store.outgoing()?.is_none();
            let (true, Some(batch)) = (is_same, batch.take()) else {
                return Ok(Round::Moved);
            };
            // What is the base from here on, a power loss does not take; `synchronous` may say otherwise.
            handle.files.log.sync()?;
            handle.files.content.sync()?;
            let retired = store.retired()?;
            let (merged, entry) = self.merged(&now, &base, retired, batch, policy)?;
            let Some(entry) = entry else {
                store.transaction(|store| store.set_conflicts(&merged.conflicts))?;
                return Ok(Round::Conflicts(merged.conflicts.len()));
            };
            entry.enter(handle, store, writer, &now, random)?;
            Ok(Round::Entered(merged))
        })
    }

    /// Merges what is here with what was fetched; without a result where rows are in the way.
    fn merged(
        &self,
        now: &State,
        base: &Base,
        retired: u32,
        batch: Batch,
        policy: Policy,
    ) -> Result<(Merged, Option<Entry>)> {
        let head = batch.head;
        if head.page_size != now.page_size {
            return Err(Error::Misuse(format!(
                "the remote's pages have {} bytes now, {} has {}: make the replica anew",
                head.page_size.get(),
                self.path().display(),
                now.page_size.get()
            )));
        }
        let store = self.host().open_store(self.path())?;
        let local = Arc::new(LocalView::of(self)?);
        let base = Arc::new(BaseView::new(Arc::clone(&local), store, base)?);
        let remote = Arc::new(RemoteView::new(Arc::clone(&base), batch));
        let states = States {
            base: Arc::clone(&base) as _,
            local: Arc::clone(&local) as _,
            remote: Arc::clone(&remote) as _,
            changed_here: base.changed(),
            changed_there: remote.changed(),
            retired,
        };
        let mut top = Pages::new(head.page_size);
        let mut take = |number, page: &[u8]| match number == head.page_size.lock_page() {
            true => Ok(()),
            false => top.put(self, number, page),
        };
        let (merged, size) = self.host().merge(self.path(), &states, policy, &mut take)?;
        if policy == Policy::Fail && !merged.conflicts.is_empty() {
            return Ok((merged, None));
        }
        let entry = Entry::new(self, &states, head, &top, size)?;
        Ok((merged, Some(entry)))
    }

    fn in_the_way(&self, count: usize) -> Error {
        self.progress.lock().condition = Condition::Diverged;
        Error::Diverged(format!(
            "{}: {count} rows were changed here and on the remote in different ways (SELECT * FROM \
             replica_conflicts), and nothing was changed: SELECT replica_rebase('local') or \
             replica_rebase('remote') decides for one side, replica_discard() goes back to what the \
             remote had",
            self.path().display()
        ))
    }
}

/// What is not an error here: that the remote has moved on.
fn unless_diverged<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Diverged(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

impl RebaseReport {
    fn add(&mut self, more: &Report) {
        self.report.transactions += more.transactions;
        self.report.pages += more.pages;
        self.report.bytes_received += more.bytes_received;
        self.report.bytes_sent += more.bytes_sent;
    }
}
