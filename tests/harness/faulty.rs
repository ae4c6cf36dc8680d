//! Faults of the machine for the bundled host: a VFS, made the default one before the extension is loaded, whose calls
//! fail when they are told to, and an allocator that has no memory then.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::ffi;

/// Calls until one fails; 0 and below: none does.
struct Countdown {
    left: AtomicI64,
    /// How many fail from there on.
    count: AtomicI64,
    /// Calls since it was armed, and how many failed.
    calls: AtomicU64,
    hits: AtomicU64,
}

static FILES: Countdown = Countdown::new();
static MEMORY: Countdown = Countdown::new();
/// At which call of a file the process ends, as by `kill -9`.
static DEATH: Countdown = Countdown::new();
/// Milliseconds that each sync of a file lasts longer.
static SLOW: AtomicU64 = AtomicU64::new(0);
static REAL: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(null_mut());
static ALLOCATOR: AtomicPtr<ffi::sqlite3_mem_methods> = AtomicPtr::new(null_mut());

impl Countdown {
    const fn new() -> Countdown {
        Countdown {
            left: AtomicI64::new(0),
            count: AtomicI64::new(0),
            calls: AtomicU64::new(0),
            hits: AtomicU64::new(0),
        }
    }

    fn arm(&self, nth: i64, count: i64) {
        self.calls.store(0, Ordering::SeqCst);
        self.hits.store(0, Ordering::SeqCst);
        self.count.store(count, Ordering::SeqCst);
        self.left.store(nth, Ordering::SeqCst);
    }

    /// Whether this call fails.
    fn fails(&self) -> bool {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) <= 0 || self.left.fetch_sub(1, Ordering::SeqCst) > 1 {
            return false;
        }
        let fails = self.count.fetch_sub(1, Ordering::SeqCst) > 0;
        self.hits.fetch_add(u64::from(fails), Ordering::SeqCst);
        fails
    }
}

/// Lets the `nth` call from now on fail, and as many as `count` says; `what` is `files`, `memory`, or `death`: then the
/// process is killed at that call of a file.
pub fn arm(what: &str, nth: i64, count: i64) {
    of(what).arm(nth, count);
}

/// Nothing fails any more. Calls since it was armed, and how many of them failed.
pub fn disarm(what: &str) -> (u64, u64) {
    let countdown = of(what);
    countdown.count.store(0, Ordering::SeqCst);
    (
        countdown.calls.load(Ordering::SeqCst),
        countdown.hits.load(Ordering::SeqCst),
    )
}

/// From now on each sync of a file lasts so many milliseconds longer, as on a disk that others keep busy.
pub fn slow_syncs(milliseconds: u64) {
    SLOW.store(milliseconds, Ordering::SeqCst);
}

fn of(what: &str) -> &'static Countdown {
    match what {
        "files" => &FILES,
        "memory" => &MEMORY,
        "death" => &DEATH,
        _ => panic!("faults of {what}"),
    }
}

/// Whether this call of a file fails; it may be the last one.
fn file_fails() -> bool {
    if DEATH.fails() {
        // SAFETY: plain integers.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    FILES.fails()
}

/// Puts VFS and allocator in place. Before anything else of SQLite is used in this process.
pub fn register() {
    // SAFETY: SQLite is not initialised yet, the tables live for ever, and the functions have the types SQLite asks for.
    unsafe {
        let mut methods: Box<ffi::sqlite3_mem_methods> = Box::new(std::mem::zeroed());
        assert_eq!(
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut *methods),
            0
        );
        let mut own = *methods;
        ALLOCATOR.store(Box::into_raw(methods), Ordering::SeqCst);
        own.xMalloc = Some(allocate);
        own.xRealloc = Some(reallocate);
        assert_eq!(
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw const own),
            0
        );

        let real = ffi::sqlite3_vfs_find(null());
        REAL.store(real, Ordering::SeqCst);
        let mut vfs = *real;
        vfs.szOsFile += size_of::<File>() as c_int;
        vfs.pNext = null_mut();
        vfs.zName = c"faulty".as_ptr();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        assert_eq!(
            ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 1),
            0
        );
    }
}

