//! Making pages of deltas, from what the local file has.

use bytes::Bytes;

use super::fetch::Whole;
use super::follower::Replica;
use crate::database::host::Spool;
use crate::database::pages::Room;
use crate::database::paths;
use crate::database::scan;
use crate::error::{Error, Result};
use crate::wal::snapshot::Snapshot;
use crate::wire::{Head, Page, PageData};

/// Whole pages out of what a remote sent.
pub trait Bases {
    /// The pages, each whole; `None` where a delta was made from something that is not here.
    fn whole(&self, head: &Head, pages: Vec<Page>) -> Result<Option<Whole>>;
}

impl Bases for Replica {
    fn whole(&self, head: &Head, pages: Vec<Page>) -> Result<Option<Whole>> {
        let is_delta = |page: &Page| matches!(page.data, PageData::Delta(_));
        if !pages.iter().any(is_delta) {
            let whole: Result<_> = pages.into_iter().map(Page::into_full).collect();
            return whole.map(Some);
        }
        let mut local = self.local();
        let (handle, _) = local.handle(self.host(), self.path())?;
        let files = &handle.files;
        let lock = scan::begin_read(handle)?;
        // The newest snapshot may be beyond the asker's position: then the hashes differ.
        let result = Snapshot::new(&*files.index, &*files.log, &*files.content, &lock)
            .and_then(|snapshot| over(&snapshot, head, pages));
        lock.release(&*files.index);
        result
    }
}

fn over(snapshot: &Snapshot<'_>, head: &Head, pages: Vec<Page>) -> Result<Option<Whole>> {
    if snapshot.page_size() != head.page_size {
        return Ok(None);
    }
    let mut base = vec![0; head.page_size.bytes()];
    let mut whole = Vec::with_capacity(pages.len());
    for page in pages {
        let data = match page.data {
            PageData::Full(data) => Some(data),
            PageData::Delta(_) if page.number.get() > snapshot.database_size() => None,
            PageData::Delta(delta) => {
                match snapshot.read_page(page.number, &mut base) {
                    // Changed on disk: the whole page is asked for.
                    Err(Error::Tampered(_)) => return Ok(None),
                    read => read?,
                }
                delta.apply(page.number, &base)?.map(Bytes::from)
            }
        };
        match data {
            Some(data) => whole.push((page.number, data)),
            None => return Ok(None),
        }
    }
    Ok(Some(whole))
}

impl Room for Replica {
    fn scratch(&self) -> Result<Box<dyn Spool>> {
        self.host().open_scratch(&paths::batch(self.path()))
    }
}
