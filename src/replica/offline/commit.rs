//! A commit that is made here first.
//!
//! Before it can become visible, an image of each page that it changes for the first time is durable in
//! the state store, beside what is intended. So the local file can be led back to what the remote has,
//! however many commits follow, and whatever ends the process or the machine. A commit that changes
//! no further page costs no sync of the store: what a power loss takes of the record, a read of the
//! file finds out again.

use crate::database::handle::Handle;
use crate::database::offline::{Base, Epoch};
use crate::database::store::{State, Store};
use crate::error::Result;
use crate::page::PageNumber;
use crate::replica::follower::Replica;
use crate::replica::transaction::{Changes, Frames, with_snapshot};

impl Replica {
    /// Gets ready for the commit of the transaction that `frames` hold, computed from `state`, under
    /// WAL_WRITE. Returns the state it leads to, with its intent on record.
    pub(in crate::replica) fn commit_here(
        &self,
        state: &State,
        frames: &Frames<'_>,
    ) -> Result<State> {
        let mut local = self.local();
        let (handle, store) = local.handle(self.host(), self.path())?;
        let changes = Changes::of(handle, state, frames)?;
        let intent = changes.local_intent(state, frames);
        let known = store.base()?;
        let base = known.unwrap_or(Base {
            database_size: state.database_size,
            content: state.content,
            transactions: 0,
        });
        let (epoch, size) = epoch(store, &base)?;
        let fresh = fresh(store, epoch, size, state, &changes, frames)?;
        let durable = known.is_none() || !fresh.is_empty();
        store.set_durable(durable)?;
        let kept = store.transaction(|store| {
            keep(handle, store, epoch, &fresh)?;
            if known.is_none() {
                store.set_base(&base)?;
            }
            store.set_intent(&intent)
        });
        store.set_durable(true).and(kept)?;
        Ok(State {
            database_size: frames.database_size,
            content: intent.content,
            ..*state
        })
    }
}

/// Since when images are kept, and the size of the database then.
fn epoch(store: &dyn Store, base: &Base) -> Result<(Epoch, u32)> {
    match store.outgoing()? {
        Some(outgoing) => Ok((Epoch::Push, outgoing.database_size)),
        None => Ok((Epoch::Base, base.database_size)),
    }
}

/// The pages that a transaction is the first to change, or to cut off.
fn fresh(
    store: &dyn Store,
    epoch: Epoch,
    size: u32,
    state: &State,
    changes: &Changes,
    frames: &Frames<'_>,
) -> Result<Vec<PageNumber>> {
    let lock_page = frames.page_size.lock_page();
    let cut = frames.database_size + 1..=state.database_size;
    let cut = cut
        .filter_map(PageNumber::new)
        .filter(|number| *number != lock_page);
    let mut fresh = Vec::new();
    for number in changes.numbers().chain(cut) {
        if number.get() <= size && !store.is_dirty(epoch, number)? {
            fresh.push(number);
        }
    }
    Ok(fresh)
}

fn keep(handle: &Handle, store: &dyn Store, epoch: Epoch, pages: &[PageNumber]) -> Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    with_snapshot(handle, |snapshot| {
        let mut image = vec![0; snapshot.page_size().bytes()];
        for number in pages {
            snapshot.read_page(*number, &mut image)?;
            store.keep_image(epoch, *number, &image)?;
        }
        Ok(())
    })
}
