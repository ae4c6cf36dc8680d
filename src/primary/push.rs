//! Entering what replicas push: the compare-and-swap that all writing rests on.
//!
//! Under WAL_WRITE: what others committed is captured; the base is compared with the position
//! reached; every page with the hash of the one it replaces, and the outcome with the digests the
//! replica has computed. Then the transaction enters the log with its nonce, is synced, published,
//! and captured like any other. Only the log's sync costs a wait: a crash anywhere leaves the
//! transaction in the log with its nonce, or not at all.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::capture::Capture;
use crate::database::clock::Stopwatch;
use crate::database::handle::Handle;
use crate::database::host::{Host, Spool};
use crate::database::pages::{Pages, Room};
use crate::database::paths;
use crate::database::store::{State, Store};
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber};
use crate::planted::{self, Bug};
use crate::position::{TransactionDigest, TransactionHasher};
use crate::wal::Lock;
use crate::wal::apply::Writer;
use crate::wal::frame::Salts;
use crate::wal::snapshot::Snapshot;
use crate::wire::{Head, PushReader, PushRequest, PushResponse, PushedPage};

/// How long a push waits for the write lock of a local program.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Between two attempts.
const ATTEMPTS_APART: Duration = Duration::from_micros(500);

/// The way in for replicas' transactions: one at a time.
pub struct Pusher {
    host: Arc<dyn Host>,
    path: std::path::PathBuf,
    handle: Handle,
    /// Whether it holds WAL_WRITE.
    locked: bool,
}

/// What a push makes of the database.
struct Outcome {
    pages: Pages,
    content: ContentDigest,
    digest: TransactionDigest,
}

impl Pusher {
    /// Opens the database at `path`.
    pub fn open(host: Arc<dyn Host>, path: &std::path::Path) -> Result<Self> {
        let handle = Handle::open(&*host, path)?;
        Ok(Self {
            host,
            path: path.to_owned(),
            handle,
            locked: false,
        })
    }

    /// Takes the write lock, and keeps it until [`unlock`](Pusher::unlock).
    pub fn lock(&mut self, most: Duration) -> Result<()> {
        let begun = Stopwatch::start(self.host.clock());
        while !self.locked {
            self.handle.header()?;
            self.locked = self.handle.files.index.lock_exclusive(Lock::Write)?;
            if !self.locked {
                if begun.elapsed() > most {
                    let path = self.path.display();
                    return Err(Error::Busy(format!("{path} is locked by another writer")));
                }
                begun.sleep(ATTEMPTS_APART);
            }
        }
        Ok(())
    }

    /// Gives the write lock back.
    pub fn unlock(&mut self) {
        if std::mem::take(&mut self.locked) {
            self.handle.files.index.unlock_exclusive(Lock::Write);
        }
    }

    /// Captures all commits there are, under the write lock: what is answered now stays so until the
    /// lock is given back.
    pub fn settle(&mut self, capture: &Mutex<Capture>) -> Result<()> {
        let mut writer = Writer::under_lock(&*self.handle.files.index)?;
        capture.lock().run_under(&mut writer)
    }

    /// Enters a transaction, under the write lock, if it was computed from the newest state.
    pub fn push(
        &mut self,
        capture: &Mutex<Capture>,
        reader: PushReader<'_>,
    ) -> Result<PushResponse> {
        let mut writer = Writer::under_lock(&*self.handle.files.index)?;
        let mut capture = capture.lock();
        capture.run_under(&mut writer)?;
        let push = *reader.request();
        let head = capture.head(capture.state());
        if push.database != head.database {
            return Ok(PushResponse::OtherDatabase(head.database));
        }
        // Never in the product; here and below.
        let ignores_base = planted::is(Bug::IgnoreTheBase);
        if push.base != head.position && !ignores_base {
            return past(capture.store(), &push, head);
        }
        if push.page_size != head.page_size {
            return Err(Error::Protocol("a push of another page size".to_owned()));
        }
        let Some(outcome) = self.outcome(&capture, reader)? else {
            return Ok(PushResponse::Diverged(head));
        };
        let matches = outcome.content == push.content && outcome.digest == push.digest;
        if !matches && !ignores_base {
            let sentence = "a push that leads to another content than it says";
            return Err(Error::Protocol(sentence.to_owned()));
        }
        writer.append_pushed(
            &*self.handle.files.log,
            push.page_size,
            push.database_size,
            outcome.pages.iter(),
            push.nonce,
            self.fresh_salts()?,
        )?;
        capture.run_pushed()?;
        let head = capture.head(capture.state());
        match head.position == push.target() || ignores_base {
            true => Ok(PushResponse::Accepted(head)),
            false => Err(Error::Internal("a push became another one".to_owned())),
        }
    }

