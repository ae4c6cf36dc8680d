//! Files the host opens through VFS `replica`: the I/O methods SQLite calls.
//!
//! A database is always wrapped, because it may be served later; its log is wrapped when it is
//! followed. Everything else is opened by the base VFS in the host's own buffer, and we are not
//! part of it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::Arc;

use libsqlite3_sys as sqlite;
use sqlite::{sqlite3_file, sqlite3_int64, sqlite3_io_methods};

use super::base::{BaseFile, BaseVfs};
use super::pragma;
use crate::error::{Error, Result};
use crate::ffi::guard;
use crate::primary::serve::Opened;
use crate::replica::follower::Replica;
use crate::{last_error, primary};

/// Busy timeout for connections to a followed database, until the host sets its own.
const BUSY_TIMEOUT_MS: c_int = 5000;

/// Lock slots of the shared index (design of SQLite's WAL mode).
const WRITE_SLOT: u8 = 1 << 0;
const CHECKPOINT_SLOT: u8 = 1 << 1;
const READ_SLOTS: u8 = 0b1111_1000;

/// The memory SQLite gives us for a file: `sqlite3_file` first.
#[repr(C)]
pub struct ReplicaFile {
    methods: *const sqlite3_io_methods,
    open: *mut OpenFile,
}

/// An open file of the host.
pub struct OpenFile {
    // The fields close in this order.
    /// `None` for a replica that is not made yet: opened at the first lock.
    base: Option<BaseFile>,
    kind: Kind,
}

/// What a wrapped file is.
pub enum Kind {
    /// A database.
    Main(MainFile),
    /// The log of a followed database.
    FollowedLog,
}

/// A database the host has open.
pub struct MainFile {
    vfs: BaseVfs,
    /// SQLite's own name of the file: valid until xClose.
    name: *const c_char,
    flags: c_int,
    creates: bool,
    path: PathBuf,
    replica: Option<Arc<Replica>>,
    /// Slots of the shared index this connection holds, by bit.
    shared: u8,
    exclusive: u8,
    checkpointing: bool,
    /// What is served is served until the last connection closes it.
    _opened: Opened,
}

impl MainFile {
    /// A database about to be opened under SQLite's `name`.
    pub fn new(
        vfs: BaseVfs,
        name: *const c_char,
        flags: c_int,
        path: PathBuf,
        replica: Option<Arc<Replica>>,
    ) -> Self {
        let creates = flags & sqlite::SQLITE_OPEN_CREATE != 0;
        // The file of a replica comes into being as a whole, never by an open.
        let flags = match replica {
            Some(_) => flags & !sqlite::SQLITE_OPEN_CREATE,
            None => flags,
        };
        Self {
            vfs,
            name,
            flags,
            creates,
            _opened: Opened::new(&path),
            path,
            replica,
            shared: 0,
            exclusive: 0,
            checkpointing: false,
        }
    }

    /// Opens the file beneath.
    pub fn open_base(&self) -> Result<(BaseFile, c_int)> {
        // SAFETY: SQLite keeps the name until it closes the file.
        unsafe { self.vfs.open(self.name, self.flags) }
    }

    /// Like SQLite: without SQLITE_OPEN_CREATE nothing comes into being.
    fn may_make(&self, replica: &Replica) -> Result<()> {
        match self.creates || replica.host().exists(&self.path)? {
            true => Ok(()),
            false => Err(Error::CannotOpen(format!(
                "{} does not exist, and this connection may not create it",
                self.path.display()
            ))),
        }
    }

    fn follows(&self) -> bool {
        self.replica.is_some()
    }

    /// Whether this lock is the start of a write transaction of the host. A checkpoint takes the
    /// same locks and is none.
    fn begins_write(&self, mask: u8, flags: c_int) -> bool {
        if flags & sqlite::SQLITE_SHM_LOCK == 0 || self.exclusive & CHECKPOINT_SLOT != 0 {
            return false;
        }
        match flags & sqlite::SQLITE_SHM_EXCLUSIVE != 0 {
            // A reader becomes a writer. (Recovery takes the lock without reading.)
            true => mask == WRITE_SLOT && self.shared & READ_SLOTS != 0,
            // Builds with SQLITE_ENABLE_SETLK_TIMEOUT lock first and begin to read then, which
            // recovery never does.
            false => mask & READ_SLOTS != 0 && self.exclusive & WRITE_SLOT != 0,
        }
    }

