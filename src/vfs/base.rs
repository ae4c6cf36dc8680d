//! The host's default VFS and files opened through it.
//!
//! Database, log and index are only ever opened this way: POSIX locks of a process on a file die
//! when any descriptor of it closes, and the host's own VFS is the one that keeps count.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::os::raw::c_char;
use std::path::Path;
use std::ptr::NonNull;

use libsqlite3_sys as sqlite;

use crate::crypt::RawFile;
use crate::database::paths;
use crate::error::{Error, Result, THE_FILE};

/// The host's default VFS, captured when the extension was loaded.
#[derive(Clone, Copy)]
pub struct BaseVfs(NonNull<sqlite::sqlite3_vfs>);

// SAFETY: a registered VFS is never freed while the extension, which stays loaded, is in use, and
// SQLite calls its methods from any thread.
unsafe impl Send for BaseVfs {}
// SAFETY: as above.
unsafe impl Sync for BaseVfs {}

impl BaseVfs {
    /// The VFS that is the default now.
    pub fn capture() -> Option<Self> {
        // SAFETY: the API table was filled by the entry point before anything else runs.
        NonNull::new(unsafe { sqlite::sqlite3_vfs_find(std::ptr::null()) }).map(Self)
    }

    /// A VFS that was registered and stays so.
    pub fn registered(vfs: *mut sqlite::sqlite3_vfs) -> Option<Self> {
        NonNull::new(vfs).map(Self)
    }

    /// The raw pointer, to forward calls of SQLite.
    pub fn as_ptr(self) -> *mut sqlite::sqlite3_vfs {
        self.0.as_ptr()
    }

    /// The definition of the VFS.
    pub fn definition(&self) -> &sqlite::sqlite3_vfs {
        // SAFETY: see the impl of Send: the pointer stays valid.
        unsafe { self.0.as_ref() }
    }

    /// The name under which SQLite finds it.
    pub fn name(&self) -> &CStr {
        // SAFETY: every registered VFS has a NUL-terminated name.
        unsafe { CStr::from_ptr(self.definition().zName) }
    }

    /// Opens a file by a name in SQLite's own form. `name` must stay valid as long as the file.
    ///
    /// # Safety
    /// `name` is null or a file name made by SQLite (or by [`FileName`]) that outlives the file.
    pub unsafe fn open(self, name: *const c_char, flags: c_int) -> Result<(BaseFile, c_int)> {
        let words = (self.definition().szOsFile as usize).div_ceil(8).max(1);
        let memory = (0..words).map(|_| UnsafeCell::new(0)).collect();
        let file = BaseFile { memory, name: None };
        let mut out_flags = 0;
        let code = match self.definition().xOpen {
            // SAFETY: the buffer has the size the VFS asks for and the alignment of u64; the
            // name is the caller's promise.
            Some(open) => unsafe {
                open(self.as_ptr(), name, file.as_ptr(), flags, &mut out_flags)
            },
            None => sqlite::SQLITE_CANTOPEN,
        };
        if code == sqlite::SQLITE_OK {
            Ok((file, out_flags))
        } else {
            // A failed xOpen may still leave methods behind; Drop then closes as SQLite would.
            Err(Error::Io {
                action: "open",
                path: printable(name),
                code,
            })
        }
    }

    /// Opens a file of ours by path, creating it when `flags` say so.
    pub fn open_path(self, name: FileName, part: NamePart, flags: c_int) -> Result<BaseFile> {
        // SAFETY: the name is kept inside the file, below, for as long as the file is open.
        let (mut file, _) = unsafe { self.open(name.part(part), flags) }?;
        file.name = Some(name);
        Ok(file)
    }
}

fn printable(name: *const c_char) -> String {
    if name.is_null() {
        return "a temporary file".to_owned();
    }
    // SAFETY: callers pass SQLite file names, which are NUL-terminated.
    unsafe { CStr::from_ptr(name) }
        .to_string_lossy()
        .into_owned()
}

/// Which of the names that belong together is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum NamePart {
    /// The database itself.
    Database,
    /// Its write-ahead log.
    Log,
    /// Its rollback journal.
    Journal,
}

/// A database file name with its journal and log names, in the layout that SQLite's VFSes expect.
pub struct FileName(NonNull<c_char>);

// SAFETY: the memory is immutable after creation and freed once, in Drop.
unsafe impl Send for FileName {}
// SAFETY: as above.
unsafe impl Sync for FileName {}

impl FileName {
    /// Makes the names for a database at `path`.
    pub fn new(path: &Path) -> Result<Self> {
        Self::with(path, "-journal", "-wal")
    }

    /// Makes the names for an encrypted database at `path`.
    pub fn sealed(path: &Path) -> Result<Self> {
        Self::with(path, paths::SEALED_JOURNAL, paths::SEALED_LOG)
    }

    /// One of the names for an encrypted database, to look for a file or to remove it.
    pub fn sealed_part(path: &Path, part: NamePart) -> Result<CString> {
        match part {
            NamePart::Database => suffixed(path, ""),
            NamePart::Log => suffixed(path, paths::SEALED_LOG),
            NamePart::Journal => suffixed(path, paths::SEALED_JOURNAL),
        }
    }

    fn with(path: &Path, journal: &str, log: &str) -> Result<Self> {
        let (database, journal, log) = (
            suffixed(path, "")?,
            suffixed(path, journal)?,
            suffixed(path, log)?,
        );
        // SAFETY: three NUL-terminated names and no parameters; the result is a copy.
        let name = unsafe {
            sqlite::sqlite3_create_filename(
                database.as_ptr(),
                journal.as_ptr(),
                log.as_ptr(),
                0,
                std::ptr::null_mut(),
            )
        };
        NonNull::new(name).map(Self).ok_or_else(|| Error::Io {
            action: "name",
            path: path.display().to_string(),
            code: sqlite::SQLITE_NOMEM,
        })
    }

