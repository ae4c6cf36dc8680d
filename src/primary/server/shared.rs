//! What the connections of a server share: the databases by name, and places for answers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;

use super::admission::Gate;
use super::answers::{Answers, Held};
use super::counts::Counts;
use super::rate::{Key, Rate};
use super::refusal::{Answer, Refusal};
use super::woken::Woken;
use super::{Database, REQUESTS_PER_SECOND, Service};
use crate::error::{Error, Result};
use crate::primary::hrana::Streams;

/// What all connections share.
pub(super) struct Shared {
    databases: RwLock<BTreeMap<String, Arc<Entry>>>,
    added: AtomicU64,
    answers: Answers,
    /// For those who are not let in, and for what is not there.
    pub(super) strangers: Rate,
}

/// A database by its name.
pub(super) struct Entry {
    pub(super) name: String,
    /// Tells it from all others there ever were: two databases may number their tokens alike.
    pub(super) number: u64,
    pub(super) service: Arc<dyn Service>,
    pub(super) streams: Option<Arc<Streams>>,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) rate: Rate,
    pub(super) counts: Counts,
    pub(super) woken: Arc<Woken>,
    /// Whether it is served no longer.
    pub(super) ended: watch::Sender<bool>,
}

impl Entry {
    /// Whoever waits for something new is told that there will be nothing.
    fn end(&self) {
        self.ended.send_replace(true);
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            databases: RwLock::default(),
            added: AtomicU64::new(0),
            answers: Answers::new(),
            strangers: Rate::new(REQUESTS_PER_SECOND),
        }
    }

    pub(super) fn add(&self, name: &str, database: Database) -> Result<()> {
        match self.databases.write().entry(name.to_owned()) {
            Slot::Occupied(_) => Err(Error::Misuse(format!(
                "a database is served here as '{name}' already"
            ))),
            Slot::Vacant(place) => {
                place.insert(Arc::new(Entry {
                    name: name.to_owned(),
                    number: self.added.fetch_add(1, Ordering::Relaxed),
                    service: database.service,
                    streams: database.streams,
                    gate: database.gate,
                    rate: Rate::new(database.requests_per_second),
                    counts: Counts::default(),
                    woken: Arc::default(),
                    ended: watch::Sender::new(false),
                }));
                Ok(())
            }
        }
    }

    pub(super) fn remove(&self, name: &str) -> bool {
        let removed = self.databases.write().remove(name);
        removed.inspect(|entry| entry.end()).is_some()
    }

    /// Nothing is served any more.
    pub(super) fn clear(&self) {
        let removed = std::mem::take(&mut *self.databases.write());
        removed.values().for_each(|entry| entry.end());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.databases.read().is_empty()
    }

    pub(super) fn named(&self, name: &str) -> Option<Arc<Entry>> {
        self.databases.read().get(name).cloned()
    }

    /// The database at the root, where there is no other.
    pub(super) fn only(&self) -> Option<Arc<Entry>> {
        let databases = self.databases.read();
        let only = databases.values().next().filter(|_| databases.len() == 1);
        only.cloned()
    }

    /// Waits for a place for an answer.
    pub(super) async fn place(&self, key: Option<Key>) -> Answer<Held> {
        self.answers.wait(key).await.ok_or_else(Refusal::busy)
    }

    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.databases.read().values().cloned().collect()
    }
}
