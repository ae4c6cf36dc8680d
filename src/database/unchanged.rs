//! Knowing what a file holds when it is opened again, without reading it.
//!
//! Whoever closes a database last has SQLite copy the log into the file and remove it, and with the
//! log goes what the recorded anchor stands on. So before that, while nobody can commit and nobody
//! copies, the file's fingerprint is put on record beside its position.

use std::path::Path;

use super::handle::Handle;
use super::host::Host;
use super::store::{State, Store};
use crate::error::Result;
use crate::wal::index::IndexHeader;

/// Remembers how the file is left, where it holds exactly the recorded state.
pub fn remember(host: &dyn Host, handle: &Handle, store: &dyn Store, path: &Path) -> Result<()> {
    handle.checkpoint()?;
    let Some(writer) = handle.try_writer()? else {
        return Ok(());
    };
    let anchor = writer.header().anchor();
    let is_recorded = |state: &State| state.anchor == Some(anchor) && !anchor.is_blank();
    let Some(state) = store.state()?.filter(is_recorded) else {
        return Ok(());
    };
    if store.intent()?.is_some() {
        return Ok(());
    }
    let remembered = writer.while_all_copied(|| {
        // A checkpoint with `synchronous=OFF` would be undone by a power loss, and the time kept.
        handle.files.content.sync()?;
        let Some(file) = host.stamp(path)? else {
            return Ok(());
        };
        // What is lost costs a read of the file.
        store.set_durable(false)?;
        let set = store.set_fingerprint(state.position, &file);
        store.set_durable(true).and(set)
    })?;
    remembered.unwrap_or(Ok(()))
}

/// The recorded state, where the file was left at it and is unchanged since. The caller sees to it
/// that nobody commits or copies meanwhile.
pub fn state(
    host: &dyn Host,
    store: &dyn Store,
    path: &Path,
    header: &IndexHeader,
) -> Result<Option<State>> {
    if header.mx_frame != 0 || store.intent()?.is_some() {
        return Ok(None);
    }
    let (Some(state), Some((position, file))) = (store.state()?, store.fingerprint()?) else {
        return Ok(None);
    };
    let stands = position == state.position && host.fingerprint(path)? == Some(file);
    Ok(stands.then_some(state))
}
