//! Reading every page of a database at one snapshot.

use std::time::Duration;

use serde::Serialize;

use super::handle::Handle;
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::wal::index::IndexHeader;
use crate::wal::read_lock::{Keep, ReadLock};
use crate::wal::snapshot::Snapshot;

/// Attempts at a read lock, a millisecond apart.
const ATTEMPTS: usize = 5000;

/// What a full read found, as `replica_verify` returns it.
#[derive(Clone, Default, Serialize)]
pub struct Verification {
    /// Whether every page is as it should be.
    pub ok: bool,
    /// The position that was verified.
    pub position: String,
    /// How many pages were read.
    pub pages: u32,
    /// The first hundred pages that are not as they should be.
    pub bad_pages: Vec<u32>,
}

impl Verification {
    /// Adds a page to the bad ones.
    pub fn add_bad(&mut self, number: PageNumber) {
        if self.bad_pages.len() < 100 {
            self.bad_pages.push(number.get());
        }
    }
}

/// Begins a read as SQLite does, waiting while the index is being recovered or restarted.
pub fn begin_read(handle: &Handle) -> Result<ReadLock> {
    patiently(handle, || {
        ReadLock::begin(&*handle.files.index, Keep::Snapshot)
    })
}

/// Begins a read that also keeps the log.
pub fn begin_capture(handle: &Handle) -> Result<ReadLock> {
    patiently(handle, || ReadLock::begin(&*handle.files.index, Keep::Log))
}

/// Moves a read to the newest commit, hand over hand.
pub fn advance_read(handle: &Handle, lock: &mut ReadLock) -> Result<()> {
    patiently(handle, || lock.advance(&*handle.files.index))
}

/// Moves a read for another purpose; where a commit is `expected`, only if it is the newest.
pub fn change_read(
    handle: &Handle,
    lock: &mut ReadLock,
    keep: Keep,
    expected: Option<&IndexHeader>,
) -> Result<bool> {
    patiently(handle, || lock.change(&*handle.files.index, keep, expected))
}

fn patiently<T>(handle: &Handle, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..ATTEMPTS {
        handle.header()?;
        match attempt() {
            // Misuse: since then a writer was killed while publishing. SQLite recovers that.
            Err(Error::Busy(_) | Error::Misuse(_)) => {
                handle.clock().sleep(Duration::from_millis(1))
            }
            other => return other,
        }
    }
    Err(Error::Busy("no read lock was free".to_owned()))
}

/// Hands number and hash of every page to `visit`, ascending, without the lock-byte page. Returns the
/// page size and the size of the database in pages.
pub fn pages(
    handle: &Handle,
    lock: &ReadLock,
    visit: impl FnMut(PageNumber, PageHash) -> Result<()>,
) -> Result<(PageSize, u32)> {
    let hash = |snapshot: &Snapshot<'_>, number, page: &mut [u8]| {
        snapshot.read_page(number, page)?;
        Ok(PageHash::of(number, page))
    };
    each(handle, lock, hash, visit)
}

/// The same, where pages that were changed on disk are looked for.
pub fn damaged_pages(
    handle: &Handle,
    lock: &ReadLock,
    visit: impl FnMut(PageNumber, PageHash) -> Result<()>,
) -> Result<(PageSize, u32)> {
    each(handle, lock, hash, visit)
}

/// The hash of a page of a snapshot; `page` has its size. A page that was changed on disk, which the
/// cipher tells, has [`PageHash::NONE`]: it differs from whatever it should be.
pub fn hash(snapshot: &Snapshot<'_>, number: PageNumber, page: &mut [u8]) -> Result<PageHash> {
    match snapshot.read_page(number, page) {
        Ok(()) => Ok(PageHash::of(number, page)),
        Err(error @ Error::Tampered(_)) => {
            log::error!(target: "replica", "{error}");
            Ok(PageHash::NONE)
        }
        Err(error) => Err(error),
    }
}

fn each(
    handle: &Handle,
    lock: &ReadLock,
    hash: impl Fn(&Snapshot<'_>, PageNumber, &mut [u8]) -> Result<PageHash>,
    mut visit: impl FnMut(PageNumber, PageHash) -> Result<()>,
) -> Result<(PageSize, u32)> {
    let files = &handle.files;
    let snapshot = Snapshot::new(&*files.index, &*files.log, &*files.content, lock)?;
    let mut page = vec![0; snapshot.page_size().bytes()];
    let lock_page = snapshot.page_size().lock_page();
    for number in (1..=snapshot.database_size()).filter_map(PageNumber::new) {
        if number != lock_page {
            visit(number, hash(&snapshot, number, &mut page)?)?;
        }
    }
    Ok((snapshot.page_size(), snapshot.database_size()))
}

/// What a full read found.
pub struct Scanned {
    /// The header of the snapshot.
    pub header: IndexHeader,
    /// The size of the database in pages.
    pub size: u32,
    /// The digest of its content.
    pub content: ContentDigest,
    /// The digest of the pages that were to be clean.
    pub clean: ContentDigest,
}

/// Reads all content for its digest, and for that of the pages that should be clean.
pub fn digest(handle: &Handle, is_clean: impl Fn(PageNumber) -> bool) -> Result<Scanned> {
    let lock = begin_read(handle)?;
    let (mut content, mut clean) = (ContentDigest::default(), ContentDigest::default());
    let result = damaged_pages(handle, &lock, |number, hash| {
        content.add(hash);
        if is_clean(number) {
            clean.add(hash);
        }
        Ok(())
    });
    let header = *lock.header();
    lock.release(&*handle.files.index);
    result.map(|(_, size)| Scanned {
        header,
        size,
        content,
        clean,
    })
}
