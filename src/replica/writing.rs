//! One connection's writes to a replica, as its VFS sees them.
//!
//! SQLite writes a commit in this order: frames (header, page), the last one with the database size in
//! its header; where frames that had been spilled were overwritten, all headers once more; a sync; the
//! hash tables; the header of the index, which publishes it. The push happens as late as an error still
//! undoes all of it: at the page of the commit frame, or, where headers are rewritten, at the last of
//! these. Until the remote has accepted it the log holds no valid header for the commit frame, so that
//! no crash makes it visible.
//!
//! From then on nothing may fail: errors of writing and syncing are remembered, and before the write
//! lock is given back the frames are checked, repaired and, where SQLite gave up, published here.

use std::sync::Arc;

use super::follower::Replica;
use super::resolve;
use super::transaction::Frames;
use crate::database::host::Reserve;
use crate::database::store::State;
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};
use crate::wal::LogFile;
use crate::wal::anchor::Anchor;
use crate::wal::apply::Writer;
use crate::wal::frame::{FRAME_HEADER_BYTES, FrameIndex, LOG_HEADER_BYTES};
use crate::wal::index::IndexHeader;

/// How often a repair is tried on a disk that fails.
const MOST_REPAIRS: usize = 4;

/// The writes of one connection.
pub struct Writing {
    replica: Arc<Replica>,
    hold: Option<Hold>,
    /// Newer content was entered before the write lock was taken.
    has_newer: bool,
    /// A transaction was committed here, and is to be pushed.
    is_unpushed: bool,
}

/// A write lock that is held.
struct Hold {
    /// The state the transaction is computed from.
    base: State,
    /// Whether it is committed here first.
    offline: bool,
    /// The first frame that was written.
    first: u32,
    /// The page of each frame from there on.
    numbers: Vec<PageNumber>,
    /// The frame whose header was written last, while its page is to come.
    header_of: Option<u32>,
    /// The lowest frame whose page was written again, while headers have no salts since.
    overwritten: Option<u32>,
    /// Whether headers may have been left that recovery refuses.
    is_suspicious: bool,
    /// The commit frame, once its header came.
    commit: Option<Commit>,
    stage: Stage,
}

/// A commit frame.
#[derive(Clone, Copy)]
struct Commit {
    frame: u32,
    header: [u8; FRAME_HEADER_BYTES],
    database_size: u32,
}

/// How far a transaction has come. One that is committed here first is accepted as soon as what leads
/// back from it is durable.
enum Stage {
    /// Frames are being written.
    Collecting,
    /// The commit frame is there; all headers are being written again.
    Rewriting,
    /// The remote has accepted it.
    Accepted(Accepted),
    /// The remote has not.
    Refused,
}

/// An accepted transaction.
struct Accepted {
    /// The state it leads to.
    state: State,
    /// What was published before it.
    before: IndexHeader,
    /// Whether the log was synced since.
    is_synced: bool,
}

/// What a write to the log is.
enum Piece {
    LogHeader,
    Header(u32),
    Page(u32),
}

impl Writing {
    /// The writes of a connection to `replica`.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self {
            replica,
            hold: None,
            has_newer: false,
            is_unpushed: false,
        }
    }

    /// SQLite is about to take the write lock for a transaction. True where newer content came.
    pub fn prepare(&mut self) -> Result<bool> {
        self.has_newer = false;
        match self.replica.prepare_write() {
            Ok(newer) => {
                self.has_newer = newer;
                Ok(newer)
            }
            Err(error) => {
                self.replica.release_lease();
                Err(error)
            }
        }
    }

    /// The write lock was not to be had after all.
    pub fn abandon(&mut self) {
        self.has_newer = false;
        self.replica.release_lease();
    }

    /// SQLite has taken it. On an error it is given back.
    pub fn begin(&mut self) -> Result<()> {
        let (base, offline) = self.replica.begin_write()?;
        self.hold = Some(Hold {
            base,
            offline,
            first: 0,
            numbers: Vec::new(),
            header_of: None,
            overwritten: None,
            is_suspicious: false,
            commit: None,
            stage: Stage::Collecting,
        });
        Ok(())
    }

    /// SQLite writes to the log. An error here rolls the transaction back; none comes once it is
    /// accepted.
    pub fn write(&mut self, log: &dyn LogFile, data: &[u8], offset: u64) -> Result<()> {
        let Some(hold) = &mut self.hold else {
            return Err(Error::ReadOnly(
                "a replica is written to in transactions that hold its write lock: not in \
                 locking_mode=EXCLUSIVE"
                    .to_owned(),
            ));
        };
        match piece(hold.base.page_size, data, offset)? {
            Piece::LogHeader => {
                log.write(data, offset)?;
                // Whatever `synchronous` says: no old commit may follow it after a power loss.
                log.sync()
            }
            Piece::Header(frame) => hold.header(&self.replica, log, frame, data, offset),
            Piece::Page(frame) => hold.page(&self.replica, log, frame, data, offset),
        }
    }

    /// SQLite syncs the log.
    pub fn sync(&mut self, log: &dyn LogFile) -> Result<()> {
        let synced = log.sync();
        match &mut self.hold {
            Some(hold) => hold.synced(synced),
            None => synced,
        }
    }

    /// SQLite is about to give the write lock back: an accepted transaction is here now, and its
    /// position on record.
    pub fn end(&mut self) {
        let Some(hold) = self.hold.take() else {
            return;
        };
        self.is_unpushed = hold.offline && matches!(hold.stage, Stage::Accepted(_));
        // Whoever had begun to read gives the lock back at once, begins again, and uses the lease then.
        self.has_newer &= hold.numbers.is_empty();
        if let Err(error) = hold.end(&self.replica) {
            // The next write looks again, and fetches what is missing.
            self.replica.writes().forget_head();
            log::error!(
                target: "replica",
                "{}: a transaction could not be completed here, the next look does it: {error}",
                self.replica.path().display()
            );
        }
    }

    /// SQLite has given the write lock back.
    pub fn ended(&mut self) {
        if !std::mem::take(&mut self.has_newer) {
            self.replica.release_lease();
        }
        if std::mem::take(&mut self.is_unpushed) {
            self.replica.worker().push();
        }
        if self.replica.has_pending() {
            // Somebody has to go on asking.
            self.replica.worker().start(&self.replica);
            self.replica.worker().look(false);
        }
    }
}

