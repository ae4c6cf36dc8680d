//! Versions of the schema that may not come again.
//!
//! A connection that is open knows the schema by its version (the cookie in the header) alone: where a
//! local content is thrown away, and what follows has the same version and other tables, it takes one
//! table for another. SQLite's backup, which replaces content too, raises the version for that reason.
//! A discard leads back to exactly what the remote has; so the version is raised with whatever is
//! written next, or comes next, under a version that was seen.

use std::sync::Arc;

use super::entry::Entry;
use super::view::LocalView;
use crate::database::handle::Handle;
use crate::database::offline::Base;
use crate::database::pages::Pages;
use crate::database::store::{State, Store};
use crate::error::Result;
use crate::merge::States;
use crate::page::PageNumber;
use crate::replica::batch::Batch;
use crate::replica::follower::Replica;
use crate::replica::transaction::with_snapshot;
use crate::rows::view::View;
use crate::wire::Head;

/// Where the header of the database has the version (SQLite file format, section 1.3.9).
const VERSION: std::ops::Range<usize> = 40..44;

fn version(page: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&page[VERSION]);
    u32::from_be_bytes(bytes)
}

/// The version of the newest local content.
fn newest(handle: &Handle) -> Result<u32> {
    with_snapshot(handle, |snapshot| {
        let mut page = vec![0; snapshot.page_size().bytes()];
        snapshot.read_page(PageNumber::FIRST, &mut page)?;
        Ok(version(&page))
    })
}

/// Remembers the version of a local content that is about to be thrown away for that of `pages`.
pub(super) fn retire(handle: &Handle, store: &dyn Store, pages: &Pages) -> Result<()> {
    let Some(base) = pages.get(PageNumber::FIRST).transpose()? else {
        return Ok(());
    };
    let local = newest(handle)?;
    match local == version(&base) {
        true => Ok(()),
        false => store.set_retired(local.max(store.retired()?)),
    }
}

impl Replica {
    /// Whether a write has to wait for [`raise_version`](Replica::raise_version).
    pub(in crate::replica) fn has_retired(store: &dyn Store) -> Result<bool> {
        Ok(store.retired()? > 0)
    }

    /// Raises the version beyond those that were thrown away, as a change that was made here. True where
    /// that was done.
    pub(in crate::replica) fn raise_version(&self) -> Result<bool> {
        if !Self::has_retired(self.local().store()?)? {
            return Ok(false);
        }
        let (random, database) = (self.fresh_salts()?, self.database_id()?);
        self.with_state(|handle, store, writer, state| {
            let retired = store.retired()?;
            if retired == 0 || newest(handle)? > retired || store.unpushed(&state)?.is_some() {
                return store.set_retired(0).map(|()| false);
            }
            let head = Head {
                database,
                position: state.position,
                page_size: state.page_size,
                database_size: state.database_size,
                content: state.content,
            };
            let local = Arc::new(LocalView::of(self)?);
            let mut page = vec![0; state.page_size.bytes()];
            local.read_page(PageNumber::FIRST, &mut page)?;
            page[VERSION].copy_from_slice(&(retired + 1).to_be_bytes());
            let mut top = Pages::new(state.page_size);
            top.put(self, PageNumber::FIRST, &page)?;
            let states = States {
                base: Arc::clone(&local) as _,
                local: Arc::clone(&local) as _,
                remote: local,
                changed_here: Default::default(),
                changed_there: Default::default(),
                retired,
            };
            let entry = Entry::new(self, &states, head, &top, state.database_size)?;
            drop(states);
            entry.enter(handle, store, writer, &state, random)?;
            store.set_retired(0).map(|()| true)
        })
    }

    /// Whether what was fetched has a version that was thrown away here, and another schema.
    pub(in crate::replica) fn comes_again(&self, batch: &Batch) -> Result<bool> {
        let mut local = self.local();
        let (handle, store) = local.handle(self.host(), self.path())?;
        let retired = store.retired()?;
        let Some(page) = batch.pages.get(PageNumber::FIRST).transpose()? else {
            return Ok(false);
        };
        let fetched = version(&page);
        Ok(retired > 0 && fetched <= retired && fetched != newest(handle)?)
    }
}

/// The base of local changes that are about to be made: what is here.
pub(super) fn base_of(state: &State) -> Base {
    Base {
        database_size: state.database_size,
        content: state.content,
        transactions: 1,
    }
}
