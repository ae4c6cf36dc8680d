//! The VFS `replica` itself: what SQLite calls before there is a file.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use libsqlite3_sys as sqlite;
use sqlite::{sqlite3_file, sqlite3_vfs};

use super::base::BaseVfs;
use super::file::{self, Kind, MainFile, ReplicaFile};
use super::host::SqliteHost;
use crate::database::host::Host;
use crate::database::settings::{NAMES, Settings};
use crate::database::store::Store;
use crate::error::{Error, Result};
use crate::ffi::guard;
use crate::last_error;
use crate::replica::registry;

/// The name under which the VFS is found.
pub const NAME: &str = "replica";
const C_NAME: &CStr = c"replica";

struct Registered {
    base: BaseVfs,
    host: Arc<dyn Host>,
    vfs: Box<sqlite3_vfs>,
}

// SAFETY: the structure is written once, before it is shared, and never freed.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

static REGISTERED: OnceLock<Registered> = OnceLock::new();

/// Registers the VFS once per process; later calls do nothing.
pub fn register() -> Result<()> {
    if REGISTERED.get().is_some() {
        return Ok(());
    }
    let base = BaseVfs::capture()
        .ok_or_else(|| Error::CannotOpen("this SQLite has no default VFS".to_owned()))?;
    let host = Arc::new(SqliteHost::new(base));
    let vfs = Box::new(definition(base));
    let registered = REGISTERED.get_or_init(|| Registered { base, host, vfs });
    make_default(
        registered,
        std::env::var("REPLICA_DEFAULT_VFS").is_ok_and(|on| on == "1"),
    )
}

/// Makes the VFS the default for databases opened from now on, or the base VFS again.
pub fn set_default(on: bool) -> Result<()> {
    match REGISTERED.get() {
        Some(registered) if on => make_default(registered, true),
        Some(registered) => {
            // SAFETY: a registered VFS may be registered again to become the default.
            let code = unsafe { sqlite::sqlite3_vfs_register(registered.base.as_ptr(), 1) };
            registration(code)
        }
        None => Err(not_loaded()),
    }
}

fn make_default(registered: &Registered, on: bool) -> Result<()> {
    let vfs = (&raw const *registered.vfs).cast_mut();
    // SAFETY: the structure lives as long as the process; SQLite only links it into its list.
    registration(unsafe { sqlite::sqlite3_vfs_register(vfs, c_int::from(on)) })
}

fn registration(code: c_int) -> Result<()> {
    match code {
        sqlite::SQLITE_OK => Ok(()),
        code => Err(Error::Io {
            action: "register",
            path: format!("VFS {NAME}"),
            code,
        }),
    }
}

fn not_loaded() -> Error {
    Error::Internal("the VFS is not registered".to_owned())
}

/// The host's SQLite, for the engine.
pub fn host() -> Result<Arc<dyn Host>> {
    REGISTERED
        .get()
        .map(|registered| Arc::clone(&registered.host))
        .ok_or_else(not_loaded)
}

/// The full path SQLite would use for `name`.
pub fn full_path(name: &str) -> Result<PathBuf> {
    let base = REGISTERED.get().ok_or_else(not_loaded)?.base;
    let c_name = std::ffi::CString::new(name)
        .map_err(|_| Error::Misuse("a file name holds a NUL byte".to_owned()))?;
    let length = base.definition().mxPathname + 1;
    let mut buffer = vec![0_u8; length.unsigned_abs() as usize];
    let code = match base.definition().xFullPathname {
        // SAFETY: the buffer has the length it is said to have.
        Some(call) => unsafe {
            call(
                base.as_ptr(),
                c_name.as_ptr(),
                length,
                buffer.as_mut_ptr().cast(),
            )
        },
        None => sqlite::SQLITE_CANTOPEN,
    };
    // SQLITE_OK_SYMLINK is success too.
    if code & 0xff != sqlite::SQLITE_OK {
        return Err(Error::Io {
            action: "resolve",
            path: name.to_owned(),
            code,
        });
    }
    let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
    Ok(PathBuf::from(text.to_string_lossy().into_owned()))
}

