//! Entering a fetched batch into the local log, as one transaction, provably the right one.

use std::borrow::Cow;

use crate::database::handle::Handle;
use crate::database::scan;
use crate::database::store::{Intent, State, Store};
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::planted::{self, Bug};
use crate::position::{TransactionDigest, TransactionHasher};
use crate::replica::batch::Batch;
use crate::replica::resolve::{self, Standing};
use crate::wal::apply::Writer;
use crate::wal::frame::Salts;
use crate::wal::index::CheckpointInfo;
use crate::wal::snapshot::Snapshot;

/// What the file holds now, under WAL_WRITE.
#[derive(Clone, Copy)]
pub struct Current {
    /// Digest of its content.
    pub content: ContentDigest,
    /// Its size in pages.
    pub database_size: u32,
}

/// What came of entering a batch.
pub enum Entered {
    /// The file is at the batch's head.
    Done(State),
    /// The content would not be what the remote says: the file, or the remote, is not what it
    /// claims. Nothing was changed.
    Mismatch,
}

/// Enters `batch` over `current`. The position is recorded after the content is durable; the
/// intent, before the first frame is visible.
pub fn enter(
    handle: &Handle,
    store: &dyn Store,
    mut writer: Writer<'_>,
    current: Current,
    batch: &Batch,
    random: Salts,
) -> Result<Entered> {
    let head = &batch.head;
    require_growth(current, batch)?;
    let outcome = outcome(handle, current, batch)?;
    if outcome.content != head.content && !planted::is(Bug::ApplyOverNewerContent) {
        return Ok(Entered::Mismatch);
    }
    let unchanged = batch.pages.is_empty() && current.database_size == head.database_size;
    let state = State {
        position: head.position,
        page_size: head.page_size,
        database_size: head.database_size,
        content: head.content,
        anchor: Some(writer.header().anchor()),
    };
    if unchanged {
        return anchor(handle, store, writer, state, random).map(|_| Entered::Done(state));
    }
    // A transaction has a page at least, also where the database only got smaller.
    let kept = match batch.pages.is_empty() {
        true => Some(first_page(handle)?.0),
        false => None,
    };
    let digest = match &kept {
        Some(page) => {
            let hash = PageHash::of(PageNumber::FIRST, page);
            TransactionDigest::of(head.database_size, [(PageNumber::FIRST, hash)])
        }
        None => outcome.digest,
    };
    // Of an intent before this one, perhaps.
    writer.discard_unpublished(&*handle.files.log)?;
    store.set_intent(&Intent {
        position: head.position,
        database_size: head.database_size,
        content: head.content,
        digest,
    })?;
    sync_before_restart(handle, &writer)?;
    let kept = kept.map(|page| Ok((PageNumber::FIRST, Cow::Owned(page))));
    let pages = kept.into_iter().chain(batch.pages.iter());
    let appended = writer.try_append(
        &*handle.files.log,
        head.page_size,
        head.database_size,
        pages,
        random,
    );
    let header = match appended {
        Ok(header) => header,
        Err(error) => {
            // Nothing became visible, or will. If this fails too, the next look finds it out.
            let _ = writer
                .discard_unpublished(&*handle.files.log)
                .and_then(|()| store.clear_intent());
            return Err(error);
        }
    };
    let state = State {
        anchor: Some(header.anchor()),
        ..state
    };
    resolve::settle_entered(store, state).map(|_| Entered::Done(state))
}

/// Records a verified state.
pub fn anchor(
    handle: &Handle,
    store: &dyn Store,
    mut writer: Writer<'_>,
    state: State,
    random: Salts,
) -> Result<Standing> {
    writer.discard_unpublished(&*handle.files.log)?;
    name_content(handle, &mut writer, random)?;
    let anchor = Some(writer.header().anchor());
    resolve::settle(store, State { anchor, ..state })
}