unsafe extern "C" fn allocate(size: c_int) -> *mut c_void {
    if MEMORY.fails() {
        return null_mut();
    }
    // SAFETY: the table was stored before this function was.
    unsafe { (*ALLOCATOR.load(Ordering::SeqCst)).xMalloc.expect("malloc")(size) }
}

unsafe extern "C" fn reallocate(place: *mut c_void, size: c_int) -> *mut c_void {
    if MEMORY.fails() {
        return null_mut();
    }
    // SAFETY: as above.
    unsafe {
        (*ALLOCATOR.load(Ordering::SeqCst))
            .xRealloc
            .expect("realloc")(place, size)
    }
}

/// Behind it lies the file of the real VFS.
#[repr(C)]
struct File {
    methods: *const ffi::sqlite3_io_methods,
    align: u64,
}

fn real() -> *mut ffi::sqlite3_vfs {
    REAL.load(Ordering::SeqCst)
}

unsafe fn beneath(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: the place was made as large as both.
    unsafe { file.cast::<File>().add(1).cast() }
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's own arguments, and a place behind `File` for the real file.
    unsafe {
        (*file).pMethods = null();
        if file_fails() {
            return ffi::SQLITE_CANTOPEN;
        }
        let code = (*real()).xOpen.expect("open")(real(), name, beneath(file), flags, out);
        if code == 0 {
            (*file).pMethods = &raw const METHODS;
        }
        code
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    if file_fails() {
        return ffi::SQLITE_IOERR_DELETE;
    }
    // SAFETY: SQLite's own arguments.
    unsafe { (*real()).xDelete.expect("delete")(real(), name, sync) }
}

/// A method of the real file, with what it answers when it fails.
macro_rules! methods {
    ($($name:ident($($argument:ident: $type:ty),*) $method:ident $fails:expr;)*) => {
        $(unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file, $($argument: $type),*) -> c_int {
            let failure: Option<c_int> = $fails;
            if let Some(code) = failure
                && file_fails()
            {
                return code;
            }
            // SAFETY: SQLite's own arguments, for the file that `open` has opened.
            unsafe {
                let file = beneath(file);
                (*(*file).pMethods).$method.expect("a method")(file, $($argument),*)
            }
        })*
    };
}

methods! {
    close() xClose None;
    read(to: *mut c_void, size: c_int, at: i64) xRead Some(ffi::SQLITE_IOERR_READ);
    write(from: *const c_void, size: c_int, at: i64) xWrite Some(ffi::SQLITE_FULL);
    truncate(size: i64) xTruncate Some(ffi::SQLITE_IOERR_TRUNCATE);
    sync_now(flags: c_int) xSync Some(ffi::SQLITE_IOERR_FSYNC);
    size(out: *mut i64) xFileSize Some(ffi::SQLITE_IOERR_FSTAT);
    lock(level: c_int) xLock Some(ffi::SQLITE_IOERR_LOCK);
    unlock(level: c_int) xUnlock None;
    reserved(out: *mut c_int) xCheckReservedLock Some(ffi::SQLITE_IOERR_CHECKRESERVEDLOCK);
    control(operation: c_int, argument: *mut c_void) xFileControl None;
    sector() xSectorSize None;
    traits() xDeviceCharacteristics None;
    map(region: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) xShmMap Some(ffi::SQLITE_IOERR_SHMMAP);
    shared_lock(offset: c_int, count: c_int, flags: c_int) xShmLock
        (flags & ffi::SQLITE_SHM_LOCK != 0).then_some(ffi::SQLITE_IOERR_SHMLOCK);
    unmap(delete: c_int) xShmUnmap None;
    fetch(at: i64, size: c_int, out: *mut *mut c_void) xFetch None;
    unfetch(at: i64, place: *mut c_void) xUnfetch None;
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    thread::sleep(Duration::from_millis(SLOW.load(Ordering::SeqCst)));
    // SAFETY: SQLite's own arguments.
    unsafe { sync_now(file, flags) }
}

unsafe extern "C" fn barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as above.
    unsafe {
        let file = beneath(file);
        (*(*file).pMethods).xShmBarrier.expect("a method")(file);
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector),
    xDeviceCharacteristics: Some(traits),
    xShmMap: Some(map),
    xShmLock: Some(shared_lock),
    xShmBarrier: Some(barrier),
    xShmUnmap: Some(unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};
