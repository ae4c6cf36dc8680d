//! Pulls that wait for something new. Meanwhile they take no thread, no place among the answers, no
//! lock and no snapshot; the database may be closed under them.

use std::time::Duration;

use tokio::time::timeout;

use super::admission::Asked;
use super::places::Visit;
use super::routes::{Answer, Refusal};
use crate::wire::{Head, PullRequest};

/// How long a pull waits at most.
const LONGEST: Duration = Duration::from_secs(60);

/// Waits until there is something that the asker does not have, or its wait is over; whether there
/// was anything to wait for.
pub(super) async fn wait(asked: &Asked, visit: &Visit, pull: &PullRequest) -> Answer<bool> {
    let most = Duration::from_millis(pull.wait_milliseconds.into()).min(LONGEST);
    if most.is_zero() {
        return Ok(false);
    }
    // Not the database itself: that would keep it open.
    let (mut newest, mut ended, _commits) = {
        let Some(entry) = asked.database.upgrade() else {
            return Ok(false);
        };
        let followers = entry.service.followers();
        (
            followers.newest.watch(),
            entry.ended.subscribe(),
            followers.commits.wait(),
        )
    };
    if !has_all(pull, &newest.borrow()) {
        return Ok(false);
    }
    let _waiting = visit.waiting();
    tokio::select! {
        biased;
        _ = ended.wait_for(|ended| *ended) => Err(Refusal::gone()),
        news = timeout(most, newest.wait_for(|head| !has_all(pull, head))) => match news {
            Ok(Err(_)) => Err(Refusal::gone()),
            Ok(Ok(_)) | Err(_) => Ok(true),
        },
    }
}

/// Whether the asker has a state, as far as that can be told without looking.
fn has_all(pull: &PullRequest, head: &Head) -> bool {
    let same_database = pull
        .database
        .is_none_or(|database| database == head.database);
    same_database && pull.after.is_none() && pull.since == Some(head.position)
}

#[cfg(test)]
mod tests;
