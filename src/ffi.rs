//! The border to C: the entry point, panics, strings, the host's error log.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use libsqlite3_sys as sqlite;
use sqlite_loadable::ext::{sqlite3, sqlite3_context, sqlite3_value};

use crate::error::{Error, Result};
use crate::{functions, last_error, logging, vfs};

/// What a serving connection without a busy timeout gets.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a callback of SQLite; a panic becomes `on_panic`.
pub fn guard<T>(on_panic: T, callback: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(callback)) {
        Ok(value) => value,
        Err(panic) => {
            last_error::note(&Error::Internal(panic_text(&*panic)));
            on_panic
        }
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic".to_owned())
}

/// A copy of `text` in memory that SQLite frees; null when there is none.
pub fn sqlite_text(text: &str) -> *mut c_char {
    let bytes = text.as_bytes();
    let Ok(length) = c_int::try_from(bytes.len() + 1) else {
        return std::ptr::null_mut();
    };
    // SAFETY: plain allocation.
    let memory = unsafe { sqlite::sqlite3_malloc(length) }.cast::<u8>();
    if !memory.is_null() {
        // SAFETY: `length` bytes were allocated: the text and a NUL.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len());
            memory.add(bytes.len()).write(0);
        }
    }
    memory.cast()
}

/// Memory of the host's allocator, given back when dropped.
pub struct Reserve(*mut std::ffi::c_void);

// SAFETY: SQLite's allocator may be called from any thread (without threads there is only one).
unsafe impl Send for Reserve {}

impl Reserve {
    /// Takes memory; `None` where there is none.
    pub fn take(bytes: usize) -> Option<Self> {
        let bytes = c_int::try_from(bytes).ok()?;
        // SAFETY: plain allocation.
        let memory = unsafe { sqlite::sqlite3_malloc(bytes) };
        (!memory.is_null()).then_some(Self(memory))
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // SAFETY: take() allocated it, and nobody else has it.
        unsafe { sqlite::sqlite3_free(self.0) };
    }
}

/// A connection of the host, as its own functions and tables see it. Valid during one call.
#[derive(Clone, Copy)]
pub struct HostConnection(*mut sqlite::sqlite3);

impl HostConnection {
    /// The full path of a schema's file; `None` for a temporary or in-memory database or no such
    /// schema.
    pub fn path(self, schema: &str) -> Option<PathBuf> {
        let schema = CString::new(schema).ok()?;
        // SAFETY: the connection is open; the result is valid until the schema is detached.
        let name = unsafe { sqlite::sqlite3_db_filename(self.0, schema.as_ptr()) };
        if name.is_null() {
            return None;
        }
        // SAFETY: a NUL-terminated name.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let path = (!name.is_empty()).then(|| PathBuf::from(name.into_owned()));
        path.map(vfs::memory::directory::host_path)
    }

    /// The schemas of the connection, main first.
    pub fn schemas(self) -> Result<Vec<String>> {
        // SAFETY: the connection is open during the call and is not closed by the wrapper.
        let connection = unsafe { rusqlite::Connection::from_handle(self.0) };
        let names = connection.and_then(|connection| {
            let mut statement = connection.prepare("PRAGMA database_list")?;
            statement.query_map([], |row| row.get(1))?.collect()
        });
        names.map_err(|source| Error::Store {
            action: "list the schemas",
            source,
        })
    }

    /// Whether a schema was opened through VFS `replica`.
    pub fn uses_our_vfs(self, schema: &str) -> bool {
        let file = self.file(schema);
        // SAFETY: SQLite returned the schema's open file, or null.
        unsafe { vfs::file::is_ours(file) }
    }

    /// Finds out what a schema is, where that was left to the first access: nothing was read yet.
    pub fn prepare(self, schema: &str) -> Result<()> {
        let file = self.file(schema);
        // SAFETY: as above; the calling thread has the connection.
        unsafe { vfs::file::prepare(file) }
    }

