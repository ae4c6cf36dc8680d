//! What this process knows about writing to one replica: whether it holds the newest state, whether
//! others are in its way, and what is not known.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::push::Pending;
use crate::database::clock::Clock;
use crate::wire::LeaseId;

/// For how long a replica that was told it holds the newest state goes by that.
const HEAD: Duration = Duration::from_secs(1);

/// For how long a conflict makes writes ask for a lease.
const CONTENDED: Duration = Duration::from_secs(2);

/// For how long a lease is used: less than it lasts on the primary.
const LEASE: Duration = Duration::from_secs(4);

/// The same of one that came with newer content: whoever has begun to read begins again at once, or
/// never.
const SHORT_LEASE: Duration = Duration::from_millis(400);

/// For how long at least an unreachable primary is not tried again: SQLite's busy handler asks every
/// few milliseconds.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// What is known; times are those of the host's clock.
#[derive(Default)]
pub struct Writes {
    /// Until when the local content counts as the newest.
    head_until: Duration,
    /// Whether the remote says at once when it has something newer.
    follows: bool,
    /// Until when writes ask for a lease.
    contended_until: Duration,
    /// The lease that is held, until then.
    lease: Option<Held>,
    /// Until when the primary is not tried again, and why.
    unreachable: Option<(Duration, String)>,
    /// The push whose outcome is not known. Locked while it is sent: whoever else is to write here
    /// waits for the same answer.
    pub(super) pending: Option<Arc<Mutex<Pending>>>,
    /// Whether pages have to be compared before the next write.
    heal: bool,
}

/// A lease that was granted.
struct Held {
    id: LeaseId,
    until: Duration,
    /// Whether it is of full length.
    whole: bool,
}

impl Writes {
    /// The remote has just said that the local content is its newest.
    pub fn at_head(&mut self, clock: &dyn Clock) {
        self.head_until = clock.monotonic() + HEAD;
        self.unreachable = None;
    }

    /// Whether the local content counts as the newest.
    pub fn is_at_head(&self, clock: &dyn Clock) -> bool {
        self.follows || clock.monotonic() < self.head_until
    }

    /// The remote says at once when it has something newer, or does no longer.
    pub fn follow(&mut self, on: bool) {
        self.follows = on;
    }

    /// Nothing is known about the remote's newest state.
    pub fn forget_head(&mut self) {
        self.head_until = Duration::ZERO;
        self.follows = false;
    }

    /// A push was accepted: its lease has served.
    pub fn accepted(&mut self, clock: &dyn Clock) {
        self.lease = None;
        self.at_head(clock);
    }

    /// Another transaction was committed first.
    pub fn conflicted(&mut self, clock: &dyn Clock) {
        self.forget_head();
        self.lease = None;
        self.contended_until = clock.monotonic() + CONTENDED;
    }

    /// Whether others were in the way just now.
    pub fn is_contended(&self, clock: &dyn Clock) -> bool {
        clock.monotonic() < self.contended_until
    }

    /// A lease is asked for: perhaps it is granted, and nobody hears of it.
    pub fn ask_for(&mut self, id: LeaseId) {
        let (until, whole) = (Duration::ZERO, false);
        self.lease = Some(Held { id, until, whole });
    }

    /// A lease was granted: a whole one, or for a moment.
    pub fn leased(&mut self, clock: &dyn Clock, id: LeaseId, whole: bool) {
        let until = clock.monotonic() + if whole { LEASE } else { SHORT_LEASE };
        self.lease = Some(Held { id, until, whole });
    }

    /// The lease that is held.
    pub fn lease(&self) -> Option<LeaseId> {
        self.lease.as_ref().map(|held| held.id)
    }

    /// Whether a lease is held, where it is asked for a `whole` one, and still lasts.
    pub fn is_leased(&self, clock: &dyn Clock, whole: bool) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|held| (held.whole || !whole) && clock.monotonic() < held.until)
    }

    /// The lease, to be given back.
    pub fn take_lease(&mut self) -> Option<LeaseId> {
        self.lease.take().map(|held| held.id)
    }

    /// The primary could not be reached; that took `took`.
    pub fn unreachable(&mut self, clock: &dyn Clock, took: Duration, why: String) {
        self.forget_head();
        let until = clock.monotonic() + UNREACHABLE.max(took);
        self.unreachable = Some((until, why));
    }

    /// Why the primary is not tried again just now.
    pub fn why_unreachable(&self, clock: &dyn Clock) -> Option<String> {
        let (until, why) = self.unreachable.as_ref()?;
        (clock.monotonic() < *until).then(|| why.clone())
    }

    /// Pages have to be compared before the next write.
    pub fn heal(&mut self) {
        self.heal = true;
        self.forget_head();
    }

    /// Whether they have to; asked once.
    pub fn take_heal(&mut self) -> bool {
        std::mem::take(&mut self.heal)
    }
}
