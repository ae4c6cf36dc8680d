//! Taking a database over: what happened while nobody captured, and how a transaction of the log
//! becomes history.

use std::path::Path;

use super::history;
use crate::database::handle::Handle;
use crate::database::host::Host;
use crate::database::store::{State, Store};
use crate::database::unchanged;
use crate::error::Result;
use crate::page::{PageHash, PageNumber};
use crate::wal::anchor::{Anchor, Relation};
use crate::wal::frames::{Transaction, read_frame, transactions};
use crate::wal::index::IndexHeader;
use crate::wal::read_lock::ReadLock;

/// The state at the snapshot of `lock`, after a time in which nobody captured.
pub fn resume(
    host: &dyn Host,
    path: &Path,
    handle: &Handle,
    store: &dyn Store,
    lock: &ReadLock,
) -> Result<State> {
    let header = lock.header();
    if let Some(state) = store.state()?
        && let Some(anchor) = state.anchor
    {
        match anchor.relation(header, &*handle.files.log)? {
            Relation::Equal => return Ok(state),
            Relation::Restarted => {
                let state = State {
                    anchor: Some(header.anchor()),
                    ..state
                };
                return store.set_state(&state).map(|()| state);
            }
            Relation::Extended => {
                let resumed = resume_from_log(host, handle, store, &state, &anchor, header);
                if resumed.is_ok() {
                    return resumed;
                }
            }
            Relation::Unknown => {}
        }
    }
    // The lock keeps checkpoints away, and a log without frames gives them nothing to copy.
    if let Some(state) = unchanged::state(host, store, path, header)? {
        let anchor = Some(header.anchor());
        let state = State { anchor, ..state };
        return store.set_state(&state).map(|()| state);
    }
    history::compare(host, handle, store, lock)
}

/// The frames beyond the anchor, each commit a transaction of its own.
fn resume_from_log(
    host: &dyn Host,
    handle: &Handle,
    store: &dyn Store,
    state: &State,
    anchor: &Anchor,
    header: &IndexHeader,
) -> Result<State> {
    handle.files.log.sync()?;
    store.transaction(|store| {
        let mut state = *state;
        for transaction in transactions(&*handle.files.log, header, anchor)? {
            state = record(host, handle, store, &state, &transaction?)?;
        }
        state.anchor = Some(header.anchor());
        store.set_state(&state)?;
        Ok(state)
    })
}

/// Adds one transaction of the log to the history.
pub fn record(
    host: &dyn Host,
    handle: &Handle,
    store: &dyn Store,
    state: &State,
    transaction: &Transaction,
) -> Result<State> {
    let mut page = vec![0; state.page_size.bytes()];
    let mut changed: Vec<(PageNumber, PageHash)> = Vec::with_capacity(transaction.pages.len());
    for (number, frame) in &transaction.pages {
        read_frame(&*handle.files.log, state.page_size, *frame, &mut page)?;
        changed.push((*number, PageHash::of(*number, &page)));
    }
    let (size, nonce) = (transaction.database_size, transaction.nonce);
    history::advance(host, store, state, size, &changed, nonce)
}