impl Hold {
    fn header(
        &mut self,
        replica: &Replica,
        log: &dyn LogFile,
        frame: u32,
        data: &[u8],
        offset: u64,
    ) -> Result<()> {
        let mut header = [0; FRAME_HEADER_BYTES];
        header.copy_from_slice(data);
        let [a, b, c, d, e, f, g, h, salts @ ..] = header;
        let number = PageNumber::new(u32::from_be_bytes([a, b, c, d]));
        let number = number.ok_or_else(|| unexpected("a frame of page 0"))?;
        let database_size = u32::from_be_bytes([e, f, g, h]);
        let is_commit = |commit: &Commit| commit.frame == frame;
        match (&mut self.stage, &self.commit) {
            (Stage::Accepted(accepted), Some(commit)) if frame <= commit.frame => {
                accepted.is_synced = false;
                let written = log.write(data, offset);
                return self.after_acceptance(written);
            }
            (Stage::Accepted(_), _) => return Err(unexpected("a frame behind a commit")),
            (Stage::Rewriting, Some(commit)) if is_commit(commit) && database_size != 0 => {
                self.push(replica, log)?;
                let written = log.write(data, offset);
                return self.after_acceptance(written);
            }
            (Stage::Rewriting, Some(commit)) if frame <= commit.frame => {
                return log.write(data, offset);
            }
            _ => {}
        }
        self.place(frame, number)?;
        let has_salts = salts[..8] != [0; 8];
        if has_salts {
            self.overwritten = None;
        }
        self.header_of = Some(frame);
        (self.stage, self.commit) = (Stage::Collecting, None);
        if database_size == 0 {
            return log.write(data, offset);
        }
        self.commit = Some(Commit {
            frame,
            header,
            database_size,
        });
        if !has_salts {
            // No recovery takes it as it is.
            self.is_suspicious = true;
            return log.write(data, offset);
        }
        let mut held_back = [0; FRAME_HEADER_BYTES];
        held_back[..4].copy_from_slice(&header[..4]);
        log.write(&held_back, offset)
    }

    /// Notes the page of a frame. SQLite goes back to earlier frames after ROLLBACK TO, and to the
    /// first one where it writes the log anew.
    fn place(&mut self, frame: u32, number: PageNumber) -> Result<()> {
        if self.numbers.is_empty() || frame < self.first {
            self.first = frame;
            self.numbers.clear();
        }
        let at = (frame - self.first) as usize;
        if at > self.numbers.len() {
            return Err(unexpected("frames with a gap between them"));
        }
        self.numbers.truncate(at);
        self.numbers.push(number);
        Ok(())
    }

    fn page(
        &mut self,
        replica: &Replica,
        log: &dyn LogFile,
        frame: u32,
        data: &[u8],
        offset: u64,
    ) -> Result<()> {
        if matches!(self.stage, Stage::Accepted(_)) {
            return Err(unexpected("a page behind a commit"));
        }
        if self.header_of.take() != Some(frame) {
            self.overwritten = Some(self.overwritten.unwrap_or(frame).min(frame));
            return log.write(data, offset);
        }
        log.write(data, offset)?;
        let Some(commit) = self.commit.filter(|commit| commit.frame == frame) else {
            return Ok(());
        };
        let has_salts = commit.header[8..16] != [0; 8];
        if !has_salts && self.overwritten.is_some_and(|lowest| lowest <= frame) {
            self.stage = Stage::Rewriting;
            return Ok(());
        }
        self.push(replica, log)?;
        if has_salts {
            let at = offset - FRAME_HEADER_BYTES as u64;
            let written = log.write(&commit.header, at);
            return self.after_acceptance(written);
        }
        Ok(())
    }

