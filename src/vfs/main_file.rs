//! A database the host has open: whether it is followed, whether it is encrypted, and which locks of
//! the shared index the connection holds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

use super::base::{BaseFile, BaseVfs, FileName, NamePart};
use super::log_file::Link;
use super::memory::directory;
use super::{pragma, register, temporary, unlock};
use crate::crypt::RawFile;
use crate::crypt::blocks::SealedBlocks;
use crate::crypt::database::SealedDatabase;
use crate::crypt::header::{Found, Header, Rollback};
use crate::crypt::key::{Keys, Secret};
use crate::database::settings::Settings;
use crate::database::{keys, paths, rekey};
use crate::error::{Error, Result};
use crate::primary::commits::LogEnd;
use crate::primary::serve::Opened;
use crate::replica::follower::{Attached, Replica};
use crate::replica::registry;
use crate::replica::writing::Writing;
use crate::wal::frame::Salts;
use crate::{last_error, primary};

/// Lock slots of the shared index (design of SQLite's WAL mode).
const WRITE_SLOT: u8 = 1 << 0;
const CHECKPOINT_SLOT: u8 = 1 << 1;
const RECOVER_SLOT: u8 = 1 << 2;
const READ_SLOTS: u8 = 0b1111_1000;

/// Which replica each connection of the host writes to, by the connection's address.
static WRITING: LazyLock<Mutex<HashMap<usize, PathBuf>>> = LazyLock::new(Mutex::default);

/// What is found out at the first access, when a key may have come.
pub enum Opening {
    /// A connection of the host, with the settings of its URI.
    Host(Box<Settings>),
    /// A connection of the engine to an encrypted file.
    Internal,
}

/// A database the host has open.
pub struct MainFile {
    vfs: BaseVfs,
    /// SQLite's own name of the file: valid until xClose.
    name: *const c_char,
    flags: c_int,
    creates: bool,
    path: PathBuf,
    replica: Option<Attached>,
    /// Whether it has been accessed.
    has_begun: bool,
    /// The writes of this connection to it.
    writing: Option<Arc<Mutex<Writing>>>,
    opening: Option<Opening>,
    /// Whether the file was found encrypted when it was opened.
    found_sealed: bool,
    keys: Option<Arc<Keys>>,
    /// The header of an encrypted file as it was before there was a lock.
    seen: Option<Box<Header>>,
    /// `None` for a plain file, and while there is nothing in an encrypted one.
    sealed: Option<SealedDatabase>,
    link: Arc<Link>,
    /// Where SQLite keeps the connection that uses the file just now, once it has told.
    db: *mut *mut sqlite::sqlite3,
    /// The first region of the shared index, while it is mapped.
    index: *const AtomicU32,
    /// Slots of the shared index this connection holds, by bit.
    shared: u8,
    exclusive: u8,
    checkpointing: bool,
    /// A checkpoint has copied; where that was the whole log, SQLite now sets the size.
    has_copied: bool,
    /// That was so.
    all_copied: bool,
    /// Lock of the file that SQLite holds.
    level: c_int,
    /// Until the header is there: another process may make it first.
    secret: Option<Secret>,
    /// What is served is served until the last connection of the host closes it.
    opened: Option<Opened>,
    /// What has no files is there until the last connection of the host closes it.
    in_memory: Option<directory::Opened>,
}

impl MainFile {
    /// A database about to be opened under SQLite's `name`.
    pub fn new(
        vfs: BaseVfs,
        name: *const c_char,
        flags: c_int,
        path: PathBuf,
        found_sealed: bool,
    ) -> Self {
        Self {
            vfs,
            name,
            flags,
            creates: flags & sqlite::SQLITE_OPEN_CREATE != 0,
            replica: None,
            has_begun: false,
            writing: None,
            opening: None,
            found_sealed,
            keys: None,
            seen: None,
            sealed: None,
            link: Arc::new(Link::new(path.clone())),
            db: std::ptr::null_mut(),
            index: std::ptr::null(),
            shared: 0,
            exclusive: 0,
            checkpointing: false,
            has_copied: false,
            all_copied: false,
            level: sqlite::SQLITE_LOCK_NONE,
            secret: None,
            opened: None,
            in_memory: None,
            path,
        }
    }

