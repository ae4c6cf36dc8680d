//! Answering replicas: pages and hashes at a snapshot that is labelled with its exact position.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::capture::Capture;
use super::server::Service;
use crate::database::handle::Handle;
use crate::database::host::Host;
use crate::database::scan;
use crate::database::store::Store;
use crate::error::{Error, Result};
use crate::page::PageNumber;
use crate::position::DatabaseId;
use crate::wal::read_lock::ReadLock;
use crate::wal::snapshot::Snapshot;
use crate::wire::{
    HashesRequest, Head, PART_BYTES, PART_HASHES, Page, PagesRequest, PullRequest, Request,
    Response,
};

/// Idle readers kept for the next request.
const IDLE_READERS: usize = 4;

/// Times a snapshot may miss the capture before the request is given up.
const ATTEMPTS: usize = 100;

/// A served database.
pub struct Primary {
    host: Arc<dyn Host>,
    path: std::path::PathBuf,
    capture: Mutex<Capture>,
    readers: Mutex<Vec<Reader>>,
}

/// An own way into database and store for one request at a time.
struct Reader {
    handle: Handle,
    store: Store,
}

impl Primary {
    /// Begins to capture the database at `path`.
    pub fn begin(host: Arc<dyn Host>, path: &std::path::Path) -> Result<Self> {
        let capture = Mutex::new(Capture::begin(Arc::clone(&host), path)?);
        Ok(Self {
            host,
            path: path.to_owned(),
            capture,
            readers: Mutex::default(),
        })
    }

    /// The database file.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The capture, for one thread at a time.
    pub fn capture(&self) -> parking_lot::MutexGuard<'_, Capture> {
        self.capture.lock()
    }

    fn take_reader(&self) -> Result<Reader> {
        if let Some(reader) = self.readers.lock().pop() {
            return Ok(reader);
        }
        let store = Store::open(&*self.host, &self.path)?;
        Ok(Reader {
            handle: Handle::open(&*self.host, &self.path)?,
            store,
        })
    }

    /// Runs `read` on a snapshot and the head it is labelled with.
    fn with_snapshot<T>(
        &self,
        read: impl FnOnce(&Head, &Snapshot<'_>, &Store) -> Result<T>,
    ) -> Result<T> {
        let reader = self.take_reader()?;
        let files = &reader.handle.files;
        let (lock, head) = self.labelled(&reader)?;
        let result = Snapshot::new(&*files.index, &*files.log, &*files.content, &lock)
            .and_then(|snapshot| read(&head, &snapshot, &reader.store));
        lock.release(&*files.index);
        let mut readers = self.readers.lock();
        if readers.len() < IDLE_READERS {
            readers.push(reader);
        }
        result
    }

    /// A read lock, and the head of exactly that snapshot: the lock first, then the capture, which
    /// thereby passes the snapshot.
    fn labelled(&self, reader: &Reader) -> Result<(ReadLock, Head)> {
        for attempt in 0..ATTEMPTS {
            let lock = scan::begin_read(&reader.handle)?;
            let mut capture = self.capture.lock();
            let run = capture.run();
            let state = capture.state_at(lock.header()).copied();
            match (run, state) {
                (Ok(()), Some(state)) => {
                    let head = capture.head(&state);
                    return Ok((lock, head));
                }
                (run, _) => {
                    drop(capture);
                    lock.release(&*reader.handle.files.index);
                    run?;
                }
            }
            // The index was repaired, or restarted between lock and run: rare, and soon over.
            std::thread::sleep(Duration::from_millis(attempt as u64 / 10));
        }
        Err(Error::Busy(format!("{} is busy", self.path.display())))
    }

    fn pull(&self, request: &PullRequest) -> Result<Response> {
        self.with_snapshot(|head, snapshot, store| {
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
            // Without an upper bound: a page changed after the snapshot was taken is sent as the
            // snapshot has it, and again with the next pull.
            let since = request.since.map(|since| since.lsn);
            let mut numbers = store.pages_changed(since, after, limit + 1)?;
            let next = (numbers.len() > limit).then(|| numbers[limit - 1]);
            numbers.truncate(limit);
            let pages = read_pages(head, snapshot, numbers)?;
            Ok(Response::Pages {
                head: *head,
                pages,
                next,
            })
        })
    }

    fn hashes(&self, request: &HashesRequest) -> Result<Response> {
        self.with_snapshot(|head, _, store| {
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
        self.with_snapshot(|head, snapshot, _| {
            if let Some(other) = another(request.database, head) {
                return Ok(other);
            }
            if request.pages.len() > (PART_BYTES / head.page_size.bytes()).max(1) {
                return Err(Error::Protocol("too many pages in one request".to_owned()));
            }
            let pages = read_pages(head, snapshot, request.pages.clone())?;
            Ok(Response::Pages {
                head: *head,
                pages,
                next: None,
            })
        })
    }
}

impl Service for Primary {
    fn answer(&self, request: Request) -> Result<Response> {
        match &request {
            Request::Pull(request) => self.pull(request),
            Request::Hashes(request) => self.hashes(request),
            Request::Pages(request) => self.pages(request),
        }
    }

    fn head(&self) -> Result<Head> {
        let mut capture = self.capture.lock();
        capture.run()?;
        Ok(capture.head(capture.state()))
    }
}

fn another(asked: Option<DatabaseId>, head: &Head) -> Option<Response> {
    (asked.is_some_and(|asked| asked != head.database))
        .then_some(Response::OtherDatabase(head.database))
}

fn read_pages(head: &Head, snapshot: &Snapshot<'_>, numbers: Vec<PageNumber>) -> Result<Vec<Page>> {
    let lock_page = head.page_size.lock_page();
    numbers
        .into_iter()
        .filter(|number| number.get() <= head.database_size && *number != lock_page)
        .map(|number| {
            let mut data = vec![0; head.page_size.bytes()];
            snapshot.read_page(number, &mut data)?;
            Ok(Page { number, data })
        })
        .collect()
}
