//! How many answers may be in memory at once, and whose.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::rate::Key;

/// Answers that may be in memory at once, from their request to their last byte sent.
const ANSWERS: usize = 16;

/// How many of them may be one bearer's, or one address's: nobody takes up all.
const SHARE: usize = 8;

/// How long a request waits for a place among them: longer than a reader may take nothing.
const QUEUEING: Duration = Duration::from_secs(15);

/// Bearers and addresses from which the list is tidied.
const MANY: usize = 1000;

/// The places.
pub(super) struct Answers {
    all: Arc<Semaphore>,
    shares: Mutex<HashMap<Key, Arc<Semaphore>>>,
}

/// The place of one answer.
pub(super) struct Held {
    _share: Option<OwnedSemaphorePermit>,
    _place: OwnedSemaphorePermit,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ANSWERS)),
            shares: Mutex::default(),
        }
    }

    /// Waits for a place; `None` when there was none in time.
    pub(super) async fn wait(&self, key: Option<Key>) -> Option<Held> {
        timeout(QUEUEING, self.place(key)).await.ok()?
    }

    async fn place(&self, key: Option<Key>) -> Option<Held> {
        let share = match key.map(|key| self.share(key)) {
            // The own share first: whoever has used it up waits in a queue of his own.
            Some(share) => Some(share.acquire_owned().await.ok()?),
            None => None,
        };
        Some(Held {
            _share: share,
            _place: self.all.clone().acquire_owned().await.ok()?,
        })
    }

    fn share(&self, key: Key) -> Arc<Semaphore> {
        let mut shares = self.shares.lock();
        if shares.len() >= MANY {
            shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let share = || Arc::new(Semaphore::new(SHARE));
        shares.entry(key).or_insert_with(share).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_up_all_places() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let answers = Answers::new();
            let soon = Duration::from_millis(50);
            let mut held = Vec::new();
            while let Ok(place) = timeout(soon, answers.wait(Some(Key::Token(1, 1)))).await {
                held.push(place.unwrap());
            }
            assert_eq!(held.len(), SHARE);
            let other = timeout(soon, answers.wait(Some(Key::Token(2, 1)))).await;
            assert!(other.is_ok_and(|place| place.is_some()));
            held.pop();
            let again = timeout(soon, answers.wait(Some(Key::Token(1, 1)))).await;
            assert!(again.is_ok_and(|place| place.is_some()));
        });
    }
}