    /// It is a connection of the host.
    pub fn count(&mut self) {
        self.opened = Some(Opened::new(&self.path));
    }

    /// It has no files.
    pub fn without_files(&mut self, opened: directory::Opened) {
        self.in_memory = Some(opened);
    }

    /// The VFS beneath.
    pub fn vfs(&self) -> BaseVfs {
        self.vfs
    }

    /// Leaves to the first access what the database is.
    pub fn open_later(&mut self, opening: Opening) {
        self.opening = Some(opening);
    }

    /// Makes it a followed one.
    pub fn follow(&mut self, replica: Option<Attached>) {
        let writing = |replica: &Attached| Arc::new(Mutex::new(Writing::new(Arc::clone(replica))));
        self.writing = replica.as_ref().map(writing);
        self.replica = replica;
    }

    /// The writes of this connection, where it is a replica.
    pub fn writing(&self) -> Option<&Arc<Mutex<Writing>>> {
        self.writing.as_ref()
    }

    /// At the first access: has the replica followed as it is asked for.
    pub fn begin_following(&mut self) -> Result<()> {
        match &self.replica {
            Some(replica) if !self.has_begun => {
                replica.begin()?;
                self.has_begun = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Of one connection only one replica is written to at a time: two cannot commit together.
    pub fn claim_connection(&self) -> Result<()> {
        let connection = self.connection() as usize;
        if connection == 0 {
            return Ok(());
        }
        match WRITING.lock().entry(connection) {
            Entry::Vacant(place) => {
                place.insert(self.path.clone());
                Ok(())
            }
            Entry::Occupied(path) if *path.get() == self.path => Ok(()),
            Entry::Occupied(path) => Err(Error::Locked(format!(
                "{} is written to in this transaction already: a transaction cannot write to two \
                 replicas",
                path.get().display()
            ))),
        }
    }

    /// The write is over, or did not begin.
    pub fn disclaim_connection(&self) {
        let connection = self.connection() as usize;
        if let Entry::Occupied(path) = WRITING.lock().entry(connection)
            && *path.get() == self.path
        {
            path.remove();
        }
    }

    /// The replica it is.
    pub fn replica(&self) -> Option<&Arc<Replica>> {
        self.replica.as_deref()
    }

    /// SQLite's own name of the file.
    pub fn name(&self) -> *const c_char {
        self.name
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What connects it with its log.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whether there is still to be found out whether it is encrypted, or how.
    pub fn may_be_sealed(&self) -> bool {
        self.sealed.is_none() && (self.opening.is_some() || self.keys.is_some())
    }

    /// Whether it is encrypted, or going to be.
    pub fn is_sealed(&self) -> bool {
        self.keys.is_some() || self.found_sealed
    }

    /// The encrypted file, once it has a header.
    pub fn sealed(&mut self) -> Option<&mut SealedDatabase> {
        self.sealed.as_mut()
    }

    /// Whether a checkpoint of this connection is running.
    pub fn checkpointing(&self) -> bool {
        self.checkpointing
    }

    /// A checkpoint begins or ends: meanwhile the log hands out pages as they are sealed.
    pub fn set_checkpointing(&mut self, on: bool) {
        (self.checkpointing, self.has_copied) = (on, !on);
        self.link.copy(on && self.sealed.is_some());
    }

    /// Whether it is a replica, or may turn out to be one.
    pub fn may_follow(&self) -> bool {
        match &self.opening {
            Some(Opening::Host(settings)) => settings.sync_url.is_some() || self.found_sealed,
            Some(Opening::Internal) => false,
            None => self.follows(),
        }
    }

    /// Notes the connection.
    pub fn belongs_to(&mut self, db: *mut *mut sqlite::sqlite3) {
        self.db = db;
    }

    /// The connection that uses the file just now; null before SQLite has told.
    fn connection(&self) -> *mut sqlite::sqlite3 {
        match self.db.is_null() {
            true => std::ptr::null_mut(),
            // SAFETY: SQLITE_FCNTL_PDB passes a member of the B-tree that owns this file.
            false => unsafe { *self.db },
        }
    }

    /// Opens the file beneath.
    pub fn open_base(&self) -> Result<(BaseFile, c_int)> {
        // The file of a replica comes into being as a whole, never by an open.
        let flags = match self.replica {
            Some(_) => self.flags & !sqlite::SQLITE_OPEN_CREATE,
            None => self.flags,
        };
        // SAFETY: SQLite keeps the name until it closes the file.
        unsafe { self.vfs.open(self.name, flags) }
    }

    /// Finds out what the database is: its key, and what it follows. `base` is its file, where that
    /// is open. Whether it was not known before.
    pub fn prepare(&mut self, base: Option<&BaseFile>) -> Result<bool> {
        let Some(opening) = self.opening.take() else {
            return Ok(false);
        };
        let prepared = self.prepare_as(&opening, base);
        let prepared = prepared.map_err(|error| error.about(&self.path));
        if prepared.is_err() {
            self.opening = Some(opening);
        }
        prepared.map(|()| true)
    }

    fn prepare_as(&mut self, opening: &Opening, base: Option<&BaseFile>) -> Result<()> {
        let given = match opening {
            Opening::Internal => {
                self.keys = Some(keys::find(&self.path).ok_or_else(|| {
                    Error::NotADatabase(format!("{} is closed", self.path.display()))
                })?);
                return Ok(());
            }
            Opening::Host(given) => given,
        };
        let host = register::host()?;
        let mut secrets = registry::secrets(&self.path);
        if given.key.is_none() {
            secrets = secrets.or(Settings::from_environment());
        }
        let secret = given.key.as_ref().or(secrets.key.as_ref());
        let cipher = given.cipher.or(secrets.cipher);
        for last in [false, false, true] {
            let found = match base {
                Some(base) => Header::find(base)?,
                None => unlock::look(self.vfs, &self.path)?,
            };
            let unlocked = unlock::unlock_found(self.vfs, &self.path, found, secret, cipher)?;
            let keys = unlocked.keys;
            if let Some(keys) = &keys {
                self.may_be_encrypted()?;
                // Whoever has unlocked it before has done that.
                if !unlocked.known {
                    rekey::finish(&*host, &self.path, keys)?;
                }
            }
            match registry::attach(&host, &self.path, (**given).clone()) {
                // Another process has just made the state store, with keys of its own.
                Err(error)
                    if !last && keys.is_some() && error.code() & 0xff == sqlite::SQLITE_NOTADB => {}
                Err(error) => return Err(error),
                Ok(replica) => {
                    if replica.is_some() {
                        register::may_follow(&self.path, self.is_immutable(), true)?;
                    }
                    self.secret = keys.as_ref().and(secret.cloned());
                    (self.keys, self.seen) = (keys, unlocked.header);
                    self.follow(replica);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether it is opened as a file that nobody changes, and without locks.
    pub fn is_immutable(&self) -> bool {
        // SAFETY: the name of a main database carries its URI parameters.
        unsafe { sqlite::sqlite3_uri_boolean(self.name, c"immutable".as_ptr(), 0) != 0 }
    }

    /// Refuses what would leave content in the clear, or could not be found again.
    fn may_be_encrypted(&self) -> Result<()> {
        // SAFETY: SQLite keeps the name until it closes the file.
        if unsafe { CStr::from_ptr(self.name) }.to_str().is_err() {
            return Err(Error::CannotOpen(format!(
                "the name of the encrypted database {} is not UTF-8",
                self.path.display()
            )));
        }
        // SAFETY: the name of a main database carries its URI parameters.
        unsafe { refuse_nolock(self.name, &self.path) }?;
        temporary::check(self.connection())
    }

    /// Takes the key of `PRAGMA key`, which has to come before the first access.
    fn take_key(&mut self, secret: Secret) -> Result<()> {
        // SAFETY: the name of a main database carries its URI parameters.
        unsafe { refuse_nolock(self.name, &self.path) }?;
        match (&mut self.opening, &self.keys) {
            (Some(Opening::Host(settings)), _) => {
                settings.key = Some(secret);
                Ok(())
            }
            (_, Some(keys)) if keys.is_secret(&secret) => Ok(()),
            (_, Some(_)) => Err(Error::NotADatabase(format!(
                "{} is open with another key; replica_rekey() changes it",
                self.path.display()
            ))),
            (_, None) => Err(Error::NotADatabase(format!(
                "{} is not encrypted, and a key is given: VACUUM INTO \
                 'file:new.db?vfs=replica&encryption_key=…' makes an encrypted copy",
                self.path.display()
            ))),
        }
    }

    /// A lock of this level was taken: reads the header of an encrypted file.
    pub fn locked(&mut self, base: &BaseFile, level: c_int) -> Result<()> {
        if level > sqlite::SQLITE_LOCK_SHARED {
            // Before there is a journal, which needs the id of the file.
            return match self.sealed_for_write(base)? {
                Some(sealed) => sealed.begin_write(base),
                None => Ok(()),
            };
        }
        match &mut self.sealed {
            Some(sealed) => sealed.refresh(base)?,
            None => self.find_header(base)?,
        }
        self.check_journal()
    }

    /// Pages of a transaction that was interrupted are of use only with their journal. (Nobody
    /// writes while we hold the lock.)
    fn check_journal(&self) -> Result<()> {
        let Some(sealed) = &self.sealed else {
            return Ok(());
        };
        let rollback = sealed.header().rollback();
        let Rollback::Needed(needed) = rollback else {
            return Ok(());
        };
        let taken = || {
            Error::Tampered(format!(
                "{}: the rollback journal of an interrupted transaction was taken away or cut",
                self.path.display()
            ))
        };
        let name = FileName::sealed(&self.path)?;
        let flags = sqlite::SQLITE_OPEN_READONLY | sqlite::SQLITE_OPEN_MAIN_JOURNAL;
        let journal = self
            .vfs
            .open_path(name, NamePart::Journal, flags)
            .map_err(
                |error| match paths::sealed_journal(&self.path).try_exists() {
                    Ok(false) => taken(),
                    _ => error,
                },
            )?;
        let (keys, id) = (Arc::clone(sealed.keys()), sealed.header().id());
        let mut blocks = SealedBlocks::journal(keys, id, rollback);
        let mut first = [0];
        if blocks.read(&journal, &mut first, 0)? == 0
            || first == [0]
            || blocks.journal_nonce(&journal)? != needed.nonce
            || blocks.size(&journal)? < needed.bytes
        {
            return Err(taken());
        }
        Ok(())
    }

    /// Reads the header of an encrypted file, where there is one.
    pub fn find_header(&mut self, base: &BaseFile) -> Result<()> {
        let (Some(keys), None) = (&self.keys, &self.sealed) else {
            return Ok(());
        };
        let found = match self.seen.take() {
            Some(header) if header.is_current(base)? => Found::Sealed(header),
            _ => Header::find(base)?,
        };
        match found {
            Found::Empty => {}
            Found::Sealed(header) => {
                let keys = match keys.own(&header) {
                    true => Arc::clone(keys),
                    false => self.keys_of(&header)?,
                };
                self.adopt(keys, *header);
            }
            Found::Plain => {
                return Err(Error::NotADatabase(format!(
                    "{} is not encrypted, and a key is given",
                    self.path.display()
                )));
            }
        }
        Ok(())
    }

    /// The file has a header, found or made.
    fn adopt(&mut self, keys: Arc<Keys>, header: Header) {
        let mut sealed = SealedDatabase::new(Arc::clone(&keys), header);
        sealed.read_ahead();
        (self.sealed, self.keys, self.secret) = (Some(sealed), Some(keys), None);
    }

    /// The keys of a file that another process has made since ours were drawn.
    fn keys_of(&self, header: &Header) -> Result<Arc<Keys>> {
        let keys = match &self.secret {
            Some(secret) => register::host()?.unlock(&self.path, Some(secret), None)?,
            None => keys::find(&self.path),
        };
        keys.filter(|keys| keys.own(header)).ok_or_else(|| {
            Error::NotADatabase(format!(
                "{} is encrypted with another key",
                self.path.display()
            ))
        })
    }

    /// The encrypted file for a write; a new one gets its header first.
    pub fn sealed_for_write(&mut self, base: &BaseFile) -> Result<Option<&mut SealedDatabase>> {
        self.find_header(base)?;
        if let (Some(keys), None) = (&self.keys, &self.sealed) {
            let keys = Arc::clone(keys);
            let header = keys.new_header(None)?;
            header.create(base)?;
            self.adopt(keys, header);
        }
        Ok(self.sealed.as_mut())
    }

    /// A page that a checkpoint copies, as it is sealed in the log.
    pub fn write_copied(&mut self, base: &BaseFile, page: &[u8], offset: u64) -> Result<()> {
        let (Some(sealed), Some(copied)) = (&mut self.sealed, self.link.take_copied()) else {
            return Err(Error::Internal("a checkpoint copies no page".to_owned()));
        };
        match sealed.page_size() {
            Some(size) if copied.number.offset(size) == offset => {
                sealed.write_sealed(base, &copied, page)
            }
            _ => Err(Error::Tampered(format!(
                "{}: the log holds page {} where the index has another one",
                self.path.display(),
                copied.number
            ))),
        }
    }

    /// Writes pages that SQLite has changed itself, of a transaction with a rollback journal.
    pub fn write_changed(&mut self, base: &BaseFile, data: &[u8], offset: u64) -> Result<()> {
        let journal = self.link.journal();
        let Some(sealed) = self.sealed_for_write(base)? else {
            return RawFile::write(base, data, offset);
        };
        if journal.bytes > 0 {
            sealed.needs_journal(base, journal)?;
        }
        sealed.write(base, data, offset)
    }

    /// Before the sync that ends a transaction, or the playback of a journal.
    pub fn all_written(&mut self, base: &BaseFile) -> Result<()> {
        let Some(sealed) = &mut self.sealed else {
            return Ok(());
        };
        if self.link.plays_back() {
            sealed.heal_free_pages(base)?;
        }
        sealed.all_written(base)
    }

    /// Sets the size of an encrypted file.
    pub fn truncate(&mut self, base: &BaseFile, size: u64) -> Result<()> {
        let Some(sealed) = &mut self.sealed else {
            return Ok(());
        };
        sealed.truncate(base, size)?;
        if std::mem::take(&mut self.has_copied) {
            // Durable with the sync that follows: after it the log may begin anew, or go.
            sealed.all_copied(base)?;
            self.all_copied = true;
        }
        Ok(())
    }

    /// The sync that ends a checkpoint failed.
    pub fn sync_failed(&mut self) {
        self.all_copied = false;
    }

    /// A checkpoint ends. What it has copied is synced, or (`synchronous=OFF`) will not be.
    pub fn end_checkpoint(&mut self, base: &BaseFile) -> Result<()> {
        match (std::mem::take(&mut self.all_copied), &mut self.sealed) {
            (true, Some(sealed)) => sealed.end_write(base),
            _ => Ok(()),
        }
    }

    /// Whether this unlocks the slot of a checkpoint.
    pub fn ends_checkpoint(&self, mask: u8, flags: c_int) -> bool {
        flags & sqlite::SQLITE_SHM_UNLOCK != 0 && self.exclusive & mask & CHECKPOINT_SLOT != 0
    }

    /// The lock of the file that SQLite holds.
    pub fn level(&self) -> c_int {
        self.level
    }

    /// Notes it.
    pub fn set_level(&mut self, level: c_int) {
        self.level = level;
    }

    /// A transaction with a rollback journal gives its lock back.
    pub fn end_write(&mut self, base: &BaseFile) -> Result<()> {
        match &mut self.sealed {
            Some(sealed) if self.level == sqlite::SQLITE_LOCK_EXCLUSIVE => sealed.end_write(base),
            _ => Ok(()),
        }
    }

    /// Like SQLite: without SQLITE_OPEN_CREATE nothing comes into being.
    pub fn may_make(&self, replica: &Replica) -> Result<()> {
        match self.creates || replica.host().exists(&self.path)? {
            true => Ok(()),
            false => Err(Error::CannotOpen(format!(
                "{} does not exist, and this connection may not create it",
                self.path.display()
            ))),
        }
    }

    /// Whether it is a replica.
    pub fn follows(&self) -> bool {
        self.replica.is_some()
    }

    /// Whether this lock is the start of a write transaction of the host. A checkpoint takes the
    /// same lock and is none.
    pub fn begins_write(&self, mask: u8, flags: c_int) -> bool {
        let takes =
            flags & sqlite::SQLITE_SHM_LOCK != 0 && flags & sqlite::SQLITE_SHM_EXCLUSIVE != 0;
        if !takes || mask != WRITE_SLOT || self.exclusive & CHECKPOINT_SLOT != 0 {
            return false;
        }
        // A reader becomes a writer. Builds with SQLITE_ENABLE_SETLK_TIMEOUT lock first and begin to
        // read then; so does recovery, of an index that nobody can read.
        self.reads() || index_is_sound(self.index)
    }

    /// Before a write to a served database: the capture is not left too far behind.
    pub fn keep_pace(&self) {
        let Some(opened) = &self.opened else {
            return;
        };
        if let Some(end) = index_end(self.index)
            && opened.commits().is_behind(end)
            && let Ok(host) = register::host()
        {
            opened.commits().keep_pace(end, host.clock());
        }
    }

    /// Whether the connection holds a lock of a reader.
    pub fn reads(&self) -> bool {
        self.shared & READ_SLOTS != 0
    }

    /// Whether this gives the write lock back.
    pub fn ends_write(&self, mask: u8, flags: c_int) -> bool {
        flags & sqlite::SQLITE_SHM_UNLOCK != 0 && self.exclusive & mask & WRITE_SLOT != 0
    }

    /// A connection of the host gave the write lock back: what it wrote can be seen.
    pub fn written(&self) {
        if let Some(opened) = &self.opened {
            opened.written();
        }
    }

    /// Notes slots that were locked or unlocked.
    pub fn note_slots(&mut self, mask: u8, flags: c_int) {
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

    /// The shared index was mapped, or unmapped.
    pub fn note_index(&mut self, first_region: *const c_void) {
        self.index = first_region.cast();
    }

    /// The same for an encrypted file: the log may have begun anew since, and the header of the
    /// database may say more.
    pub fn slots_changed(&mut self, base: &BaseFile, mask: u8, flags: c_int) -> Result<()> {
        let Some(sealed) = &mut self.sealed else {
            return Ok(());
        };
        sealed.forget_ahead();
        self.link.forget(index_salts(self.index));
        let recovering = self.exclusive & RECOVER_SLOT != 0;
        if mask & (WRITE_SLOT | RECOVER_SLOT) != 0 {
            let writing = self.exclusive & WRITE_SLOT != 0 && !recovering;
            self.link.end_transaction(writing);
        }
        let locks = flags & sqlite::SQLITE_SHM_LOCK != 0;
        if locks && self.exclusive & mask & (CHECKPOINT_SLOT | RECOVER_SLOT) != 0 {
            sealed.begin_write(base)?;
            self.link.need(sealed.header().backfill());
        }
        Ok(())
    }

    /// Why a replica takes no write.
    pub fn refuse_write(&self) -> c_int {
        last_error::note(&Error::ReadOnly(format!(
            "{} is a replica: writes are made on its primary",
            self.path.display()
        )));
        sqlite::SQLITE_READONLY
    }

    /// # Safety
    /// `argument` is the array SQLite documents for `SQLITE_FCNTL_PRAGMA`.
    pub unsafe fn pragma(&mut self, argument: *mut *mut c_char) -> Option<c_int> {
        // SAFETY: the caller's promise: name is a string, value a string or null.
        let text = |at: usize| unsafe {
            let text = *argument.add(at);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
        };
        let (name, value) = (text(1)?, text(2));
        let answer = |code: c_int, text: &str| {
            // SAFETY: SQLite frees the text it finds in the first element.
            unsafe { *argument = crate::ffi::sqlite_text(text) };
            Some(code)
        };
        if let (Some(secret), Some(value)) = (pragma::secret(&name), value.as_deref()) {
            return match secret(value).and_then(|secret| self.take_key(secret)) {
                Ok(()) => answer(sqlite::SQLITE_OK, "ok"),
                Err(error) => {
                    last_error::note(&error);
                    answer(error.code(), &error.to_string())
                }
            };
        }
        let page_size = match (&self.replica, &self.sealed) {
            (Some(replica), _) => replica.page_size(),
            (None, Some(sealed)) if name.eq_ignore_ascii_case("page_size") => {
                sealed.page_size().map(|size| size.get())
            }
            _ => primary::served_page_size(&self.path)?,
        };
        let refusal = pragma::refusal(&name, value.as_deref(), page_size)?;
        last_error::note(&Error::Misuse(refusal.clone()));
        answer(sqlite::SQLITE_ERROR, &refusal)
    }

    /// Says what lies beneath, while the file is not open yet.
    pub fn vfs_name(&self, argument: *mut *mut c_char) -> c_int {
        let name = format!("{}/{}", register::NAME, self.vfs.name().to_string_lossy());
        // SAFETY: for SQLITE_FCNTL_VFSNAME the argument is a `char**` that SQLite frees.
        unsafe { *argument = crate::ffi::sqlite_text(&name) };
        sqlite::SQLITE_OK
    }
}

/// Without locks nothing says when the header of an encrypted file is to be read again.
///
/// # Safety
/// `name` is the name of a main database, from SQLite.
pub unsafe fn refuse_nolock(name: *const c_char, path: &Path) -> Result<()> {
    // SAFETY: the caller's promise.
    match unsafe { sqlite::sqlite3_uri_boolean(name, c"nolock".as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(Error::CannotOpen(format!(
            "{}: nolock=1 is refused for an encrypted database",
            path.display()
        ))),
    }
}

/// The salts in the header of a shared index that is mapped (`WalIndexHdr.aSalt`, bytes 32..40).
fn index_salts(index: *const AtomicU32) -> Option<[u8; 8]> {
    if index.is_null() {
        return None;
    }
    let mut salts = [0; 8];
    for (at, half) in salts.chunks_mut(4).enumerate() {
        // SAFETY: SQLite maps 32 KiB and keeps them until xShmUnmap, which takes the pointer away.
        // Others write there at any time: hence an atomic.
        let word = unsafe { (*index.add(8 + at)).load(Ordering::Acquire) };
        half.copy_from_slice(&word.to_ne_bytes());
    }
    Some(salts)
}

/// Where the log ends, by a shared index that is mapped.
fn index_end(index: *const AtomicU32) -> Option<LogEnd> {
    let salts = Salts(index_salts(index)?);
    // SAFETY: it is mapped, as the salts are there; as for those.
    let mx_frame = unsafe { (*index.add(4)).load(Ordering::Acquire) };
    Some(LogEnd { salts, mx_frame })
}

/// Whether a mapped index has been initialised, and both copies of its header (12 words each; the
/// first byte of word 3 says it) are the same.
fn index_is_sound(index: *const AtomicU32) -> bool {
    if index.is_null() {
        return false;
    }
    // SAFETY: as above.
    let word = |at: usize| unsafe { (*index.add(at)).load(Ordering::Acquire) };
    word(3).to_ne_bytes()[0] != 0 && (0..12).all(|at| word(at) == word(12 + at))
}

/// Reads a range of an encrypted file, or of one that cannot be read yet and seems empty.
pub fn read_sealed(
    main: &mut MainFile,
    base: Option<&BaseFile>,
    buffer: &mut [u8],
    offset: u64,
) -> Result<usize> {
    match (base, main.sealed()) {
        (Some(base), Some(sealed)) => sealed.read(base as &dyn RawFile, buffer, offset),
        _ => Ok(0),
    }
}
