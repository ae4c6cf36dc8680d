//! The replicas that follow a database: who they are, what they have, and when they were heard of.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::database::clock::Clock;
use crate::position::Position;
use crate::wire::PeerId;

/// Peers that are remembered at once.
const MOST: usize = 4096;

/// How long one is remembered that is not heard of, in milliseconds.
const REMEMBERED: u64 = 24 * 3600 * 1000;

/// How long one is taken for connected: longer than it may wait for an answer.
const CONNECTED: u64 = 90 * 1000;

/// Where a request comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The address.
    pub address: IpAddr,
    /// The number of the token that let it in, where one was needed.
    pub token: Option<u64>,
}

/// A replica that follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Where its last request came from.
    pub origin: Origin,
    /// What it had then; `None` while it is being made.
    pub position: Option<Position>,
    /// When it was heard of last, in milliseconds since 1970.
    pub seen: u64,
    /// How many of its requests wait for something new.
    pub waiting: u32,
    /// Bytes of answers to it.
    pub sent: u64,
    /// Bytes of its requests.
    pub received: u64,
}

/// The peers of one database.
pub struct Peers {
    clock: Arc<dyn Clock>,
    peers: Mutex<HashMap<PeerId, Peer>>,
}

impl Peers {
    /// Nobody yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            peers: Mutex::default(),
        }
    }

    /// A peer asks, and says what it has.
    pub fn asks(&self, id: PeerId, origin: Origin, position: Option<Position>) {
        if !id.is_known() {
            return;
        }
        let now = self.clock.now();
        let mut peers = self.peers.lock();
        if peers.len() >= MOST && !peers.contains_key(&id) {
            forget(&mut peers, now);
        }
        let peer = peers.entry(id).or_insert(Peer {
            origin,
            position,
            seen: now,
            waiting: 0,
            sent: 0,
            received: 0,
        });
        (peer.origin, peer.position, peer.seen) = (origin, position, now);
    }

    /// A request of a peer was answered.
    pub fn answered(&self, id: PeerId, received: u64, sent: u64) {
        if let Some(peer) = self.peers.lock().get_mut(&id) {
            peer.received += received;
            peer.sent += sent;
            peer.seen = self.clock.now();
        }
    }

    /// A request of a peer waits until the result is dropped.
    pub fn wait(self: &Arc<Self>, id: PeerId) -> Waiting {
        if let Some(peer) = self.peers.lock().get_mut(&id) {
            peer.waiting += 1;
        }
        Waiting(Arc::clone(self), id)
    }

    /// All of them, in no order.
    pub fn list(&self) -> Vec<(PeerId, Peer)> {
        let now = self.clock.now();
        let peers = self.peers.lock();
        let known = peers.iter().filter(|(_, peer)| is_remembered(peer, now));
        known.map(|(id, peer)| (*id, *peer)).collect()
    }

    /// How many are connected, as far as that can be told.
    pub fn connected(&self) -> usize {
        let now = self.clock.now();
        let connected =
            |peer: &&Peer| peer.waiting > 0 || now.saturating_sub(peer.seen) < CONNECTED;
        self.peers.lock().values().filter(connected).count()
    }
}

/// Makes room for one more: of those who were not heard of for long, otherwise of the one that was not
/// for longest.
fn forget(peers: &mut HashMap<PeerId, Peer>, now: u64) {
    peers.retain(|_, peer| is_remembered(peer, now));
    if peers.len() >= MOST {
        let longest = peers
            .iter()
            .min_by_key(|(_, peer)| (peer.waiting, peer.seen));
        if let Some(id) = longest.map(|(id, _)| *id) {
            peers.remove(&id);
        }
    }
}

fn is_remembered(peer: &Peer, now: u64) -> bool {
    peer.waiting > 0 || now.saturating_sub(peer.seen) < REMEMBERED
}

/// A request that waits.
pub struct Waiting(Arc<Peers>, PeerId);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(peer) = self.0.peers.lock().get_mut(&self.1) {
            peer.waiting = peer.waiting.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::position::{HistoryId, Lsn};

    struct Set(AtomicU64);

    impl Clock for Set {
        fn now(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.now())
        }

        fn sleep(&self, _: Duration) {}
    }

    fn id(number: u64) -> PeerId {
        PeerId(number.to_be_bytes())
    }

    const ORIGIN: Origin = Origin {
        address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        token: Some(3),
    };

    fn peers() -> (Arc<Peers>, Arc<Set>) {
        let clock = Arc::new(Set(AtomicU64::new(1_000)));
        (Arc::new(Peers::new(Arc::clone(&clock) as _)), clock)
    }

    #[test]
    fn a_peer_is_what_it_said_last() {
        let (peers, clock) = peers();
        peers.asks(PeerId::UNKNOWN, ORIGIN, None);
        assert!(peers.list().is_empty());
        peers.asks(id(1), ORIGIN, None);
        let waiting = peers.wait(id(1));
        clock.0.store(2_000, Ordering::Relaxed);
        peers.answered(id(1), 10, 2000);
        peers.answered(id(2), 10, 2000);
        let position = Position {
            lsn: Lsn(7),
            id: HistoryId([7; 16]),
        };
        peers.asks(id(1), ORIGIN, Some(position));
        let expected = Peer {
            origin: ORIGIN,
            position: Some(position),
            seen: 2_000,
            waiting: 1,
            sent: 2000,
            received: 10,
        };
        assert_eq!(peers.list(), [(id(1), expected)]);
        clock.0.store(2_000 + 2 * REMEMBERED, Ordering::Relaxed);
        assert_eq!((peers.list().len(), peers.connected()), (1, 1));
        drop(waiting);
        assert_eq!((peers.list().len(), peers.connected()), (0, 0));
    }

    #[test]
    fn those_not_heard_of_for_longest_are_forgotten() {
        let (peers, clock) = peers();
        for number in 1..=MOST as u64 + 100 {
            clock.0.fetch_add(1, Ordering::Relaxed);
            peers.asks(id(number), ORIGIN, None);
            if number == 1 {
                std::mem::forget(peers.wait(id(1)));
            }
        }
        let list = peers.list();
        let has = |number| list.iter().any(|(known, _)| *known == id(number));
        assert_eq!(list.len(), MOST);
        assert!(has(1) && !has(2) && !has(100) && has(102) && has(MOST as u64 + 100));
        clock.0.fetch_add(REMEMBERED, Ordering::Relaxed);
        peers.asks(id(9999), ORIGIN, None);
        assert_eq!(peers.peers.lock().len(), 2);
    }
}