    /// One of the names, valid as long as this.
    pub fn part(&self, part: NamePart) -> *const c_char {
        match part {
            NamePart::Database => self.0.as_ptr(),
            // SAFETY: the pointer came from sqlite3_create_filename.
            NamePart::Log => unsafe { sqlite::sqlite3_filename_wal(self.0.as_ptr()) },
            // SAFETY: as above.
            NamePart::Journal => unsafe { sqlite::sqlite3_filename_journal(self.0.as_ptr()) },
        }
    }
}

/// The name of a file that lies beside a database.
fn suffixed(path: &Path, suffix: &str) -> Result<CString> {
    let text = path
        .to_str()
        .ok_or_else(|| Error::CannotOpen(format!("{} is not UTF-8", path.display())))?;
    let mut name = Vec::with_capacity(text.len() + suffix.len() + 1);
    name.extend_from_slice(text.as_bytes());
    name.extend_from_slice(suffix.as_bytes());
    CString::new(name).map_err(|_| Error::CannotOpen("a file name holds a NUL byte".to_owned()))
}

impl Drop for FileName {
    fn drop(&mut self) {
        // SAFETY: made by sqlite3_create_filename and freed only here.
        unsafe { sqlite::sqlite3_free_filename(self.0.as_ptr()) }
    }
}

/// A file opened through the base VFS; closed when dropped.
pub struct BaseFile {
    /// The VFS's own structure, which it changes behind our shared references.
    memory: Box<[UnsafeCell<u64>]>,
    name: Option<FileName>,
}

impl BaseFile {
    /// The file in SQLite's terms.
    pub fn as_ptr(&self) -> *mut sqlite::sqlite3_file {
        UnsafeCell::raw_get(self.memory.as_ptr()).cast()
    }

    /// The methods, or `None` when the file is not open.
    pub fn methods(&self) -> Option<&sqlite::sqlite3_io_methods> {
        // SAFETY: every sqlite3_file begins with the pointer to its methods (null when closed),
        // which the VFS keeps valid while the file is open.
        unsafe { (*self.as_ptr()).pMethods.as_ref() }
    }

    /// Calls one I/O method; a method the VFS lacks answers `SQLITE_NOTFOUND`.
    pub fn call<F>(
        &self,
        select: impl FnOnce(&sqlite::sqlite3_io_methods) -> Option<F>,
        call: impl FnOnce(F, *mut sqlite::sqlite3_file) -> c_int,
    ) -> c_int {
        match self.methods().and_then(select) {
            Some(method) => call(method, self.as_ptr()),
            None => sqlite::SQLITE_NOTFOUND,
        }
    }

    /// `xFileControl`.
    ///
    /// # Safety
    /// `argument` is what SQLite documents for `operation`.
    pub unsafe fn control(&self, operation: c_int, argument: *mut c_void) -> c_int {
        // SAFETY: the file is open, the argument is the caller's promise.
        self.call(
            |m| m.xFileControl,
            |f, file| unsafe { f(file, operation, argument) },
        )
    }
}

/// Errors name no file: whoever asked knows which it was.
fn checked(action: &'static str, code: c_int) -> Result<()> {
    match code {
        sqlite::SQLITE_OK => Ok(()),
        code => Err(Error::Io {
            action,
            path: THE_FILE.to_owned(),
            code,
        }),
    }
}

/// For at most 64 KiB in one call, as SQLite's unix VFS takes lengths modulo 128 KiB.
impl RawFile for BaseFile {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        // SAFETY: the buffer is valid for its length.
        let code = self.call(
            |m| m.xRead,
            |read, file| unsafe {
                read(
                    file,
                    buffer.as_mut_ptr().cast(),
                    buffer.len() as c_int,
                    offset as i64,
                )
            },
        );
        if code != sqlite::SQLITE_IOERR_SHORT_READ {
            return checked("read", code).map(|()| buffer.len());
        }
        // A short read fills the rest with zeros and does not say how much there was.
        let there = RawFile::size(self)?.saturating_sub(offset);
        Ok(buffer
            .len()
            .min(usize::try_from(there).unwrap_or(usize::MAX)))
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        // SAFETY: the data is valid for its length.
        let code = self.call(
            |m| m.xWrite,
            |write, file| unsafe {
                write(
                    file,
                    data.as_ptr().cast(),
                    data.len() as c_int,
                    offset as i64,
                )
            },
        );
        checked("write", code)
    }

    fn truncate(&self, size: u64) -> Result<()> {
        // SAFETY: the file is open.
        let code = self.call(
            |m| m.xTruncate,
            |call, file| unsafe { call(file, size as i64) },
        );
        checked("truncate", code)
    }

    fn size(&self) -> Result<u64> {
        let mut size = 0;
        // SAFETY: the out-parameter lives across the call.
        let code = self.call(
            |m| m.xFileSize,
            |call, file| unsafe { call(file, &mut size) },
        );
        checked("size of", code)?;
        Ok(u64::try_from(size).unwrap_or(0))
    }

    fn sync(&self) -> Result<()> {
        // SAFETY: the file is open.
        let code = self.call(
            |m| m.xSync,
            |sync, file| unsafe { sync(file, sqlite::SQLITE_SYNC_NORMAL) },
        );
        checked("sync", code)
    }
}

impl Drop for BaseFile {
    fn drop(&mut self) {
        // SAFETY: closes an open file once; `methods` answers None for a closed one.
        self.call(|m| m.xClose, |close, file| unsafe { close(file) });
    }
}
