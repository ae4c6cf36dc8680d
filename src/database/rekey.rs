//! Changing the key of an encrypted database while others use it: the data key stays, and is
//! wrapped anew. The header of the database decides; the state store follows.

use std::path::Path;
use std::time::Duration;

use super::clock::Stopwatch;
use super::host::Host;
use super::{keys, paths};
use crate::crypt::key::{Keys, Secret};
use crate::error::{Error, Result};
use crate::wal::Lock;

/// How long a checkpoint of somebody else is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Wraps the data key of the database at `path` under `secret`. Interrupted at any moment, the
/// database opens with the old secret or with the new one, never with both.
pub fn rekey(host: &dyn Host, path: &Path, secret: &Secret) -> Result<()> {
    let old = keys::find(path).ok_or_else(|| {
        Error::Misuse(format!(
            "{} is not encrypted: VACUUM INTO 'file:new.db?vfs=replica&encryption_key=…' makes an \
             encrypted copy",
            path.display()
        ))
    })?;
    let new = old.rekeyed(secret)?;
    rewrap(host, path, &new)?;
    match host.store_exists(path)? {
        true => rewrap(host, &paths::store(path), &new),
        false => Ok(()),
    }
}

/// A change that was interrupted leaves the state store wrapped under the old secret: this ends it.
pub fn finish(host: &dyn Host, path: &Path, keys: &Keys) -> Result<()> {
    let store = paths::store(path);
    match host.store_exists(path)? && !host.is_wrapped(&store, keys)? {
        true => rewrap(host, &store, keys),
        false => Ok(()),
    }
}

/// One file, under the locks of those who write its header: writers, and in WAL mode checkpoints.
fn rewrap(host: &dyn Host, path: &Path, keys: &Keys) -> Result<()> {
    let connection = host.connect(path)?;
    connection.hold_writers()?;
    // It cannot change meanwhile.
    let result = match connection.journal_mode()? == "wal" {
        true => without_checkpoints(host, path, || host.rewrap(path, keys)),
        false => host.rewrap(path, keys),
    };
    connection.release_writers()?;
    result
}

fn without_checkpoints(
    host: &dyn Host,
    path: &Path,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let files = host.open_database(path)?;
    let index = &*files.index;
    // Locks of the index may be taken only once it is mapped.
    index.region(0, false)?;
    let begun = Stopwatch::start(host.clock());
    while !index.lock_exclusive(Lock::Checkpoint)? {
        if begun.elapsed() > PATIENCE {
            return Err(Error::Busy(format!("{} is locked", path.display())));
        }
        begun.sleep(Duration::from_millis(1));
    }
    let result = work();
    index.unlock_exclusive(Lock::Checkpoint);
    result
}