    /// What the remote has accepted is put right later. What is committed here first is not committed
    /// yet: SQLite takes it back.
    fn after_acceptance(&mut self, written: Result<()>) -> Result<()> {
        match self.offline {
            true => written,
            false => {
                self.is_suspicious |= written.is_err();
                Ok(())
            }
        }
    }

    fn synced(&mut self, synced: Result<()>) -> Result<()> {
        match &mut self.stage {
            Stage::Accepted(accepted) if !self.offline => {
                accepted.is_synced = synced.is_ok();
                Ok(())
            }
            _ => synced,
        }
    }

    /// Pushes the transaction. What can be prepared for the steps that follow is: they may not fail.
    fn push(&mut self, replica: &Replica, log: &dyn LogFile) -> Result<()> {
        self.stage = Stage::Refused;
        let commit = self.commit.ok_or_else(|| unexpected("no commit"))?;
        let (first, size) = (self.first, self.base.page_size);
        let (before, reserve) = replica.prepare_commit(commit.frame, size)?;
        if first != before.mx_frame + 1 {
            return Err(unexpected("frames that do not follow the published ones"));
        }
        let frames = Frames::new(log, size, first, &self.numbers, commit.database_size);
        let state = match self.offline {
            true => replica.commit_here(&self.base, &frames),
            false => replica.commit(&self.base, &frames),
        }?;
        drop(reserve);
        self.stage = Stage::Accepted(Accepted {
            state,
            before,
            is_synced: false,
        });
        Ok(())
    }

    fn end(self, replica: &Replica) -> Result<()> {
        let (Stage::Accepted(accepted), Some(commit)) = (&self.stage, &self.commit) else {
            return Ok(());
        };
        let mut local = replica.local();
        let (handle, store) = local.handle(replica.host(), replica.path())?;
        let log = &*handle.files.log;
        let mut writer = Writer::under_lock(&*handle.files.index)?;
        if writer.header().mx_frame == commit.frame {
            if self.is_suspicious {
                let start = start(&accepted.before, writer.header());
                insist(|| writer.repair(log, &start))?;
            } else if !accepted.is_synced && !self.offline {
                log.sync()?;
            }
        } else if self.offline {
            // SQLite has taken it back, and said so: it is not to come back with a recovery.
            writer.discard_unpublished(log)?;
            return store.clear_intent();
        } else {
            let (size, database_size) = (self.base.page_size, commit.database_size);
            writer.publish_written(log, size, &self.numbers, database_size)?;
        }
        let state = State {
            anchor: Some(writer.header().anchor()),
            ..accepted.state
        };
        // The intent and the log say the same after a crash.
        store.set_durable(false)?;
        let settled = resolve::settle(store, state);
        store.set_durable(true)?;
        settled.map(drop)
    }
}

impl Replica {
    /// The published header before a commit; makes room for what SQLite needs after it: memory, and
    /// the regions of the index up to its last frame.
    fn prepare_commit(
        &self,
        frame: u32,
        page_size: PageSize,
    ) -> Result<(IndexHeader, Option<Reserve>)> {
        let mut local = self.local();
        let (handle, _) = local.handle(self.host(), self.path())?;
        let index = &*handle.files.index;
        let header = *Writer::under_lock(index)?.header();
        if let Some(frame) = FrameIndex::new(frame) {
            crate::wal::hash::make_room(index, frame)?;
        }
        let reserve = self.host().reserve(page_size.bytes() + 4096);
        Ok((header, reserve))
    }
}

/// Runs a repair until it succeeds, for a while: SQLite shows the transaction to everybody, and before
/// the repair a crash would take it back.
fn insist(mut repair: impl FnMut() -> Result<bool>) -> Result<bool> {
    for _ in 1..MOST_REPAIRS {
        if let Ok(changed) = repair() {
            return Ok(changed);
        }
    }
    repair()
}

/// The commit before a transaction, or the start of the log that it begins.
fn start(before: &IndexHeader, now: &IndexHeader) -> Anchor {
    match before.salts == now.salts && before.mx_frame > 0 {
        true => before.anchor(),
        false => Anchor::log_start(now.salts),
    }
}

/// What SQLite writes at an offset of the log.
fn piece(size: PageSize, data: &[u8], offset: u64) -> Result<Piece> {
    if offset == 0 && data.len() == LOG_HEADER_BYTES {
        return Ok(Piece::LogHeader);
    }
    let frame_bytes = (FRAME_HEADER_BYTES + size.bytes()) as u64;
    let at = offset.checked_sub(LOG_HEADER_BYTES as u64);
    let at = at.ok_or_else(|| unexpected("a write into the log's header"))?;
    let frame = u32::try_from(at / frame_bytes + 1).map_err(|_| unexpected("a log too long"))?;
    match (at % frame_bytes, data.len()) {
        (0, FRAME_HEADER_BYTES) => Ok(Piece::Header(frame)),
        (24, length) if length == size.bytes() => Ok(Piece::Page(frame)),
        _ => Err(unexpected("a write that is no header and no page")),
    }
}

fn unexpected(what: &str) -> Error {
    Error::Internal(format!("the log of a replica: {what}"))
}
