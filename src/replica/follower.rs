//! A replica as this process has it open: one per file, shared by all connections.

use std::cell::OnceCell;
use std::mem;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::bootstrap;
use super::offline::Counted;
use super::status::{Activity, Condition, Progress};
use super::transfer::Reached;
use super::worker::Worker;
use super::writes::Writes;
use crate::database::handle::Handle;
use crate::database::host::Host;
use crate::database::settings::Settings;
use crate::database::store::{Role, State, Store};
use crate::database::unchanged;
use crate::error::{Error, Result};
use crate::position::{DatabaseId, Position};
use crate::remote::{self, Access, Remote, Traffic};
use crate::wire::PeerId;

/// A followed database.
pub struct Replica {
    path: PathBuf,
    host: Arc<dyn Host>,
    settings: RwLock<Arc<Settings>>,
    remote: Mutex<Option<Arc<dyn Remote>>>,
    /// State store and own handle: used by one thread at a time, never across the network.
    local: Mutex<Local>,
    /// What the last exchanges brought, for `replica_status`.
    pub(super) progress: Mutex<Progress>,
    /// How far the transfer is that is under way.
    pub(super) transfer: Mutex<Option<Reached>>,
    /// How many rows were changed here, once that was counted.
    pub(super) counted: Mutex<Option<Counted>>,
    /// What is known about writing. Never held across the network.
    writes: Mutex<Writes>,
    page_size: AtomicU32,
    /// Whether the connection that was opened last wants commits to be made here first: a function may
    /// be called before anything is read.
    pub(super) wish: Mutex<Option<bool>>,
    /// Whether this process has seen the replica complete.
    made: AtomicBool,
    /// Whether the way to the remote was stored by this process.
    remembered: AtomicBool,
    /// Who it is to a primary, once that was looked up.
    peer: OnceLock<PeerId>,
    /// The thread in the background.
    worker: Worker,
    /// Connections that have it open.
    users: AtomicUsize,
    process: u32,
}

/// A replica that a connection of the host has open, until dropped.
///
/// The thread in the background ends with the last one: SQLite removes the log when the last
/// connection closes it, and whoever closes a file expects it to be closed.
pub struct Attached {
    replica: Arc<Replica>,
    /// Whether the connection wants commits to be made here first.
    offline: Option<bool>,
}

impl Attached {
    /// Counts a connection; `offline` is what it wants.
    pub fn new(replica: Arc<Replica>, offline: Option<bool>) -> Self {
        replica.users.fetch_add(1, Ordering::SeqCst);
        if offline.is_some() {
            *replica.wish.lock() = offline;
        }
        Self { replica, offline }
    }

    /// The replica is there, and used: it is in the mode the connection wants, and followed in the
    /// background from here on, where that is asked for.
    pub fn begin(&self) -> Result<()> {
        if let Some(offline) = self.offline {
            self.replica.set_offline(offline)?;
        }
        self.replica.begin_background()
    }
}

impl Deref for Attached {
    type Target = Arc<Replica>;

    fn deref(&self) -> &Arc<Replica> {
        &self.replica
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.replica.process != process::id() {
            // A fork's child has none of the threads, and the locks are not its own: nothing is closed
            // that the parent uses.
            mem::forget(Arc::clone(&self.replica));
        } else if self.replica.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.replica.worker.end();
        }
    }
}

/// The files of a replica.
pub struct Local {
    /// Not there yet beside a file that is no replica: nothing is created before the user says so.
    store: OnceCell<Box<dyn Store>>,
    handle: Option<Handle>,
}

