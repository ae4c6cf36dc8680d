//! The engine's host: the SQLite this extension is loaded into.

use std::cell::Cell;
use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libsqlite3_sys as sqlite;
use rusqlite::Connection;

use super::base::BaseVfs;
use super::files::{OwnFile, OwnIndex};
use super::register;
use super::sealed::{SealedContent, SealedOwnLog, SealedScratch};
use super::unlock;
use crate::crypt::key::{Keys, Secret};
use crate::database::host::{DatabaseFiles, Host, Spool};
use crate::database::{keys, paths};
use crate::error::{Error, Result, StoreContext};

/// How long an internal connection waits for a lock of someone else.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

thread_local! {
    static INTERNAL: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is opening an internal connection: automatic extensions leave those alone.
pub fn opening_internally() -> bool {
    INTERNAL.with(Cell::get)
}

/// The host's SQLite, through its default VFS.
pub struct SqliteHost {
    vfs: BaseVfs,
}

impl SqliteHost {
    /// A host that uses `vfs` for every file.
    pub fn new(vfs: BaseVfs) -> Self {
        Self { vfs }
    }

    fn open_raw(&self, path: &Path, name: &CString) -> Result<Connection> {
        // A private cache: a host with a shared one would deadlock on itself here.
        let flags = sqlite::SQLITE_OPEN_READWRITE
            | sqlite::SQLITE_OPEN_CREATE
            | sqlite::SQLITE_OPEN_PRIVATECACHE
            | sqlite::SQLITE_OPEN_FULLMUTEX;
        // An encrypted file is opened through our own VFS, which finds the keys.
        let vfs = match keys::find(path) {
            Some(_) => register::C_NAME,
            None => self.vfs.name(),
        };
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
        unsafe { Connection::from_handle_owned(db) }.during("open an internal connection")
    }
}

impl Host for SqliteHost {
    fn open_database(&self, path: &Path) -> Result<DatabaseFiles> {
        let content = OwnFile::open_database(self.vfs, path)?;
        let index = Box::new(OwnIndex(Arc::clone(&content)));
        if let Some(keys) = keys::find(path) {
            let content = SealedContent::of(content, Arc::clone(&keys))?;
            return Ok(DatabaseFiles {
                log: Box::new(SealedOwnLog::open(self.vfs, path, &content, keys)?),
                index,
                content: Box::new(content),
            });
        }
        let log = Box::new(OwnFile::open_log(self.vfs, path, false)?);
        Ok(DatabaseFiles {
            log,
            index,
            content: Box::new(content),
        })
    }

    fn open_spool(&self, path: &Path) -> Result<Box<dyn Spool>> {
        Ok(
            match paths::spooled(path).and_then(|database| keys::find(&database)) {
                Some(keys) => Box::new(SealedContent::spool(self.vfs, path, keys)?),
                None => Box::new(OwnFile::create(self.vfs, path)?),
            },
        )
    }

    fn open_scratch(&self, path: &Path) -> Result<Box<dyn Spool>> {
        let file = OwnFile::create_scratch(self.vfs, path)?;
        Ok(match keys::any() {
            true => Box::new(SealedScratch::new(
                file,
                unlock::ephemeral()?,
                self.random()?,
            )),
            false => Box::new(file),
        })
    }

    fn unlock(&self, path: &Path, secret: Option<&Secret>) -> Result<Option<Arc<Keys>>> {
        unlock::unlock(self.vfs, path, secret)
    }

    fn is_wrapped(&self, path: &Path, keys: &Keys) -> Result<bool> {
        unlock::is_wrapped(self.vfs, path, keys)
    }

    fn rewrap(&self, path: &Path, keys: &Keys) -> Result<()> {
        unlock::rewrap(self.vfs, path, keys)
    }

    fn connect(&self, path: &Path) -> Result<Connection> {
        let name = path
            .to_str()
            .and_then(|text| CString::new(text).ok())
            .ok_or_else(|| {
                Error::CannotOpen(format!("{} is no file name for SQLite", path.display()))
            })?;
        let connection = self.open_raw(path, &name)?;
        connection
            .busy_timeout(BUSY_TIMEOUT)
            .during("open an internal connection")?;
        Ok(connection)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        path.try_exists().map_err(|source| Error::File {
            action: "look for",
            path: path.display().to_string(),
            source,
        })
    }

    fn random(&self) -> Result<[u8; 16]> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::Internal(format!("no randomness from the system: {error}")))?;
        Ok(bytes)
    }

    fn now(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Spool for OwnFile {
    fn truncate(&self, size: u64) -> Result<()> {
        OwnFile::truncate(self, size)
    }
}
