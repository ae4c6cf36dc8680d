//! Whose turn it is to write: pushes and leases of one database, first come, first served.
//!
//! Whoever waits here holds no thread. Local programs do not stand in this queue: they wait for
//! SQLite's write lock as always, which each turn takes as well. So that they come to it beside
//! replicas that never pause, the write lock is left alone for a moment now and then.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::database::clock::Clock;
use crate::wire::LeaseId;

/// How long a lease lasts that is not used.
pub const LEASE: Duration = Duration::from_secs(5);

/// The same of one that came with newer content: whoever has begun to read there begins again at once,
/// or never.
pub const SHORT_LEASE: Duration = Duration::from_millis(500);

/// How many may wait for their turn.
const MOST_WAITING: usize = 256;

/// For how long turns are counted before a pause.
const BUSY: Duration = Duration::from_secs(1);

/// The pause: SQLite's busy handler sleeps for 100 ms at most between two attempts.
const PAUSE: Duration = Duration::from_millis(110);

/// The queue of one database.
pub struct Turns {
    clock: Arc<dyn Clock>,
    one: Arc<Semaphore>,
    waiting: AtomicUsize,
    lease: Mutex<Option<Lease>>,
    busy: Mutex<Busy>,
}

/// How much of the time somebody has the turn, by the host's clock.
struct Busy {
    /// Since when it is counted.
    since: Duration,
    /// The time of all turns since then.
    used: Duration,
    /// When the turn began that is given.
    began: Duration,
}

/// Whoever asked for a lease, by whether they are gone.
pub type Gone = Arc<AtomicBool>;

/// The right to write: of one push, or for as long as a lease lasts.
pub struct Turn {
    turns: Weak<Turns>,
    permit: Option<OwnedSemaphorePermit>,
    /// Whoever asked for it, where that is known.
    gone: Option<Gone>,
    /// The lease for which it was kept.
    lease: Option<LeaseId>,
}

/// A turn that is kept for a replica, with the write lock.
struct Lease {
    id: LeaseId,
    until: Duration,
    /// Whether whoever asked for it is gone: it ends then.
    gone: Option<Gone>,
    permit: OwnedSemaphorePermit,
}

impl Lease {
    fn has_ended(&self, now: Duration) -> bool {
        let is_gone = |gone: &Gone| gone.load(Ordering::Relaxed);
        self.until <= now || self.gone.as_ref().is_some_and(is_gone)
    }
}

impl Turns {
    /// A queue without anybody in it.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let now = clock.monotonic();
        Arc::new(Self {
            clock,
            one: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
            lease: Mutex::default(),
            busy: Mutex::new(Busy {
                since: now,
                used: Duration::ZERO,
                began: now,
            }),
        })
    }

    /// A turn if it can be had at once: that of the lease, where it still lasts, or nobody else's.
    pub fn try_wait(self: &Arc<Self>, lease: Option<LeaseId>) -> Option<Turn> {
        if let Some(turn) = lease.and_then(|id| self.take(id)) {
            return Some(turn);
        }
        let permit = Arc::clone(&self.one).try_acquire_owned().ok()?;
        Some(Turn {
            turns: Arc::downgrade(self),
            permit: Some(permit),
            gone: None,
            lease: None,
        })
    }

    /// Waits for a turn; at once that of the lease, where it still lasts. `None` where there was none
    /// in time.
    pub async fn wait(self: &Arc<Self>, lease: Option<LeaseId>, most: Duration) -> Option<Turn> {
        if let Some(turn) = lease.and_then(|id| self.take(id)) {
            return Some(turn);
        }
        let _waiting = Waiting::among(&self.waiting)?;
        let permit = timeout(most, Arc::clone(&self.one).acquire_owned()).await;
        let turn = Turn {
            turns: Arc::downgrade(self),
            permit: Some(permit.ok()?.ok()?),
            gone: None,
            lease: None,
        };
        if self.is_due_to_pause() {
            sleep(PAUSE).await;
        }
        Some(turn)
    }

    /// Counts the turn that begins. Whether turns have left next to nothing of the time to others: a
    /// replica that writes alone leaves its way to the primary and back.
    fn is_due_to_pause(&self) -> bool {
        let mut busy = self.busy.lock();
        let now = self.clock.monotonic();
        let counted = now.saturating_sub(busy.since);
        let ends = counted > BUSY;
        let due = ends && busy.used * 10 > counted * 9;
        busy.began = if due { now + PAUSE } else { now };
        if ends {
            (busy.since, busy.used) = (busy.began, Duration::ZERO);
        }
        due
    }

    fn ended(&self) {
        let mut busy = self.busy.lock();
        let took = self.clock.monotonic().saturating_sub(busy.began);
        busy.used += took;
    }

    /// How many wait for a turn.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many hold a lease: one at most.
    pub fn leases(&self) -> usize {
        usize::from(self.lease.lock().is_some())
    }

    /// Keeps a turn for a lease that lasts for `time`.
    pub fn keep(&self, id: LeaseId, mut turn: Turn, time: Duration) {
        if let Some(permit) = turn.permit.take() {
            *self.lease.lock() = Some(Lease {
                id,
                until: self.clock.monotonic() + time,
                gone: turn.gone.take(),
                permit,
            });
        }
    }

    /// The turn of a lease, for its push or its end; `None` where it is no more.
    pub fn take(self: &Arc<Self>, id: LeaseId) -> Option<Turn> {
        self.take_if(|lease| lease.id == id)
    }

    /// The turn of a lease that has lasted long enough, or whose holder is gone.
    pub fn take_expired(self: &Arc<Self>) -> Option<Turn> {
        let now = self.clock.monotonic();
        self.take_if(|lease| lease.has_ended(now))
    }

    fn take_if(self: &Arc<Self>, condition: impl FnOnce(&Lease) -> bool) -> Option<Turn> {
        let mut lease = self.lease.lock();
        match &*lease {
            Some(kept) if condition(kept) => {}
            _ => return None,
        }
        let kept = lease.take()?;
        Some(Turn {
            turns: Arc::downgrade(self),
            permit: Some(kept.permit),
            gone: None,
            lease: Some(kept.id),
        })
    }
}

impl Turn {
    /// A lease that is made of it ends early when `gone` turns true.
    pub fn until_gone(&mut self, gone: Option<Gone>) {
        self.gone = gone;
    }

    /// Whether it comes with the write lock, which its lease has kept.
    pub fn is_leased(&self) -> bool {
        self.lease.is_some()
    }

    /// Ends it; a lease's write lock has been given back.
    pub fn end(mut self) {
        if let Some(turns) = self.turns.upgrade() {
            turns.ended();
        }
        self.permit = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (Some(turns), Some(permit)) = (self.turns.upgrade(), self.permit.take()) else {
            return;
        };
        match self.lease {
            // Whoever was to use it did not come to it: the write lock is still held, and goes with
            // the next lease that has expired.
            Some(id) => {
                *turns.lease.lock() = Some(Lease {
                    id,
                    until: turns.clock.monotonic(),
                    gone: None,
                    permit,
                });
            }
            None => turns.ended(),
        }
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(count: &'a AtomicUsize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MOST_WAITING).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
