//! The engine's host: the SQLite this extension is loaded into.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use libsqlite3_sys as sqlite;

use super::base::BaseVfs;
use super::files::{OwnFile, OwnIndex};
use super::memory::directory::{self, Making};
use super::memory::views::{self, OpenViews};
use super::register;
use super::sealed::{SealedContent, SealedOwnLog, SealedScratch};
use super::{stamp, unlock};
use crate::crypt::cipher::Algorithm;
use crate::crypt::key::{Keys, Secret};
use crate::database::clock::{Clock, SystemClock};
use crate::database::connection::Connection;
use crate::database::fingerprint::Fingerprint;
use crate::database::host::{DatabaseFiles, Host, ProcessLock, Reserve, Spool};
use crate::database::lock_file::LockFile;
use crate::database::pages::Room;
use crate::database::sqlite_connection::SqliteConnection;
use crate::database::sqlite_store::SqliteStore;
use crate::database::store::Store;
use crate::database::views::Views;
use crate::database::{keys, paths};
use crate::error::{Error, Result, StoreContext};
use crate::ffi;
use crate::rows::view::View;

/// How often an internal connection tries to get a lock that someone else has, and the time between:
/// ten seconds together. SQLite's own handler rests for longer and longer, and hardly ever meets the
/// moment in which a writer that never pauses has let go.
const ATTEMPTS: c_int = 10_000;
const ATTEMPTS_APART: Duration = Duration::from_millis(1);

