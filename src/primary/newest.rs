//! The newest captured state, and since when it is known.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::database::clock::Clock;
use crate::position::Lsn;
use crate::wire::Head;

/// Captures whose time is remembered.
const REMEMBERED: usize = 1024;

/// The newest state of a database, for whoever waits for the next one.
pub struct Newest {
    head: watch::Sender<Head>,
    transactions: AtomicU64,
    clock: Arc<dyn Clock>,
    /// The first transactions of recent captures, ascending, and when they were captured.
    times: Mutex<VecDeque<(Lsn, u64)>>,
}

impl Newest {
    /// Begins with a state.
    pub fn new(head: Head, clock: Arc<dyn Clock>) -> Self {
        Self {
            head: watch::Sender::new(head),
            transactions: AtomicU64::new(0),
            clock,
            times: Mutex::default(),
        }
    }

    /// The state.
    pub fn head(&self) -> Head {
        *self.head.borrow()
    }

    /// The state as it changes: many changes in a row are seen as one.
    pub fn watch(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// Transactions captured since the beginning.
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// A newer state was captured: wakes all who wait for it.
    pub fn set(&self, head: Head) {
        let before = self.head();
        if before == head {
            return;
        }
        let captured = head.position.lsn.0.saturating_sub(before.position.lsn.0);
        self.transactions.fetch_add(captured, Ordering::Relaxed);
        self.remember(before.position.lsn.next(), head.position.lsn);
        self.head.send_replace(head);
    }

    fn remember(&self, first: Lsn, last: Lsn) {
        let mut times = self.times.lock();
        if last < first {
            // Counted anew.
            times.clear();
        }
        if times.len() == REMEMBERED {
            times.pop_front();
        }
        times.push_back((first.min(last), self.clock.now()));
    }

    /// For how many milliseconds a state of so many transactions has not been the newest, as far back
    /// as that is remembered; 0 where it is.
    pub fn behind(&self, lsn: Lsn) -> u64 {
        if lsn >= self.head().position.lsn {
            return 0;
        }
        let times = self.times.lock();
        // The capture that held the next transaction.
        let after = times.partition_point(|(first, _)| *first <= lsn.next());
        let capture = times.get(after.saturating_sub(1));
        capture.map_or(0, |(_, at)| self.clock.now().saturating_sub(*at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::page::{ContentDigest, PageSize};
    use crate::position::{DatabaseId, HistoryId, Position};

    /// A clock that stands still until it is set.
    struct Still(AtomicU64);

    impl Clock for Still {
        fn now(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.now())
        }

        fn sleep(&self, _: Duration) {}
    }

    fn head(lsn: u64) -> Head {
        Head {
            database: DatabaseId([1; 16]),
            position: Position {
                lsn: Lsn(lsn),
                id: HistoryId([lsn as u8; 16]),
            },
            page_size: PageSize::new(4096).unwrap(),
            database_size: 3,
            content: ContentDigest::default(),
        }
    }

    #[test]
    fn time_counts_from_the_first_transaction_that_is_missing() {
        let clock = Arc::new(Still(AtomicU64::new(1000)));
        let newest = Newest::new(head(10), Arc::clone(&clock) as _);
        assert_eq!((newest.behind(Lsn(10)), newest.behind(Lsn(3))), (0, 0));
        newest.set(head(12));
        clock.0.store(2000, Ordering::Relaxed);
        newest.set(head(13));
        clock.0.store(2500, Ordering::Relaxed);
        let behind = [13, 12, 11, 10, 3].map(|lsn| newest.behind(Lsn(lsn)));
        assert_eq!(behind, [0, 500, 1500, 1500, 1500]);
        assert_eq!(newest.transactions(), 3);
        for lsn in 14..5000 {
            newest.set(head(lsn));
        }
        assert_eq!(newest.times.lock().len(), REMEMBERED);
        // A new history.
        newest.set(head(1));
        assert_eq!((newest.behind(Lsn(1)), newest.behind(Lsn(0))), (0, 0));
    }

    #[test]
    fn who_watches_sees_the_newest_once() {
        let newest = Newest::new(head(1), Arc::new(Still(AtomicU64::new(0))));
        let mut watch = newest.watch();
        newest.set(head(1));
        assert!(!watch.has_changed().unwrap());
        newest.set(head(2));
        newest.set(head(3));
        assert!(watch.has_changed().unwrap());
        assert_eq!(*watch.borrow_and_update(), head(3));
        assert!(!watch.has_changed().unwrap());
    }
}
