//! The keys of the encrypted databases this process has open, by file: connections of the engine
//! find them here. Nobody here keeps them; they are wiped when the last file closes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

use super::paths;
use crate::crypt::key::Keys;

/// By file. More than one where the secret was changed meanwhile: their data key is the same.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Vec<Weak<Keys>>>>> = LazyLock::new(Mutex::default);

/// Whether there ever was an encrypted database.
static ANY: AtomicBool = AtomicBool::new(false);

/// The keys of the database at `path`, or of the database whose state store that is.
pub fn find(path: &Path) -> Option<Arc<Keys>> {
    if !any() {
        return None;
    }
    let open = OPEN.lock();
    let find = |path: &Path| open.get(path)?.iter().rev().find_map(Weak::upgrade);
    find(path).or_else(|| find(&paths::owner(path)?))
}

/// All of them.
pub fn all() -> Vec<Arc<Keys>> {
    let open = OPEN.lock();
    open.values().flatten().filter_map(Weak::upgrade).collect()
}

/// Remembers the keys of a database for as long as somebody has them.
pub fn put(path: &Path, keys: &Arc<Keys>) {
    ANY.store(true, Ordering::Release);
    let mut open = OPEN.lock();
    for known in open.values_mut() {
        known.retain(|keys| keys.strong_count() > 0);
    }
    open.retain(|_, known| !known.is_empty());
    open.entry(path.to_owned())
        .or_default()
        .push(Arc::downgrade(keys));
}

/// Whether this process has, or had, an encrypted database open: from then on its temporary files
/// may hold content of it.
pub fn any() -> bool {
    ANY.load(Ordering::Acquire)
}
