//! Files the host opens through VFS `replica`: the I/O methods SQLite calls.
//!
//! A database is always wrapped, because it may be served later; its log is wrapped when it is
//! followed or encrypted, journals and temporary files when they are encrypted. Everything else is
//! opened by the base VFS in the host's own buffer, and we are not part of it.

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libsqlite3_sys as sqlite;
use parking_lot::Mutex;
use sqlite::{sqlite3_file, sqlite3_int64, sqlite3_io_methods};

use super::base::{BaseFile, BaseVfs};
use super::log_file::{Link, LogFile};
use super::main_file::{self, MainFile};
use super::super_file::SuperFile;
use crate::crypt::RawFile;
use crate::crypt::blocks::SealedBlocks;
use crate::crypt::log::SealedLog;
use crate::error::{Error, Result};
use crate::ffi::guard;
use crate::last_error;
use crate::replica::writing::Writing;
use crate::wal::LogFile as _;

/// Busy timeout for connections to a followed database, until the host sets its own.
const BUSY_TIMEOUT_MS: c_int = 5000;

/// Bytes of SQLite's header of a database.
const FILE_HEADER: usize = 100;

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
    Main(Box<MainFile>),
    /// The log of a followed or encrypted database.
    Log(LogFile),
    /// A journal of an encrypted database, with what connects it to that, or a temporary file.
    Blocks(Box<SealedBlocks>, Option<Arc<Link>>),
    /// A super-journal in which encrypted databases take part, or may.
    Super(SuperFile),
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

/// How the log of a database of ours is to be opened.
pub struct LogOpening {
    /// The VFS beneath.
    pub vfs: BaseVfs,
    /// The database.
    pub database: PathBuf,
    /// The writes of the connection, where the database is a replica.
    pub writing: Option<Arc<Mutex<Writing>>>,
    /// Whether it is encrypted, and then what connects the two files, with the log to be.
    pub sealed: Option<(Arc<Link>, SealedLog)>,
}

/// How the log of an open database file is to be opened; `None` for one that we leave alone.
///
/// # Safety
/// `file` is null or an open file of any VFS.
pub unsafe fn log_of(file: *mut sqlite3_file) -> Result<Option<LogOpening>> {
    // SAFETY: the caller's promise.
    if !unsafe { is_ours(file) } {
        return Ok(None);
    }
    // SAFETY: our method table proves that the file is ours.
    let Kind::Main(main) = (unsafe { &mut opened(file).kind }) else {
        return Ok(None);
    };
    let (writing, link) = (main.writing().cloned(), Arc::clone(main.link()));
    let vfs = main.vfs();
    let database = main.path().to_owned();
    let sealed = match main.sealed() {
        None => None,
        Some(sealed) => {
            let size = sealed
                .page_size()
                .ok_or_else(|| Error::Corrupt("the encrypted database is empty".to_owned()))?;
            let header = sealed.header();
            let keys = Arc::clone(sealed.keys());
            let log = SealedLog::new(keys, header.id(), size, header.backfill());
            Some((link, log))
        }
    };
    match writing.is_some() || sealed.is_some() {
        true => Ok(Some(LogOpening {
            vfs,
            database,
            writing,
            sealed,
        })),
        false => Ok(None),
    }
}

/// The rollback journal of an open database file; `None` where that is not encrypted.
///
/// # Safety
/// `file` is null or an open file of any VFS.
pub unsafe fn journal_of(file: *mut sqlite3_file) -> Option<(SealedBlocks, Arc<Link>)> {
    // SAFETY: the caller's promise.
    if !unsafe { is_ours(file) } {
        return None;
    }
    // SAFETY: our method table proves that the file is ours.
    let Kind::Main(main) = (unsafe { &mut opened(file).kind }) else {
        return None;
    };
    let link = Arc::clone(main.link());
    let sealed = main.sealed()?;
    let header = sealed.header();
    let blocks = SealedBlocks::journal(Arc::clone(sealed.keys()), header.id(), header.rollback());
    Some((blocks, link))
}

