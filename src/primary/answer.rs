//! Answering replicas: pages and hashes at a snapshot that is labelled with its exact position.

use std::convert::Infallible;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Mutex, MutexGuard};

use super::capture::Capture;
use super::checkpointer::Checkpointer;
use super::commits::Commits;
use super::followers::Followers;
use super::push::{PATIENCE, Pusher};
use super::ring::Ring;
use super::server::Service;
use super::turns::{LEASE, SHORT_LEASE, Turn, Turns};
use crate::database::handle::Handle;
use crate::database::host::{Host, Spool};
use crate::database::paths;
use crate::database::scan::{self, Verification};
use crate::database::store::Store;
use crate::error::{Error, Result};
use crate::page::PageNumber;
use crate::position::{DatabaseId, Lsn};
use crate::wal::read_lock::ReadLock;
use crate::wal::snapshot::Snapshot;
use crate::wire::{
    BeginRequest, Delta, HashesRequest, Head, PART_BYTES, PART_HASHES, Page, PageData,
    PagesRequest, PullRequest, PushReader, PushResponse, ReleaseRequest, Request, Response,
};

/// Idle readers kept for the next request.
const IDLE_READERS: usize = 4;

/// A served database.
pub struct Primary {
    host: Arc<dyn Host>,
    path: std::path::PathBuf,
    capture: Mutex<Capture>,
    checkpointer: Mutex<Checkpointer>,
    pusher: Mutex<Pusher>,
    turns: Arc<Turns>,
    followers: Arc<Followers>,
    ring: Arc<Mutex<Ring>>,
    readers: Mutex<Vec<Reader>>,
    /// Runs of the capture for requests: how many began, and the newest that came to an end.
    begun_runs: AtomicU64,
    finished_run: AtomicU64,
    /// Dropped last, after all files.
    open: (Sender<Infallible>, Receiver<Infallible>),
}

/// An own way into database and store for one request at a time.
struct Reader {
    handle: Handle,
    store: Box<dyn Store>,
}

impl Primary {
    /// Begins to capture the database at `path`, whose connections here tell of their `commits`.
    pub fn begin(
        host: Arc<dyn Host>,
        path: &std::path::Path,
        commits: Arc<Commits>,
    ) -> Result<Self> {
        let capture = Capture::begin(Arc::clone(&host), path, Arc::clone(&commits))?;
        let checkpointer = Checkpointer::open(Arc::clone(&host), path, Arc::clone(&commits))?;
        let pusher = Pusher::open(Arc::clone(&host), path)?;
        let clock = host.clock();
        let newest = capture.newest();
        let followers = Followers::new(commits, newest, host.clock());
        Ok(Self {
            host,
            path: path.to_owned(),
            ring: capture.ring(),
            capture: Mutex::new(capture),
            checkpointer: Mutex::new(checkpointer),
            pusher: Mutex::new(pusher),
            turns: Turns::new(clock),
            followers,
            readers: Mutex::default(),
            begun_runs: AtomicU64::new(0),
            finished_run: AtomicU64::new(0),
            open: bounded(0),
        })
    }

    /// Disconnected once nobody uses this any more and its files are closed.
    pub fn closed(&self) -> Receiver<Infallible> {
        self.open.1.clone()
    }

