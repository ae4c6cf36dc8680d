//! The write-ahead log of an encrypted database. SQLite sees its own format (wal/frame.rs): a
//! header of 32 bytes, then frames of a header of 24 bytes and a page of N. On disk:
//!
//! ```text
//!  0   8  "rplwal" and version (2 bytes): 0, 1
//!  8  24  nonce of the log's header
//! 32  16  its tag
//! 48  32  SQLite's header of the log, sealed; authenticated with it: "log" and version (8 bytes), id
//!         of the database file (16)
//! 80      frames of 120 + N bytes
//! ```
//!
//! A frame:
//!
//! ```text
//!   0  24  nonce
//!  24  16  tag
//!  40  40  SQLite's header of the frame (24) and the tag of its page (16), sealed; authenticated
//!          with it: "frame" and version (8), id of the database file (16), salts of the log's
//!          header (8), index of the frame from 1 (4, little-endian)
//!  80      the record of the page, as it lies in the database file (page.rs)
//! ```
//!
//! So a frame opens at its own place only, in its own use of the log, and with its own page. Not told
//! apart are two frames that were written at one place in one use of the log, as after a transaction
//! that was given up: who has kept the earlier one can put it back while the log is in use. SQLite's
//! checksums, over all frames before, find it when the log is recovered.
//!
//! SQLite writes the header of a frame and then its page; where it only puts the checksum of a header
//! right, nothing follows. It reads a frame from its header on when it looks for the end of the log,
//! and without its header when it wants the page.

mod frame;
mod read;
mod start;
mod write;

use std::sync::Arc;

use super::RawFile;
use super::header::Backfill;
use super::key::Keys;
use super::nonces::Nonces;
use super::seal::{OVERHEAD, TAG_BYTES};
use crate::error::{Error, Result};
use crate::page::PageSize;

const MAGIC: [u8; 8] = *b"rplwal\0\x01";
/// SQLite's header of the log, and that of a frame.
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The sealed header of the log, on disk.
const START: usize = MAGIC.len() + OVERHEAD + LOG_HEADER;
/// The sealed header of a frame, on disk.
const SEALED_HEADER: usize = OVERHEAD + FRAME_HEADER + TAG_BYTES;

/// What a frame that does not open means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// It was changed.
    IsAnError,
    /// The log ends before it: it was torn by a crash, or is of an earlier use. When SQLite looks
    /// for the end of the log, such a frame reads as zeros.
    EndsTheLog,
}

/// The log, as one connection sees it.
pub struct SealedLog {
    keys: Arc<Keys>,
    id: [u8; 16],
    size: PageSize,
    nonces: Nonces,
    /// Those of the log's header, as long as nobody else can have begun it anew.
    salts: Option<[u8; 8]>,
    /// A frame's header whose page is to come.
    pending: Option<(u32, [u8; FRAME_HEADER])>,
    /// Frames that wait to be written, and the index of the first.
    buffer: Vec<u8>,
    first: u32,
    /// First and last frame this connection has written in its transaction.
    written: Option<(u32, u32)>,
    /// What the database cannot do without.
    needed: Backfill,
    scratch: Vec<u8>,
    page: Vec<u8>,
}

impl SealedLog {
    /// The log of the database file with this id.
    pub fn new(keys: Arc<Keys>, file_id: [u8; 16], page_size: PageSize, needed: Backfill) -> Self {
        Self {
            keys,
            id: file_id,
            size: page_size,
            nonces: Nonces::new(),
            salts: None,
            pending: None,
            buffer: Vec::new(),
            first: 0,
            written: None,
            needed,
            scratch: Vec::new(),
            page: Vec::new(),
        }
    }

    /// Locks were taken or given back: another connection may have begun the log anew.
    pub fn forget(&mut self) {
        self.salts = None;
    }

    /// The same, where the shared index has the salts of the newest commit: whoever begins the log
    /// anew says so there first.
    pub fn forget_unless(&mut self, salts: [u8; 8]) {
        if self.salts != Some(salts) {
            self.salts = None;
        }
    }

    /// A transaction begins or ends. What was not written yet is of one that was given up.
    pub fn end_transaction(&mut self) {
        (self.pending, self.written) = (None, None);
        self.buffer.clear();
    }

    /// What the header of the database says of its log.
    pub fn need(&mut self, backfill: Backfill) {
        self.needed = backfill;
    }

    /// Bytes of a frame for SQLite, and on disk.
    fn frame_bytes(&self) -> u64 {
        (FRAME_HEADER + self.size.bytes()) as u64
    }

    fn stride(&self) -> usize {
        SEALED_HEADER + OVERHEAD + self.size.bytes()
    }

    fn place(&self, frame: u32) -> u64 {
        START as u64 + u64::from(frame - 1) * self.stride() as u64
    }

    /// The frame a byte behind the header belongs to, and where in it that is.
    fn frame_at(&self, offset: u64) -> Result<(u32, usize)> {
        let behind = offset - LOG_HEADER as u64;
        let frame = u32::try_from(behind / self.frame_bytes() + 1)
            .map_err(|_| Error::Misuse("a log of too many frames".to_owned()))?;
        Ok((frame, (behind % self.frame_bytes()) as usize))
    }

    /// Size of the log for SQLite, in whole frames.
    pub fn size(&mut self, raw: &dyn RawFile, damage: Damage) -> Result<u64> {
        if damage == Damage::EndsTheLog {
            self.check_needed(raw)?;
        }
        let Some(frames) = raw.size()?.checked_sub(START as u64) else {
            return Ok(0);
        };
        let stride = self.stride() as u64;
        let frames = match self.waiting() {
            0 => frames / stride,
            waiting => (frames / stride).max(u64::from(self.first - 1 + waiting)),
        };
        Ok(LOG_HEADER as u64 + frames * self.frame_bytes())
    }

    /// Frames that wait to be written.
    fn waiting(&self) -> u32 {
        (self.buffer.len() / self.stride()) as u32
    }

    /// Before SQLite looks for the end of the log: a checkpoint that was interrupted, or some of
    /// whose frames were not the last, is of use only with its log.
    fn check_needed(&mut self, raw: &dyn RawFile) -> Result<()> {
        let needed = self.needed;
        let opened = match self.open_start(raw) {
            Ok(header) => header.is_some(),
            Err(Error::Tampered(_)) => false,
            Err(error) => return Err(error),
        };
        let same = opened && self.salts == Some(needed.salts);
        if needed.under_way && !same {
            return Err(Error::Tampered(
                "the encrypted log was taken away before it was copied into the database"
                    .to_owned(),
            ));
        }
        if same && raw.size()? < self.place(needed.frames.saturating_add(1)) {
            return Err(changed(needed.frames));
        }
        Ok(())
    }

    /// Whether the database has pages of this frame, or of one behind it.
    fn is_needed(&self, frame: u32) -> bool {
        frame <= self.needed.frames && self.salts == Some(self.needed.salts)
    }

    /// Cuts the log.
    pub fn truncate(&mut self, raw: &dyn RawFile, size: u64) -> Result<()> {
        self.flush(raw)?;
        let frames = size.saturating_sub(LOG_HEADER as u64) / self.frame_bytes();
        match size {
            0 => raw.truncate(0),
            _ => raw.truncate(START as u64 + frames * self.stride() as u64),
        }
    }
}

fn changed(frame: u32) -> Error {
    Error::Tampered(format!(
        "frame {frame} of the encrypted log was changed, moved or cut off"
    ))
}

#[cfg(test)]
mod tests;