    fn note_slots(&mut self, mask: u8, flags: c_int) {
        let held = if flags & sqlite::SQLITE_SHM_EXCLUSIVE != 0 {
            &mut self.exclusive
        } else {
            &mut self.shared
        };
        if flags & sqlite::SQLITE_SHM_LOCK != 0 {
            *held |= mask;
        } else {
            *held &= !mask;
        }
    }

    fn refuse_write(&self) -> c_int {
        last_error::note(&Error::ReadOnly(format!(
            "{} is a replica: writes are made on its primary",
            self.path.display()
        )));
        sqlite::SQLITE_READONLY
    }
}

/// Fills in the memory of a file SQLite is opening.
///
/// # Safety
/// `file` points to at least `size_of::<ReplicaFile>()` writable bytes.
pub unsafe fn install(file: *mut sqlite3_file, base: Option<BaseFile>, kind: Kind) {
    let version = match base.as_ref().and_then(BaseFile::methods) {
        // A base without shared memory has no WAL mode, and SQLite must see that.
        Some(methods) if methods.xShmMap.is_none() => 1,
        Some(methods) => methods.iVersion,
        None => 3,
    };
    let methods = match version {
        ..=1 => &METHODS[0],
        2 => &METHODS[1],
        3.. => &METHODS[2],
    };
    let open = Box::into_raw(Box::new(OpenFile { base, kind }));
    // SAFETY: the caller's promise.
    unsafe {
        file.cast::<ReplicaFile>()
            .write(ReplicaFile { methods, open })
    };
}

/// Whether a file was opened by this VFS and is wrapped.
///
/// # Safety
/// `file` is null or an open file of any VFS.
pub unsafe fn is_ours(file: *mut sqlite3_file) -> bool {
    // SAFETY: every open file starts with its methods; only ours have our tables.
    unsafe { file.as_ref() }
        .is_some_and(|file| METHODS.iter().any(|ours| std::ptr::eq(ours, file.pMethods)))
}

/// The replica that an open database file of ours belongs to.
///
/// # Safety
/// `file` is null or an open file of any VFS.
pub unsafe fn replica_of(file: *mut sqlite3_file) -> Option<Arc<Replica>> {
    // SAFETY: the caller's promise.
    if !unsafe { is_ours(file) } {
        return None;
    }
    // SAFETY: our method table proves that the file is ours.
    match unsafe { &opened(file).kind } {
        Kind::Main(main) => main.replica.clone(),
        Kind::FollowedLog => None,
    }
}

/// # Safety
/// `file` is an open file of ours, used by no other thread meanwhile (SQLite's rule).
unsafe fn opened<'a>(file: *mut sqlite3_file) -> &'a mut OpenFile {
    // SAFETY: install() put a valid pointer there and only close() takes it away.
    unsafe { &mut *(*file.cast::<ReplicaFile>()).open }
}

impl OpenFile {
    fn forward<F>(
        &self,
        select: impl FnOnce(&sqlite3_io_methods) -> Option<F>,
        call: impl FnOnce(F, *mut sqlite3_file) -> c_int,
        not_made: c_int,
    ) -> c_int {
        match &self.base {
            Some(base) => base.call(select, call),
            None => not_made,
        }
    }

    /// Makes the replica where there is none yet, and opens its file.
    fn make(&mut self) -> Result<()> {
        if let (None, Kind::Main(main)) = (&self.base, &self.kind) {
            if let Some(replica) = &main.replica {
                main.may_make(replica)?;
                replica.make()?;
            }
            self.base = Some(main.open_base()?.0);
        }
        Ok(())
    }

