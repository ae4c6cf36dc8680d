//! Whose turn it is to write: pushes and leases of one database, first come, first served.
//!
//! Whoever waits here holds no thread. Local programs do not stand in this queue: they wait for
//! SQLite's write lock as always, which each turn takes as well. So that they come to it beside
//! replicas that never pause, the write lock is left alone for a moment now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::wire::LeaseId;

/// How long a lease lasts that is not used.
pub const LEASE: Duration = Duration::from_secs(5);

/// How many may wait for their turn.
const MOST_WAITING: usize = 256;

/// For how long turns follow each other without a pause.
const BUSY: Duration = Duration::from_secs(1);

/// The pause: SQLite's busy handler sleeps for 100 ms at most between two attempts.
const PAUSE: Duration = Duration::from_millis(110);

/// The queue of one database.
pub struct Turns {
    one: Arc<Semaphore>,
    waiting: AtomicUsize,
    lease: Mutex<Option<Lease>>,
    busy: Mutex<Busy>,
}

/// When turns began to follow each other, and when the last one ended.
struct Busy {
    since: Instant,
    ended: Instant,
}

/// The right to write: of one push, or for as long as a lease lasts.
pub struct Turn {
    turns: Arc<Turns>,
    _permit: OwnedSemaphorePermit,
    /// Whether it was kept for the lease that it now serves.
    leased: bool,
}

/// A turn that is kept for a replica.
struct Lease {
    id: LeaseId,
    until: Instant,
    turn: Turn,
}

impl Turns {
    /// A queue without anybody in it.
    pub fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            one: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
            lease: Mutex::default(),
            busy: Mutex::new(Busy {
                since: now,
                ended: now,
            }),
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
            turns: Arc::clone(self),
            _permit: permit.ok()?.ok()?,
            leased: false,
        };
        if self.is_due_to_pause() {
            sleep(PAUSE).await;
        }
        Some(turn)
    }

    fn is_due_to_pause(&self) -> bool {
        let mut busy = self.busy.lock();
        let now = Instant::now();
        if now.duration_since(busy.ended) > PAUSE {
            busy.since = now;
        }
        let due = now.duration_since(busy.since) > BUSY;
        if due {
            busy.since = now + PAUSE;
        }
        due
    }

    /// Keeps a turn for a lease.
    pub fn keep(&self, id: LeaseId, turn: Turn) {
        *self.lease.lock() = Some(Lease {
            id,
            until: Instant::now() + LEASE,
            turn,
        });
    }

    /// The turn of a lease, for its push or its end; `None` where it is no more.
    pub fn take(&self, id: LeaseId) -> Option<Turn> {
        self.take_if(|lease| lease.id == id)
    }

    /// The turn of a lease that has lasted long enough.
    pub fn take_expired(&self) -> Option<Turn> {
        self.take_if(|lease| lease.until <= Instant::now())
    }

    /// The turn of any lease: nobody is served any more.
    pub fn take_any(&self) -> Option<Turn> {
        self.take_if(|_| true)
    }

    fn take_if(&self, condition: impl FnOnce(&Lease) -> bool) -> Option<Turn> {
        let mut lease = self.lease.lock();
        match &*lease {
            Some(kept) if condition(kept) => {}
            _ => return None,
        }
        lease.take().map(|kept| {
            let mut turn = kept.turn;
            turn.leased = true;
            turn
        })
    }
}

impl Turn {
    /// Whether it comes with the write lock, which its lease has kept.
    pub fn is_leased(&self) -> bool {
        self.leased
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.busy.lock().ended = Instant::now();
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