    /// The database file.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The capture, for one thread at a time.
    pub fn capture(&self) -> MutexGuard<'_, Capture> {
        self.capture.lock()
    }

    /// Captures, and keeps the log short. Returns how long to rest before the next time.
    pub fn capture_and_checkpoint(&self) -> Result<Duration> {
        self.give_back(self.turns.take_expired());
        self.checkpointer.lock().run(&self.capture)
    }

    /// Captures what was committed since, which wakes those who wait for it.
    pub fn capture_new(&self) -> Result<()> {
        MutexGuard::unlock_fair(self.captured()?);
        Ok(())
    }

    fn take_reader(&self) -> Result<Reader> {
        if let Some(reader) = self.readers.lock().pop() {
            return Ok(reader);
        }
        let store = self.host.open_store(&self.path)?;
        Ok(Reader {
            handle: Handle::open(&*self.host, &self.path)?,
            store,
        })
    }

    /// Runs `read` on a snapshot and the head it is labelled with.
    fn with_snapshot<T>(
        &self,
        read: impl FnOnce(&Head, &Reader, &ReadLock) -> Result<T>,
    ) -> Result<T> {
        let reader = self.take_reader()?;
        let (lock, head) = self.labelled(&reader)?;
        let result = read(&head, &reader, &lock);
        lock.release(&*reader.handle.files.index);
        let ended = reader.store.end_read();
        if ended.is_ok() {
            let mut readers = self.readers.lock();
            if readers.len() < IDLE_READERS {
                readers.push(reader);
            }
        }
        ended.and(result)
    }

    /// The capture, after a run that began no earlier than this call: where several wait for the
    /// disk at once, one run serves them all.
    fn captured(&self) -> Result<MutexGuard<'_, Capture>> {
        let begun_before = self.begun_runs.load(Ordering::SeqCst);
        let mut capture = self.capture.lock();
        if self.finished_run.load(Ordering::SeqCst) <= begun_before {
            let run = self.begun_runs.fetch_add(1, Ordering::SeqCst) + 1;
            capture.run()?;
            self.finished_run.store(run, Ordering::SeqCst);
        }
        Ok(capture)
    }

    /// The captured snapshot and its head. The page map is read as of the same moment: the
    /// store's read begins before the capture can go on.
    fn labelled(&self, reader: &Reader) -> Result<(ReadLock, Head)> {
        let capture = self.captured()?;
        reader.store.begin_read()?;
        let labelled = capture
            .snapshot(&*reader.handle.files.index)
            .map(|lock| (lock, capture.head(capture.state())));
        // The checkpoints of the worker must not wait behind a queue of pulls.
        MutexGuard::unlock_fair(capture);
        if labelled.is_err() {
            reader.store.end_read()?;
        }
        labelled
    }

    /// Reads all pages and compares them with the page map.
    pub fn verify(&self) -> Result<Verification> {
        self.with_snapshot(|head, reader, lock| {
            let mut found = Verification::default();
            scan::damaged_pages(&reader.handle, lock, |number, hash| {
                found.pages += 1;
                if reader.store.page_hash(number)? != Some(hash) {
                    found.add_bad(number);
                }
                Ok(())
            })?;
            found.ok = found.bad_pages.is_empty();
            found.position = head.position.to_string();
            Ok(found)
        })
    }

    fn pull(&self, request: &PullRequest) -> Result<Response> {
        self.with_snapshot(|head, reader, lock| {
            let store = &reader.store;
            if let Some(other) = another(request.database, head) {
                return Ok(other);
            }
            if let Some(since) = request.since {
                if since == head.position {
                    return Ok(Response::UpToDate(*head));
                }
                if since.lsn > head.position.lsn || !store.in_history(since)? {
                    return Ok(Response::Diverged(*head));
                }
            }
            let limit = (PART_BYTES / head.page_size.bytes()).max(1);
            let after = request.after.map_or(0, PageNumber::get);
            let since = request.since.map(|since| since.lsn);
            let mut numbers = store.pages_changed(since, after, limit + 1)?;
            let next = (numbers.len() > limit).then(|| numbers[limit - 1]);
            numbers.truncate(limit);
            let mut pages = read_pages(head, reader, lock, numbers)?;
            if let (Some(since), true) = (since, request.deltas) {
                pages = self.shortened(pages, since)?;
            }
            Ok(Response::Pages {
                head: *head,
                pages,
                next,
            })
        })
    }

    /// The pages, as deltas from what they were at `since` where that is known.
    fn shortened(&self, pages: Vec<Page>, since: Lsn) -> Result<Vec<Page>> {
        let shortened = |page: Page| {
            let old = self.ring.lock().at(page.number, since);
            let delta = match (&old, &page.data) {
                (Some(old), PageData::Full(data)) => Delta::between(old.hash, &old.data, data)?,
                _ => None,
            };
            Ok(match delta {
                Some(delta) => Page {
                    data: PageData::Delta(delta),
                    ..page
                },
                None => page,
            })
        };
        pages.into_iter().map(shortened).collect()
    }

    fn hashes(&self, request: &HashesRequest) -> Result<Response> {
        self.with_snapshot(|head, reader, _| {
            let store = &reader.store;
            if let Some(other) = another(request.database, head) {
                return Ok(other);
            }
            let after = request.after.map_or(0, PageNumber::get);
            let mut hashes = store.page_hashes(after, PART_HASHES + 1)?;
            let next = (hashes.len() > PART_HASHES).then(|| hashes[PART_HASHES - 1].0);
            hashes.truncate(PART_HASHES);
            hashes.retain(|(number, _)| number.get() <= head.database_size);
            Ok(Response::Hashes {
                head: *head,
                hashes,
                next,
            })
        })
    }

    fn pages(&self, request: &PagesRequest) -> Result<Response> {
        self.with_snapshot(|head, reader, lock| {
            if let Some(other) = another(request.database, head) {
                return Ok(other);
            }
            if request.pages.len() > (PART_BYTES / head.page_size.bytes()).max(1) {
                return Err(Error::Protocol("too many pages in one request".to_owned()));
            }
            let pages = read_pages(head, reader, lock, request.pages.clone())?;
            Ok(Response::Pages {
                head: *head,
                pages,
                next: None,
            })
        })
    }
}

