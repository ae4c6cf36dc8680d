//! Capturing commits: from the log, frame by frame, under a read lock that is moved hand over
//! hand, so that no frame is overwritten before it was seen.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::commits::{Commits, LogEnd};
use super::history;
use super::images;
use super::newest::Newest;
use super::resume::{record, resume};
use super::ring::Ring;
use crate::database::clock::Stopwatch;
use crate::database::connection::Connection;
use crate::database::handle::Handle;
use crate::database::host::{Host, ProcessLock};
use crate::database::scan;
use crate::database::store::{State, Store};
use crate::database::unchanged;
use crate::error::{Error, Result};
use crate::position::DatabaseId;
use crate::wal::SharedIndex;
use crate::wal::anchor::Anchor;
use crate::wal::apply::Writer;
use crate::wal::frame::FRAME_HEADER_BYTES;
use crate::wal::frames::transactions;
use crate::wal::index::IndexHeader;
use crate::wal::read_lock::{Keep, ReadLock};
use crate::wire::Head;

/// Rounds of one run: more than one only where frames are repaired.
const ATTEMPTS: usize = 100;

/// What one round came to.
enum Captured {
    /// Everything up to the header is recorded.
    All,
    /// Nothing yet: frames behind the anchor must be put right first.
    Broken(Anchor),
}

/// Where transactions are durable once they are captured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    /// In the store too.
    Store,
    /// In the log, which holds their nonces.
    Log,
}

/// Why a run stops for a repair.
const BROKEN: &str = "frames of the log have wrong salts or checksums";

/// The capture of one database by one process.
pub struct Capture {
    host: Arc<dyn Host>,
    path: PathBuf,
    lock: ReadLock,
    /// The index up to which everything is recorded.
    captured: IndexHeader,
    handle: Handle,
    store: Box<dyn Store>,
    database: DatabaseId,
    state: State,
    /// Pages as they were before recent transactions.
    ring: Arc<Mutex<Ring>>,
    /// The newest state, for whoever waits for it.
    newest: Arc<Newest>,
    /// Who commits here, and is not to get too far ahead.
    commits: Arc<Commits>,
    /// Whether the store holds the newest transactions only as far as the system has kept them.
    unsynced: bool,
    _lock_file: ProcessLock,
}

impl Capture {
    /// Takes the database over: finds out what changed while nobody captured.
    pub fn begin(host: Arc<dyn Host>, path: &Path, commits: Arc<Commits>) -> Result<Self> {
        let lock_file = host
            .lock_process(path)?
            .ok_or_else(|| Error::Misuse(format!("{} is served already", path.display())))?;
        let connection = host.connect(path)?;
        enter_wal_mode(&*connection, path)?;
        let store = host.open_store(path)?;
        history::identify(&*host, &*store)?;
        let handle = Handle::open(&*host, path)?;
        // Not before: the last one to close the database removes its log, and with it what the store
        // may have lost in a crash.
        drop(connection);
        repair_all(&handle, path)?;
        let lock = scan::begin_capture(&handle)?;
        // Comparing may begin a new history under a new id.
        let resumed = resume(&*host, path, &handle, &*store, &lock)
            .and_then(|state| Ok((state, history::identify(&*host, &*store)?)));
        let (state, database) = match resumed {
            Ok(resumed) => resumed,
            Err(error) => {
                lock.release(&*handle.files.index);
                return Err(error);
            }
        };
        let newest = Newest::new(head_of(database, &state), host.clock());
        let mut capture = Self {
            host,
            path: path.to_owned(),
            captured: *lock.header(),
            lock,
            handle,
            store,
            database,
            state,
            ring: Arc::default(),
            newest: Arc::new(newest),
            commits,
            // Whoever captured before may have been killed before it synced.
            unsynced: true,
            _lock_file: lock_file,
        };
        capture.run()?;
        capture.tell_how_far();
        Ok(capture)
    }

    /// Whoever commits here learns what has been captured.
    fn tell_how_far(&self) {
        let end = LogEnd {
            salts: self.captured.salts,
            mx_frame: self.captured.mx_frame,
        };
        self.commits.captured(end, self.frame_size());
    }

    /// Bytes of a frame, without what encryption adds.
    fn frame_size(&self) -> u32 {
        self.state.page_size.get() + FRAME_HEADER_BYTES as u32
    }

    /// The newest captured state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Pages as they were before recent transactions, for whoever answers.
    pub fn ring(&self) -> Arc<Mutex<Ring>> {
        Arc::clone(&self.ring)
    }