    /// The open file of a schema; null where there is none.
    fn file(self, schema: &str) -> *mut sqlite::sqlite3_file {
        let mut file: *mut sqlite::sqlite3_file = std::ptr::null_mut();
        let Ok(schema) = CString::new(schema) else {
            return file;
        };
        // SAFETY: FILE_POINTER takes a pointer to the file pointer.
        let code = unsafe {
            sqlite::sqlite3_file_control(
                self.0,
                schema.as_ptr(),
                sqlite::SQLITE_FCNTL_FILE_POINTER,
                (&raw mut file).cast(),
            )
        };
        match code {
            sqlite::SQLITE_OK => file,
            _ => std::ptr::null_mut(),
        }
    }

    /// Whether a write transaction is open on any schema.
    pub fn is_writing(self) -> bool {
        // SAFETY: the connection is open; null asks for all schemas.
        unsafe { sqlite::sqlite3_txn_state(self.0, std::ptr::null()) == sqlite::SQLITE_TXN_WRITE }
    }

    /// Whether a transaction is open: one that was begun, or a statement's own on `main`.
    pub fn in_transaction(self) -> bool {
        // SAFETY: the connection is open, the name is NUL-terminated.
        unsafe {
            sqlite::sqlite3_get_autocommit(self.0) == 0
                || sqlite::sqlite3_txn_state(self.0, c"main".as_ptr()) != sqlite::SQLITE_TXN_NONE
        }
    }

    /// Gives the connection a busy timeout if it has none: a checkpoint of ours may hold writers
    /// back for a moment.
    pub fn ensure_busy_timeout(self) -> Result<()> {
        // SAFETY: the connection is open during the call and is not closed by the wrapper.
        let connection = unsafe { rusqlite::Connection::from_handle(self.0) };
        let result = connection.and_then(|connection| {
            let set: i64 = connection.query_row("PRAGMA busy_timeout", [], |row| row.get(0))?;
            match set {
                0 => connection.busy_timeout(BUSY_TIMEOUT),
                _ => Ok(()),
            }
        });
        result.map_err(|source| Error::Store {
            action: "set the busy timeout",
            source,
        })
    }

    /// Whether a schema was opened for reading only.
    pub fn is_read_only(self, schema: &str) -> bool {
        let Ok(schema) = CString::new(schema) else {
            return false;
        };
        // SAFETY: the connection is open, the name is NUL-terminated.
        unsafe { sqlite::sqlite3_db_readonly(self.0, schema.as_ptr()) == 1 }
    }
}

/// Decides whether a statement may do something: SQLite's action code and the first two of the names
/// that come with it.
pub type Authorize = dyn Fn(c_int, Option<&str>, Option<&str>) -> bool + Send;

/// A connection whose statements are looked at before they run.
pub struct AuthorizedConnection {
    // Closed before what its callback uses is gone.
    connection: rusqlite::Connection,
    _authorize: Box<Box<Authorize>>,
}

impl AuthorizedConnection {
    /// From now on `authorize` is asked about all that `connection` prepares.
    pub fn new(connection: rusqlite::Connection, authorize: Box<Authorize>) -> Result<Self> {
        let authorize = Box::new(authorize);
        // SAFETY: the connection is open, and closed before the boxed closure, whose address stays, is
        // dropped. Where the host leaves authorizers out the bindings panic.
        let set = catch_unwind(AssertUnwindSafe(|| unsafe {
            let data = (&raw const *authorize).cast_mut().cast();
            sqlite::sqlite3_set_authorizer(connection.handle(), Some(authorize_callback), data)
        }));
        match set {
            Ok(sqlite::SQLITE_OK) => Ok(Self {
                connection,
                _authorize: authorize,
            }),
            _ => Err(Error::CannotOpen(
                "this SQLite is built without authorizers: it runs no SQL for others".to_owned(),
            )),
        }
    }
}

impl std::ops::Deref for AuthorizedConnection {
    type Target = rusqlite::Connection;

    fn deref(&self) -> &rusqlite::Connection {
        &self.connection
    }
}

