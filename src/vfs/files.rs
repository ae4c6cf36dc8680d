//! The layers' own handles on a database: its file with the shared index, and its log.

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use libsqlite3_sys as sqlite;

use super::base::{BaseFile, BaseVfs, FileName, NamePart};
use crate::crypt::RawFile;
use crate::error::{Error, Result};
use crate::wal::{Lock, LogFile, REGION_WORDS, SharedIndex};

/// Bytes in one call: SQLite itself never moves more than a page, and its unix VFS takes lengths
/// modulo 128 KiB.
const MOST_BYTES: usize = 1 << 16;

/// Times a scratch file's name may be taken.
const SCRATCH_ATTEMPTS: usize = 10;

/// A file of the base VFS under a name for messages.
pub struct OwnFile {
    file: BaseFile,
    path: String,
}

// SAFETY: SQLite itself moves files between threads and only demands that one thread uses a file
// at a time. The trait objects made of an OwnFile belong to one owner, which serialises its calls;
// the two that share one file (content and index) live in the same `DatabaseFiles`.
unsafe impl Send for OwnFile {}
// SAFETY: as above.
unsafe impl Sync for OwnFile {}

impl OwnFile {
    /// Opens the database at `path`, takes the SHARED lock and keeps it until dropped, so that
    /// nobody removes the log under us.
    pub fn open_database(vfs: BaseVfs, path: &Path) -> Result<Arc<Self>> {
        let flags = sqlite::SQLITE_OPEN_READWRITE | sqlite::SQLITE_OPEN_MAIN_DB;
        let own = Self::open(vfs, path, NamePart::Database, flags)?;
        // SAFETY: the file is open; level SHARED needs no lock held before.
        let code = own.file.call(
            |m| m.xLock,
            |lock, file| unsafe { lock(file, sqlite::SQLITE_LOCK_SHARED) },
        );
        own.check("lock", code)?;
        Ok(Arc::new(own))
    }

    /// Opens the log of the database at `path`, creating an empty one where there is none. The
    /// SHARED lock on the database must be held.
    pub fn open_log(vfs: BaseVfs, path: &Path, sealed: bool) -> Result<Self> {
        let flags =
            sqlite::SQLITE_OPEN_READWRITE | sqlite::SQLITE_OPEN_CREATE | sqlite::SQLITE_OPEN_WAL;
        let name = match sealed {
            true => FileName::sealed(path)?,
            false => FileName::new(path)?,
        };
        Self::open_named(vfs, path, name, NamePart::Log, flags)
    }

    /// Opens an existing database for its header, without locks.
    pub fn peek(vfs: BaseVfs, path: &Path, writes: bool) -> Result<Self> {
        let mode = match writes {
            true => sqlite::SQLITE_OPEN_READWRITE,
            false => sqlite::SQLITE_OPEN_READONLY,
        };
        Self::open(
            vfs,
            path,
            NamePart::Database,
            mode | sqlite::SQLITE_OPEN_MAIN_DB,
        )
    }

    /// Opens or creates a file that is to become a database.
    pub fn create(vfs: BaseVfs, path: &Path) -> Result<Self> {
        let flags = sqlite::SQLITE_OPEN_READWRITE
            | sqlite::SQLITE_OPEN_CREATE
            | sqlite::SQLITE_OPEN_MAIN_DB;
        Self::open(vfs, path, NamePart::Database, flags)
    }

    /// Creates a file that goes when it is closed. Where another one has the name, that is left
    /// over, or another process is about to take it away itself.
    pub fn create_scratch(vfs: BaseVfs, path: &Path) -> Result<Self> {
        let flags = sqlite::SQLITE_OPEN_READWRITE
            | sqlite::SQLITE_OPEN_CREATE
            | sqlite::SQLITE_OPEN_EXCLUSIVE
            | sqlite::SQLITE_OPEN_DELETEONCLOSE
            | sqlite::SQLITE_OPEN_TEMP_DB;
        let mut attempts = 0;
        loop {
            let opened = Self::open(vfs, path, NamePart::Database, flags);
            attempts += 1;
            if opened.is_ok() || attempts == SCRATCH_ATTEMPTS {
                return opened;
            }
            // Unix VFSes unlink the name right after they open it; others refuse this while it is
            // open. It is no database: no lock of this process is on it.
            let _ = std::fs::remove_file(path);
        }
    }

    fn open(vfs: BaseVfs, path: &Path, part: NamePart, flags: c_int) -> Result<Self> {
        Self::open_named(vfs, path, FileName::new(path)?, part, flags)
    }

    fn open_named(
        vfs: BaseVfs,
        path: &Path,
        name: FileName,
        part: NamePart,
        flags: c_int,
    ) -> Result<Self> {
        let file = vfs.open_path(name, part, flags)?;
        let suffix = if part == NamePart::Log { "-wal" } else { "" };
        Ok(Self {
            file,
            path: format!("{}{suffix}", path.display()),
        })
    }

    fn check(&self, action: &'static str, code: c_int) -> Result<()> {
        match code {
            sqlite::SQLITE_OK => Ok(()),
            code if code & 0xff == sqlite::SQLITE_BUSY => {
                Err(Error::Busy(format!("{action} {}: busy", self.path)))
            }
            code => Err(Error::Io {
                action,
                path: self.path.clone(),
                code,
            }),
        }
    }