fn definition(base: BaseVfs) -> sqlite3_vfs {
    let size = c_int::try_from(size_of::<ReplicaFile>()).unwrap_or(c_int::MAX);
    sqlite3_vfs {
        szOsFile: size.max(base.definition().szOsFile),
        pNext: std::ptr::null_mut(),
        zName: C_NAME.as_ptr(),
        pAppData: base.as_ptr().cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: Some(dl_open),
        xDlError: Some(dl_error),
        xDlSym: Some(dl_sym),
        xDlClose: Some(dl_close),
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(get_last_error),
        xCurrentTimeInt64: Some(current_time_int64),
        xSetSystemCall: Some(set_system_call),
        xGetSystemCall: Some(get_system_call),
        xNextSystemCall: Some(next_system_call),
        ..*base.definition()
    }
}

/// The base VFS beneath ours, which SQLite hands back to us in every call.
///
/// # Safety
/// `vfs` is the structure made by [`definition`].
unsafe fn base_of(vfs: *mut sqlite3_vfs) -> *mut sqlite3_vfs {
    // SAFETY: the caller's promise.
    unsafe { (*vfs).pAppData.cast() }
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    guard(sqlite::SQLITE_CANTOPEN, || {
        // SAFETY: SQLite's contract: methods stay null unless the file needs closing.
        unsafe { (*file).pMethods = std::ptr::null() };
        if !name.is_null() && flags & sqlite::SQLITE_OPEN_MAIN_DB != 0 {
            // SAFETY: a main database has a name made by SQLite.
            return answer(unsafe { open_main(name, file, flags, out_flags) });
        }
        if flags & sqlite::SQLITE_OPEN_WAL != 0 {
            // SAFETY: SQLite opens a log with a name derived from an open main database.
            let main = unsafe { sqlite::sqlite3_database_file_object(name) };
            // SAFETY: that is an open file, of ours or of another VFS.
            if unsafe { file::replica_of(main) }.is_some() {
                // SAFETY: SQLite's own arguments.
                return answer(unsafe { open_followed_log(name, file, flags, out_flags) });
            }
        }
        // SAFETY: forwards SQLite's own arguments; szOsFile is large enough for the base.
        unsafe {
            let base = base_of(vfs);
            (*base).xOpen.map_or(sqlite::SQLITE_CANTOPEN, |call| {
                call(base, name, file, flags, out_flags)
            })
        }
    })
}

fn answer(result: Result<()>) -> c_int {
    match result {
        Ok(()) => sqlite::SQLITE_OK,
        Err(error) => {
            last_error::note(&error);
            error.code()
        }
    }
}

