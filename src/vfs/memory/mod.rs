//! Databases without files: a VFS whose files live in the memory of this process.
//!
//! It stands in for the host's VFS beneath `replica` where a replica says `storage=memory`, with all
//! that SQLite's WAL mode needs: locks, and a shared index. (SQLite's own `memdb` has none.) Names are
//! seen by all connections of the process; a fork's child begins without any.

mod chunks;
pub mod content;
pub mod directory;
mod file;
pub mod locks;
mod overlay;
pub mod views;

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use libsqlite3_sys as sqlite;
use sqlite::{sqlite3_file, sqlite3_vfs};

use self::file::MemoryFile;
use super::base::BaseVfs;
use crate::error::{Error, Result};
use crate::ffi::guard;

/// The name under which SQLite finds it.
const NAME: &CStr = c"replica-memory";

struct Registered(Box<sqlite3_vfs>);

// SAFETY: the structure is written once, before it is shared, and never freed; SQLite changes its
// pNext under a lock of its own.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

static REGISTERED: OnceLock<Registered> = OnceLock::new();

/// Registers the VFS, which takes time, randomness and libraries from `base`. Once per process.
pub fn register(base: BaseVfs) -> Result<BaseVfs> {
    let registered = REGISTERED.get_or_init(|| Registered(Box::new(definition(base))));
    let vfs = (&raw const *registered.0).cast_mut();
    // SAFETY: the structure lives as long as the process; SQLite only links it into its list.
    match unsafe { sqlite::sqlite3_vfs_register(vfs, 0) } {
        sqlite::SQLITE_OK => BaseVfs::registered(vfs)
            .ok_or_else(|| Error::Internal("a VFS without an address".to_owned())),
        code => Err(Error::Io {
            action: "register",
            path: format!("VFS {}", NAME.to_string_lossy()),
            code,
        }),
    }
}

fn definition(base: BaseVfs) -> sqlite3_vfs {
    sqlite3_vfs {
        szOsFile: c_int::try_from(size_of::<MemoryFile>()).unwrap_or(c_int::MAX),
        pNext: std::ptr::null_mut(),
        zName: NAME.as_ptr(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        ..*base.definition()
    }
}

/// # Safety
/// `name` is null or NUL-terminated.
unsafe fn text<'a>(name: *const c_char) -> Option<&'a str> {
    if name.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(name) }.to_str().ok()
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    guard(sqlite::SQLITE_CANTOPEN, || {
        // SAFETY: SQLite's contract: methods stay null unless the file needs closing.
        unsafe { (*file).pMethods = std::ptr::null() };
        let has = |flag| flags & flag != 0;
        // SAFETY: SQLite's own name.
        let inode = match unsafe { text(name) } {
            // Nobody else is to find what goes when it is closed.
            Some(_) if has(sqlite::SQLITE_OPEN_DELETEONCLOSE) => Some(Default::default()),
            Some(name) => directory::open(
                name,
                has(sqlite::SQLITE_OPEN_CREATE),
                has(sqlite::SQLITE_OPEN_EXCLUSIVE),
            ),
            None => Some(Default::default()),
        };
        let Some(inode) = inode else {
            return sqlite::SQLITE_CANTOPEN;
        };
        // SAFETY: SQLite gave us szOsFile bytes; the out-parameter may be null.
        unsafe {
            file::install(file, inode);
            if let Some(out) = out_flags.as_mut() {
                *out = flags;
            }
        }
        sqlite::SQLITE_OK
    })
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, _: c_int) -> c_int {
    guard(sqlite::SQLITE_IOERR_DELETE, || {
        // SAFETY: SQLite's own name.
        match unsafe { text(name) } {
            Some(name) if directory::remove(name) => sqlite::SQLITE_OK,
            _ => sqlite::SQLITE_IOERR_DELETE_NOENT,
        }
    })
}

unsafe extern "C" fn access(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    _: c_int,
    result: *mut c_int,
) -> c_int {
    guard(sqlite::SQLITE_IOERR_ACCESS, || {
        // SAFETY: SQLite's own name, and a valid out-parameter.
        unsafe { *result = c_int::from(text(name).is_some_and(directory::exists)) };
        sqlite::SQLITE_OK
    })
}

unsafe extern "C" fn full_pathname(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    length: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's own name.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if name.len() > length.unsigned_abs() as usize {
        return sqlite::SQLITE_CANTOPEN;
    }
    // SAFETY: the buffer has the length it is said to have.
    unsafe { std::ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len()) };
    sqlite::SQLITE_OK
}
