//! Reading pages as they were before a transaction that is being captured.
//!
//! Why an old page can still be read: until the capture moves its read lock, that lock keeps
//! checkpoints from copying frames beyond the captured header (a checkpoint stops at the smallest
//! read mark, and with slot 0 held it copies nothing), and the log from beginning anew unless all
//! of it is in the database file. So the old page is the newest frame up to the captured header,
//! or, where the log has none, what the database file has. While the lock is moved to the newest
//! commit the first stays true, as the new lock is taken before the old one goes. The second may
//! not: from then on a checkpoint may copy the very transaction that is captured here. What was
//! read is therefore compared with the hash that the page map has, and counts only if it is equal.

use parking_lot::Mutex;

use super::ring::{Image, RING_BYTES, Ring};
use crate::database::handle::Handle;
use crate::database::store::{State, Store};
use crate::error::Result;
use crate::page::{PageHash, PageNumber, PageSize};
use crate::position::Lsn;
use crate::wal::frames::{Transaction, read_frame};
use crate::wal::hash;

/// The pages that `transaction` replaces, as they were; `frame` is the last frame before it, 0
/// where it begins the log. Pages that cannot be read for certain are left out.
pub fn before(
    handle: &Handle,
    store: &dyn Store,
    state: &State,
    transaction: &Transaction,
    frame: u32,
) -> Result<Vec<(PageNumber, Image)>> {
    let mut images = Vec::new();
    if transaction.pages.len() * state.page_size.bytes() > RING_BYTES {
        // It would only push out what may still be asked for.
        return Ok(images);
    }
    for number in transaction.pages.keys() {
        let Some((since, hash)) = store.page_version(*number)? else {
            continue;
        };
        let data = read(handle, state.page_size, *number, frame)?;
        if PageHash::of(*number, &data) == hash {
            let data = data.into();
            images.push((*number, Image { since, hash, data }));
        }
    }
    Ok(images)
}

/// Keeps images that were replaced by transaction `until`.
pub fn keep(ring: &Mutex<Ring>, until: Lsn, images: Vec<(PageNumber, Image)>) {
    let mut ring = ring.lock();
    for (number, image) in images {
        ring.add(number, until, image);
    }
}

fn read(handle: &Handle, size: PageSize, number: PageNumber, frame: u32) -> Result<Vec<u8>> {
    let files = &handle.files;
    let mut data = vec![0; size.bytes()];
    match hash::find(&*files.index, number, 1, frame)? {
        Some(frame) => read_frame(&*files.log, size, frame, &mut data)?,
        // A page beyond the end of the file reads as zeros.
        None => {
            files.content.read(&mut data, number.offset(size))?;
        }
    }
    Ok(data)
}
