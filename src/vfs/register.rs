//! The VFS `replica` itself: what SQLite calls before there is a file.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use libsqlite3_sys as sqlite;
use sqlite::{sqlite3_file, sqlite3_vfs};

use super::base::{BaseFile, BaseVfs, FileName, NamePart};
use super::file::{self, Kind, LogOpening, ReplicaFile};
use super::host::{self, SqliteHost};
use super::log_file::{Link, LogFile};
use super::main_file::{self, MainFile, Opening};
use super::memory::{self, directory};
use super::super_file::{self, SuperFile};
use super::{temporary, unlock};
use crate::crypt::blocks::SealedBlocks;
use crate::crypt::header::Rollback;
use crate::crypt::key::Keys;
use crate::database::host::Host;
use crate::database::settings::{NAMES, Settings, Storage};
use crate::database::{fork, keys, paths};
use crate::error::{Error, Result};
use crate::ffi::{self, guard};
use crate::last_error;
use crate::remote;
use crate::replica::registry;

/// The name under which the VFS is found.
pub const NAME: &str = "replica";
pub(super) const C_NAME: &CStr = c"replica";

struct Registered {
    base: BaseVfs,
    /// In place of it for databases without files.
    memory: BaseVfs,
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
    if !ffi::call_around_forks(fork::before, fork::after) {
        return Err(Error::Internal("forks cannot be noticed".to_owned()));
    }
    let memory = memory::register(base)?;
    let host = Arc::new(SqliteHost::new(base, memory));
    let vfs = Box::new(definition(base, memory));
    let registered = REGISTERED.get_or_init(|| Registered {
        base,
        memory,
        host,
        vfs,
    });
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

fn definition(base: BaseVfs, memory: BaseVfs) -> sqlite3_vfs {
    let size = c_int::try_from(size_of::<ReplicaFile>()).unwrap_or(c_int::MAX);
    let beneath = base.definition().szOsFile.max(memory.definition().szOsFile);
    sqlite3_vfs {
        szOsFile: size.max(beneath),
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

/// Opens what belongs to a database without files, or may hold some of its content: what SQLite makes
/// for itself. `None` for any other file.
///
/// # Safety
/// The arguments of SQLite's xOpen.
unsafe fn open_in_memory(
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> Option<c_int> {
    let memory = REGISTERED.get()?.memory;
    // SAFETY: SQLite's own name.
    let is_beside = || unsafe { has_in_memory(name) };
    if !directory::any() || !temporary::is_one(flags) && !is_beside() {
        return None;
    }
    let open = memory.definition().xOpen?;
    // SAFETY: forwards SQLite's own arguments; szOsFile is large enough.
    Some(unsafe { open(memory.as_ptr(), name, file, flags, out_flags) })
}

/// Whether a name is that of an open database without files, or of what lies beside it.
///
/// # Safety
/// `name` is null or a NUL-terminated name.
unsafe fn has_in_memory(name: *const c_char) -> bool {
    // SAFETY: the caller's promise.
    !name.is_null()
        && unsafe { CStr::from_ptr(name) }
            .to_str()
            .is_ok_and(directory::has)
}

/// The VFS of the file of that name.
///
/// # Safety
/// `vfs` is the structure made by [`definition`], `name` null or a NUL-terminated name.
unsafe fn beneath(vfs: *mut sqlite3_vfs, name: *const c_char) -> *mut sqlite3_vfs {
    match REGISTERED.get() {
        // SAFETY: the caller's promise.
        Some(registered) if unsafe { has_in_memory(name) } => registered.memory.as_ptr(),
        // SAFETY: the caller's promise.
        _ => unsafe { base_of(vfs) },
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
            match unsafe { file::log_of(main) } {
                // SAFETY: SQLite's own arguments.
                Ok(Some(opening)) => {
                    return answer(unsafe { open_log(opening, name, file, flags, out_flags) });
                }
                Ok(None) => {}
                Err(error) => return answer(Err(error)),
            }
        }
        // SAFETY: SQLite's own arguments.
        if let Some(opened) = unsafe { open_in_memory(name, file, flags, out_flags) } {
            return opened;
        }
        if temporary::is_one(flags) && keys::any() {
            // SAFETY: SQLite's own arguments.
            return answer(unsafe { open_temporary(name, file, flags, out_flags) });
        }
        if flags & sqlite::SQLITE_OPEN_MAIN_JOURNAL != 0 {
            // SAFETY: SQLite opens a journal with a name derived from an open main database.
            let main = unsafe { sqlite::sqlite3_database_file_object(name) };
            // SAFETY: that is an open file, of ours or of another VFS.
            if let Some(journal) = unsafe { file::journal_of(main) } {
                // SAFETY: SQLite's own arguments.
                return answer(unsafe { open_journal(journal, name, file, flags, out_flags) });
            }
        }
        if flags & sqlite::SQLITE_OPEN_SUPER_JOURNAL != 0 && keys::any() {
            // SAFETY: SQLite's own arguments; a super-journal, and what it names, has a name.
            let opened = match unsafe { database_of(name, JOURNAL.0) } {
                Some(database) => unsafe { open_named_journal(&database, file, flags, out_flags) },
                None => unsafe { open_super(name, file, flags, out_flags) },
            };
            match opened {
                Ok(false) => {}
                opened => return answer(opened.map(drop)),
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
    let path = unsafe { path_of(name) };
    let internal = host::opening_internally();
    // SAFETY: the name of a main database carries its URI parameters.
    let (main, later) = match internal {
        true => {
            let mut main = MainFile::new(registered.base, name, flags, path, true);
            main.open_later(Opening::Internal);
            (main, false)
        }
        false => unsafe { host_main(registered, name, flags, path) }?,
    };
    let (base, opened_flags) = match later {
        true => (None, flags),
        false => main.open_base().map(|(base, flags)| (Some(base), flags))?,
    };
    let kind = Kind::Main(Box::new(main));
    // SAFETY: SQLite's own arguments.
    unsafe { installed(file, (base, opened_flags), kind, out_flags) };
    Ok(())
}

/// A database that the host opens, and whether its file is opened at the first access only.
///
/// # Safety
/// `name` is the name of a main database, from SQLite.
unsafe fn host_main(
    registered: &Registered,
    name: *const c_char,
    flags: c_int,
    path: PathBuf,
) -> Result<(MainFile, bool)> {
    // SAFETY: the caller's promise.
    let settings = unsafe { uri_settings(name) }?;
    let known = registry::secrets(&path);
    if settings.storage.or(known.storage) == Some(Storage::Memory) {
        // SAFETY: the caller's promise.
        let main = unsafe { memory_main(registered, name, flags, &path, settings.or(known)) };
        return main;
    }
    if path.to_str().is_some_and(directory::has) {
        return Err(Error::CannotOpen(format!(
            "{} is open in this process as a replica in memory: open it with storage=memory",
            path.display()
        )));
    }
    // SAFETY: as above.
    let immutable = unsafe { sqlite::sqlite3_uri_boolean(name, c"immutable".as_ptr(), 0) } != 0;
    if let Some(url) = &settings.sync_url {
        may_follow(&path, immutable, flags & sqlite::SQLITE_OPEN_CREATE != 0)?;
        // Says at once what could never be followed; no connection is made yet.
        remote::check(url, settings.ca_file.as_deref())?;
    }
    let keyed = settings.key.is_some()
        || registry::secrets(&path).key.is_some()
        || Settings::from_environment().key.is_some();
    let there = registered.host.exists(&path)?;
    // With a key the first access finds it out.
    let sealed = match keyed && there {
        true => Some(true),
        false => unlock::is_sealed(registered.base, &path)?,
    };
    let found_sealed = sealed == Some(true);
    if keyed || found_sealed {
        // SAFETY: the caller's promise.
        unsafe { main_file::refuse_nolock(name, &path) }?;
    }
    let mut main = MainFile::new(registered.base, name, flags, path.clone(), found_sealed);
    main.count();
    if keyed || sealed != Some(false) {
        // A key may still come, or is to be tried.
        let follows = settings.sync_url.is_some() || sealed.is_some();
        main.open_later(Opening::Host(Box::new(settings)));
        return Ok((main, !there && follows));
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
    main.follow(replica);
    Ok((main, later))
}

/// A replica that has no files.
///
/// # Safety
/// `name` is the name of a main database, from SQLite.
unsafe fn memory_main(
    registered: &Registered,
    name: *const c_char,
    flags: c_int,
    path: &Path,
    settings: Settings,
) -> Result<(MainFile, bool)> {
    // SAFETY: the caller's promise.
    let immutable = unsafe { sqlite::sqlite3_uri_boolean(name, c"immutable".as_ptr(), 0) } != 0;
    if immutable || settings.key.is_some() {
        return Err(Error::CannotOpen(format!(
            "{}: a replica in memory takes neither a key nor immutable=1",
            path.display()
        )));
    }
    if let Some(url) = &settings.sync_url {
        remote::check(url, settings.ca_file.as_deref())?;
    }
    let opened = directory::Opened::new(path)?;
    let path = directory::path_of(path);
    let mut main = MainFile::new(registered.memory, name, flags, path.clone(), false);
    main.count();
    main.without_files(opened);
    let Some(replica) = registry::attach(&registered.host, &path, settings)? else {
        return Err(Error::CannotOpen(format!(
            "{}: storage=memory keeps a replica, and needs a sync_url",
            path.display()
        )));
    };
    let later = !replica.is_made()?;
    main.follow(Some(replica));
    Ok((main, later))
}

/// # Safety
/// `name` is a NUL-terminated name.
unsafe fn path_of(name: *const c_char) -> PathBuf {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    PathBuf::from(name.into_owned())
}

/// Refuses, before anything is made, what could never read a replica.
pub(super) fn may_follow(path: &Path, immutable: bool, creates: bool) -> Result<()> {
    if immutable {
        return Err(Error::CannotOpen(format!(
            "{} is a replica, which changes: immutable=1 would read it without locks and without \
             its log; mode=ro reads it only",
            path.display()
        )));
    }
    let host = host()?;
    if !creates && !host.exists(path)? && !host.store_exists(path)? {
        return Err(Error::CannotOpen(format!(
            "{} does not exist, and this connection may not create it",
            path.display()
        )));
    }
    Ok(())
}

/// What SQLite appends to the name of a database for its log, and for its journal.
const LOG: (&str, NamePart) = ("-wal", NamePart::Log);
const JOURNAL: (&str, NamePart) = (super_file::JOURNAL, NamePart::Journal);

/// The encrypted database that this process has open, where `name` is that of its log or journal.
///
/// # Safety
/// `name` is null or a NUL-terminated name.
unsafe fn sealed_beside(
    name: *const c_char,
    (suffix, _): (&str, NamePart),
) -> Option<(PathBuf, Arc<Keys>)> {
    if !keys::any() {
        return None;
    }
    // SAFETY: the caller's promise.
    let database = unsafe { database_of(name, suffix) }?;
    let keys = keys::find(&database)?;
    Some((database, keys))
}

/// Installs an open file of ours.
///
/// # Safety
/// `file` and `out_flags` are arguments of SQLite's xOpen.
unsafe fn installed(
    file: *mut sqlite3_file,
    (base, opened_flags): (Option<BaseFile>, c_int),
    kind: Kind,
    out_flags: *mut c_int,
) {
    // SAFETY: SQLite gave us szOsFile bytes; the out-parameter may be null.
    unsafe {
        file::install(file, base, kind);
        if let Some(out) = out_flags.as_mut() {
            *out = opened_flags;
        }
    }
}

/// # Safety
/// The arguments of SQLite's xOpen for a log.
unsafe fn open_log(
    opening: LogOpening,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> Result<()> {
    let registered = REGISTERED.get().ok_or_else(not_loaded)?;
    let ((base, opened_flags), sealed) = match opening.sealed {
        // SAFETY: SQLite keeps the name until it closes the file.
        None => (unsafe { opening.vfs.open(name, flags) }?, None),
        Some((link, log)) => {
            // SAFETY: SQLite derived the name from that of the database.
            let name = unsafe { sealed_name(name, LOG) }?;
            let opened = registered.base.open_path(name, NamePart::Log, flags)?;
            link.open(log);
            ((opened, flags), Some(link))
        }
    };
    let kind = Kind::Log(LogFile {
        database: opening.database,
        writing: opening.writing,
        sealed,
    });
    // SAFETY: SQLite's own arguments.
    unsafe { installed(file, (Some(base), opened_flags), kind, out_flags) };
    Ok(())
}

/// # Safety
/// The arguments of SQLite's xOpen for a temporary file.
unsafe fn open_temporary(
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> Result<()> {
    let registered = REGISTERED.get().ok_or_else(not_loaded)?;
    let (keys, id) = (unlock::ephemeral()?, registered.host.random()?);
    let blocks = SealedBlocks::new(keys, id, super::sealed::SCRATCH_BLOCK);
    // SAFETY: SQLite keeps the name, if there is one, until it closes the file.
    let (base, opened_flags) = unsafe { registered.base.open(name, flags) }?;
    let kind = Kind::Blocks(Box::new(blocks), None);
    // SAFETY: SQLite's own arguments.
    unsafe { installed(file, (Some(base), opened_flags), kind, out_flags) };
    Ok(())
}

/// # Safety
/// The arguments of SQLite's xOpen for a rollback journal.
unsafe fn open_journal(
    (mut blocks, link): (SealedBlocks, Arc<Link>),
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> Result<()> {
    let registered = REGISTERED.get().ok_or_else(not_loaded)?;
    // SAFETY: SQLite derived the name from that of the database.
    let sealed = unsafe { sealed_name(name, JOURNAL) }?;
    let base = registered
        .base
        .open_path(sealed, NamePart::Journal, flags)?;
    blocks.recognise(&base)?;
    if let Some(named) = blocks.hidden_super(&base)?
        && registered.host.exists(Path::new(&named))?
    {
        blocks.show_super();
    }
    link.journal_opened(blocks.as_journal());
    let kind = Kind::Blocks(Box::new(blocks), Some(link));
    // SAFETY: SQLite's own arguments.
    unsafe { installed(file, (Some(base), flags), kind, out_flags) };
    Ok(())
}

/// Opens the journal of an encrypted database that a super-journal names: SQLite looks whether it
/// belongs to that still. False for any other file.
///
/// # Safety
/// The arguments of SQLite's xOpen.
unsafe fn open_named_journal(
    database: &Path,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> Result<bool> {
    let registered = REGISTERED.get().ok_or_else(not_loaded)?;
    if !registered.host.exists(&paths::sealed_journal(database))? {
        return Ok(false);
    }
    let Some(id) = unlock::file_id(registered.base, database)? else {
        return Ok(false);
    };
    // It was open when the super-journal was read.
    let keys = keys::find(database).ok_or_else(|| {
        Error::CannotOpen(format!(
            "{} took part in a transaction that was interrupted: open it first, or once more",
            database.display()
        ))
    })?;
    let sealed = FileName::sealed(database)?;
    let base = registered.base.open_path(
        sealed,
        NamePart::Journal,
        sqlite::SQLITE_OPEN_READONLY | sqlite::SQLITE_OPEN_MAIN_JOURNAL,
    )?;
    let blocks = SealedBlocks::journal(keys, id, Rollback::NotNeeded);
    let kind = Kind::Blocks(Box::new(blocks), None);
    // SAFETY: SQLite's own arguments.
    unsafe { installed(file, (Some(base), flags), kind, out_flags) };
    Ok(true)
}

/// Opens a super-journal, to write it or to read what a crash has left. False for one that SQLite is to
/// read as it is.
///
/// # Safety
/// The arguments of SQLite's xOpen.
unsafe fn open_super(
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> Result<bool> {
    let registered = REGISTERED.get().ok_or_else(not_loaded)?;
    // SAFETY: a super-journal has a name.
    let Ok(path) = unsafe { CStr::from_ptr(name) }.to_str() else {
        return Ok(false);
    };
    // SAFETY: SQLite keeps the name until it closes the file.
    let opened = unsafe { registered.base.open(name, flags) }?;
    let names = match flags & sqlite::SQLITE_OPEN_CREATE != 0 {
        true => Some(SuperFile::new(registered.base, path.to_owned())),
        false => SuperFile::left(registered.base, path.to_owned(), &opened.0)?,
    };
    let Some(names) = names else {
        return Ok(false);
    };
    // SAFETY: SQLite's own arguments.
    unsafe {
        installed(
            file,
            (Some(opened.0), opened.1),
            Kind::Super(names),
            out_flags,
        )
    };
    Ok(true)
}

/// The database whose log or journal, by its suffix, SQLite calls `name`; `None` where that is none.
///
/// # Safety
/// `name` is null or a NUL-terminated name.
unsafe fn database_of(name: *const c_char, suffix: &str) -> Option<PathBuf> {
    if name.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
    name.strip_suffix(suffix).map(PathBuf::from)
}

/// The names of an encrypted database whose log or journal SQLite calls `name`.
///
/// # Safety
/// `name` is a NUL-terminated name.
unsafe fn sealed_name(name: *const c_char, (suffix, _): (&str, NamePart)) -> Result<FileName> {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    FileName::sealed(Path::new(name.strip_suffix(suffix).unwrap_or(&name)))
}

/// Calls with the name under which the log or journal of an encrypted database lies on disk, and
/// with SQLite's own for every other file.
///
/// # Safety
/// `name` is null or a NUL-terminated name.
unsafe fn with_disk_name(name: *const c_char, call: impl FnOnce(*const c_char) -> c_int) -> c_int {
    for part in [LOG, JOURNAL] {
        // SAFETY: the caller's promise.
        if let Some((database, _)) = unsafe { sealed_beside(name, part) } {
            return match FileName::sealed_part(&database, part.1) {
                Ok(name) => call(name.as_ptr()),
                Err(error) => answer(Err(error)),
            };
        }
    }
    call(name)
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    guard(sqlite::SQLITE_IOERR_DELETE, || {
        // SAFETY: forwards SQLite's own arguments to the VFS that ours was made from.
        unsafe {
            let base = beneath(vfs, name);
            with_disk_name(name, |name| {
                (*base)
                    .xDelete
                    .map_or(sqlite::SQLITE_IOERR_DELETE, |call| call(base, name, sync))
            })
        }
    })
}

unsafe extern "C" fn access(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    result: *mut c_int,
) -> c_int {
    guard(sqlite::SQLITE_IOERR_ACCESS, || {
        // SAFETY: forwards SQLite's own arguments to the VFS that ours was made from.
        unsafe {
            let base = beneath(vfs, name);
            with_disk_name(name, |name| {
                (*base).xAccess.map_or(sqlite::SQLITE_IOERR_ACCESS, |call| {
                    call(base, name, flags, result)
                })
            })
        }
    })
}

/// Whether a VFS is this one.
pub fn is_ours(vfs: *const sqlite3_vfs) -> bool {
    REGISTERED
        .get()
        .is_some_and(|registered| std::ptr::eq(&raw const *registered.vfs, vfs))
}

/// # Safety
/// `name` is the name of a main database, from SQLite.
unsafe fn uri_settings(name: *const c_char) -> Result<Settings> {
    let parameter = |at: c_int| {
        // SAFETY: the caller's promise; the result lives as long as the name.
        let key = unsafe { sqlite::sqlite3_uri_key(name, at) };
        // SAFETY: parameters are NUL-terminated; there are no more where it is null.
        (!key.is_null()).then(|| unsafe { CStr::from_ptr(key) })
    };
    let given: Vec<&CStr> = (0..).map_while(parameter).collect();
    let mut settings = Settings::default();
    // In this order, whatever that of the URI.
    for setting in NAMES {
        let key = given
            .iter()
            .find(|key| key.to_bytes() == setting.as_bytes());
        if let Some(key) = key {
            // SAFETY: the name has this parameter.
            let value =
                unsafe { CStr::from_ptr(sqlite::sqlite3_uri_parameter(name, key.as_ptr())) };
            settings.set(setting, &value.to_string_lossy())?;
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