    fn shm_lock(&self, lock: Lock, flags: c_int) -> Result<bool> {
        // SAFETY: slot and flags are valid for SQLITE_SHM_NLOCK slots.
        let code = self.file.call(
            |m| m.xShmLock,
            |call, file| unsafe { call(file, c_int::from(lock as u8), 1, flags) },
        );
        if code & 0xff == sqlite::SQLITE_BUSY {
            return Ok(false);
        }
        self.check("lock the index of", code).map(|()| true)
    }

    fn shm_unlock(&self, lock: Lock, flags: c_int) {
        if let Err(error) = self.shm_lock(lock, sqlite::SQLITE_SHM_UNLOCK | flags) {
            log::error!(target: "replica", "{error}");
        }
    }
}

impl OwnFile {
    /// The same error, with the name of the file.
    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            Error::Io { action, code, .. } => Error::Io {
                action,
                path: self.path.clone(),
                code,
            },
            error => error,
        })
    }

    /// The file beneath.
    pub fn raw(&self) -> &BaseFile {
        &self.file
    }

    /// The name for messages.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl LogFile for OwnFile {
    fn read(&self, buffer: &mut [u8], mut offset: u64) -> Result<usize> {
        let mut done = 0;
        for chunk in buffer.chunks_mut(MOST_BYTES) {
            let read = self.named(RawFile::read(&self.file, chunk, offset))?;
            done += read;
            offset += read as u64;
            if read < chunk.len() {
                break;
            }
        }
        Ok(done)
    }

    fn write(&self, data: &[u8], mut offset: u64) -> Result<()> {
        for chunk in data.chunks(MOST_BYTES) {
            self.named(RawFile::write(&self.file, chunk, offset))?;
            offset += chunk.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.named(RawFile::sync(&self.file))
    }

    fn size(&self) -> Result<u64> {
        self.named(RawFile::size(&self.file))
    }
}

impl OwnFile {
    /// Sets the size of the file in bytes.
    pub fn truncate(&self, size: u64) -> Result<()> {
        self.named(RawFile::truncate(&self.file, size))
    }
}

impl LogFile for Arc<OwnFile> {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.as_ref().read(buffer, offset)
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        self.as_ref().write(data, offset)
    }

    fn sync(&self) -> Result<()> {
        self.as_ref().sync()
    }

    fn size(&self) -> Result<u64> {
        self.as_ref().size()
    }
}

/// The shared index of an open database. Unmapped when dropped, before the database closes.
pub struct OwnIndex(pub Arc<OwnFile>);

impl SharedIndex for OwnIndex {
    fn region(&self, index: usize, extend: bool) -> Result<Option<&[AtomicU32; REGION_WORDS]>> {
        let mut address: *mut c_void = std::ptr::null_mut();
        let size = (REGION_WORDS * 4) as c_int;
        // SAFETY: the out-parameter lives across the call.
        let code = self.0.file.call(
            |m| m.xShmMap,
            |map, file| unsafe {
                map(
                    file,
                    index as c_int,
                    size,
                    c_int::from(extend),
                    &mut address,
                )
            },
        );
        self.0.check("map the index of", code)?;
        if address.is_null() {
            return Ok(None);
        }
        // SAFETY: xShmMap returns `size` bytes, page-aligned, that stay mapped until xShmUnmap,
        // which only Drop of self calls. Others change the memory at any time: hence atomics.
        Ok(Some(unsafe {
            &*address.cast::<[AtomicU32; REGION_WORDS]>()
        }))
    }

    fn lock_shared(&self, lock: Lock) -> Result<bool> {
        self.0
            .shm_lock(lock, sqlite::SQLITE_SHM_LOCK | sqlite::SQLITE_SHM_SHARED)
    }

    fn lock_exclusive(&self, lock: Lock) -> Result<bool> {
        self.0
            .shm_lock(lock, sqlite::SQLITE_SHM_LOCK | sqlite::SQLITE_SHM_EXCLUSIVE)
    }

    fn unlock_shared(&self, lock: Lock) {
        self.0.shm_unlock(lock, sqlite::SQLITE_SHM_SHARED);
    }

    fn unlock_exclusive(&self, lock: Lock) {
        self.0.shm_unlock(lock, sqlite::SQLITE_SHM_EXCLUSIVE);
    }

    fn barrier(&self) {
        self.0.file.call(
            |m| m.xShmBarrier,
            |barrier, file| {
                // SAFETY: the file is open and its index mapped.
                unsafe { barrier(file) };
                sqlite::SQLITE_OK
            },
        );
    }
}

impl Drop for OwnIndex {
    fn drop(&mut self) {
        // SAFETY: unmaps without deleting; no region reference outlives self.
        self.0
            .file
            .call(|m| m.xShmUnmap, |unmap, file| unsafe { unmap(file, 0) });
        // SAFETY: gives back the SHARED lock of open_database.
        self.0.file.call(
            |m| m.xUnlock,
            |unlock, file| unsafe { unlock(file, sqlite::SQLITE_LOCK_NONE) },
        );
    }
}