thread_local! {
    static INTERNAL: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is opening an internal connection: automatic extensions leave those alone.
pub fn opening_internally() -> bool {
    INTERNAL.with(Cell::get)
}

/// The host's SQLite, through its default VFS; without files for databases in memory.
#[derive(Clone)]
pub struct SqliteHost {
    vfs: BaseVfs,
    memory: BaseVfs,
    clock: Arc<SystemClock>,
}

impl SqliteHost {
    /// A host that uses `vfs` for every file, and `memory` for those that are none.
    pub fn new(vfs: BaseVfs, memory: BaseVfs) -> Self {
        Self {
            vfs,
            memory,
            clock: Arc::default(),
        }
    }

    fn vfs_of(&self, path: &Path) -> BaseVfs {
        match directory::is_memory(path) {
            true => self.memory,
            false => self.vfs,
        }
    }

    /// A connection that waits for others.
    fn open_patient(&self, path: &Path) -> Result<rusqlite::Connection> {
        let name = path
            .to_str()
            .and_then(|text| CString::new(text).ok())
            .ok_or_else(|| {
                Error::CannotOpen(format!("{} is no file name for SQLite", path.display()))
            })?;
        // A private cache: a host with a shared one would deadlock on itself here.
        let flags = sqlite::SQLITE_OPEN_READWRITE
            | sqlite::SQLITE_OPEN_CREATE
            | sqlite::SQLITE_OPEN_PRIVATECACHE
            | sqlite::SQLITE_OPEN_FULLMUTEX;
        // An encrypted file is opened through our own VFS, which finds the keys.
        let own = self.vfs_of(path);
        let vfs = match keys::find(path) {
            Some(_) => register::C_NAME,
            None => own.name(),
        };
        let connection = open_internally(path, &name, flags, vfs)?;
        connection
            .busy_handler(Some(try_again))
            .during("open an internal connection")?;
        Ok(connection)
    }

    /// Gives states of a database names, and opens them.
    fn open_named(
        &self,
        path: &Path,
        main: &Arc<dyn View>,
        others: &[(&str, Arc<dyn View>)],
    ) -> Result<OpenViews> {
        let name_of = |view: &Arc<dyn View>| {
            let scratch = Scratch {
                host: self.clone(),
                path: paths::batch(path),
            };
            views::Name::of(view, Box::new(scratch))
        };
        let main = name_of(main)?;
        let name = CString::new(main.as_str())
            .map_err(|_| Error::Internal("a view's name has a NUL byte".to_owned()))?;
        let flags = sqlite::SQLITE_OPEN_READWRITE
            | sqlite::SQLITE_OPEN_PRIVATECACHE
            | sqlite::SQLITE_OPEN_FULLMUTEX
            | sqlite::SQLITE_OPEN_URI;
        let connection = open_internally(path, &name, flags, self.memory.name())?;
        let vfs = self.memory.name().to_string_lossy();
        let mut names = Vec::new();
        for (schema, view) in others {
            let name = name_of(view)?;
            let uri = format!("file:{}?vfs={vfs}&mode=ro&cache=private", name.as_str());
            connection
                .execute(&format!("ATTACH ?1 AS \"{schema}\""), [uri])
                .during("open a state of the database")?;
            names.push(name);
        }
        Ok(OpenViews::new(connection, main, names))
    }
}

/// Room beside a database for pages that are too many.
struct Scratch {
    host: SqliteHost,
    path: PathBuf,
}

impl Room for Scratch {
    fn scratch(&self) -> Result<Box<dyn Spool>> {
        self.host.open_scratch(&self.path)
    }
}

/// A connection that our automatic extension leaves alone.
fn open_internally(
    path: &Path,
    name: &CString,
    flags: c_int,
    vfs: &CStr,
) -> Result<rusqlite::Connection> {
    let mut db = std::ptr::null_mut();
    INTERNAL.with(|internal| internal.set(true));
    // SAFETY: name and VFS name are NUL-terminated, `db` lives across the call.
    let code = unsafe { sqlite::sqlite3_open_v2(name.as_ptr(), &mut db, flags, vfs.as_ptr()) };
    INTERNAL.with(|internal| internal.set(false));
    if code != sqlite::SQLITE_OK {
        // SAFETY: a failed open still returns a handle that must be closed; null is allowed.
        unsafe { sqlite::sqlite3_close(db) };
        return Err(Error::Io {
            action: "open",
            path: path.display().to_string(),
            code,
        });
    }
    // SAFETY: the handle is open and used by nobody else yet.
    unsafe { sqlite::sqlite3_extended_result_codes(db, 1) };
    // SAFETY: the handle is open and owned by nobody else.
    unsafe { rusqlite::Connection::from_handle_owned(db) }.during("open an internal connection")
}

impl Host for SqliteHost {
    fn open_database(&self, path: &Path) -> Result<DatabaseFiles> {
        let content = OwnFile::open_database(self.vfs_of(path), path)?;
        let index = Box::new(OwnIndex(Arc::clone(&content)));
        if let Some(keys) = keys::find(path) {
            let content = SealedContent::of(content, Arc::clone(&keys))?;
            return Ok(DatabaseFiles {
                log: Box::new(SealedOwnLog::open(self.vfs_of(path), path, &content, keys)?),
                index,
                content: Box::new(content),
            });
        }
        let log = Box::new(OwnFile::open_log(self.vfs_of(path), path, false)?);
        Ok(DatabaseFiles {
            log,
            index,
            content: Box::new(content),
        })
    }

    fn open_spool(&self, path: &Path) -> Result<Box<dyn Spool>> {
        Ok(
            match paths::spooled(path).and_then(|database| keys::find(&database)) {
                Some(keys) => Box::new(SealedContent::spool(self.vfs_of(path), path, keys)?),
                None => Box::new(OwnFile::create(self.vfs_of(path), path)?),
            },
        )
    }

    fn open_scratch(&self, path: &Path) -> Result<Box<dyn Spool>> {
        let file = OwnFile::create_scratch(self.vfs_of(path), path)?;
        Ok(match keys::any() {
            true => Box::new(SealedScratch::new(
                file,
                unlock::ephemeral()?,
                self.random()?,
            )),
            false => Box::new(file),
        })
    }

    fn unlock(
        &self,
        path: &Path,
        secret: Option<&Secret>,
        algorithm: Option<Algorithm>,
    ) -> Result<Option<Arc<Keys>>> {
        unlock::unlock(self.vfs_of(path), path, secret, algorithm)
    }

    fn is_wrapped(&self, path: &Path, keys: &Keys) -> Result<bool> {
        unlock::is_wrapped(self.vfs_of(path), path, keys)
    }

    fn rewrap(&self, path: &Path, keys: &Keys) -> Result<()> {
        unlock::rewrap(self.vfs_of(path), path, keys)
    }

    fn connect(&self, path: &Path) -> Result<Box<dyn Connection>> {
        Ok(Box::new(SqliteConnection::new(self.open_patient(path)?)))
    }

    fn connect_for_sql(&self, path: &Path) -> Result<rusqlite::Connection> {
        self.open_patient(path)
    }

    fn open_views(
        &self,
        path: &Path,
        main: &Arc<dyn View>,
        others: &[(&str, Arc<dyn View>)],
    ) -> Result<Box<dyn Views>> {
        Ok(Box::new(self.open_named(path, main, others)?))
    }

    fn open_store(&self, path: &Path) -> Result<Box<dyn Store>> {
        let connection = self.open_patient(&paths::store(path))?;
        Ok(Box::new(SqliteStore::new(connection, path)?))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        match directory::is_memory(path) {
            true => Ok(directory::exists(&path.to_string_lossy())),
            false => file_call("look for", path, path.try_exists()),
        }
    }

    fn fingerprint(&self, path: &Path) -> Result<Option<Fingerprint>> {
        match directory::is_memory(path) {
            true => Ok(None),
            false => stamp::fingerprint(path).map(Some),
        }
    }

    fn stamp(&self, path: &Path) -> Result<Option<Fingerprint>> {
        match directory::is_memory(path) {
            true => Ok(None),
            false => stamp::stamp(path),
        }
    }

    fn log_bytes(&self, path: &Path) -> Option<u64> {
        match directory::is_memory(path) {
            true => paths::logs(path)
                .iter()
                .find_map(|log| directory::size(log)),
            false => paths::log_bytes(path),
        }
    }

    fn link(&self, path: &Path, name: &Path) -> Result<()> {
        match directory::is_memory(path) {
            true if directory::link(path, name) => Ok(()),
            true => file_call("link", name, Err(ErrorKind::AlreadyExists.into())),
            false => file_call("link", name, fs::hard_link(path, name)),
        }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        if directory::is_memory(path) {
            directory::remove(&path.to_string_lossy());
            return Ok(());
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => file_call("remove", path, result),
        }
    }

    fn sync_folder(&self, path: &Path) -> Result<()> {
        if directory::is_memory(path) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
        file_call("sync", folder, synced)
    }

    fn lock_process(&self, path: &Path) -> Result<Option<ProcessLock>> {
        if directory::is_memory(path) {
            return Ok(Making::begin(path).map(|making| Box::new(making) as ProcessLock));
        }
        Ok(LockFile::try_take(path)?.map(|lock| Box::new(lock) as ProcessLock))
    }

    fn has_threads(&self) -> bool {
        ffi::is_thread_safe()
    }

    fn reserve(&self, bytes: usize) -> Option<Reserve> {
        ffi::Reserve::take(bytes).map(|reserve| Box::new(reserve) as Reserve)
    }

    fn random(&self) -> Result<[u8; 16]> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::Internal(format!("no randomness from the system: {error}")))?;
        Ok(bytes)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as _
    }
}

/// Whether a lock is tried again after so many attempts.
fn try_again(attempts: c_int) -> bool {
    let again = attempts < ATTEMPTS;
    if again {
        thread::sleep(ATTEMPTS_APART);
    }
    again
}

fn file_call<T>(action: &'static str, path: &Path, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|source| Error::File {
        action,
        path: path.display().to_string(),
        source,
    })
}

impl Spool for OwnFile {
    fn truncate(&self, size: u64) -> Result<()> {
        OwnFile::truncate(self, size)
    }
}
