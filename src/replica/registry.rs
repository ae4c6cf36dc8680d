//! Which replicas this process has open.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

use super::follower::{Attached, Replica};
use crate::database::host::Host;
use crate::database::settings::Settings;
use crate::database::store::{Role, Store};
use crate::error::{Error, Result};
use crate::remote;

/// By process as well: a fork's child has its parent's, and none of its locks and threads.
type Open = HashMap<(u32, PathBuf), Weak<Replica>>;

static OPEN: LazyLock<Mutex<Open>> = LazyLock::new(Mutex::default);

/// Secrets given by `replica_configure`, kept in memory only.
static SECRETS: LazyLock<Mutex<HashMap<PathBuf, Settings>>> = LazyLock::new(Mutex::default);

/// The replica at `path` that some connection of this process has open.
pub fn find(path: &Path) -> Option<Arc<Replica>> {
    OPEN.lock().get(&name(path)).and_then(Weak::upgrade)
}

/// All replicas that this process has open.
pub fn all() -> Vec<Arc<Replica>> {
    let open = OPEN.lock();
    let own = open.iter().filter(|((of, _), _)| *of == process::id());
    own.filter_map(|(_, replica)| replica.upgrade()).collect()
}

/// The replica that a connection opening `path` is to use; `None` for an ordinary database.
/// `given` are the settings of its URI.
pub fn attach(host: &Arc<dyn Host>, path: &Path, given: Settings) -> Result<Option<Attached>> {
    let mut open = OPEN.lock();
    if let Some(replica) = open.get(&name(path)).and_then(Weak::upgrade) {
        same_remote(&replica, &given)?;
        drop(open);
        follow_as(&replica, &given)?;
        return Ok(Some(Attached::new(replica, given.offline)));
    }
    let store = match followed(&**host, path, &given)? {
        Followed::No => return Ok(None),
        Followed::WithoutState => None,
        Followed::With(store) => Some(store),
    };
    let mut settings = given
        .or(secrets(path))
        .or(match &store {
            Some(store) => Settings::from_store(&**store)?,
            None => Settings::default(),
        })
        .or(Settings::from_environment());
    // The mode belongs to the file.
    let offline = settings.offline.take();
    // It has served: whoever has the file open has its keys.
    settings.key = None;
    if let Some(url) = &settings.sync_url {
        // Says at once what could never be followed; no connection is made yet.
        remote::check(url, settings.ca_file.as_deref())?;
    }
    let replica = Arc::new(Replica::new(
        Arc::clone(host),
        path.to_owned(),
        settings,
        store,
    )?);
    open.retain(|_, replica| replica.strong_count() > 0);
    open.insert(name(path), Arc::downgrade(&replica));
    Ok(Some(Attached::new(replica, offline)))
}

/// Nobody finds the replica at `path` any more: the next to open it begins with another one.
pub fn forget(path: &Path) {
    OPEN.lock().remove(&name(path));
}

fn name(path: &Path) -> (u32, PathBuf) {
    (process::id(), path.to_owned())
}

/// Whoever opens a replica that is open already may ask for another way of following.
fn follow_as(replica: &Replica, given: &Settings) -> Result<()> {
    let settings = replica.settings();
    let is_new = given.live.is_some_and(|live| live != settings.is_live())
        || given
            .sync_interval
            .is_some_and(|time| Some(time) != settings.sync_interval);
    match is_new {
        true => replica.update(Settings {
            live: given.live,
            sync_interval: given.sync_interval,
            ..Settings::default()
        }),
        false => Ok(()),
    }
}

/// The secrets `replica_configure` was given for `path`; everything for a replica in memory.
pub fn secrets(path: &Path) -> Settings {
    SECRETS.lock().get(path).cloned().unwrap_or_default()
}

fn same_remote(replica: &Replica, given: &Settings) -> Result<()> {
    match (&given.sync_url, &replica.settings().sync_url) {
        (Some(given), Some(known)) if given != known => Err(Error::CannotOpen(format!(
            "{} is open in this process with another sync_url",
            replica.path().display()
        ))),
        _ => Ok(()),
    }
}

/// What a file is to a connection that opens it.
enum Followed {
    /// An ordinary database, or a primary.
    No,
    /// A file that is to follow a remote and has no state: no page of it is served before
    /// `replica_discard()`.
    WithoutState,
    /// A replica, or one that is to become one.
    With(Box<dyn Store>),
}

fn followed(host: &dyn Host, path: &Path, given: &Settings) -> Result<Followed> {
    if !host.store_exists(path)? {
        return match given.sync_url {
            None => Ok(Followed::No),
            Some(_) if host.exists(path)? => Ok(Followed::WithoutState),
            Some(_) => host.open_store(path).map(Followed::With),
        };
    }
    let store = host.open_store(path)?;
    match store.identity()? {
        Some((Role::Primary, _)) if given.sync_url.is_some() => Err(Error::CannotOpen(format!(
            "{}: this database is a primary and cannot follow another one",
            path.display()
        ))),
        Some((Role::Primary, _)) => Ok(Followed::No),
        None if given.sync_url.is_none() => Ok(Followed::No),
        _ => Ok(Followed::With(store)),
    }
}

/// Writes the settings of a replica for hosts that cannot say them in a URI.
pub fn configure(host: &dyn Host, path: &Path, settings: Settings) -> Result<()> {
    if find(path).is_some() {
        return Err(Error::Misuse(format!(
            "{} is open in this process: configure it before",
            path.display()
        )));
    }
    if let Some(url) = &settings.sync_url {
        // Refuses what could not be followed, and secrets in a URL that will be stored.
        remote::check(url, settings.ca_file.as_deref())?;
    }
    if settings.in_memory() {
        // There is nowhere else to keep them.
        SECRETS.lock().insert(path.to_owned(), settings);
        return Ok(());
    }
    // First: nothing is kept of a key that does not fit. The keys live as long as the store is open.
    let given = settings.key.clone().or(secrets(path).key);
    let _keys = host.unlock(path, given.as_ref(), settings.cipher)?;
    let known = Settings {
        auth_token: settings.auth_token.clone(),
        key: settings.key.clone(),
        cipher: settings.cipher,
        ..Settings::default()
    };
    let known = known.or(secrets(path));
    SECRETS.lock().insert(path.to_owned(), known);
    let has_state = host.store_exists(path)?;
    if !has_state && settings.is_key_only() {
        // Of a database that follows nothing.
        return Ok(());
    }
    if !has_state && host.exists(path)? {
        return Err(Error::CannotOpen(format!(
            "{}: the file exists and is not a replica; nothing was changed",
            path.display()
        )));
    }
    let store = host.open_store(path)?;
    if let Some((Role::Primary, _)) = store.identity()? {
        return Err(Error::Misuse(format!("{} is a primary", path.display())));
    }
    store.transaction(|store| {
        if store.identity()?.is_none() {
            store.set_identity(Role::Replica, None)?;
        }
        if let Some(on) = settings.offline {
            set_offline(store, path, on)?;
        }
        settings.save(store)
    })
}

/// Says whether a replica that nobody has open here is written offline.
fn set_offline(store: &dyn Store, path: &Path, on: bool) -> Result<()> {
    match store.base()?.is_some() || store.retired()? > 0 {
        true if !on => Err(Error::Misuse(format!(
            "{} has transactions that are not on its remote: open it, push or discard them, and then \
             say offline=0",
            path.display()
        ))),
        _ => store.set_offline(on),
    }
}