    fn lock(&mut self, level: c_int) -> c_int {
        if let Err(error) = self.make() {
            last_error::note(&error);
            return match error.code() & 0xff {
                code @ (sqlite::SQLITE_NOMEM | sqlite::SQLITE_AUTH) => code,
                _ => sqlite::SQLITE_CANTOPEN,
            };
        }
        // What takes more than SHARED in WAL mode is leaving it, or keeping others out. (At close
        // SQLite tries it too, to remove the log, and does without.)
        if level > sqlite::SQLITE_LOCK_SHARED
            && matches!(&self.kind, Kind::Main(main) if main.follows())
        {
            return sqlite::SQLITE_BUSY;
        }
        // SAFETY: forwards SQLite's own arguments.
        self.forward(
            |m| m.xLock,
            |f, file| unsafe { f(file, level) },
            sqlite::SQLITE_CANTOPEN,
        )
    }

    fn write(&mut self, data: *const c_void, amount: c_int, offset: sqlite3_int64) -> c_int {
        match &self.kind {
            Kind::FollowedLog => {
                last_error::note(&Error::ReadOnly(
                    "a replica takes writes on its primary only".to_owned(),
                ));
                return sqlite::SQLITE_READONLY;
            }
            Kind::Main(main) if main.follows() && !main.checkpointing => {
                return main.refuse_write();
            }
            Kind::Main(_) => {}
        }
        // SAFETY: forwards SQLite's own arguments.
        self.forward(
            |m| m.xWrite,
            |f, file| unsafe { f(file, data, amount, offset) },
            sqlite::SQLITE_IOERR_WRITE,
        )
    }

    fn shm_lock(&mut self, offset: c_int, count: c_int, flags: c_int) -> c_int {
        let mask = (((1_u32 << count) - 1) << offset) as u8;
        if let Kind::Main(main) = &self.kind
            && main.follows()
            && main.begins_write(mask, flags)
        {
            return main.refuse_write();
        }
        // SAFETY: forwards SQLite's own arguments.
        let code = self.forward(
            |m| m.xShmLock,
            |f, file| unsafe { f(file, offset, count, flags) },
            sqlite::SQLITE_IOERR_SHMLOCK,
        );
        if let (sqlite::SQLITE_OK, Kind::Main(main)) = (code, &mut self.kind) {
            main.note_slots(mask, flags);
        }
        code
    }

    fn control(&mut self, operation: c_int, argument: *mut c_void) -> c_int {
        if let Kind::Main(main) = &mut self.kind {
            match operation {
                sqlite::SQLITE_FCNTL_PRAGMA => {
                    // SAFETY: for this operation SQLite passes an array of three strings.
                    if let Some(code) = unsafe { main.pragma(argument.cast()) } {
                        return code;
                    }
                }
                sqlite::SQLITE_FCNTL_VFSNAME if self.base.is_none() => {
                    return main.vfs_name(argument.cast());
                }
                sqlite::SQLITE_FCNTL_PDB if main.follows() => {
                    // SAFETY: for this operation SQLite passes a pointer to the handle.
                    unsafe { give_busy_timeout(*argument.cast()) };
                }
                SQLITE_FCNTL_CKPT_START => main.checkpointing = true,
                SQLITE_FCNTL_CKPT_DONE => main.checkpointing = false,
                _ => {}
            }
        }
        match &self.base {
            // SAFETY: forwards SQLite's own arguments.
            Some(base) => unsafe { base.control(operation, argument) },
            None => sqlite::SQLITE_NOTFOUND,
        }
    }
}

/// # Safety
/// `db` is the connection that is opening a file of ours.
unsafe fn give_busy_timeout(db: *mut sqlite::sqlite3) {
    // SAFETY: the caller's promise. While main itself is being opened it has no name yet; once it
    // has one this is an ATTACH, and the connection's own setting stays.
    unsafe {
        if sqlite::sqlite3_db_filename(db, c"main".as_ptr()).is_null() {
            sqlite::sqlite3_busy_timeout(db, BUSY_TIMEOUT_MS);
        }
    }
}

// Not in the bindings of the oldest SQLite we support; numbers of sqlite3.h.
const SQLITE_FCNTL_CKPT_DONE: c_int = 37;
const SQLITE_FCNTL_CKPT_START: c_int = 39;

