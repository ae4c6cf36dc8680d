//! Sending a transaction to the remote, until it is known what became of it.
//!
//! A push is sent again and again, byte for byte the same, until the remote accepts or refuses it:
//! nothing else tells. (To ask for the position would not do: the push itself may still be on its
//! way.) Where the time is up first, the transaction is given up here, kept as *pending*, and sent
//! again before anything else is written.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::follower::Replica;
use super::transaction::{Changes, Frames};
use crate::database::body::Body;
use crate::database::clock::Stopwatch;
use crate::database::store::State;
use crate::error::{Error, Result};
use crate::position::{DatabaseId, Nonce};
use crate::remote::{PushFailure, Remote, Traffic};
use crate::wire::{Head, PushRequest, PushResponse};

/// Between two attempts.
const ATTEMPTS_APART: Duration = Duration::from_millis(50);

/// A push whose outcome is not known.
pub struct Pending {
    push: PushRequest,
    body: Body,
}

/// What the remote made of a push.
pub(super) enum Outcome {
    /// It is applied.
    Accepted(Head),
    /// It is not, and never will be, for this reason.
    Refused(Refusal),
    /// Nobody knows, for this reason.
    Unknown(Error),
}

/// Why a push is not applied.
pub(super) enum Refusal {
    /// It was never sent.
    Unsent(Error),
    /// Another transaction was committed first.
    Conflict,
    /// A page here is not that of the primary.
    Diverged,
    /// Whether it was applied can no longer be known.
    Lost,
    /// Another database is served there.
    OtherDatabase(DatabaseId),
}

impl Replica {
    /// Pushes the transaction that `frames` hold, computed from `base`, under WAL_WRITE. Returns the
    /// state it leads to, with its intent on record.
    pub(super) fn commit(&self, base: &State, frames: &Frames<'_>) -> Result<State> {
        let database = self.database_id()?;
        let remote = self.remote()?;
        let lease = self.writes().lease();
        let nonce = Nonce(self.host().random()?);
        let (push, body) = {
            let mut local = self.local();
            let (handle, store) = local.handle(self.host(), self.path())?;
            let changes = Changes::of(handle, base, frames)?;
            let push = changes.request(database, base, frames, nonce, lease);
            let intent = changes.intent(base, frames, &push);
            store.set_intent(&intent)?;
            if changes.is_empty() {
                return Ok(reached(base, &push, intent.position));
            }
            (push, changes.body(handle, self, &push, frames)?)
        };
        match self.send(&*remote, &push, &body).0 {
            Outcome::Accepted(head) => {
                self.writes().accepted(&*self.host().clock());
                self.note_position(head.position);
                Ok(reached(base, &push, push.target()))
            }
            Outcome::Refused(refusal) => {
                self.forget_intent();
                Err(self.rolled_back(&*remote, &push, refusal))
            }
            Outcome::Unknown(error) => {
                let pending = Pending { push, body };
                self.writes().pending = Some(Arc::new(Mutex::new(pending)));
                self.forget_intent();
                Err(Error::Unknown(format!(
                    "it is not known whether the transaction was committed ({error}); nothing is \
                     written before that is known"
                )))
            }
        }
    }

    /// What was intended does not become visible here. Where this fails the next look finds it out; the
    /// error of the push is the one to report.
    fn forget_intent(&self) {
        if let Ok(store) = self.local().store()
            && let Err(error) = store.clear_intent()
        {
            log::warn!(target: "replica", "{}: {error}", self.path().display());
        }
    }

    /// Finds out what became of a push whose outcome was not known. Afterwards there is none.
    pub(super) fn settle_pending(&self) -> Result<()> {
        match self.has_pending() {
            true => self.settle_pending_at(&*self.remote()?),
            false => Ok(()),
        }
    }

    /// Whether there is a push whose outcome is not known.
    pub(super) fn has_pending(&self) -> bool {
        self.writes().pending.is_some()
    }