/// # Safety
/// The arguments of SQLite's xOpen for a main database.
unsafe fn open_main(
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> Result<()> {
    let registered = REGISTERED.get().ok_or_else(not_loaded)?;
    // SAFETY: a NUL-terminated name.
    let path = PathBuf::from(
        unsafe { CStr::from_ptr(name) }
            .to_string_lossy()
            .into_owned(),
    );
    // SAFETY: the name of a main database carries its URI parameters.
    let settings = unsafe { uri_settings(name) }?;
    // SAFETY: as above.
    let immutable = unsafe { sqlite::sqlite3_uri_boolean(name, c"immutable".as_ptr(), 0) } != 0;
    if settings.sync_url.is_some() {
        may_follow(&path, immutable, flags & sqlite::SQLITE_OPEN_CREATE != 0)?;
    }
    let replica = registry::attach(&registered.host, &path, settings)?;
    if replica.is_some() {
        may_follow(&path, immutable, true)?;
    }
    // The file of a replica comes into being as a whole, at the first access.
    let later = match &replica {
        Some(replica) => !replica.is_made()?,
        None => false,
    };
    let main = MainFile::new(registered.base, name, flags, path, replica);
    let (base, opened_flags) = match later {
        true => (None, flags),
        false => main.open_base().map(|(base, flags)| (Some(base), flags))?,
    };
    // SAFETY: SQLite gave us szOsFile bytes; the out-parameter may be null.
    unsafe {
        file::install(file, base, Kind::Main(main));
        if let Some(out) = out_flags.as_mut() {
            *out = opened_flags;
        }
    }
    Ok(())
}

/// Refuses, before anything is made, what could never read a replica.
fn may_follow(path: &Path, immutable: bool, creates: bool) -> Result<()> {
    if immutable {
        return Err(Error::CannotOpen(format!(
            "{} is a replica, which changes: immutable=1 would read it without locks and without \
             its log; mode=ro reads it only",
            path.display()
        )));
    }
    let host = host()?;
    if !creates && !host.exists(path)? && !Store::exists(&*host, path)? {
        return Err(Error::CannotOpen(format!(
            "{} does not exist, and this connection may not create it",
            path.display()
        )));
    }
    Ok(())
}

/// # Safety
/// The arguments of SQLite's xOpen for a log.
unsafe fn open_followed_log(
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> Result<()> {
    let registered = REGISTERED.get().ok_or_else(not_loaded)?;
    // SAFETY: SQLite keeps the name until it closes the file.
    let (base, opened_flags) = unsafe { registered.base.open(name, flags) }?;
    // SAFETY: SQLite gave us szOsFile bytes; the out-parameter may be null.
    unsafe {
        file::install(file, Some(base), Kind::FollowedLog);
        if let Some(out) = out_flags.as_mut() {
            *out = opened_flags;
        }
    }
    Ok(())
}

/// # Safety
/// `name` is the name of a main database, from SQLite.
unsafe fn uri_settings(name: *const c_char) -> Result<Settings> {
    let mut settings = Settings::default();
    for setting in NAMES {
        let key = std::ffi::CString::new(setting).unwrap_or_default();
        // SAFETY: the caller's promise; the result lives as long as the name.
        let value = unsafe { sqlite::sqlite3_uri_parameter(name, key.as_ptr()) };
        if !value.is_null() {
            // SAFETY: parameters are NUL-terminated.
            settings.set(setting, &unsafe { CStr::from_ptr(value) }.to_string_lossy())?;
        }
    }
    Ok(settings)
}

/// Methods of the VFS that only pass the call on, with the base VFS in place of ours.
macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $method:ident or $missing:expr;)*) => {$(
        unsafe extern "C" fn $name(vfs: *mut sqlite3_vfs, $($argument: $type),*) -> $result {
            // SAFETY: forwards SQLite's own arguments to the VFS that ours was made from.
            unsafe {
                let base = base_of(vfs);
                match (*base).$method {
                    Some(call) => call(base, $($argument),*),
                    None => $missing,
                }
            }
        }
    )*};
}

/// What a dynamic symbol looks like to SQLite.
type Symbol = Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char)>;

forward! {
    delete(name: *const c_char, sync: c_int) -> c_int = xDelete or sqlite::SQLITE_IOERR_DELETE;
    access(name: *const c_char, flags: c_int, result: *mut c_int) -> c_int = xAccess or sqlite::SQLITE_IOERR_ACCESS;
    full_pathname(name: *const c_char, length: c_int, out: *mut c_char) -> c_int = xFullPathname or sqlite::SQLITE_CANTOPEN;
    dl_open(name: *const c_char) -> *mut c_void = xDlOpen or std::ptr::null_mut();
    dl_error(length: c_int, message: *mut c_char) -> () = xDlError or ();
    dl_sym(library: *mut c_void, symbol: *const c_char) -> Symbol = xDlSym or None;
    dl_close(library: *mut c_void) -> () = xDlClose or ();
    randomness(length: c_int, out: *mut c_char) -> c_int = xRandomness or 0;
    sleep(microseconds: c_int) -> c_int = xSleep or 0;
    current_time(out: *mut f64) -> c_int = xCurrentTime or sqlite::SQLITE_ERROR;
    get_last_error(length: c_int, message: *mut c_char) -> c_int = xGetLastError or 0;
    current_time_int64(out: *mut sqlite::sqlite3_int64) -> c_int = xCurrentTimeInt64 or sqlite::SQLITE_ERROR;
    set_system_call(name: *const c_char, call: sqlite::sqlite3_syscall_ptr) -> c_int = xSetSystemCall or sqlite::SQLITE_NOTFOUND;
    get_system_call(name: *const c_char) -> sqlite::sqlite3_syscall_ptr = xGetSystemCall or None;
    next_system_call(name: *const c_char) -> *const c_char = xNextSystemCall or std::ptr::null();
}
