//! One answer for all who were woken by the same commit and have the same state: a thousand replicas
//! cost little more than one.

use std::sync::Arc;

use axum::body::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::refusal::Answer;
use super::routes::SMALL;
use crate::wire::{Head, PeerId, PullRequest};

/// The newest such answer.
#[derive(Default)]
pub(super) struct Woken(Mutex<Option<Shared>>);

/// Who it is for, and what it is: nothing where it is too long to be kept.
struct Shared {
    pull: PullRequest,
    head: Head,
    answer: Arc<OnceCell<Option<Bytes>>>,
}

impl Woken {
    /// The answer to a pull that was woken at `head`: the first to come makes it. `None` where each
    /// has to make its own.
    pub(super) async fn answer(
        &self,
        pull: &PullRequest,
        head: &Head,
        make: impl AsyncFnOnce() -> Answer<Vec<u8>>,
    ) -> Answer<Option<Bytes>> {
        let shared = self.shared(pull, head);
        let answer = shared.get_or_try_init(async || {
            let bytes = make().await?;
            Ok((bytes.len() <= SMALL).then(|| bytes.into()))
        });
        answer.await.cloned()
    }

    fn shared(&self, pull: &PullRequest, head: &Head) -> Arc<OnceCell<Option<Bytes>>> {
        // Who asks makes no difference.
        let pull = PullRequest {
            wait_milliseconds: 0,
            peer: PeerId::UNKNOWN,
            ..*pull
        };
        let mut newest = self.0.lock();
        match &*newest {
            Some(shared) if shared.pull == pull && shared.head == *head => {
                Arc::clone(&shared.answer)
            }
            _ => {
                let (head, answer) = (*head, Arc::default());
                let shared = Shared { pull, head, answer };
                Arc::clone(&newest.insert(shared).answer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::time::sleep;

    use super::super::fake;
    use super::super::refusal::Refusal;
    use super::*;
    use crate::position::{Lsn, Position};

    fn pull(since: Option<Position>, peer: u8) -> PullRequest {
        PullRequest {
            database: None,
            since,
            after: None,
            deltas: false,
            wait_milliseconds: u32::from(peer) * 1000,
            peer: PeerId([peer; 8]),
        }
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn those_who_have_the_same_share_an_answer() {
        run(async {
            let (woken, made) = (Woken::default(), AtomicUsize::new(0));
            let make = async || {
                sleep(Duration::from_millis(20)).await;
                Ok(vec![made.fetch_add(1, Ordering::Relaxed) as u8; 10])
            };
            let (head, here) = (fake::head(), Some(fake::head().position));
            let (first, second) = (pull(here, 1), pull(here, 2));
            let both = tokio::join!(
                woken.answer(&first, &head, make),
                woken.answer(&second, &head, make)
            );
            let both = [both.0, both.1].map(|answer| answer.ok().flatten().unwrap());
            assert_eq!(both, [vec![0; 10], vec![0; 10]]);
            let other = woken.answer(&pull(None, 1), &head, make).await;
            assert_eq!(other.ok().flatten().unwrap(), vec![1; 10]);
            let mut newer = head;
            newer.position.lsn = Lsn(8);
            let newer = woken.answer(&first, &newer, make).await;
            assert_eq!(newer.ok().flatten().unwrap(), vec![2; 10]);
        });
    }

    #[test]
    fn what_is_long_or_failed_is_not_kept() {
        run(async {
            let (woken, head) = (Woken::default(), fake::head());
            let pull = pull(None, 1);
            let failed = woken.answer(&pull, &head, async || Err(Refusal::busy()));
            assert!(failed.await.is_err());
            let long = async || Ok(vec![0; SMALL + 1]);
            let long = woken.answer(&pull, &head, long).await;
            assert!(long.is_ok_and(|answer| answer.is_none()));
        });
    }
}