impl Primary {
    /// Answers at the start of a write; with a turn, nobody else writes from that answer on until the
    /// lease ends.
    fn begin_write(&self, request: &BeginRequest, turn: Option<Turn>) -> Result<Response> {
        if let (Some(lease), Some(turn)) = (request.lease, turn) {
            let mut pusher = self.pusher.lock();
            let settled = pusher
                .lock(PATIENCE)
                .and_then(|()| pusher.settle(&self.capture));
            if let Err(error) = settled {
                pusher.unlock();
                turn.end();
                return Err(error);
            }
            drop(pusher);
            let answer = self.pull(&request.pull());
            let time = match &answer {
                Ok(Response::UpToDate(_)) => LEASE,
                _ => SHORT_LEASE,
            };
            self.turns.keep(lease.id, turn, time);
            return answer;
        }
        self.pull(&request.pull())
    }

    fn release(&self, request: &ReleaseRequest) -> Response {
        self.give_back(self.turns.take(request.lease));
        Response::Released(request.database)
    }

    /// Gives back the write lock that came with a lease, and then the turn.
    fn give_back(&self, turn: Option<Turn>) {
        if let Some(turn) = turn {
            self.pusher.lock().unlock();
            turn.end();
        }
    }
}

impl Service for Primary {
    fn answer(&self, request: Request, turn: Option<Turn>) -> Result<Response> {
        match &request {
            Request::Pull(request) => self.pull(request),
            Request::Hashes(request) => self.hashes(request),
            Request::Pages(request) => self.pages(request),
            Request::Begin(request) => self.begin_write(request, turn),
            Request::Release(request) => Ok(self.release(request)),
        }
    }

    fn push(&self, push: &mut dyn Read, turn: Turn) -> Result<PushResponse> {
        let reader = PushReader::start(push)?;
        let mut pusher = self.pusher.lock();
        let locked = match turn.is_leased() {
            true => Ok(()),
            false => pusher.lock(PATIENCE),
        };
        let pushed = locked.and_then(|()| pusher.push(&self.capture, reader));
        pusher.unlock();
        turn.end();
        pushed
    }

    fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.turns)
    }

    fn followers(&self) -> Arc<Followers> {
        Arc::clone(&self.followers)
    }

    fn log_bytes(&self) -> u64 {
        paths::log_bytes(&self.path).unwrap_or(0)
    }

    fn scratch(&self) -> Result<Box<dyn Spool>> {
        self.host.open_scratch(&paths::batch(&self.path))
    }

    fn head(&self) -> Result<Head> {
        let capture = self.captured()?;
        Ok(capture.head(capture.state()))
    }
}

fn another(asked: Option<DatabaseId>, head: &Head) -> Option<Response> {
    (asked.is_some_and(|asked| asked != head.database))
        .then_some(Response::OtherDatabase(head.database))
}

fn read_pages(
    head: &Head,
    reader: &Reader,
    lock: &ReadLock,
    mut numbers: Vec<PageNumber>,
) -> Result<Vec<Page>> {
    let files = &reader.handle.files;
    let snapshot = Snapshot::new(&*files.index, &*files.log, &*files.content, lock)?;
    let lock_page = head.page_size.lock_page();
    numbers.retain(|number| number.get() <= head.database_size && *number != lock_page);
    let size = head.page_size.bytes();
    let mut bytes = vec![0; numbers.len() * size];
    snapshot.read_pages(&numbers, &mut bytes)?;
    let mut bytes = Bytes::from(bytes);
    let page = |number| Page {
        number,
        data: PageData::Full(bytes.split_to(size)),
    };
    Ok(numbers.into_iter().map(page).collect())
}