impl MainFile {
    /// # Safety
    /// `argument` is the array SQLite documents for `SQLITE_FCNTL_PRAGMA`.
    unsafe fn pragma(&self, argument: *mut *mut c_char) -> Option<c_int> {
        // SAFETY: the caller's promise: name is a string, value a string or null.
        let text = |at: usize| unsafe {
            let text = *argument.add(at);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
        };
        let page_size = match &self.replica {
            Some(replica) => replica.page_size(),
            None => primary::served_page_size(&self.path)?,
        };
        let refusal = pragma::refusal(&text(1)?, text(2).as_deref(), page_size)?;
        last_error::note(&Error::Misuse(refusal.clone()));
        // SAFETY: SQLite frees the message it finds in the first element.
        unsafe { *argument = crate::ffi::sqlite_text(&refusal) };
        Some(sqlite::SQLITE_ERROR)
    }

    fn vfs_name(&self, argument: *mut *mut c_char) -> c_int {
        let name = format!(
            "{}/{}",
            super::register::NAME,
            self.vfs.name().to_string_lossy()
        );
        // SAFETY: for SQLITE_FCNTL_VFSNAME the argument is a `char**` that SQLite frees.
        unsafe { *argument = crate::ffi::sqlite_text(&name) };
        sqlite::SQLITE_OK
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    guard(sqlite::SQLITE_IOERR_CLOSE, || {
        let memory = file.cast::<ReplicaFile>();
        // SAFETY: SQLite closes a file once; install() made the box.
        let open = unsafe { Box::from_raw((*memory).open) };
        // SAFETY: the memory is SQLite's and stays valid; null methods mean closed.
        unsafe { (*memory).methods = std::ptr::null() };
        drop(open);
        sqlite::SQLITE_OK
    })
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite's call on an open file of ours.
    let open = unsafe { opened(file) };
    match &open.base {
        // SAFETY: forwards SQLite's own arguments.
        Some(base) => base.call(
            |m| m.xRead,
            |f, file| unsafe { f(file, buffer, amount, offset) },
        ),
        None => {
            // SAFETY: the buffer has `amount` bytes; a short read must zero what is missing.
            unsafe { std::ptr::write_bytes(buffer.cast::<u8>(), 0, amount as usize) };
            sqlite::SQLITE_IOERR_SHORT_READ
        }
    }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    data: *const c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite's call on an open file of ours.
    guard(sqlite::SQLITE_IOERR_WRITE, || {
        unsafe { opened(file) }.write(data, amount, offset)
    })
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: SQLite's call on an open file of ours; arguments forwarded.
    unsafe { opened(file) }.forward(
        |m| m.xTruncate,
        |f, file| unsafe { f(file, size) },
        sqlite::SQLITE_IOERR_TRUNCATE,
    )
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: SQLite's call on an open file of ours; arguments forwarded.
    unsafe { opened(file) }.forward(
        |m| m.xSync,
        |f, file| unsafe { f(file, flags) },
        sqlite::SQLITE_OK,
    )
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    // SAFETY: the out-parameter is valid, and set even when nothing is forwarded.
    unsafe { *size = 0 };
    // SAFETY: SQLite's call on an open file of ours; arguments forwarded.
    unsafe { opened(file) }.forward(
        |m| m.xFileSize,
        |f, file| unsafe { f(file, size) },
        sqlite::SQLITE_OK,
    )
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite's call on an open file of ours.
    guard(sqlite::SQLITE_IOERR_LOCK, || {
        unsafe { opened(file) }.lock(level)
    })
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite's call on an open file of ours; arguments forwarded.
    unsafe { opened(file) }.forward(
        |m| m.xUnlock,
        |f, file| unsafe { f(file, level) },
        sqlite::SQLITE_OK,
    )
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, result: *mut c_int) -> c_int {
    // SAFETY: the out-parameter is valid.
    unsafe { *result = 0 };
    // SAFETY: SQLite's call on an open file of ours; arguments forwarded.
    unsafe { opened(file) }.forward(
        |m| m.xCheckReservedLock,
        |f, file| unsafe { f(file, result) },
        sqlite::SQLITE_OK,
    )
}

unsafe extern "C" fn file_control(
    file: *mut sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: SQLite's call on an open file of ours.
    guard(sqlite::SQLITE_IOERR, || {
        unsafe { opened(file) }.control(operation, argument)
    })
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite's call on an open file of ours.
    unsafe { opened(file) }.forward(|m| m.xSectorSize, |f, file| unsafe { f(file) }, 4096)
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite's call on an open file of ours.
    let open = unsafe { opened(file) };
    let base = open.forward(
        |m| m.xDeviceCharacteristics,
        // SAFETY: as above.
        |f, file| unsafe { f(file) },
        0,
    );
    match &open.kind {
        // Without it SQLite pads commits of a replicated log with copies of the commit frame.
        Kind::Main(main) if main.follows() => base | sqlite::SQLITE_IOCAP_POWERSAFE_OVERWRITE,
        _ => base,
    }
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    address: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite's call on an open file of ours; arguments forwarded.
    unsafe { opened(file) }.forward(
        |m| m.xShmMap,
        |f, file| unsafe { f(file, region, size, extend, address) },
        sqlite::SQLITE_IOERR_SHMMAP,
    )
}

unsafe extern "C" fn shm_lock(
    file: *mut sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: SQLite's call on an open file of ours.
    guard(sqlite::SQLITE_IOERR_SHMLOCK, || {
        unsafe { opened(file) }.shm_lock(offset, count, flags)
    })
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: SQLite's call on an open file of ours.
    unsafe { opened(file) }.forward(
        |m| m.xShmBarrier,
        |f, file| {
            // SAFETY: as above.
            unsafe { f(file) };
            sqlite::SQLITE_OK
        },
        sqlite::SQLITE_OK,
    );
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: SQLite's call on an open file of ours; arguments forwarded.
    unsafe { opened(file) }.forward(
        |m| m.xShmUnmap,
        |f, file| unsafe { f(file, delete) },
        sqlite::SQLITE_OK,
    )
}

unsafe extern "C" fn fetch(
    file: *mut sqlite3_file,
    offset: sqlite3_int64,
    amount: c_int,
    address: *mut *mut c_void,
) -> c_int {
    // SAFETY: the out-parameter is valid; null makes SQLite read instead.
    unsafe { *address = std::ptr::null_mut() };
    // SAFETY: SQLite's call on an open file of ours; arguments forwarded.
    unsafe { opened(file) }.forward(
        |m| m.xFetch,
        |f, file| unsafe { f(file, offset, amount, address) },
        sqlite::SQLITE_OK,
    )
}

unsafe extern "C" fn unfetch(
    file: *mut sqlite3_file,
    offset: sqlite3_int64,
    address: *mut c_void,
) -> c_int {
    // SAFETY: SQLite's call on an open file of ours; arguments forwarded.
    unsafe { opened(file) }.forward(
        |m| m.xUnfetch,
        |f, file| unsafe { f(file, offset, address) },
        sqlite::SQLITE_OK,
    )
}

const fn methods(version: c_int) -> sqlite3_io_methods {
    sqlite3_io_methods {
        iVersion: version,
        xClose: Some(close),
        xRead: Some(read),
        xWrite: Some(write),
        xTruncate: Some(truncate),
        xSync: Some(sync),
        xFileSize: Some(file_size),
        xLock: Some(lock),
        xUnlock: Some(unlock),
        xCheckReservedLock: Some(check_reserved_lock),
        xFileControl: Some(file_control),
        xSectorSize: Some(sector_size),
        xDeviceCharacteristics: Some(device_characteristics),
        xShmMap: Some(shm_map),
        xShmLock: Some(shm_lock),
        xShmBarrier: Some(shm_barrier),
        xShmUnmap: Some(shm_unmap),
        xFetch: Some(fetch),
        xUnfetch: Some(unfetch),
    }
}

/// One table for each version, so that SQLite sees what the base VFS can.
static METHODS: [sqlite3_io_methods; 3] = [methods(1), methods(2), methods(3)];
