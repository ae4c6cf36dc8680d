//! Turning content into history: page map, content digest and position, kept in the state store.

use crate::database::handle::Handle;
use crate::database::host::Host;
use crate::database::scan;
use crate::database::store::{Role, State, Store};
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber};
use crate::position::{DatabaseId, HistoryId, Lsn, Nonce, Position, TransactionDigest};
use crate::wal::read_lock::ReadLock;

/// The id of the primary's database, given when it is served for the first time.
pub fn identify(host: &dyn Host, store: &dyn Store) -> Result<DatabaseId> {
    match store.identity()? {
        Some((Role::Replica, _)) => Err(Error::Misuse(
            "this database is a replica: its primary serves it".to_owned(),
        )),
        Some((Role::Primary, Some(id))) => Ok(id),
        _ => {
            let id = DatabaseId(host.random()?);
            store.set_identity(Role::Primary, Some(id))?;
            Ok(id)
        }
    }
}

/// Adds one transaction to the history, by the nonce it was pushed with or, for a local one, by one of
/// its own. `changed` ascends by page and holds no page above `database_size`. Call within a
/// transaction of the store.
pub fn advance(
    host: &dyn Host,
    store: &dyn Store,
    state: &State,
    database_size: u32,
    changed: &[(PageNumber, PageHash)],
    nonce: Option<Nonce>,
) -> Result<State> {
    let digest = TransactionDigest::of(database_size, changed.iter().copied());
    let nonce = match nonce {
        Some(nonce) => nonce,
        None => Nonce(host.random()?),
    };
    let position = state.position.next(nonce, digest);
    let mut content = state.content;
    for (number, hash) in changed {
        let old = store.page_hash(*number)?;
        // A page written as it was need not travel.
        if old != Some(*hash) {
            old.into_iter().for_each(|old| content.remove(old));
            content.add(*hash);
            store.set_page(*number, position.lsn, *hash)?;
        }
    }
    if database_size < state.database_size {
        store
            .cut_pages(database_size)?
            .into_iter()
            .for_each(|hash| content.remove(hash));
    }
    store.add_history(position)?;
    Ok(State {
        position,
        database_size,
        content,
        ..*state
    })
}

/// Compares all content at a snapshot with the page map. What changed while nobody captured
/// becomes one new transaction; a database without history gets its first.
pub fn compare(
    host: &dyn Host,
    handle: &Handle,
    store: &dyn Store,
    lock: &ReadLock,
) -> Result<State> {
    // Commits of others may not have been synced: nothing is exposed that a crash could take back.
    handle.files.log.sync()?;
    handle.files.content.sync()?;
    store.transaction(|store| {
        let known = store.state()?;
        let mut changed = Vec::new();
        let (page_size, database_size) = scan::pages(handle, lock, |number, hash| {
            if store.page_hash(number)? != Some(hash) {
                changed.push((number, hash));
            }
            Ok(())
        })?;
        let known = match known {
            Some(state) if state.page_size == page_size => state,
            other => {
                // Another page size makes another database: no page of the old one fits.
                if other.is_some() {
                    store.clear_history()?;
                    store.set_identity(Role::Primary, Some(DatabaseId(host.random()?)))?;
                    log::warn!(target: "replica", "the page size changed: a new history begins, replicas have to be made anew");
                }
                State {
                    position: Position { lsn: Lsn(0), id: HistoryId(host.random()?) },
                    page_size,
                    database_size: 0,
                    content: ContentDigest::default(),
                    anchor: None,
                }
            }
        };
        let same = changed.is_empty() && database_size == known.database_size;
        let state = match same {
            true => known,
            false => {
                let state = advance(host, store, &known, database_size, &changed, None)?;
                // A push may be among what was changed.
                store.add_gap(state.position.lsn)?;
                state
            }
        };
        let state = State { anchor: Some(lock.header().anchor()), ..state };
        store.set_state(&state)?;
        Ok(state)
    })
}
