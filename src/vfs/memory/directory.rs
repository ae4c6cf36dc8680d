//! The files in memory of this process, by name.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, LazyLock};

use parking_lot::{Mutex, MutexGuard};

use super::content::Content;
use super::locks::{FileLocks, SlotLocks};
use crate::database::paths;
use crate::error::{Error, Result};
use crate::primary::serve;
use crate::replica::registry;

/// Before the name of a file in memory, wherever a path stands for it.
pub const PREFIX: &str = "memory:";

/// A region of the shared index: 32 KiB.
pub type Region = Box<[u64]>;

/// A file.
#[derive(Default)]
pub struct Inode {
    /// Everything about it, for one thread at a time.
    pub state: Mutex<State>,
}

/// What a file is.
#[derive(Default)]
pub struct State {
    /// Its bytes.
    pub content: Content,
    /// Locks of the file.
    pub locks: FileLocks,
    /// Regions of the shared index; they stay where they are.
    pub regions: Vec<Region>,
    /// Locks of the shared index.
    pub slots: SlotLocks,
    /// Handles that have the shared index mapped.
    pub mapped: usize,
}

#[derive(Default)]
struct Directory {
    /// Whose files they are: a fork's child has none.
    process: u32,
    files: HashMap<String, Arc<Inode>>,
    /// Databases, and how many connections of the host have each open.
    databases: HashMap<String, usize>,
    /// Databases that are being made.
    making: HashSet<String>,
}

static DIRECTORY: LazyLock<Mutex<Directory>> = LazyLock::new(Mutex::default);

fn directory() -> MutexGuard<'static, Directory> {
    let mut directory = DIRECTORY.lock();
    if directory.process != process::id() {
        // What a fork's child has of its parent is left alone: handles may be in use there.
        let old = std::mem::take(&mut *directory);
        std::mem::forget(old);
        directory.process = process::id();
    }
    directory
}

/// The path that stands for a database in memory.
pub fn path_of(name: &Path) -> PathBuf {
    let mut path = PREFIX.to_owned();
    path.push_str(&name.to_string_lossy());
    PathBuf::from(path)
}

/// The path that stands for the database SQLite has open under this name.
pub fn host_path(name: PathBuf) -> PathBuf {
    let is_open = name
        .to_str()
        .is_some_and(|name| directory().databases.contains_key(name));
    match is_open {
        true => path_of(&name),
        false => name,
    }
}

/// Whether a path stands for a file in memory.
pub fn is_memory(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.starts_with(PREFIX))
}

/// The name of a file: SQLite asks for it without the prefix.
fn name(path: &str) -> &str {
    path.strip_prefix(PREFIX).unwrap_or(path)
}

fn name_of(path: &Path) -> String {
    name(&path.to_string_lossy()).to_owned()
}

/// The file of that name; made where there is none and `creates`, refused where there is one and it
/// has to be new.
pub fn open(path: &str, creates: bool, is_new: bool) -> Option<Arc<Inode>> {
    let mut directory = directory();
    match directory.files.get(name(path)) {
        Some(_) if is_new => None,
        Some(inode) => Some(Arc::clone(inode)),
        None if creates => {
            let inode = Arc::new(Inode::default());
            directory
                .files
                .insert(name(path).to_owned(), Arc::clone(&inode));
            Some(inode)
        }
        None => None,
    }
}

/// Makes a file of this content; false where there is one of that name.
pub fn make(name: &str, content: Content) -> bool {
    let mut directory = directory();
    let is_new = !directory.files.contains_key(name);
    if is_new {
        let state = State {
            content,
            ..State::default()
        };
        let inode = Inode {
            state: Mutex::new(state),
        };
        directory.files.insert(name.to_owned(), Arc::new(inode));
    }
    is_new
}

/// Whether there is a file of that name.
pub fn exists(path: &str) -> bool {
    directory().files.contains_key(name(path))
}

/// Takes a name away; false where there is no such file.
pub fn remove(path: &str) -> bool {
    directory().files.remove(name(path)).is_some()
}

/// Gives a file a second name; false where that is taken, or there is no such file.
pub fn link(path: &Path, second: &Path) -> bool {
    let mut directory = directory();
    let Some(inode) = directory.files.get(&name_of(path)).cloned() else {
        return false;
    };
    match directory.files.entry(name_of(second)) {
        std::collections::hash_map::Entry::Occupied(_) => false,
        std::collections::hash_map::Entry::Vacant(place) => {
            place.insert(inode);
            true
        }
    }
}

/// Size of a file in bytes.
pub fn size(path: &Path) -> Option<u64> {
    let inode = directory().files.get(&name_of(path)).cloned()?;
    let size = inode.state.lock().content.size();
    Some(size)
}

/// Whether any database in memory is open.
pub fn any() -> bool {
    !directory().databases.is_empty()
}

/// Whether a name of SQLite's is that of an open database in memory, or of what lies beside it.
pub fn has(file: &str) -> bool {
    let directory = directory();
    let is_open = |name: &str| directory.databases.contains_key(name);
    is_open(file)
        || ["-wal", "-journal"]
            .iter()
            .any(|suffix| file.strip_suffix(suffix).is_some_and(is_open))
}

/// A connection of the host that has a database in memory open, until dropped. With the last one all
/// its files are gone.
pub struct Opened(PathBuf);

impl Opened {
    /// Counts a connection to the database that SQLite calls `name`. Refused while a file of that name
    /// is open.
    pub fn new(name: &Path) -> Result<Self> {
        let (path, name) = (path_of(name), name_of(name));
        if serve::is_open(Path::new(&name)) {
            return Err(Error::CannotOpen(format!(
                "{name} is open in this process as a file: give the replica in memory another name"
            )));
        }
        *directory().databases.entry(name).or_default() += 1;
        Ok(Self(path))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let name = name_of(&self.0);
        let mut directory = directory();
        let Some(count) = directory.databases.get_mut(&name) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        directory.databases.remove(&name);
        let mut beside = paths::all(Path::new(&name));
        beside.extend(paths::journals(Path::new(&name)));
        beside.push(PathBuf::from(&name));
        let files: Vec<_> = beside
            .iter()
            .filter_map(|path| directory.files.remove(&name_of(path)))
            .collect();
        drop(directory);
        drop(files);
        // Its thread may not have ended yet.
        registry::forget(&self.0);
    }
}

/// The one who makes a replica in memory, until dropped.
pub struct Making(String);

impl Making {
    /// `None` where somebody makes it already.
    pub fn begin(path: &Path) -> Option<Self> {
        let name = name_of(path);
        let is_first = directory().making.insert(name.clone());
        is_first.then_some(Self(name))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        directory().making.remove(&self.0);
    }
}