unsafe extern "C" fn authorize_callback(
    data: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    _schema: *const c_char,
    _trigger: *const c_char,
) -> c_int {
    guard(sqlite::SQLITE_DENY, || {
        // SAFETY: the closure of an `AuthorizedConnection`, which lives as long as the connection.
        let authorize = unsafe { &*data.cast::<Box<Authorize>>() };
        let name = |name: *const c_char| match name.is_null() {
            true => Some(None),
            // SAFETY: a NUL-terminated name that lives as long as the call.
            false => unsafe { CStr::from_ptr(name) }.to_str().ok().map(Some),
        };
        match (name(first), name(second)) {
            (Some(first), Some(second)) if authorize(action, first, second) => sqlite::SQLITE_OK,
            _ => sqlite::SQLITE_DENY,
        }
    })
}

/// Whether the host's SQLite was built for several threads: elsewhere the process may not be either.
pub fn is_thread_safe() -> bool {
    // SAFETY: a constant of the library.
    unsafe { sqlite::sqlite3_threadsafe() != 0 }
}

/// Has `call` run in every child that this process forks, before anything else there.
pub fn call_in_children(call: extern "C" fn()) -> bool {
    // SAFETY: the function stays loaded as long as the process (SQLITE_OK_LOAD_PERMANENTLY).
    unsafe { libc::pthread_atfork(None, None, Some(call)) == 0 }
}

/// Has these called around every fork of this process, in the thread that forks: one before, the other
/// after it in the parent and in the child.
pub fn call_around_forks(before: extern "C" fn(), after: extern "C" fn()) -> bool {
    // SAFETY: the functions stay loaded as long as the process (SQLITE_OK_LOAD_PERMANENTLY).
    unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) == 0 }
}

/// Whether a signal does what the system makes of it: nobody has a handler for it.
pub fn has_default_action(signal: c_int) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks only; the structure is plain data, for which zero is valid.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_DFL
    }
}

/// How many descriptors this process may have open; `None` where the system does not tell.
pub fn descriptor_limit() -> Option<usize> {
    let mut limit = std::mem::MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: asks only; the structure is plain data, for which zero is valid.
    let limit = unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) != 0 {
            return None;
        }
        limit.assume_init()
    };
    Some(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// The connection that calls a function of ours.
pub fn calling_connection(context: *mut sqlite_loadable::ext::sqlite3_context) -> HostConnection {
    connection(sqlite_loadable::api::context_db_handle(context))
}

/// A connection SQLite handed to a callback of ours.
pub fn connection(db: *mut sqlite_loadable::ext::sqlite3) -> HostConnection {
    HostConnection(db.cast())
}

/// The part of a virtual table that SQLite fills in itself.
pub fn empty_vtab() -> sqlite_loadable::ext::sqlite3_vtab {
    // SAFETY: a C structure of pointers and integers, for which zero is a valid value.
    unsafe { std::mem::zeroed() }
}

/// The part of a cursor that SQLite fills in itself.
pub fn empty_cursor() -> sqlite_loadable::ext::sqlite3_vtab_cursor {
    // SAFETY: as above.
    unsafe { std::mem::zeroed() }
}

// Defining functions happens on every connection of the process, so it costs next to nothing: what a
// function needs is shared by all of them.

/// What SQLite calls.
pub trait Callable: Sync {
    /// One call: the result, or an error, is set on the context.
    fn call(&self, context: *mut sqlite3_context, arguments: &[*mut sqlite3_value]);
}

/// Defines a function of `count` arguments (-1: any number) that SQL of a schema (views, triggers)
/// may not call.
pub fn define<T: Callable>(
    db: *mut sqlite3,
    name: &CStr,
    count: c_int,
    function: &'static T,
) -> Result<()> {
    // SAFETY: the connection is open, SQLite copies the name, and `function` is never freed.
    let code = unsafe {
        sqlite::sqlite3_create_function_v2(
            db.cast(),
            name.as_ptr(),
            count,
            sqlite::SQLITE_UTF8 | sqlite::SQLITE_DIRECTONLY,
            (&raw const *function).cast_mut().cast(),
            Some(callback::<T>),
            None,
            None,
            None,
        )
    };
    match code {
        sqlite::SQLITE_OK => Ok(()),
        code => Err(Error::Io {
            action: "define",
            path: format!("the function {}", name.to_string_lossy()),
            code,
        }),
    }
}

unsafe extern "C" fn callback<T: Callable>(
    context: *mut sqlite::sqlite3_context,
    count: c_int,
    arguments: *mut *mut sqlite::sqlite3_value,
) {
    guard((), || {
        let arguments: &[*mut sqlite3_value] = match usize::try_from(count) {
            Ok(count @ 1..) => {
                // SAFETY: SQLite passes as many arguments.
                unsafe { std::slice::from_raw_parts(arguments.cast(), count) }
            }
            _ => &[],
        };
        // SAFETY: define() has left a reference that is valid for ever.
        let function = unsafe { &*sqlite::sqlite3_user_data(context).cast::<T>() };
        function.call(context.cast(), arguments);
    });
}

/// Hands a log record to the host's error log.
fn to_host_log(level: log::Level, text: &str) {
    let code = match level {
        log::Level::Error => sqlite::SQLITE_ERROR,
        log::Level::Warn => sqlite::SQLITE_WARNING,
        _ => sqlite::SQLITE_NOTICE,
    };
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: the format takes one string.
    unsafe { sqlite::sqlite3_log(code, c"%s".as_ptr(), text.as_ptr()) };
}

/// Loads the extension: registers the VFS, and the functions on this and all later connections.
///
/// # Safety
/// Called by SQLite's `load_extension` with its own arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_replica_init(
    db: *mut sqlite::sqlite3,
    message: *mut *mut c_char,
    api: *mut sqlite::sqlite3_api_routines,
) -> c_int {
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: SQLite's arguments.
        unsafe { load(db, api) }
    }));
    let text = match result {
        Ok(Ok(())) => return sqlite::SQLITE_OK_LOAD_PERMANENTLY,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_text(&*panic),
    };
    if !message.is_null() {
        // SAFETY: SQLite frees the message; the API table may be unusable, then it stays null.
        unsafe { *message = guard(std::ptr::null_mut(), || sqlite_text(&text)) };
    }
    sqlite::SQLITE_ERROR
}

