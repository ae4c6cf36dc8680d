//! A transaction of SQLite in the local log, made a push: what it changes, as it travels.

use std::collections::BTreeMap;

use crate::database::body::Body;
use crate::database::handle::Handle;
use crate::database::pages::Room;
use crate::database::scan;
use crate::database::store::{Intent, State};
use crate::error::Result;
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::position::{DatabaseId, Nonce, TransactionDigest, TransactionHasher};
use crate::wal::LogFile;
use crate::wal::frame::FrameIndex;
use crate::wal::frames::read_frame;
use crate::wal::snapshot::Snapshot;
use crate::wire::{Change, Delta, LeaseId, PushRequest, PushWriter};

/// The frames of a transaction that SQLite has written and not published.
pub struct Frames<'a> {
    /// The log.
    pub log: &'a dyn LogFile,
    /// Page size in bytes.
    pub page_size: PageSize,
    /// The newest frame of each page.
    pub pages: BTreeMap<PageNumber, FrameIndex>,
    /// Database size in pages after the transaction.
    pub database_size: u32,
}

impl<'a> Frames<'a> {
    /// The frames that begin with `first`, one for each of `numbers`. Pages beyond the database size
    /// are left out: SQLite writes them where a transaction shrinks the database.
    pub fn new(
        log: &'a dyn LogFile,
        page_size: PageSize,
        first: u32,
        numbers: &[PageNumber],
        database_size: u32,
    ) -> Self {
        let frames = (first..).filter_map(FrameIndex::new);
        let mut pages: BTreeMap<_, _> = numbers.iter().copied().zip(frames).collect();
        let lock_page = page_size.lock_page();
        pages.retain(|number, _| number.get() <= database_size && *number != lock_page);
        Self {
            log,
            page_size,
            pages,
            database_size,
        }
    }

    fn read(&self, frame: FrameIndex, page: &mut [u8]) -> Result<()> {
        read_frame(self.log, self.page_size, frame, page)
    }
}

/// What a transaction makes of the database it was computed from.
pub struct Changes {
    /// Pages that are others now, ascending: frame, and hash of the page before.
    pages: Vec<(PageNumber, FrameIndex, Option<PageHash>)>,
    /// Digest of the whole content afterwards.
    content: ContentDigest,
    /// Digest of the changed pages.
    digest: TransactionDigest,
    /// Digest of all written pages.
    written: TransactionDigest,
}

impl Changes {
    /// Compares what was written with what is there, under WAL_WRITE.
    pub fn of(handle: &Handle, base: &State, frames: &Frames<'_>) -> Result<Self> {
        with_snapshot(handle, |snapshot| changes(snapshot, base, frames))
    }

    /// Whether every page is as it was.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// What is to be remembered before the transaction can become visible here.
    pub fn intent(&self, base: &State, frames: &Frames<'_>, push: &PushRequest) -> Intent {
        Intent {
            position: match self.is_empty() {
                true => base.position,
                false => push.target(),
            },
            database_size: frames.database_size,
            content: self.content,
            digest: self.written,
        }
    }

    /// The same of a transaction that is committed here first.
    pub fn local_intent(&self, base: &State, frames: &Frames<'_>) -> Intent {
        Intent {
            position: base.position,
            database_size: frames.database_size,
            content: self.content,
            digest: self.written,
        }
    }

    /// The pages of before that are others now.
    pub fn numbers(&self) -> impl Iterator<Item = PageNumber> {
        let replaced = self.pages.iter().filter(|(_, _, hash)| hash.is_some());
        replaced.map(|(number, ..)| *number)
    }

    /// The push of the transaction, without its pages.
    pub fn request(
        &self,
        database: DatabaseId,
        base: &State,
        frames: &Frames<'_>,
        nonce: Nonce,
        lease: Option<LeaseId>,
    ) -> PushRequest {
        PushRequest {
            database,
            base: base.position,
            nonce,
            lease,
            page_size: frames.page_size,
            database_size: frames.database_size,
            content: self.content,
            digest: self.digest,
        }
    }

    /// The push as it travels: of each page the smaller of the whole and the difference.
    pub fn body(
        &self,
        handle: &Handle,
        room: &dyn Room,
        push: &PushRequest,
        frames: &Frames<'_>,
    ) -> Result<Body> {
        let mut body = Body::new();
        with_snapshot(handle, |snapshot| {
            let mut writer = PushWriter::start(push, body.writer(room))?;
            let size = frames.page_size.bytes();
            let (mut page, mut old) = (vec![0; size], vec![0; size]);
            for (number, frame, hash) in &self.pages {
                frames.read(*frame, &mut page)?;
                let delta = match hash {
                    Some(hash) => {
                        snapshot.read_page(*number, &mut old)?;
                        Delta::between(*hash, &old, &page)?
                    }
                    None => None,
                };
                let change = match (&delta, hash) {
                    (Some(delta), _) => Change::Delta(delta),
                    (None, Some(hash)) => Change::Replaced(*hash, &page),
                    (None, None) => Change::New(&page),
                };
                writer.page(*number, &change)?;
            }
            writer.finish().map(drop)
        })?;
        Ok(body)
    }
}

fn changes(snapshot: &Snapshot<'_>, base: &State, frames: &Frames<'_>) -> Result<Changes> {
    let mut page = vec![0; frames.page_size.bytes()];
    let mut content = base.content;
    let mut changed = TransactionHasher::new(frames.database_size);
    let mut written = TransactionHasher::new(frames.database_size);
    let mut pages = Vec::new();
    for (&number, &frame) in &frames.pages {
        let old = match number.get() <= base.database_size {
            true => Some(scan::hash(snapshot, number, &mut page)?),
            false => None,
        };
        frames.read(frame, &mut page)?;
        let new = PageHash::of(number, &page);
        written.add(number, new);
        if old != Some(new) {
            old.into_iter().for_each(|old| content.remove(old));
            content.add(new);
            changed.add(number, new);
            pages.push((number, frame, old));
        }
    }
    let lock_page = frames.page_size.lock_page();
    let cut = frames.database_size + 1..=base.database_size;
    for number in cut.filter_map(PageNumber::new) {
        if number != lock_page {
            content.remove(scan::hash(snapshot, number, &mut page)?);
        }
    }
    Ok(Changes {
        pages,
        content,
        digest: changed.finish(),
        written: written.finish(),
    })
}

/// Runs `read` on the newest published snapshot.
pub(super) fn with_snapshot<T>(
    handle: &Handle,
    read: impl FnOnce(&Snapshot<'_>) -> Result<T>,
) -> Result<T> {
    let files = &handle.files;
    let lock = scan::begin_read(handle)?;
    let result = Snapshot::new(&*files.index, &*files.log, &*files.content, &lock)
        .and_then(|snapshot| read(&snapshot));
    lock.release(&*files.index);
    result
}