    /// The newest state as it changes, for whoever waits for it.
    pub fn newest(&self) -> Arc<Newest> {
        Arc::clone(&self.newest)
    }

    /// A state as it is told to replicas.
    pub fn head(&self, state: &State) -> Head {
        head_of(self.database, state)
    }

    /// Captures every commit made before the call. Afterwards the store holds them durably.
    pub fn run(&mut self) -> Result<()> {
        self.run_with(None)
    }

    /// As [`run`](Capture::run), for a caller who has the write lock.
    pub fn run_under(&mut self, writer: &mut Writer<'_>) -> Result<()> {
        self.run_with(Some(writer))
    }

    /// Captures the transaction that was just pushed, by a caller who has the write lock and had
    /// everything before it captured. The log has it durably, with its nonce: so the store need not
    /// before the log goes. It has to where it holds nothing yet by which this log can be gone through
    /// after a crash.
    pub fn run_pushed(&mut self) -> Result<()> {
        let now = self.hold_log()?;
        if self.captured.anchor().is_blank() || self.captured.salts != now.salts {
            return match self.capture_to(&now, Durable::Store)? {
                Captured::All => Ok(()),
                Captured::Broken(_) => Err(Error::Internal(BROKEN.to_owned())),
            };
        }
        self.store.set_durable(false)?;
        let captured = self.capture_to(&now, Durable::Log);
        let durable = self.store.set_durable(true);
        match captured? {
            Captured::All => durable,
            Captured::Broken(_) => Err(Error::Internal(BROKEN.to_owned())),
        }
    }