/// # Safety
/// As [`sqlite3_replica_init`].
unsafe fn load(db: *mut sqlite::sqlite3, api: *mut sqlite::sqlite3_api_routines) -> Result<()> {
    // SAFETY: SQLite's table, for both sets of bindings.
    unsafe {
        sqlite::rusqlite_extension_init2(api)
            .map_err(|error| Error::CannotOpen(format!("this SQLite is too old: {error}")))?;
        sqlite_loadable::ext::faux_sqlite_extension_init2(api.cast());
    }
    static LOG: Once = Once::new();
    LOG.call_once(|| {
        if let Err(error) = logging::start(to_host_log) {
            last_error::note(&error);
        }
    });
    vfs::register::register()?;
    functions::define_all(db.cast())?;
    // SAFETY: SQLite calls the function with the arguments of an entry point and reads an int,
    // although the declared type has neither.
    let code = unsafe {
        sqlite::sqlite3_auto_extension(Some(std::mem::transmute::<
            EachConnection,
            unsafe extern "C" fn(),
        >(each_connection)))
    };
    match code {
        sqlite::SQLITE_OK => Ok(()),
        code => Err(Error::Io {
            action: "register",
            path: "the automatic extension".to_owned(),
            code,
        }),
    }
}

/// The true type of an automatic extension.
type EachConnection = unsafe extern "C" fn(
    *mut sqlite::sqlite3,
    *mut *mut c_char,
    *const sqlite::sqlite3_api_routines,
) -> c_int;

unsafe extern "C" fn each_connection(
    db: *mut sqlite::sqlite3,
    _message: *mut *mut c_char,
    _api: *const sqlite::sqlite3_api_routines,
) -> c_int {
    guard(sqlite::SQLITE_ERROR, || {
        if vfs::host::opening_internally() {
            return sqlite::SQLITE_OK;
        }
        match functions::define_all(db.cast()) {
            Ok(()) => sqlite::SQLITE_OK,
            Err(error) => {
                last_error::note(&error);
                sqlite::SQLITE_ERROR
            }
        }
    })
}