impl Replica {
    /// A replica of `path`, with its state store if it has one, following what `settings` say.
    pub fn new(
        host: Arc<dyn Host>,
        path: PathBuf,
        settings: Settings,
        store: Option<Box<dyn Store>>,
    ) -> Result<Self> {
        let state = store
            .as_ref()
            .map(|store| store.state())
            .transpose()?
            .flatten();
        let page_size = state.map_or(0, |state| state.page_size.get());
        Ok(Self {
            path,
            host,
            settings: RwLock::new(Arc::new(settings)),
            remote: Mutex::new(None),
            local: Mutex::new(Local {
                store: store.map(OnceCell::from).unwrap_or_default(),
                handle: None,
            }),
            made: AtomicBool::new(false),
            remembered: AtomicBool::new(false),
            progress: Mutex::new(Progress::default()),
            transfer: Mutex::default(),
            wish: Mutex::default(),
            counted: Mutex::default(),
            writes: Mutex::default(),
            page_size: AtomicU32::new(page_size),
            peer: OnceLock::new(),
            worker: Worker::default(),
            users: AtomicUsize::new(0),
            process: process::id(),
        })
    }

    /// The same, of a remote that is there already, whatever `sync_url` says.
    pub fn with_remote(self, remote: Arc<dyn Remote>) -> Self {
        *self.remote.lock() = Some(remote);
        self
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The host.
    pub fn host(&self) -> &dyn Host {
        &*self.host
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read())
    }

    /// The state on record: what the file held when it was last looked at.
    pub fn recorded_state(&self) -> Result<Option<State>> {
        match self.local().store.get() {
            Some(store) => store.state(),
            None => Ok(None),
        }
    }