/// Finds out what an open database file is, where that was left to the first access.
///
/// # Safety
/// `file` is null or an open file of any VFS.
pub unsafe fn prepare(file: *mut sqlite3_file) -> Result<()> {
    // SAFETY: the caller's promise.
    if !unsafe { is_ours(file) } {
        return Ok(());
    }
    // SAFETY: our method table proves that the file is ours.
    let open = unsafe { opened(file) };
    match (&mut open.kind, &open.base) {
        (Kind::Main(main), base) => main.prepare(base.as_ref()).map(drop),
        _ => Ok(()),
    }
}

/// # Safety
/// `file` is an open file of ours, used by no other thread meanwhile (SQLite's rule).
unsafe fn opened<'a>(file: *mut sqlite3_file) -> &'a mut OpenFile {
    // SAFETY: install() put a valid pointer there and only close() takes it away.
    unsafe { &mut *(*file.cast::<ReplicaFile>()).open }
}

impl OpenFile {
    /// The database whose file it is, or beside which it lies.
    fn database(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Main(main) => Some(main.path()),
            Kind::Log(log) => Some(&log.database),
            Kind::Blocks(_, link) => link.as_deref().map(Link::database),
            Kind::Super(_) => None,
        }
    }

    /// Has an error say which database it is about.
    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match self.database() {
            Some(path) => error.about(path),
            None => error,
        })
    }

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
        let Kind::Main(main) = &mut self.kind else {
            return Ok(());
        };
        if main.prepare(self.base.as_ref())?
            && let Some(replica) = main.replica()
            && !replica.is_made()?
        {
            // What is there is no replica yet, and perhaps never.
            self.base = None;
        }
        if self.base.is_none() {
            if let Some(replica) = main.replica() {
                main.may_make(replica)?;
                replica.make()?;
            }
            self.base = Some(main.open_base()?.0);
        }
        main.begin_following()
    }

    fn lock(&mut self, level: c_int) -> c_int {
        if let Err(error) = self.make() {
            last_error::note(&error);
            return match error.code() & 0xff {
                code @ (sqlite::SQLITE_NOMEM | sqlite::SQLITE_AUTH | sqlite::SQLITE_NOTADB) => code,
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
        let code = self.forward(
            |m| m.xLock,
            |f, file| unsafe { f(file, level) },
            sqlite::SQLITE_CANTOPEN,
        );
        let (sqlite::SQLITE_OK, Kind::Main(main), Some(base)) = (code, &mut self.kind, &self.base)
        else {
            return code;
        };
        let held = main.level();
        main.set_level(level.max(held));
        // Nobody can have written since RESERVED was taken, and that could not be given back.
        if held < sqlite::SQLITE_LOCK_RESERVED
            && let Err(error) = main.locked(base, level)
        {
            let error = error.about(main.path());
            last_error::note(&error);
            // A lock that is refused was not taken.
            let before = match level {
                sqlite::SQLITE_LOCK_SHARED => sqlite::SQLITE_LOCK_NONE,
                _ => sqlite::SQLITE_LOCK_SHARED,
            };
            // SAFETY: gives back what was just taken.
            base.call(|m| m.xUnlock, |f, file| unsafe { f(file, before) });
            main.set_level(before);
            return error.code();
        }
        code
    }

    fn unlock(&mut self, level: c_int) -> c_int {
        if let (Kind::Main(main), Some(base)) = (&mut self.kind, &self.base) {
            if let Err(error) = main.end_write(base) {
                last_error::note(&error);
            }
            main.set_level(level.min(main.level()));
        }
        // SAFETY: forwards SQLite's own arguments.
        self.forward(
            |m| m.xUnlock,
            |f, file| unsafe { f(file, level) },
            sqlite::SQLITE_OK,
        )
    }

    /// What is read without locks is found out at the first read of a page.
    fn make_immutable(&mut self) -> Result<()> {
        match &self.kind {
            Kind::Main(main) if main.may_be_sealed() && main.is_immutable() => {}
            _ => return Ok(()),
        }
        self.make()?;
        match (&mut self.kind, &self.base) {
            (Kind::Main(main), Some(base)) => main.find_header(base),
            _ => Ok(()),
        }
    }

    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        // Before a key may have come SQLite looks at the first 100 bytes.
        if offset > 0 || buffer.len() > FILE_HEADER {
            self.make_immutable()?;
        }
        match (&mut self.kind, &self.base) {
            (Kind::Main(main), base) => main_file::read_sealed(main, base.as_ref(), buffer, offset),
            (Kind::Log(log), Some(base)) => log.beneath(base).read(buffer, offset),
            (Kind::Blocks(blocks, _), Some(base)) => blocks.read(base, buffer, offset),
            (Kind::Super(names), _) => Ok(names.read(buffer, offset)),
            (_, None) => Ok(0),
        }
    }

    /// Whether calls only pass through.
    fn is_plain(&self) -> bool {
        match &self.kind {
            Kind::Main(main) => !main.is_sealed() && self.base.is_some(),
            Kind::Log(log) => log.sealed.is_none(),
            Kind::Blocks(..) | Kind::Super(_) => false,
        }
    }

    fn write_through(&mut self, data: &[u8], offset: u64) -> Result<()> {
        let Some(base) = &self.base else {
            return Err(Error::Internal("a write before there is a file".to_owned()));
        };
        match &mut self.kind {
            Kind::Main(main) if main.checkpointing() => main.write_copied(base, data, offset),
            Kind::Main(main) => main.write_changed(base, data, offset),
            Kind::Log(log) => match &log.writing {
                Some(writing) => writing.lock().write(&log.beneath(base), data, offset),
                None => log.beneath(base).write(data, offset),
            },
            Kind::Super(names) => names.write(base, data, offset),
            Kind::Blocks(blocks, link) => {
                blocks.write(base, data, offset)?;
                if let Some(link) = link {
                    link.journal_written(blocks.as_journal());
                }
                Ok(())
            }
        }
    }

    fn write(&mut self, data: *const c_void, amount: c_int, offset: sqlite3_int64) -> c_int {
        match &self.kind {
            Kind::Main(main) if main.follows() && !main.checkpointing() => {
                return main.refuse_write();
            }
            _ => {}
        }
        let is_writing = matches!(&self.kind, Kind::Log(log) if log.writing.is_some());
        if is_writing || !self.is_plain() {
            // SAFETY: SQLite's data has `amount` bytes.
            let data = unsafe { std::slice::from_raw_parts(data.cast(), amount as usize) };
            let written = self.write_through(data, offset as u64);
            return match self.named(written) {
                // A transaction that is to be run again. With SQLITE_BUSY alone SQLite would keep it
                // open, with a log that cannot be continued.
                Err(error) if is_writing && error.code() == sqlite::SQLITE_BUSY => {
                    last_error::note(&error);
                    sqlite::SQLITE_BUSY_SNAPSHOT
                }
                result => code_of(result),
            };
        }
        // SAFETY: forwards SQLite's own arguments.
        self.forward(
            |m| m.xWrite,
            |f, file| unsafe { f(file, data, amount, offset) },
            sqlite::SQLITE_IOERR_WRITE,
        )
    }

    fn truncate_sealed(&mut self, size: u64) -> Result<()> {
        let Some(base) = &self.base else {
            return Ok(());
        };
        match &mut self.kind {
            Kind::Main(main) => main.truncate(base, size),
            Kind::Log(log) => match &log.sealed {
                Some(link) => link.with(|log| log.truncate(base, size)),
                None => RawFile::truncate(base, size),
            },
            Kind::Super(_) => Ok(()),
            Kind::Blocks(blocks, link) => {
                blocks.truncate(base, size)?;
                if let Some(link) = link {
                    link.journal_written(blocks.as_journal());
                }
                Ok(())
            }
        }
    }

    fn size_sealed(&mut self) -> Result<u64> {
        self.make_immutable()?;
        let Some(base) = &self.base else {
            return Ok(0);
        };
        match &mut self.kind {
            Kind::Main(main) => match main.sealed() {
                Some(sealed) => sealed.size(base),
                None => Ok(0),
            },
            Kind::Log(log) => match &log.sealed {
                Some(link) => link.size(base),
                None => RawFile::size(base),
            },
            Kind::Blocks(blocks, _) => blocks.size(base),
            Kind::Super(names) => Ok(names.size()),
        }
    }

    fn before_sync(&mut self) -> Result<()> {
        match (&mut self.kind, &self.base) {
            (Kind::Main(main), Some(base)) => match main.sealed() {
                Some(sealed) => sealed.before_sync(base),
                None => Ok(()),
            },
            (Kind::Log(log), Some(base)) => match &log.sealed {
                Some(link) => link.with(|log| log.flush(base)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn after_sync(&mut self) -> Result<()> {
        match (&mut self.kind, &self.base) {
            (Kind::Main(main), Some(base)) => match main.sealed() {
                Some(sealed) => sealed.after_sync(base),
                None => Ok(()),
            },
            (Kind::Blocks(_, Some(link)), _) => {
                link.journal_synced();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn sync(&mut self, flags: c_int) -> c_int {
        if let (Kind::Log(log), Some(base)) = (&self.kind, &self.base)
            && let Some(writing) = &log.writing
        {
            return code_of(writing.lock().sync(&log.beneath(base)));
        }
        let ready = self.before_sync();
        if ready.is_err() {
            return code_of(self.named(ready));
        }
        // SAFETY: forwards SQLite's own arguments.
        let code = self.forward(
            |m| m.xSync,
            |f, file| unsafe { f(file, flags) },
            sqlite::SQLITE_OK,
        );
        if code == sqlite::SQLITE_OK {
            let noted = self.after_sync();
            return code_of(self.named(noted));
        }
        if let Kind::Main(main) = &mut self.kind {
            main.sync_failed();
        }
        code
    }

    fn shm_lock(&mut self, offset: c_int, count: c_int, flags: c_int) -> c_int {
        let mask = (((1_u32 << count) - 1) << offset) as u8;
        let begins = match &self.kind {
            Kind::Main(main) if main.begins_write(mask, flags) => {
                main.keep_pace();
                main.writing().cloned()
            }
            _ => None,
        };
        if let (Some(writing), Kind::Main(main)) = (&begins, &self.kind)
            && let Err(error) = prepare_write(main, writing)
        {
            let error = error.about(main.path());
            last_error::note(&error);
            return error.code();
        }
        if let Kind::Main(main) = &self.kind
            && main.ends_write(mask, flags)
            && let Some(writing) = main.writing()
        {
            writing.lock().end();
        }
        if let (Kind::Main(main), Some(base)) = (&mut self.kind, &self.base)
            && main.ends_checkpoint(mask, flags)
            && let Err(error) = main.end_checkpoint(base)
        {
            last_error::note(&error);
        }
        // SAFETY: forwards SQLite's own arguments.
        let code = self.forward(
            |m| m.xShmLock,
            |f, file| unsafe { f(file, offset, count, flags) },
            sqlite::SQLITE_IOERR_SHMLOCK,
        );
        let (sqlite::SQLITE_OK, Kind::Main(main), Some(base)) = (code, &mut self.kind, &self.base)
        else {
            if let (Some(_), Kind::Main(main)) = (&begins, &self.kind) {
                main.disclaim_connection();
            }
            return code;
        };
        let ended = main.ends_write(mask, flags);
        main.note_slots(mask, flags);
        if ended {
            main.written();
        }
        if ended && let Some(writing) = main.writing() {
            writing.lock().ended();
            main.disclaim_connection();
        }
        let changed = main.slots_changed(base, mask, flags);
        let begun = match &begins {
            Some(writing) => changed.and_then(|()| writing.lock().begin()),
            None => changed,
        };
        let Err(error) = begun else {
            return code;
        };
        let error = error.about(main.path());
        last_error::note(&error);
        // A lock that is refused was not taken.
        let back = flags & !sqlite::SQLITE_SHM_LOCK | sqlite::SQLITE_SHM_UNLOCK;
        // SAFETY: gives back what was just taken.
        base.call(
            |m| m.xShmLock,
            |f, file| unsafe { f(file, offset, count, back) },
        );
        main.note_slots(mask, back);
        if let Some(writing) = begins {
            writing.lock().abandon();
            main.disclaim_connection();
        }
        error.code()
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
                sqlite::SQLITE_FCNTL_PDB => {
                    main.belongs_to(argument.cast());
                    // SAFETY: for this operation SQLite passes a pointer to the handle.
                    let db = unsafe { *argument.cast() };
                    if main.may_follow() {
                        // SAFETY: the handle is the connection that is opening the file.
                        unsafe { give_busy_timeout(db, main.name()) };
                    }
                }
                SQLITE_FCNTL_CKPT_START => main.set_checkpointing(true),
                SQLITE_FCNTL_CKPT_DONE => {
                    main.set_checkpointing(false);
                    if let (Some(base), Some(sealed)) = (&self.base, main.sealed())
                        && let Err(error) = sealed.some_copied(base)
                    {
                        return code_of(Err(error));
                    }
                }
                // A transaction ends; without a sync, and perhaps without giving its lock back.
                sqlite::SQLITE_FCNTL_COMMIT_PHASETWO => {
                    if let Some(base) = &self.base
                        && let Err(error) = main.end_write(base)
                    {
                        last_error::note(&error);
                    }
                }
                // All pages of a transaction are written, whether they are synced then or not.
                sqlite::SQLITE_FCNTL_SYNC => {
                    if let Some(base) = &self.base
                        && let Err(error) = main.all_written(base)
                    {
                        return code_of(Err(error));
                    }
                }
                _ => {}
            }
        }
        if !self.is_plain() {
            match operation {
                // In terms of the plain file; hints that may be left out.
                sqlite::SQLITE_FCNTL_SIZE_HINT | sqlite::SQLITE_FCNTL_CHUNK_SIZE => {
                    return sqlite::SQLITE_OK;
                }
                sqlite::SQLITE_FCNTL_MMAP_SIZE
                | sqlite::SQLITE_FCNTL_BEGIN_ATOMIC_WRITE
                | sqlite::SQLITE_FCNTL_COMMIT_ATOMIC_WRITE
                | sqlite::SQLITE_FCNTL_ROLLBACK_ATOMIC_WRITE => return sqlite::SQLITE_NOTFOUND,
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

/// Before the write lock of a replica is taken.
fn prepare_write(main: &MainFile, writing: &Mutex<Writing>) -> Result<()> {
    main.claim_connection()?;
    match writing.lock().prepare() {
        Ok(true) if main.reads() => {
            // What SQLite is about to find out by itself.
            last_error::note(&Error::Conflict(format!(
                "{}: newer content came from the primary: the transaction has to begin again",
                main.path().display()
            )));
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) => {
            main.disclaim_connection();
            Err(error)
        }
    }
}

/// What SQLite is told of a result.
fn code_of(result: Result<()>) -> c_int {
    match result {
        Ok(()) => sqlite::SQLITE_OK,
        Err(error) => {
            last_error::note(&error);
            error.code()
        }
    }
}

/// # Safety
/// `db` is the connection that is opening a file of ours, under this name.
unsafe fn give_busy_timeout(db: *mut sqlite::sqlite3, name: *const c_char) {
    // SAFETY: the caller's promise. Where main is another file this is an ATTACH, and the connection's
    // own setting stays.
    unsafe {
        let main = sqlite::sqlite3_db_filename(db, c"main".as_ptr());
        if main.is_null() || std::ptr::eq(main, name) {
            sqlite::sqlite3_busy_timeout(db, BUSY_TIMEOUT_MS);
        }
    }
}

// Not in the bindings of the oldest SQLite we support; numbers of sqlite3.h.
const SQLITE_FCNTL_CKPT_DONE: c_int = 37;
const SQLITE_FCNTL_CKPT_START: c_int = 39;

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    guard(sqlite::SQLITE_IOERR_CLOSE, || {
        let memory = file.cast::<ReplicaFile>();
        // SAFETY: SQLite closes a file once; install() made the box.
        let open = unsafe { Box::from_raw((*memory).open) };
        // SAFETY: the memory is SQLite's and stays valid; null methods mean closed.
        unsafe { (*memory).methods = std::ptr::null() };
        if let Kind::Blocks(_, Some(link)) = &open.kind {
            link.journal_closed();
        }
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
    if open.is_plain() {
        // SAFETY: forwards SQLite's own arguments.
        return open.forward(
            |m| m.xRead,
            |f, file| unsafe { f(file, buffer, amount, offset) },
            sqlite::SQLITE_IOERR_READ,
        );
    }
    guard(sqlite::SQLITE_IOERR_READ, || {
        // SAFETY: the buffer has `amount` bytes.
        let buffer =
            unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount as usize) };
        let read = open.read(buffer, offset as u64);
        match open.named(read) {
            Ok(read) if read == buffer.len() => sqlite::SQLITE_OK,
            // A short read must zero what is missing.
            Ok(read) => {
                buffer[read..].fill(0);
                sqlite::SQLITE_IOERR_SHORT_READ
            }
            Err(error) => code_of(Err(error)),
        }
    })
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
    // SAFETY: SQLite's call on an open file of ours.
    let open = unsafe { opened(file) };
    if !open.is_plain() {
        return guard(sqlite::SQLITE_IOERR_TRUNCATE, || {
            let cut = open.truncate_sealed(size as u64);
            code_of(open.named(cut))
        });
    }
    // SAFETY: arguments forwarded.
    open.forward(
        |m| m.xTruncate,
        |f, file| unsafe { f(file, size) },
        sqlite::SQLITE_IOERR_TRUNCATE,
    )
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    guard(sqlite::SQLITE_IOERR_FSYNC, || {
        // SAFETY: SQLite's call on an open file of ours.
        unsafe { opened(file) }.sync(flags)
    })
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    // SAFETY: the out-parameter is valid, and set even when nothing is forwarded.
    unsafe { *size = 0 };
    // SAFETY: SQLite's call on an open file of ours.
    let open = unsafe { opened(file) };
    if !open.is_plain() {
        return guard(sqlite::SQLITE_IOERR_FSTAT, || {
            let bytes = open.size_sealed();
            code_of(open.named(bytes).map(|bytes| {
                // SAFETY: as above.
                unsafe { *size = bytes as i64 };
            }))
        });
    }
    // SAFETY: arguments forwarded.
    open.forward(
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
    // SAFETY: SQLite's call on an open file of ours.
    guard(sqlite::SQLITE_IOERR_UNLOCK, || {
        unsafe { opened(file) }.unlock(level)
    })
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
        // Sealed pages are no sectors: nothing is written atomically. Frames must not be padded.
        _ if !open.is_plain() => sqlite::SQLITE_IOCAP_POWERSAFE_OVERWRITE,
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
    // SAFETY: SQLite's call on an open file of ours.
    let open = unsafe { opened(file) };
    let code = open.forward(
        |m| m.xShmMap,
        // SAFETY: arguments forwarded.
        |f, file| unsafe { f(file, region, size, extend, address) },
        sqlite::SQLITE_IOERR_SHMMAP,
    );
    if let (sqlite::SQLITE_OK, 0, Kind::Main(main)) = (code, region, &mut open.kind) {
        // SAFETY: on success the out-parameter is set: null where there is no such region yet.
        main.note_index(unsafe { *address });
    }
    code
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
    // SAFETY: SQLite's call on an open file of ours.
    let open = unsafe { opened(file) };
    if let Kind::Main(main) = &mut open.kind {
        main.note_index(std::ptr::null());
    }
    open.forward(
        |m| m.xShmUnmap,
        // SAFETY: arguments forwarded.
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
    // SAFETY: SQLite's call on an open file of ours.
    let open = unsafe { opened(file) };
    if !open.is_plain() {
        return sqlite::SQLITE_OK;
    }
    // SAFETY: arguments forwarded.
    open.forward(
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
