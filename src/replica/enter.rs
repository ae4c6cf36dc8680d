//! Entering a fetched batch into the local log, as one transaction, provably the right one.

use crate::database::handle::Handle;
use crate::database::scan;
use crate::database::store::{Intent, State, Store};
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber};
use crate::position::TransactionDigest;
use crate::replica::fetch::Batch;
use crate::wal::apply::Writer;
use crate::wal::frame::Salts;
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
    store: &Store,
    mut writer: Writer<'_>,
    current: Current,
    batch: &Batch,
    random: Salts,
) -> Result<Entered> {
    let head = &batch.head;
    require_growth(current, batch)?;
    let hashes: Vec<(PageNumber, PageHash)> = batch
        .pages
        .iter()
        .map(|(number, data)| (*number, PageHash::of(*number, data)))
        .collect();
    if content_after(handle, current, head.database_size, &hashes)? != head.content {
        return Ok(Entered::Mismatch);
    }
    let mut header = *writer.header();
    if !batch.pages.is_empty() {
        store.set_intent(&Intent {
            position: head.position,
            database_size: head.database_size,
            content: head.content,
            digest: TransactionDigest::of(head.database_size, hashes.iter().copied()),
        })?;
        let pages = batch
            .pages
            .iter()
            .map(|(number, data)| (*number, data.as_slice()));
        header = writer.append(
            &*handle.files.log,
            head.page_size,
            head.database_size,
            pages,
            random,
        )?;
    }
    let state = State {
        position: head.position,
        page_size: head.page_size,
        database_size: head.database_size,
        content: head.content,
        anchor: Some(header.anchor()),
    };
    store.transaction(|store| {
        store.set_state(&state)?;
        store.clear_intent()
    })?;
    Ok(Entered::Done(state))
}

/// A page that a growing database never got would read as whatever the file holds there.
fn require_growth(current: Current, batch: &Batch) -> Result<()> {
    let lock_page = batch.head.page_size.lock_page().get();
    let new = current.database_size + 1..=batch.head.database_size;
    let wanted = new.clone().count() - usize::from(new.contains(&lock_page));
    let given = batch
        .pages
        .keys()
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

/// The content digest once `hashes` replace what the file holds now.
fn content_after(
    handle: &Handle,
    current: Current,
    database_size: u32,
    hashes: &[(PageNumber, PageHash)],
) -> Result<ContentDigest> {
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
            snapshot.read_page(number, &mut old)?;
            content.remove(PageHash::of(number, &old));
            Ok(())
        };
        for (number, hash) in hashes {
            if number.get() <= current.database_size {
                remove(*number, &mut content)?;
            }
            content.add(*hash);
        }
        let lock_page = snapshot.page_size().lock_page();
        for number in (database_size + 1..=current.database_size).filter_map(PageNumber::new) {
            if number != lock_page {
                remove(number, &mut content)?;
            }
        }
        Ok(content)
    })();
    lock.release(&*handle.files.index);
    result
}

/// Tries to take WAL_WRITE; `None` while someone else has it.
pub fn try_writer(handle: &Handle) -> Result<Option<Writer<'_>>> {
    handle.header()?;
    Writer::try_begin(&*handle.files.index)
}

/// The answer to a batch that does not lead to the content the remote announced, even after
/// comparing every page.
pub fn mismatch(url: &str) -> Error {
    Error::Protocol(format!(
        "{url} announced a content that its pages do not form; nothing was changed"
    ))
}