    /// What the exchanges of this process brought so far.
    pub fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }

    /// The thread in the background.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Follows the remote in the background from here on, where that is asked for.
    fn begin_background(self: &Arc<Self>) -> Result<()> {
        // Not noted as made: what is left of an interrupted bootstrap goes with the first sync.
        if self.is_made()? {
            self.worker.start(self);
        }
        Ok(())
    }

    /// Whether there is anything to do in the background.
    pub(super) fn needs_worker(&self) -> bool {
        let settings = self.settings();
        let has_work = settings.is_live() || settings.interval().is_some() || self.has_pending();
        has_work && matches!(self.is_made(), Ok(true))
    }

    /// Says what the thread in the background is at.
    pub(super) fn set_activity(&self, activity: Activity) {
        self.progress.lock().activity = activity;
    }

    /// Notes why a sync failed.
    pub(super) fn failed(&self, sentence: String) {
        self.progress.lock().last_error = Some(sentence);
    }

    /// What is given counts from here on.
    pub(super) fn change_settings(&self, given: Settings) {
        let mut settings = self.settings.write();
        *settings = Arc::new(given.or((**settings).clone()));
    }

    /// The next question goes over a new connection.
    pub(super) fn disconnect(&self) {
        *self.remote.lock() = None;
    }

    /// What is known about writing.
    pub(super) fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock()
    }

    /// The database that is followed.
    pub(super) fn database_id(&self) -> Result<DatabaseId> {
        let identity = self.local().store()?.identity()?;
        identity.and_then(|(_, id)| id).ok_or_else(|| {
            Error::Busy(format!(
                "{} has not been synced with its primary yet",
                self.path.display()
            ))
        })
    }

    /// Who it is to a primary.
    pub(super) fn peer(&self) -> Result<PeerId> {
        if let Some(peer) = self.peer.get() {
            return Ok(*peer);
        }
        let local = self.local();
        let store = local.store()?;
        let peer = match store.peer()? {
            Some(peer) => peer,
            None => {
                let [a, b, c, d, e, f, g, h, ..] = self.host.random()?;
                let peer = PeerId([a, b, c, d, e, f, g, h]);
                store.set_peer(peer).map(|()| peer)?
            }
        };
        Ok(*self.peer.get_or_init(|| peer))
    }

    /// Counts what an exchange moved.
    pub(super) fn note_traffic(&self, traffic: &Traffic) {
        let mut progress = self.progress.lock();
        progress.bytes_received += traffic.received;
        progress.bytes_sent += traffic.sent;
    }

    /// The remote's newest position, as far as it is known.
    pub(super) fn note_position(&self, position: Position) {
        let mut progress = self.progress.lock();
        progress.remote_position = Some(position);
        progress.condition = Condition::Known;
    }

    /// The page size in bytes, once it is known.
    pub fn page_size(&self) -> Option<u32> {
        Some(self.page_size.load(Ordering::Relaxed)).filter(|size| *size != 0)
    }

    /// Whether the file is there, complete.
    pub fn is_made(&self) -> Result<bool> {
        if self.made.load(Ordering::Acquire) {
            return Ok(true);
        }
        Ok(self.host.exists(&self.path)? && self.recorded_state()?.is_some())
    }

    /// Makes the replica where there is none yet: fetches everything, installs it as a whole.
    pub fn make(&self) -> Result<()> {
        if self.made.load(Ordering::Acquire) {
            return self.follow_wish();
        }
        if let Err(error) = bootstrap::run(self) {
            self.progress.lock().last_error = Some(error.to_string());
            return Err(error);
        }
        if let Some(state) = self.recorded_state()? {
            self.page_size
                .store(state.page_size.get(), Ordering::Relaxed);
        }
        self.made.store(true, Ordering::Release);
        self.follow_wish()
    }

    /// Makes the file that is there a replica to be healed, though it has no state: what
    /// `replica_discard` is asked for.
    pub(super) fn adopt(&self) -> Result<()> {
        let mut local = self.local();
        if local.handle.is_none() {
            // First: a file that is no database in WAL mode stays alone.
            local.handle = Some(Handle::open(&*self.host, &self.path)?);
        }
        if local.store.get().is_none() {
            let store = self.host.open_store(&self.path)?;
            store.set_identity(Role::Replica, None)?;
            // Nobody else sets it: the lock on `local` is held.
            let _ = local.store.set(store);
        }
        Ok(())
    }

    /// The remote, connected to at the first use.
    pub fn remote(&self) -> Result<Arc<dyn Remote>> {
        let mut remote = self.remote.lock();
        if let Some(remote) = &*remote {
            return Ok(Arc::clone(remote));
        }
        Ok(Arc::clone(remote.insert(self.connect()?)))
    }

    /// The remote once more, for somebody who may break off all that is under way there.
    pub(super) fn connect(&self) -> Result<Arc<dyn Remote>> {
        let settings = self.settings();
        let url = settings.sync_url.as_deref().ok_or_else(|| {
            Error::Misuse(format!(
                "{} follows no remote: sync_url is not set",
                self.path.display()
            ))
        })?;
        let access = Access {
            token: settings.auth_token.clone(),
            timeout: settings.timeout(),
            ca_file: settings.ca_file.clone(),
        };
        remote::connect(url, access).map(Arc::from)
    }

    /// The files, for one thread at a time.
    pub fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock()
    }

    /// Remembers, once the remote has proved to be the right one, how to reach it.
    pub fn remember(&self, database: DatabaseId) -> Result<()> {
        if self.remembered.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.local().store()?.transaction(|store| {
            store.set_identity(Role::Replica, Some(database))?;
            self.settings().save(store)
        })
    }
}

impl Drop for Replica {
    /// No connection of this process has the database open any more.
    fn drop(&mut self) {
        let local = self.local.get_mut();
        if let (Some(handle), Some(store)) = (&local.handle, local.store.get())
            && let Err(error) = unchanged::remember(&*self.host, handle, &**store, &self.path)
        {
            log::debug!(target: "replica", "{}: {error}", self.path.display());
        }
    }
}

impl Local {
    /// Whether there is a state store.
    pub fn has_store(&self) -> bool {
        self.store.get().is_some()
    }

    /// The state store.
    pub fn store(&self) -> Result<&dyn Store> {
        match self.store.get() {
            Some(store) => Ok(&**store),
            None => Err(bootstrap::not_a_replica()),
        }
    }

    /// The engine's own handle on the database, opened at the first use.
    pub fn handle(&mut self, host: &dyn Host, path: &Path) -> Result<(&Handle, &dyn Store)> {
        if self.handle.is_none() {
            self.handle = Some(Handle::open(host, path)?);
        }
        match &self.handle {
            Some(handle) => Ok((handle, self.store()?)),
            None => Err(Error::Internal("the handle was just opened".to_owned())),
        }
    }
}
