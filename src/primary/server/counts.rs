//! What was asked of a database, and answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use parking_lot::Mutex;

use super::places::Visit;
use super::shared::Entry;
use crate::wire::PushResponse;

/// Kinds of requests, by the last part of their path.
const KINDS: [&str; 10] = [
    "pull", "hashes", "pages", "begin", "push", "release", "position", "pipeline", "cursor",
    "metrics",
];

/// The counts of one database.
#[derive(Default)]
pub(super) struct Counts {
    /// Requests by kind and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Pushes by their outcome.
    pushes: Mutex<BTreeMap<&'static str, u64>>,
    received: AtomicU64,
    sent: AtomicU64,
}

/// The same at one moment.
pub(super) struct Snapshot {
    pub(super) requests: BTreeMap<(&'static str, u16), u64>,
    pub(super) pushes: BTreeMap<&'static str, u64>,
    pub(super) received: u64,
    pub(super) sent: u64,
}

impl Counts {
    /// A push came to an outcome.
    pub(super) fn pushed(&self, outcome: &'static str) {
        *self.pushes.lock().entry(outcome).or_default() += 1;
    }

    /// All of them.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            requests: self.requests.lock().clone(),
            pushes: self.pushes.lock().clone(),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}

/// The word for the outcome of a push.
pub(super) fn outcome(response: &PushResponse) -> &'static str {
    match response {
        PushResponse::Accepted(_) => "accepted",
        PushResponse::Conflict(_) => "conflict",
        PushResponse::Unknown(_) => "unknown",
        PushResponse::Diverged(_) => "diverged",
        PushResponse::OtherDatabase(_) => "other_database",
    }
}

/// A request that is being answered.
pub(super) struct Asking {
    kind: &'static str,
    received: u64,
}

impl Asking {
    pub(super) fn of(request: &Request) -> Self {
        let last = request.uri().path().rsplit('/').next();
        let kind = KINDS.into_iter().find(|kind| Some(*kind) == last);
        Self {
            kind: kind.unwrap_or("other"),
            received: length(request.body()),
        }
    }

    /// It was answered, if the database is served still.
    pub(super) fn answered(
        self,
        database: &Weak<Entry>,
        visit: Option<&Arc<Visit>>,
        response: &Response,
    ) {
        let Some(entry) = database.upgrade() else {
            return;
        };
        let (counts, sent) = (&entry.counts, length(response.body()));
        let key = (self.kind, response.status().as_u16());
        *counts.requests.lock().entry(key).or_default() += 1;
        counts.received.fetch_add(self.received, Ordering::Relaxed);
        counts.sent.fetch_add(sent, Ordering::Relaxed);
        if let Some(peer) = visit.and_then(|visit| visit.peer()) {
            let followers = entry.service.followers();
            followers.peers.answered(peer, self.received, sent);
        }
    }
}

/// The length of a body that says so beforehand, as all of replicas do.
fn length(body: &Body) -> u64 {
    body.size_hint().exact().unwrap_or(0)
}
