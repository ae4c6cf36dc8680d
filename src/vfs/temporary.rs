//! Temporary files, which may hold content of an encrypted database: encrypted with a key that ends
//! with the process, from the first such database on.

use std::ffi::c_int;

use libsqlite3_sys as sqlite;

use super::{file, register};
use crate::error::{Error, Result};

/// Every kind of file that SQLite makes for itself alone.
const KINDS: c_int = sqlite::SQLITE_OPEN_TEMP_DB
    | sqlite::SQLITE_OPEN_TRANSIENT_DB
    | sqlite::SQLITE_OPEN_TEMP_JOURNAL
    | sqlite::SQLITE_OPEN_SUBJOURNAL;

/// Whether `flags` of xOpen mean a temporary file.
pub fn is_one(flags: c_int) -> bool {
    flags & KINDS != 0
}

/// Refuses an encrypted database on a connection whose temporary files are in the clear.
pub fn check(db: *mut sqlite::sqlite3) -> Result<()> {
    if db.is_null() {
        return Ok(());
    }
    let mut vfs: *mut sqlite::sqlite3_vfs = std::ptr::null_mut();
    let mut temporary: *mut sqlite::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the connection is open, each operation takes a pointer to such a pointer.
    let (found, other) = unsafe {
        let main = c"main".as_ptr();
        let found = sqlite::sqlite3_file_control(
            db,
            main,
            sqlite::SQLITE_FCNTL_VFS_POINTER,
            (&raw mut vfs).cast(),
        );
        let temp = sqlite::sqlite3_file_control(
            db,
            c"temp".as_ptr(),
            sqlite::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut temporary).cast(),
        );
        // A file in memory, or one that is not open, has no methods.
        let open =
            temp == sqlite::SQLITE_OK && !temporary.is_null() && !(*temporary).pMethods.is_null();
        (found, open && !file::is_ours(temporary))
    };
    // Main itself is only being opened: it is ours.
    let ours = found != sqlite::SQLITE_OK || register::is_ours(vfs);
    match ours && !other {
        true => Ok(()),
        false => Err(Error::CannotOpen(
            "temporary files of this connection would hold content of the encrypted database in the \
             clear: open the connection with vfs=replica (file::memory:?vfs=replica), or say SELECT \
             replica_default_vfs(1) before, and attach it before temporary tables are filled"
                .to_owned(),
        )),
    }
}
