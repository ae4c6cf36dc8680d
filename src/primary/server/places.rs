//! The connections a server has open, and which of them makes place when there are too many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::super::turns::Gone;
use crate::wire::PeerId;

/// How long a new connection waits for an old one to be gone.
const LEAVING: Duration = Duration::from_secs(1);

/// All open connections.
pub(super) struct Places {
    most: usize,
    visits: Mutex<HashMap<u64, Arc<Visit>>>,
    left: Notify,
    /// Counts what happens: the order of events is all the time that is needed.
    clock: AtomicU64,
}

/// One open connection.
pub(super) struct Visit {
    number: u64,
    address: IpAddr,
    /// When something was last asked, by the clock of the places; 0 before a first request was
    /// let in.
    last: AtomicU64,
    /// Whether an answer is being made.
    busy: AtomicBool,
    /// Whether a request waits for something new.
    waiting: AtomicBool,
    /// The replica that asks by it; 0 where that is not known.
    peer: AtomicU64,
    close: Notify,
    /// The same where a request waits: it is answered first, or whoever asks would come back at once.
    leave: Notify,
    closing: AtomicBool,
    /// Whether the other side has ended it.
    gone: Gone,
    places: Arc<Places>,
}

/// Takes a visit off the list when the connection ends.
pub(super) struct Place(pub(super) Arc<Visit>);

/// Keeps a visit from being ended.
pub(super) struct Busy<'a>(&'a Visit);

/// Keeps a visit from being ended before one that waits for nothing.
pub(super) struct Waiting<'a>(&'a Visit);

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            visits: Mutex::default(),
            left: Notify::new(),
            clock: AtomicU64::new(1),
        }
    }

    /// A place for a new connection. Where there is none an idle one is ended: first those that
    /// never made a request that was let in, the oldest first; those that wait for something new
    /// last. `None` when all are being answered.
    pub(super) async fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let deadline = Instant::now() + LEAVING;
        loop {
            if let Some(place) = self.try_enter(address) {
                return Some(place);
            }
            if !self.end_one() {
                return None;
            }
            timeout_at(deadline, self.left.notified()).await.ok()?;
        }
    }

    fn try_enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut visits = self.visits.lock();
        if visits.len() >= self.most {
            return None;
        }
        let visit = Arc::new(Visit {
            number: self.tick(),
            address,
            last: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            peer: AtomicU64::new(0),
            close: Notify::new(),
            leave: Notify::new(),
            closing: AtomicBool::new(false),
            gone: Gone::default(),
            places: Arc::clone(self),
        });
        visits.insert(visit.number, Arc::clone(&visit));
        Some(Place(visit))
    }

    /// Ends the connection that is least worth keeping; true also when one is ending already.
    fn end_one(&self) -> bool {
        let visits = self.visits.lock();
        if visits.values().any(|visit| visit.is_closing()) {
            return true;
        }
        let idle = visits.values().filter(|visit| !visit.is_busy());
        match idle.min_by_key(|visit| visit.worth()) {
            Some(visit) => {
                visit.closing.store(true, Ordering::Relaxed);
                match visit.is_waiting() {
                    true => visit.leave.notify_one(),
                    false => visit.close.notify_one(),
                }
                true
            }
            None => false,
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

impl Visit {
    /// Where it comes from.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// How many connections are open, and how many may be.
    pub(super) fn connections(&self) -> (usize, usize) {
        (self.places.visits.lock().len(), self.places.most)
    }

    /// Notes which replica asks by it.
    pub(super) fn belongs_to(&self, peer: PeerId) {
        let number = u64::from_be_bytes(peer.0);
        self.peer.store(number, Ordering::Relaxed);
    }

    /// The replica that asks by it.
    pub(super) fn peer(&self) -> Option<PeerId> {
        let peer = PeerId(self.peer.load(Ordering::Relaxed).to_be_bytes());
        peer.is_known().then_some(peer)
    }

    /// Notes that a request was let in.
    pub(super) fn admitted(&self) {
        self.last.store(self.places.tick(), Ordering::Relaxed);
    }

    /// Keeps the connection while an answer is made.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.busy.store(true, Ordering::Relaxed);
        Busy(self)
    }

    /// Returns when the connection has to make place.
    pub(super) async fn told_to_close(&self) {
        self.close.notified().await;
    }

    /// Returns when a request that waits has to make place.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Turns true when the other side ends the connection.
    pub(super) fn gone(&self) -> Gone {
        Arc::clone(&self.gone)
    }

    /// Notes that it waits for something new.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.waiting.store(true, Ordering::Relaxed);
        Waiting(self)
    }

    /// Whoever has the least makes place first.
    fn worth(&self) -> (bool, u64, u64) {
        (
            self.is_waiting(),
            self.last.load(Ordering::Relaxed),
            self.number,
        )
    }

    fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Whether it ends with the answer that is made, or at once.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.store(false, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.0.is_closing() {
            self.0.gone.store(true, Ordering::Relaxed);
        }
        let places = &self.0.places;
        places.visits.lock().remove(&self.0.number);
        places.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_make_place_and_the_proved_last() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(make_place());
    }

    async fn make_place() {
        let places = Arc::new(Places::new(3));
        let address = IpAddr::from([127, 0, 0, 1]);
        let proved = places.enter(address).await.unwrap();
        let first = places.enter(address).await.unwrap();
        let second = places.enter(address).await.unwrap();
        proved.0.admitted();
        assert!(places.end_one() && first.0.is_closing() && !second.0.is_closing());
        drop(first);
        let waiting = second.0.waiting();
        assert!(proved.0.worth() < second.0.worth());
        drop(waiting);
        assert!(proved.0.worth() > second.0.worth());
        let third = places.enter(address).await.unwrap();
        let busy = second.0.busy();
        assert!(places.end_one() && third.0.is_closing() && !proved.0.is_closing());
        drop(third);
        let fourth = places.enter(address).await.unwrap();
        let fourth_busy = fourth.0.busy();
        let proved_busy = proved.0.busy();
        assert!(places.enter(address).await.is_none());
        drop((busy, fourth_busy, proved_busy));
    }
}