/// A log without frames says nothing about the content: whatever is written and checkpointed, when
/// the last one closes the file the next header is the same. So page 1 enters as it is.
pub fn name_content(handle: &Handle, writer: &mut Writer<'_>, random: Salts) -> Result<()> {
    if !writer.header().anchor().is_blank() {
        return Ok(());
    }
    let (page, page_size, database_size) = first_page(handle)?;
    let pages = [(PageNumber::FIRST, page.as_slice())];
    let log = &*handle.files.log;
    writer
        .append(log, page_size, database_size, pages, random)
        .map(drop)
}

/// Page 1 as it is now, page size and size of the database.
fn first_page(handle: &Handle) -> Result<(Vec<u8>, PageSize, u32)> {
    let files = &handle.files;
    let lock = scan::begin_read(handle)?;
    let read =
        Snapshot::new(&*files.index, &*files.log, &*files.content, &lock).and_then(|snapshot| {
            let size = snapshot.page_size();
            let mut page = vec![0; size.bytes()];
            snapshot.read_page(PageNumber::FIRST, &mut page)?;
            Ok((page, size, snapshot.database_size()))
        });
    lock.release(&*files.index);
    read
}

/// A log that is begun anew takes the only copy of pages with it that a careless checkpoint
/// (`synchronous=OFF`) has not made durable.
fn sync_before_restart(handle: &Handle, writer: &Writer<'_>) -> Result<()> {
    let copied = CheckpointInfo::of(&*handle.files.index)?.backfilled();
    match writer.header().mx_frame {
        mx_frame if mx_frame > 0 && copied >= mx_frame => handle.files.content.sync(),
        _ => Ok(()),
    }
}

/// A page that a growing database never got would read as whatever the file holds there.
fn require_growth(current: Current, batch: &Batch) -> Result<()> {
    let lock_page = batch.head.page_size.lock_page().get();
    let new = current.database_size + 1..=batch.head.database_size;
    let wanted = new.clone().count() - usize::from(new.contains(&lock_page));
    let given = batch
        .pages
        .numbers()
        .filter(|number| new.contains(&number.get()))
        .count();
    match given == wanted {
        true => Ok(()),
        false => Err(Error::Protocol(format!(
            "{given} of {wanted} new pages came with a growth to {} pages",
            batch.head.database_size
        ))),
    }
}

/// What a batch makes of the file.
struct Outcome {
    /// Digest of the whole content.
    content: ContentDigest,
    /// Digest of the batch as a transaction.
    digest: TransactionDigest,
}

/// What the file will be once the batch replaces what it holds now.
fn outcome(handle: &Handle, current: Current, batch: &Batch) -> Result<Outcome> {
    let database_size = batch.head.database_size;
    let lock = scan::begin_read(handle)?;
    let result = (|| {
        let snapshot = Snapshot::new(
            &*handle.files.index,
            &*handle.files.log,
            &*handle.files.content,
            &lock,
        )?;
        let mut content = current.content;
        let mut old = vec![0; snapshot.page_size().bytes()];
        let mut remove = |number: PageNumber, content: &mut ContentDigest| -> Result<()> {
            // Content that is not what was recorded leads to another digest, and is compared then.
            content.remove(scan::hash(&snapshot, number, &mut old)?);
            Ok(())
        };
        let mut hasher = TransactionHasher::new(database_size);
        for page in batch.pages.iter() {
            let (number, data) = page?;
            if number.get() <= current.database_size {
                remove(number, &mut content)?;
            }
            let hash = PageHash::of(number, &data);
            content.add(hash);
            hasher.add(number, hash);
        }
        let lock_page = snapshot.page_size().lock_page();
        for number in (database_size + 1..=current.database_size).filter_map(PageNumber::new) {
            if number != lock_page {
                remove(number, &mut content)?;
            }
        }
        Ok(Outcome {
            content,
            digest: hasher.finish(),
        })
    })();
    lock.release(&*handle.files.index);
    result
}

/// The answer to a batch that does not lead to the content the remote announced, even after
/// comparing every page.
pub fn mismatch(url: &str) -> Error {
    Error::Protocol(format!(
        "{url} announced a content that its pages do not form; nothing was changed"
    ))
}
