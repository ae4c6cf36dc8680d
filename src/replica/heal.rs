//! Curing content whose position nobody knows any more: the hashes of all pages are compared with
//! the remote's, and only the pages that differ travel.

use super::batch::Batch;
use super::enter::{self, Current, Entered};
use super::fetch::{Conversation, Fetched};
use super::follower::Replica;
use crate::database::handle::Handle;
use crate::database::pages::Pages;
use crate::database::scan;
use crate::database::store::State;
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::wal::anchor::Anchor;
use crate::wal::index::IndexHeader;
use crate::wire::{Head, PART_BYTES};

/// Times the file may change under the comparison before it is given up.
const MOST_ROUNDS: usize = 10;

/// The hashes of all pages of one content.
pub(super) struct Hashes {
    pub(super) page_size: PageSize,
    pub(super) database_size: u32,
    /// By page number, from page 1; the lock-byte page has one that no page has. Nothing else,
    /// as there may be millions.
    pub(super) of: Vec<PageHash>,
}

/// The local content at one snapshot.
pub(super) struct Local {
    pub(super) header: IndexHeader,
    pub(super) content: ContentDigest,
    pub(super) hashes: Hashes,
}

impl Hashes {
    /// Whether a page is here, with this hash.
    pub(super) fn has(&self, number: PageNumber, hash: PageHash) -> bool {
        self.of.get(number.get() as usize - 1) == Some(&hash)
    }

    /// How many pages were read.
    pub(super) fn pages(&self) -> u32 {
        let lock_page = self.page_size.lock_page().get();
        self.database_size - u32::from(lock_page <= self.database_size)
    }
}

/// Makes the content equal to the remote's. Returns the state, the remote's head and the number
/// of pages that differed; `None` where the content is no longer the one of `anchor`.
pub fn heal(
    replica: &Replica,
    conversation: &mut Conversation<'_>,
    anchor: Option<Anchor>,
) -> Result<Option<(State, Head, usize)>> {
    for _ in 0..MOST_ROUNDS {
        replica.name_content()?;
        let local = scan_local(replica)?;
        if anchor.is_some_and(|anchor| anchor != local.header.anchor()) {
            return Ok(None);
        }
        let Local {
            header,
            content,
            hashes,
        } = local;
        let current = Current {
            content,
            database_size: hashes.database_size,
        };
        let batch = differing(replica, conversation, hashes)?;
        if let Some(state) = enter_batch(replica, &header, current, &batch)? {
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
    let (mut content, mut hashes) = (ContentDigest::default(), Vec::new());
    let result = scan::damaged_pages(handle, &lock, |number, hash| {
        content.add(hash);
        // Where the lock-byte page was left out.
        hashes.resize(number.get() as usize - 1, PageHash::NONE);
        hashes.push(hash);
        Ok(())
    });
    let header = *lock.header();
    lock.release(&*handle.files.index);
    let (page_size, database_size) = result?;
    Ok(Local {
        header,
        content,
        hashes: Hashes {
            page_size,
            database_size,
            of: hashes,
        },
    })
}

/// The pages that differ from the remote's, at one state of the remote.
pub(super) fn differing(
    replica: &Replica,
    conversation: &mut Conversation<'_>,
    hashes: Hashes,
) -> Result<Batch> {
    let mut wanted: Vec<PageNumber> = Vec::new();
    let first = conversation.hashes(|_, number, hash| {
        if !hashes.has(number, hash) {
            wanted.push(number);
        }
    })?;
    if first.page_size != hashes.page_size {
        return Err(Error::Misuse(format!(
            "the remote's pages have {} bytes, those of {} have {}: make the replica anew",
            first.page_size.get(),
            replica.path().display(),
            hashes.page_size.get()
        )));
    }
    drop(hashes);
    let mut pages = Pages::new(first.page_size);
    for chunk in wanted.chunks((PART_BYTES / first.page_size.bytes()).max(1)) {
        for (number, data) in conversation.pages(chunk.to_vec())? {
            pages.put(replica, number, &data)?;
        }
    }
    // Hashes and pages were read one after the other: what changed since the first is added.
    let head = match conversation.changes(first.position, replica, None)? {
        Fetched::UpToDate(head) => head,
        Fetched::Batch(batch) => {
            for page in batch.pages.iter() {
                let (number, data) = page?;
                pages.put(replica, number, &data)?;
            }
            batch.head
        }
        Fetched::Diverged(_) => {
            return Err(Error::Busy(
                "the remote was restored while it was compared; sync again".to_owned(),
            ));
        }
    };
    pages.cut(head.database_size);
    Ok(Batch { head, pages })
}

/// Enters the batch if the file has not changed since the scan.
fn enter_batch(
    replica: &Replica,
    scanned: &IndexHeader,
    current: Current,
    batch: &Batch,
) -> Result<Option<State>> {
    let random = replica.fresh_salts()?;
    let entered = replica.under_write_lock(|local| {
        let (handle, store) = local.handle(replica.host(), replica.path())?;
        let Some(writer) = handle.try_writer()? else {
            return Ok(None);
        };
        if writer.header() != scanned {
            return Ok(Some(None));
        }
        enter::enter(handle, store, writer, current, batch, random)
            .map(|entered| Some(Some(entered)))
    })?;
    match entered {
        None => Ok(None),
        Some(Entered::Done(state)) => Ok(Some(state)),
        Some(Entered::Mismatch) => Err(enter::mismatch(replica.remote()?.url())),
    }
}
