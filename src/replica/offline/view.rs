//! The states of a replica that is written offline, as pages: what is here, the base it began with,
//! and what the remote has by now.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::database::handle::Handle;
use crate::database::offline::Base;
use crate::database::pages::Pages;
use crate::database::scan;
use crate::database::store::Store;
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};
use crate::replica::batch::Batch;
use crate::replica::follower::Replica;
use crate::rows::view::View;
use crate::wal::read_lock::ReadLock;
use crate::wal::snapshot::Snapshot;

/// The newest local content, kept until this is dropped.
pub struct LocalView {
    page_size: PageSize,
    database_size: u32,
    open: Mutex<Open>,
}

/// A handle of its own: other threads go on using the file.
struct Open {
    handle: Handle,
    lock: Option<ReadLock>,
}

impl Open {
    fn with<T>(&self, read: impl FnOnce(&Snapshot<'_>) -> Result<T>) -> Result<T> {
        let files = &self.handle.files;
        let lock = self.lock.as_ref();
        let lock = lock.ok_or_else(|| Error::Internal("a view without its lock".to_owned()))?;
        Snapshot::new(&*files.index, &*files.log, &*files.content, lock)
            .and_then(|snapshot| read(&snapshot))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            lock.release(&*self.handle.files.index);
        }
    }
}

impl LocalView {
    /// What `replica` has now.
    pub fn of(replica: &Replica) -> Result<Self> {
        let handle = Handle::open(replica.host(), replica.path())?;
        let lock = Some(scan::begin_read(&handle)?);
        let open = Open { handle, lock };
        let (page_size, database_size) =
            open.with(|snapshot| Ok((snapshot.page_size(), snapshot.database_size())))?;
        Ok(Self {
            page_size,
            database_size,
            open: Mutex::new(open),
        })
    }
}

impl View for LocalView {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn database_size(&self) -> u32 {
        self.database_size
    }

    fn read_page(&self, number: PageNumber, page: &mut [u8]) -> Result<()> {
        self.open
            .lock()
            .with(|snapshot| snapshot.read_page(number, page))
    }
}

/// The base: the local content, and the images of what changed since.
pub struct BaseView {
    local: Arc<LocalView>,
    store: Mutex<Box<dyn Store>>,
    database_size: u32,
    dirty: BTreeSet<PageNumber>,
}

impl BaseView {
    /// The base of `local`, which is older than what `store` is read at: what changed in between has
    /// its image.
    pub fn new(local: Arc<LocalView>, store: Box<dyn Store>, base: &Base) -> Result<Self> {
        Ok(Self {
            local,
            dirty: store.dirty_pages()?,
            store: Mutex::new(store),
            database_size: base.database_size,
        })
    }

    /// The pages that may be others in the local content.
    pub fn changed(&self) -> BTreeSet<PageNumber> {
        self.dirty.clone()
    }
}

impl View for BaseView {
    fn page_size(&self) -> PageSize {
        self.local.page_size
    }

    fn database_size(&self) -> u32 {
        self.database_size
    }

    fn read_page(&self, number: PageNumber, page: &mut [u8]) -> Result<()> {
        if !self.dirty.contains(&number) {
            return self.local.read_page(number, page);
        }
        match self.store.lock().base_image(number)? {
            Some(image) if image.len() == page.len() => {
                page.copy_from_slice(&image);
                Ok(())
            }
            _ => Err(Error::Corrupt(format!(
                "the image of page {number} is not as it should be"
            ))),
        }
    }
}

/// What the remote has: the base, and what was fetched.
pub struct RemoteView {
    base: Arc<BaseView>,
    pages: Mutex<Pages>,
    database_size: u32,
}

impl RemoteView {
    /// The state that `batch` leads to.
    pub fn new(base: Arc<BaseView>, batch: Batch) -> Self {
        Self {
            base,
            database_size: batch.head.database_size,
            pages: Mutex::new(batch.pages),
        }
    }

    /// The pages that may be others than those of the base.
    pub fn changed(&self) -> BTreeSet<PageNumber> {
        self.pages.lock().numbers().collect()
    }
}

impl View for RemoteView {
    fn page_size(&self) -> PageSize {
        self.base.page_size()
    }

    fn database_size(&self) -> u32 {
        self.database_size
    }

    fn read_page(&self, number: PageNumber, page: &mut [u8]) -> Result<()> {
        match self.pages.lock().get(number) {
            Some(fetched) => {
                page.copy_from_slice(&fetched?);
                Ok(())
            }
            None if number.get() <= self.base.database_size => self.base.read_page(number, page),
            None => Err(Error::Protocol(format!(
                "page {number} did not come with what the remote has"
            ))),
        }
    }
}
