//! Pulls that wait for something new. Meanwhile they take no thread, no place among the answers, no
//! lock and no snapshot; the database may be closed under them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::admission::Asked;
use super::places::Visit;
use super::rate::Key;
use super::refusal::{Answer, Refusal};
use crate::primary::peers::Origin;
use crate::wire::{Head, PullRequest};

/// How long a pull waits at most.
const LONGEST: Duration = Duration::from_secs(60);

/// How a wait ended.
pub(super) enum Waited {
    /// There was nothing to wait for.
    NotAtAll,
    /// Its time was over.
    InVain,
    /// By this state.
    Until(Head),
}

/// Notes who pulls, and what it has.
pub(super) fn note(asked: &Asked, visit: &Visit, pull: &PullRequest) {
    let Some(entry) = asked.database.upgrade() else {
        return;
    };
    let followers = entry.service.followers();
    let database = followers.newest.head().database;
    if pull.peer.is_known() && pull.database.is_none_or(|asked| asked == database) {
        let token = match asked.key {
            Some(Key::Token(_, id)) => Some(id),
            _ => None,
        };
        let address = visit.address();
        visit.belongs_to(pull.peer);
        let origin = Origin { address, token };
        followers.peers.asks(pull.peer, origin, pull.since);
    }
}

/// Waits until there is something that the asker does not have, or its wait is over.
pub(super) async fn wait(asked: &Asked, visit: &Visit, pull: &PullRequest) -> Answer<Waited> {
    let most = Duration::from_millis(pull.wait_milliseconds.into()).min(LONGEST);
    if most.is_zero() {
        return Ok(Waited::NotAtAll);
    }
    // Not the database itself: that would keep it open.
    let (mut newest, mut ended, commits, peers) = {
        let Some(entry) = asked.database.upgrade() else {
            return Ok(Waited::NotAtAll);
        };
        let followers = entry.service.followers();
        (
            followers.newest.watch(),
            entry.ended.subscribe(),
            Arc::clone(&followers.commits),
            Arc::clone(&followers.peers),
        )
    };
    if !has_all(pull, &newest.borrow()) {
        return Ok(Waited::NotAtAll);
    }
    let _waiting = (visit.waiting(), commits.wait(), peers.wait(pull.peer));
    tokio::select! {
        biased;
        _ = ended.wait_for(|ended| *ended) => Err(Refusal::gone()),
        () = visit.told_to_leave() => Err(Refusal::busy()),
        news = timeout(most, newest.wait_for(|head| !has_all(pull, head))) => match news {
            Ok(Err(_)) => Err(Refusal::gone()),
            Ok(Ok(head)) => Ok(Waited::Until(*head)),
            Err(_) => Ok(Waited::InVain),
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