    /// Reads the pages, each checked against the one it replaces. `None` where one is not what the
    /// replica took it for.
    fn outcome(&self, capture: &Capture, mut reader: PushReader<'_>) -> Result<Option<Outcome>> {
        let (push, state, store) = (*reader.request(), *capture.state(), capture.store());
        let files = &self.handle.files;
        let lock = capture.snapshot(&*files.index)?;
        let result = (|| {
            let snapshot = Snapshot::new(&*files.index, &*files.log, &*files.content, &lock)?;
            let mut pages = Pages::new(push.page_size);
            let mut content = state.content;
            let mut hasher = TransactionHasher::new(push.database_size);
            while let Some((number, page)) = reader.next_page()? {
                let old = old_hash(store, &state, number)?;
                let Some(page) = whole(&snapshot, number, page, old)? else {
                    return Ok(None);
                };
                let hash = PageHash::of(number, &page);
                old.into_iter().for_each(|old| content.remove(old));
                content.add(hash);
                hasher.add(number, hash);
                pages.put(self, number, &page)?;
            }
            reader.finish()?;
            require_growth(&state, &push, &pages)?;
            for hash in store.hashes_above(push.database_size)? {
                content.remove(hash);
            }
            let digest = hasher.finish();
            Ok(Some(Outcome {
                pages,
                content,
                digest,
            }))
        })();
        lock.release(&*files.index);
        result
    }

    fn fresh_salts(&self) -> Result<Salts> {
        let mut salts = [0; 8];
        salts.copy_from_slice(&self.host.random()?[..8]);
        Ok(Salts(salts))
    }
}

impl Room for Pusher {
    fn scratch(&self) -> Result<Box<dyn Spool>> {
        self.host.open_scratch(&paths::batch(&self.path))
    }
}

impl Drop for Pusher {
    fn drop(&mut self) {
        self.unlock();
    }
}

/// The answer to a push whose base is not the newest state.
fn past(store: &dyn Store, push: &PushRequest, head: Head) -> Result<PushResponse> {
    let target = push.target();
    if store.in_history(target)? {
        // Applied when it was sent before; the reply was lost.
        return Ok(PushResponse::Accepted(Head {
            position: target,
            database_size: push.database_size,
            content: push.content,
            ..head
        }));
    }
    // One transaction may stand for many that nobody captured, and take the place of the first: then
    // the base is among those that are no more to be told apart.
    match store.in_history(push.base)? && !store.is_gap(target.lsn)? {
        true => Ok(PushResponse::Conflict(head)),
        false => Ok(PushResponse::Unknown(head)),
    }
}

/// The hash of the page that is there now; `None` for one that is not.
fn old_hash(store: &dyn Store, state: &State, number: PageNumber) -> Result<Option<PageHash>> {
    match number.get() <= state.database_size {
        true => store.page_hash(number),
        false => Ok(None),
    }
}

/// A whole page; `None` where the page it replaces is another one.
fn whole(
    snapshot: &Snapshot<'_>,
    number: PageNumber,
    page: PushedPage,
    old: Option<PageHash>,
) -> Result<Option<Vec<u8>>> {
    match page {
        PushedPage::New(page) if old.is_none() => Ok(Some(page)),
        PushedPage::Replaced(replaced, page) if old == Some(replaced) => Ok(Some(page)),
        PushedPage::Delta(delta) if old == Some(delta.base) => {
            let mut base = vec![0; snapshot.page_size().bytes()];
            snapshot.read_page(number, &mut base)?;
            delta.apply(number, &base)
        }
        _ => Ok(None),
    }
}

/// A page that a growing database never got would read as whatever the file holds there.
fn require_growth(state: &State, push: &PushRequest, pages: &Pages) -> Result<()> {
    let lock_page = push.page_size.lock_page().get();
    let new = state.database_size + 1..=push.database_size;
    let wanted = new.clone().count() - usize::from(new.contains(&lock_page));
    let given = pages
        .numbers()
        .filter(|number| new.contains(&number.get()))
        .count();
    match given == wanted && !pages.is_empty() {
        true => Ok(()),
        false => Err(Error::Protocol(format!(
            "{given} of {wanted} new pages came with a growth to {} pages",
            push.database_size
        ))),
    }
}