    /// Makes durable what the store holds.
    fn sync_store(&mut self) -> Result<()> {
        if self.unsynced {
            let state = self.state;
            self.store.transaction(|store| store.set_state(&state))?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// The pages as they are on record.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn run_with(&mut self, mut writer: Option<&mut Writer<'_>>) -> Result<()> {
        for _ in 0..ATTEMPTS {
            // One round is enough: a busy writer is always ahead again.
            if self.handle.header()? == self.captured {
                return Ok(());
            }
            let now = self.hold_log()?;
            match self.capture_to(&now, Durable::Store) {
                Ok(Captured::All) => return Ok(()),
                Ok(Captured::Broken(from)) => self.repair(&from, writer.as_deref_mut())?,
                Err(Error::Corrupt(reason)) => {
                    log::warn!(target: "replica", "{}: {reason}; all pages are compared", self.path.display());
                    return self.compare();
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy(format!(
            "{}: the log is being repaired",
            self.path.display()
        )))
    }

    /// The captured snapshot, for a reader with a connection of its own.
    pub fn snapshot(&self, index: &dyn SharedIndex) -> Result<ReadLock> {
        ReadLock::join(index, &self.lock)
    }

    /// Size in bytes of the frames in use.
    pub fn log_bytes(&self) -> Result<u64> {
        let header = self.handle.header()?;
        Ok(u64::from(header.mx_frame) * u64::from(self.frame_size()))
    }

    /// Moves the read lock to the newest commit, so that the log stays from there on too.
    fn hold_log(&mut self) -> Result<IndexHeader> {
        if self.lock.keep() == Keep::Log {
            scan::advance_read(&self.handle, &mut self.lock)?;
            return Ok(*self.lock.header());
        }
        scan::change_read(&self.handle, &mut self.lock, Keep::Log, None)?;
        Ok(*self.lock.header())
    }

    /// Where everything is in the database file, lets the log begin anew with the next commit.
    /// False where there are commits that are not captured, or not copied.
    pub fn let_go_of_log(&mut self) -> Result<bool> {
        self.sync_store()?;
        let captured = self.captured;
        let changed = scan::change_read(
            &self.handle,
            &mut self.lock,
            Keep::Snapshot,
            Some(&captured),
        )?;
        Ok(changed && self.lock.slot() == 0)
    }

    /// Records the transactions from the captured header up to `now`, which the lock keeps.
    fn capture_to(&mut self, now: &IndexHeader, durable: Durable) -> Result<Captured> {
        // While only the database file was kept (slot 0), the log may have begun anew: once, and
        // nothing of it has been copied since. Otherwise it has only grown.
        let from = match self.captured.salts == now.salts && self.captured.mx_frame <= now.mx_frame
        {
            true => self.captured.anchor(),
            false => Anchor::log_start(now.salts),
        };
        let (host, store, handle) = (&*self.host, &*self.store, &self.handle);
        if durable == Durable::Store {
            // Commits of others may not have been synced: nothing is exposed that a crash takes back.
            handle.files.log.sync()?;
        }
        let recorded = store.transaction(|store| {
            let mut state = self.state;
            let mut before = from.mx_frame;
            if now.mx_frame > 0 {
                for transaction in transactions(&*handle.files.log, now, &from)? {
                    let transaction = transaction?;
                    if !transaction.intact {
                        return Err(Error::Busy(BROKEN.to_owned()));
                    }
                    let old = images::before(handle, store, &state, &transaction, before)?;
                    state = record(host, handle, store, &state, &transaction)?;
                    images::keep(&self.ring, state.position.lsn, old);
                    before = transaction.last_frame.get();
                }
            }
            state.anchor = Some(now.anchor());
            store.set_state(&state)?;
            Ok(state)
        });
        if recorded.is_err() {
            // Their transactions were counted, but did not come to be.
            self.ring.lock().clear();
        }
        match recorded {
            Ok(state) => {
                (self.state, self.captured) = (state, *now);
                self.unsynced = durable == Durable::Log;
                self.newest.set(self.head(&self.state));
                self.tell_how_far();
                Ok(Captured::All)
            }
            Err(Error::Busy(reason)) if reason == BROKEN => Ok(Captured::Broken(from)),
            Err(error) => Err(error),
        }
    }

    /// Puts live frames right that recovery would refuse, before anybody relies on them: under the
    /// caller's write lock, or when nobody has it.
    fn repair(&self, from: &Anchor, writer: Option<&mut Writer<'_>>) -> Result<()> {
        let files = &self.handle.files;
        match writer {
            Some(writer) => writer.repair(&*files.log, from)?,
            None => match self.handle.try_writer()? {
                Some(mut writer) => writer.repair(&*files.log, from)?,
                None => {
                    self.handle.clock().sleep(Duration::from_millis(1));
                    return Ok(());
                }
            },
        };
        log::warn!(
            target: "replica",
            "{}: frame headers that a crash would have lost were repaired",
            self.path.display()
        );
        Ok(())
    }

    /// Finds out by reading all pages what the log does not tell.
    fn compare(&mut self) -> Result<()> {
        self.state = history::compare(&*self.host, &self.handle, &*self.store, &self.lock)?;
        self.database = history::identify(&*self.host, &*self.store)?;
        self.captured = *self.lock.header();
        // It may count from the start again.
        self.ring.lock().clear();
        self.newest.set(self.head(&self.state));
        self.tell_how_far();
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.commits.end_capture();
        // The last commits too: what is on record then is what the file is left with.
        for done in [self.run(), self.sync_store()] {
            if let Err(error) = done {
                log::warn!(target: "replica", "{}: {error}", self.path.display());
            }
        }
        self.lock.give_back(&*self.handle.files.index);
        let (host, handle, store) = (&*self.host, &self.handle, &*self.store);
        if let Err(error) = unchanged::remember(host, handle, store, &self.path) {
            log::debug!(target: "replica", "{}: {error}", self.path.display());
        }
    }
}

fn head_of(database: DatabaseId, state: &State) -> Head {
    Head {
        database,
        position: state.position,
        page_size: state.page_size,
        database_size: state.database_size,
        content: state.content,
    }
}

/// A primary's database is in WAL mode; one that is not yet is changed, when nobody uses it.
fn enter_wal_mode(connection: &dyn Connection, path: &Path) -> Result<()> {
    match connection.enter_wal_mode()?.as_str() {
        "wal" => Ok(()),
        mode => Err(Error::Misuse(format!(
            "{} cannot leave journal mode '{mode}'",
            path.display()
        ))),
    }
}

/// Puts right what others left in the log that recovery would refuse: nothing is exposed that a
/// crash could take back.
fn repair_all(handle: &Handle, path: &Path) -> Result<()> {
    let files = &handle.files;
    let begun = Stopwatch::start(Arc::clone(handle.clock()));
    loop {
        if let Some(mut writer) = handle.try_writer()? {
            let header = *writer.header();
            if header.mx_frame == 0 {
                return Ok(());
            }
            let start = Anchor::log_start(header.salts);
            for transaction in transactions(&*files.log, &header, &start)? {
                if !transaction?.intact {
                    writer.repair(&*files.log, &start)?;
                    log::warn!(target: "replica", "{}: {BROKEN}; they were repaired", path.display());
                    break;
                }
            }
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(10) {
            return Err(Error::Busy(format!("{} is locked", path.display())));
        }
        begun.sleep(Duration::from_millis(1));
    }
}
