//! Making pages of deltas, from what the local file has.

use bytes::Bytes;

use super::fetch::Whole;
use super::follower::Replica;
use super::transaction::with_snapshot;
use crate::database::host::Spool;
use crate::database::pages::Room;
use crate::database::paths;
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};
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
        let (handle, store) = local.handle(self.host(), self.path())?;
        // What was written here since is none of the remote's.
        let is_changed = store.base()?.is_some();
        with_snapshot(handle, |snapshot| {
            if snapshot.page_size() != head.page_size {
                return Ok(None);
            }
            // The newest snapshot may be beyond the asker's position: then the hashes differ.
            over(pages, head.page_size, |number, page| {
                if is_changed && let Some(image) = store.base_image(number)? {
                    page.copy_from_slice(&image);
                    return Ok(true);
                }
                if number.get() > snapshot.database_size() {
                    return Ok(false);
                }
                match snapshot.read_page(number, page) {
                    // Changed on disk: the whole page is asked for.
                    Err(Error::Tampered(_)) => Ok(false),
                    read => read.map(|()| true),
                }
            })
        })
    }
}

/// Pages made whole from what `read` has of them; `None` where one is not there, or another one.
fn over(
    pages: Vec<Page>,
    size: PageSize,
    mut read: impl FnMut(PageNumber, &mut [u8]) -> Result<bool>,
) -> Result<Option<Whole>> {
    let mut base = vec![0; size.bytes()];
    let mut whole = Vec::with_capacity(pages.len());
    for page in pages {
        let data = match page.data {
            PageData::Full(data) => Some(data),
            PageData::Delta(delta) => match read(page.number, &mut base)? {
                true => delta.apply(page.number, &base)?.map(Bytes::from),
                false => None,
            },
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
