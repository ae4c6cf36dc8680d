//! Curing content whose position nobody knows any more: the hashes of all pages are compared with
//! the remote's, and only the pages that differ travel.

use std::collections::BTreeMap;

use super::enter::{self, Current, Entered};
use super::fetch::{Batch, Conversation, Fetched};
use super::follower::Replica;
use crate::database::handle::Handle;
use crate::database::scan;
use crate::database::store::State;
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::wal::anchor::Anchor;
use crate::wal::index::IndexHeader;
use crate::wire::Head;

/// Pages asked for at once.
const PAGES_PER_REQUEST: usize = 8 << 20;

/// Times the file may change under the comparison before it is given up.
const MOST_ROUNDS: usize = 10;

/// The local content at one snapshot.
pub(super) struct Local {
    pub(super) header: IndexHeader,
    page_size: PageSize,
    database_size: u32,
    pub(super) content: ContentDigest,
    pub(super) hashes: BTreeMap<PageNumber, PageHash>,
}

/// Makes the content equal to the remote's. Returns the state, the remote's head and the number
/// of pages that differed; `None` where the content is no longer the one of `anchor`.
pub fn heal(
    replica: &Replica,
    conversation: &mut Conversation<'_>,
    anchor: Option<Anchor>,
) -> Result<Option<(State, Head, usize)>> {
    for _ in 0..MOST_ROUNDS {
        let local = scan_local(replica)?;
        if anchor.is_some_and(|anchor| anchor != local.header.anchor()) {
            return Ok(None);
        }
        let batch = differing(replica, conversation, &local)?;
        if let Some(state) = enter_batch(replica, &local, &batch)? {
            return Ok(Some((state, batch.head, batch.pages.len())));
        }
    }
    Err(Error::Busy(format!(
        "{} keeps changing while it is compared",
        replica.path().display()
    )))
}

pub(super) fn scan_local(replica: &Replica) -> Result<Local> {
    // A handle of its own: other threads go on using the file.
    let handle = &Handle::open(replica.host(), replica.path())?;
    let lock = scan::begin_read(handle)?;
    let (mut content, mut hashes) = (ContentDigest::default(), BTreeMap::new());
    let result = scan::pages(handle, &lock, |number, hash, _| {
        content.add(hash);
        hashes.insert(number, hash);
        Ok(())
    });
    let header = *lock.header();
    lock.release(&*handle.files.index);
    let (page_size, database_size) = result?;
    Ok(Local {
        header,
        page_size,
        database_size,
        content,
        hashes,
    })
}

/// The pages that differ from the remote's, at one state of the remote.
fn differing(
    replica: &Replica,
    conversation: &mut Conversation<'_>,
    local: &Local,
) -> Result<Batch> {
    let (first, remote) = conversation.hashes()?;
    if first.page_size != local.page_size {
        return Err(Error::Misuse(format!(
            "the remote's pages have {} bytes, those of {} have {}: make the replica anew",
            first.page_size.get(),
            replica.path().display(),
            local.page_size.get()
        )));
    }
    let wanted: Vec<PageNumber> = remote
        .iter()
        .filter(|(number, hash)| local.hashes.get(number) != Some(hash))
        .map(|(number, _)| *number)
        .collect();
    let mut pages = BTreeMap::new();
    for chunk in wanted.chunks((PAGES_PER_REQUEST / first.page_size.bytes()).max(1)) {
        let part = conversation.pages(chunk.to_vec())?;
        pages.extend(part.into_iter().map(|page| (page.number, page.data)));
    }
    // Hashes and pages were read one after the other: what changed since the first is added.
    let head = match conversation.changes(first.position)? {
        Fetched::UpToDate(head) => head,
        Fetched::Batch(batch) => {
            pages.extend(batch.pages);
            batch.head
        }
        Fetched::Diverged(_) => {
            return Err(Error::Busy(
                "the remote was restored while it was compared; sync again".to_owned(),
            ));
        }
    };
    pages.retain(|number, _| number.get() <= head.database_size);
    Ok(Batch { head, pages })
}

/// Enters the batch if the file has not changed since the scan.
fn enter_batch(replica: &Replica, scanned: &Local, batch: &Batch) -> Result<Option<State>> {
    let random = replica.fresh_salts()?;
    let entered = replica.under_write_lock(|local| {
        let (handle, store) = local.handle(replica.host(), replica.path())?;
        let Some(writer) = enter::try_writer(handle)? else {
            return Ok(None);
        };
        if writer.header() != &scanned.header {
            return Ok(Some(None));
        }
        let current = Current {
            content: scanned.content,
            database_size: scanned.database_size,
        };
        enter::enter(handle, store, writer, current, batch, random)
            .map(|entered| Some(Some(entered)))
    })?;
    match entered {
        None => Ok(None),
        Some(Entered::Done(state)) => Ok(Some(state)),
        Some(Entered::Mismatch) => Err(enter::mismatch(replica.remote()?.url())),
    }
}