    /// The same as [`settle_pending`](Replica::settle_pending), over another line.
    pub(super) fn settle_pending_at(&self, remote: &dyn Remote) -> Result<()> {
        let Some(pending) = self.writes().pending.clone() else {
            return Ok(());
        };
        let pending = pending.lock();
        if self.writes().pending.is_none() {
            return Ok(());
        }
        match self.send(remote, &pending.push, &pending.body).0 {
            Outcome::Unknown(error) => {
                return Err(Error::Unknown(format!(
                    "it is still not known whether an earlier transaction was committed ({error})"
                )));
            }
            Outcome::Accepted(_) => log::warn!(
                target: "replica",
                "{}: the transaction whose outcome was not known was committed",
                self.path().display()
            ),
            Outcome::Refused(refusal) => log::warn!(
                target: "replica",
                "{}: the transaction whose outcome was not known was not committed: {}",
                self.path().display(),
                self.rolled_back(remote, &pending.push, refusal)
            ),
        }
        let mut writes = self.writes();
        writes.pending = None;
        // Whatever came of it has to be fetched.
        writes.forget_head();
        Ok(())
    }

    /// Sends a push until it is known what became of it, or the time is up.
    pub(super) fn send(
        &self,
        remote: &dyn Remote,
        push: &PushRequest,
        body: &Body,
    ) -> (Outcome, Traffic) {
        let most = self.settings().timeout();
        let time = Stopwatch::start(self.host().clock());
        // From the first attempt on that may have arrived, only an answer tells.
        let mut sent = None;
        loop {
            let left = most.saturating_sub(time.elapsed()).max(ATTEMPTS_APART);
            match remote.push(push, body, left) {
                Ok((answer, traffic)) => {
                    self.note_traffic(&traffic);
                    return (self.answered(answer), traffic);
                }
                Err(PushFailure::Unsent(error)) => match sent {
                    None => return (Outcome::Refused(Refusal::Unsent(error)), Traffic::default()),
                    Some(_) => sent = Some(error),
                },
                Err(PushFailure::Unknown(error)) => sent = Some(error),
            }
            if time.elapsed() + ATTEMPTS_APART >= most || remote.is_shut() {
                let never = || Error::Internal("the time was up at once".to_owned());
                return (
                    Outcome::Unknown(sent.unwrap_or_else(never)),
                    Traffic::default(),
                );
            }
            time.sleep(ATTEMPTS_APART);
        }
    }

    fn answered(&self, answer: PushResponse) -> Outcome {
        match answer {
            PushResponse::Accepted(head) => Outcome::Accepted(head),
            PushResponse::Conflict(_) => {
                self.writes().conflicted(&*self.host().clock());
                Outcome::Refused(Refusal::Conflict)
            }
            PushResponse::Diverged(_) => {
                self.writes().heal();
                Outcome::Refused(Refusal::Diverged)
            }
            PushResponse::Unknown(_) => {
                self.writes().forget_head();
                Outcome::Refused(Refusal::Lost)
            }
            PushResponse::OtherDatabase(other) => Outcome::Refused(Refusal::OtherDatabase(other)),
        }
    }

    /// What a refusal means for the transaction that was pushed at its COMMIT.
    fn rolled_back(&self, remote: &dyn Remote, push: &PushRequest, refusal: Refusal) -> Error {
        let conflict = |sentence: &str| {
            Error::Conflict(format!(
                "remote {}: {sentence}: the transaction is rolled back, run it again",
                remote.url()
            ))
        };
        match refusal {
            Refusal::Unsent(error) => self.not_sent(error),
            Refusal::Conflict => conflict("another transaction was committed first"),
            Refusal::Diverged => {
                conflict("the pages here are not those of the primary and have to be compared")
            }
            Refusal::Lost => Error::Unknown(format!(
                "remote {}: the primary crashed, and it can no longer be known whether the \
                 transaction was committed: look at what is there",
                remote.url()
            )),
            Refusal::OtherDatabase(other) => Error::Conflict(format!(
                "{} serves another database (id {other}) than this file follows (id {}); the \
                 transaction is rolled back",
                remote.url(),
                push.database
            )),
        }
    }

    fn not_sent(&self, error: Error) -> Error {
        self.writes().forget_head();
        match error {
            Error::Unreachable { .. } | Error::Busy(_) => Error::Conflict(format!(
                "{error}: nothing was sent, the transaction is rolled back, run it again"
            )),
            other => other,
        }
    }
}

fn reached(base: &State, push: &PushRequest, position: crate::position::Position) -> State {
    State {
        position,
        database_size: push.database_size,
        content: push.content,
        ..*base
    }
}
