//! From a secret to the keys of a database: looked up, unwrapped, or made for a new one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};

use super::base::BaseVfs;
use super::files::OwnFile;
use crate::crypt::Entropy;
use crate::crypt::cipher::Algorithm;
use crate::crypt::header::{Found, Header};
use crate::crypt::key::{Keys, Secret};
use crate::database::{keys, paths};
use crate::error::{Error, Result};
use crate::ffi;

/// Random bytes of the operating system.
struct SystemEntropy;

/// Counts the forks that led to this process.
static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        getrandom::fill(bytes)
            .map_err(|error| Error::Internal(format!("no randomness from the system: {error}")))
    }

    fn generation(&self) -> u64 {
        FORKS.load(Ordering::Relaxed)
    }
}

/// The entropy of this process.
fn entropy() -> Result<Arc<dyn Entropy>> {
    static WATCHED: LazyLock<bool> = LazyLock::new(|| ffi::call_in_children(forked));
    match *WATCHED {
        true => Ok(Arc::new(SystemEntropy)),
        false => Err(Error::Internal("forks cannot be noticed".to_owned())),
    }
}

/// Keys for temporary files: nobody knows them, and they end with the process.
pub fn ephemeral() -> Result<Arc<Keys>> {
    static KEYS: OnceLock<Arc<Keys>> = OnceLock::new();
    if let Some(keys) = KEYS.get() {
        return Ok(Arc::clone(keys));
    }
    let made = Arc::new(Keys::ephemeral(entropy()?)?);
    Ok(Arc::clone(KEYS.get_or_init(|| made)))
}

/// What a file that may not be there begins with.
pub fn look(vfs: BaseVfs, path: &Path) -> Result<Found> {
    match path.try_exists() {
        Ok(true) => Header::find(OwnFile::peek(vfs, path, false)?.raw()),
        _ => Ok(Found::Empty),
    }
}

/// Whether the database at `path`, or the state store beside it, is encrypted; `None` where there is
/// neither.
pub fn is_sealed(vfs: BaseVfs, path: &Path) -> Result<Option<bool>> {
    let kinds = [look(vfs, path)?, look(vfs, &paths::store(path))?];
    Ok(match &kinds {
        [Found::Empty, Found::Empty] => None,
        kinds => Some(kinds.iter().any(|kind| matches!(kind, Found::Sealed(_)))),
    })
}

/// The id of the encrypted database at `path`, where it is one.
pub fn file_id(vfs: BaseVfs, path: &Path) -> Result<Option<[u8; 16]>> {
    Ok(match look(vfs, path)? {
        Found::Sealed(header) => Some(header.id()),
        Found::Empty | Found::Plain => None,
    })
}

/// The keys of the database at `path`; see [`Host::unlock`](crate::database::host::Host::unlock).
pub fn unlock(
    vfs: BaseVfs,
    path: &Path,
    secret: Option<&Secret>,
    algorithm: Option<Algorithm>,
) -> Result<Option<Arc<Keys>>> {
    let found = look(vfs, path)?;
    Ok(unlock_found(vfs, path, found, secret, algorithm)?.keys)
}

/// What a database was unlocked with.
#[derive(Default)]
pub struct Unlocked {
    /// The keys; `None` where nothing is encrypted.
    pub keys: Option<Arc<Keys>>,
    /// The header of the database, where it has one.
    pub header: Option<Box<Header>>,
    /// Another connection of this process has unlocked it with this secret before.
    pub known: bool,
}

/// The same for a file that was looked into.
pub fn unlock_found(
    vfs: BaseVfs,
    path: &Path,
    found: Found,
    secret: Option<&Secret>,
    algorithm: Option<Algorithm>,
) -> Result<Unlocked> {
    let (own, of_store) = match found {
        Found::Sealed(header) => (Some(header), None),
        Found::Plain => return no_keys(path, secret),
        Found::Empty => match look(vfs, &paths::store(path))? {
            Found::Sealed(header) => (None, Some(header)),
            Found::Plain => return no_keys(path, secret),
            Found::Empty => (None, None),
        },
    };
    let header = own.as_ref().or(of_store.as_ref());
    let Some(secret) = secret else {
        return match header {
            None => Ok(Unlocked::default()),
            Some(_) => Err(Error::NotADatabase(format!(
                "{} is encrypted: give its key (encryption_key, key_file, PRAGMA key)",
                path.display()
            ))),
        };
    };
    let known = keys::find(path).filter(|keys| keys.is_secret(secret));
    let keys = match (known, header) {
        // Without a header another connection of this process is about to make it.
        (Some(keys), header) if header.is_none_or(|it| keys.own(it) && keys.wraps(it)) => {
            return Ok(Unlocked {
                keys: Some(keys),
                header: own,
                known: true,
            });
        }
        (_, Some(header)) => {
            Keys::unlock(header, secret, entropy()?).map_err(|error| error.about(path))?
        }
        (_, None) => {
            let algorithm = algorithm.unwrap_or_else(Algorithm::fastest);
            Keys::create(secret, algorithm, entropy()?)?
        }
    };
    let keys = Arc::new(keys);
    keys::put(path, &keys);
    Ok(Unlocked {
        keys: Some(keys),
        header: own,
        known: false,
    })
}

/// A plain file has none, and takes none.
fn no_keys(path: &Path, secret: Option<&Secret>) -> Result<Unlocked> {
    match secret {
        None => Ok(Unlocked::default()),
        Some(_) => Err(Error::NotADatabase(format!(
            "{} is not encrypted, and a key is given: VACUUM INTO \
             'file:new.db?vfs=replica&encryption_key=…' makes an encrypted copy",
            path.display()
        ))),
    }
}

/// See [`Host::is_wrapped`](crate::database::host::Host::is_wrapped).
pub fn is_wrapped(vfs: BaseVfs, path: &Path, keys: &Keys) -> Result<bool> {
    Ok(match look(vfs, path)? {
        // Another process may just have made it, with keys of its own.
        Found::Sealed(header) => !keys.own(&header) || keys.wraps(&header),
        Found::Empty | Found::Plain => true,
    })
}

/// Wraps the data key of one file under the secret of `keys`; see
/// [`Host::rewrap`](crate::database::host::Host::rewrap).
pub fn rewrap(vfs: BaseVfs, path: &Path, keys: &Keys) -> Result<()> {
    use crate::wal::LogFile;
    let file = OwnFile::peek(vfs, path, true)?;
    let Found::Sealed(mut header) = Header::find(file.raw())? else {
        return Err(Error::NotADatabase(format!(
            "{} is not encrypted",
            path.display()
        )));
    };
    header.rewrap(file.raw(), keys)?;
    file.sync()?;
    header.overwrite(file.raw(), keys)?;
    file.sync()
}
