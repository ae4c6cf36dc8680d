//! The header of the shared index, and what checkpointers and readers keep beside it.
//!
//! Source: SQLite's walformat.html, section 2.1 (The WAL-Index Header); the first 136 bytes of
//! region 0, all numbers in native byte order, as 32-bit words:
//!
//! ```text
//!  0  version: 3007000
//!  1  unused
//!  2  change counter, one more at each commit
//!  3  bytes: is_init (1), big-endian checksums (0 or 1), page size (u16; 1 means 65536)
//!  4  mxFrame: the last frame of the last commit, 0 for an empty log
//!  5  database size in pages; 0 where the log never said
//!  6  running checksum of frame mxFrame, two words
//!  8  salt-1 and salt-2: the raw bytes of the log, not numbers
//! 10  checksum over words 0..10 in native order, two words
//! 12  the same 12 words again
//! 24  nBackfill: how many frames are in the database file
//! 25  read marks 0 to 4; 0xffffffff where not used
//! 30  lock bytes, never read or written
//! 32  nBackfillAttempted
//! 33  unused
//! ```
//!
//! The second copy is written first and read last, with a barrier between, so two equal copies
//! with a right checksum are one header. A header that recovery left after finding no commit has
//! page size, database size and frame checksum 0.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::checksum::{ByteOrder, Checksum};
use super::frame::{FrameIndex, Salts, VERSION};
use super::{Lock, REGION_WORDS, SharedIndex};
use crate::error::{Error, Result};
use crate::page::PageSize;

const HEADER_WORDS: usize = 12;
const BACKFILLED: usize = 24;
const READ_MARKS: usize = 25;
const BACKFILL_ATTEMPTED: usize = 32;
/// How often a header in motion is read again: a writer needs nanoseconds between its copies,
/// unless it was put off the processor just there.
const ATTEMPTS: usize = 64;

/// The value of a read mark nobody uses.
pub const READ_MARK_NOT_USED: u32 = u32::MAX;
/// The number of read marks, and of read locks.
pub const READ_SLOTS: usize = 5;

/// The read locks by slot.
pub(super) const READ_LOCKS: [Lock; READ_SLOTS] = [
    Lock::Read0,
    Lock::Read1,
    Lock::Read2,
    Lock::Read3,
    Lock::Read4,
];

type Region = [AtomicU32; REGION_WORDS];

/// The published state of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexHeader {
    unused: u32,
    /// One more at each commit; wraps.
    pub change_counter: u32,
    /// How words are read for the checksums of the log.
    pub order: ByteOrder,
    /// The page size; `None` where the log never said.
    pub page_size: Option<PageSize>,
    /// The last frame of the last commit, 0 for an empty log.
    pub mx_frame: u32,
    /// The size of the database in pages; 0 where the log never said: then the size of the
    /// database file decides.
    pub database_size: u32,
    /// The running checksum of frame `mx_frame`; a restart keeps the old value.
    pub frame_checksum: Checksum,
    /// The salts of the log.
    pub salts: Salts,
}

impl IndexHeader {
    /// Reads the header; `None` where it does not come to rest within a few attempts. Under
    /// WAL_WRITE that means it is not initialised, or was left torn: SQLite has to read the
    /// database once, which recovers it. Elsewhere a writer may be at it still;
    /// [`ReadLock::begin`](super::read_lock::ReadLock::begin) tells the two apart.
    pub fn read(index: &dyn SharedIndex) -> Result<Option<Self>> {
        let Some(region) = index.region(0, false)? else {
            return Ok(None);
        };
        for _ in 0..ATTEMPTS {
            let first = load(region, 0);
            index.barrier();
            if first == load(region, HEADER_WORDS)
                && let Some(header) = Self::from_words(first)?
            {
                return Ok(Some(header));
            }
            std::thread::yield_now();
        }
        Ok(None)
    }

    /// Reads the header for someone who cannot go on without it.
    pub(super) fn require(index: &dyn SharedIndex) -> Result<Self> {
        Self::read(index)?.ok_or_else(not_initialised)
    }

    /// Makes this the header every connection sees: second copy, barrier, first copy. Only under
    /// WAL_WRITE.
    pub fn publish(&self, index: &dyn SharedIndex) -> Result<()> {
        let region = index.region(0, true)?.ok_or_else(not_initialised)?;
        let words = self.to_words();
        store(region, HEADER_WORDS, words);
        index.barrier();
        store(region, 0, words);
        index.barrier();
        Ok(())
    }

    /// Whether the first copy in the index still is this header.
    pub(super) fn is_current(&self, index: &dyn SharedIndex) -> Result<bool> {
        let region = index.region(0, false)?.ok_or_else(not_initialised)?;
        Ok(load(region, 0) == self.to_words())
    }

    /// The last frame, `None` for an empty log.
    pub fn last_frame(&self) -> Option<FrameIndex> {
        FrameIndex::new(self.mx_frame)
    }

    /// The page size of a log that has frames.
    pub(super) fn require_page_size(&self) -> Result<PageSize> {
        self.page_size
            .ok_or_else(|| Error::Corrupt("the wal-index has frames but no page size".into()))
    }

    fn from_words(words: [u32; HEADER_WORDS]) -> Result<Option<Self>> {
        let [is_init, big_endian, size @ ..] = words[3].to_ne_bytes();
        let own = Checksum([words[10], words[11]]);
        if is_init == 0 || checksum(&words) != own {
            return Ok(None);
        }
        if words[0] != VERSION {
            return Err(Error::CannotOpen(format!(
                "wal-index version {} is not known",
                words[0]
            )));
        }
        let mut salts = [0; 8];
        salts[..4].copy_from_slice(&words[8].to_ne_bytes());
        salts[4..].copy_from_slice(&words[9].to_ne_bytes());
        let page_size = match u16::from_ne_bytes(size) {
            0 => None,
            size => Some(PageSize::from_u16(size)?),
        };
        Ok(Some(Self {
            unused: words[1],
            change_counter: words[2],
            order: if big_endian == 0 {
                ByteOrder::Little
            } else {
                ByteOrder::Big
            },
            page_size,
            mx_frame: words[4],
            database_size: words[5],
            frame_checksum: Checksum([words[6], words[7]]),
            salts: Salts(salts),
        }))
    }

    fn to_words(self) -> [u32; HEADER_WORDS] {
        let [a, b] = self.page_size.map_or(0, PageSize::to_u16).to_ne_bytes();
        let [p, q, r, s, t, u, v, w] = self.salts.0;
        let mut words = [
            VERSION,
            self.unused,
            self.change_counter,
            u32::from_ne_bytes([1, u8::from(self.order == ByteOrder::Big), a, b]),
            self.mx_frame,
            self.database_size,
            self.frame_checksum.0[0],
            self.frame_checksum.0[1],
            u32::from_ne_bytes([p, q, r, s]),
            u32::from_ne_bytes([t, u, v, w]),
            0,
            0,
        ];
        [words[10], words[11]] = checksum(&words).0;
        words
    }
}

#[cfg(test)]
impl IndexHeader {
    /// What recovery publishes for a database without a log.
    pub(crate) fn recovered_empty() -> Self {
        Self {
            unused: 0,
            change_counter: 0,
            order: ByteOrder::Little,
            page_size: None,
            mx_frame: 0,
            database_size: 0,
            frame_checksum: Checksum::default(),
            salts: Salts::default(),
        }
    }
}

pub(super) fn not_initialised() -> Error {
    Error::Misuse("the wal-index is not initialised: SQLite has to read the database once".into())
}

fn checksum(words: &[u32; HEADER_WORDS]) -> Checksum {
    let mut bytes = [0; 40];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Checksum::default().update(&bytes, ByteOrder::NATIVE)
}

fn load(region: &Region, at: usize) -> [u32; HEADER_WORDS] {
    std::array::from_fn(|i| region[at + i].load(Relaxed))
}

fn store(region: &Region, at: usize, words: [u32; HEADER_WORDS]) {
    for (place, word) in region[at..].iter().zip(words) {
        place.store(word, Relaxed);
    }
}

/// What checkpointers and readers keep behind the header. Each value may be changed only under
/// the lock its setter names.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointInfo<'a>(&'a Region);

impl<'a> CheckpointInfo<'a> {
    /// The part of this index.
    pub fn of(index: &'a dyn SharedIndex) -> Result<Self> {
        index
            .region(0, false)?
            .map(Self)
            .ok_or_else(not_initialised)
    }

    /// nBackfill: how many frames of the log are in the database file.
    pub fn backfilled(self) -> u32 {
        self.0[BACKFILLED].load(Relaxed)
    }

    /// Sets nBackfill: raised under the checkpoint lock, reset under WAL_WRITE by a restart.
    pub fn set_backfilled(self, frames: u32) {
        self.0[BACKFILLED].store(frames, Relaxed);
    }

    /// nBackfillAttempted: how many frames may be in the database file.
    pub fn backfill_attempted(self) -> u32 {
        self.0[BACKFILL_ATTEMPTED].load(Relaxed)
    }

    /// Sets nBackfillAttempted, under the same locks as nBackfill.
    pub fn set_backfill_attempted(self, frames: u32) {
        self.0[BACKFILL_ATTEMPTED].store(frames, Relaxed);
    }

    /// The read mark of a slot, 0 to 4: readers there use no frame a checkpoint beyond it would
    /// overwrite in the database file.
    pub fn read_mark(self, slot: usize) -> u32 {
        self.0[READ_MARKS + slot.min(READ_SLOTS - 1)].load(Relaxed)
    }

    /// Sets the read mark of a slot, under the exclusive read lock of that slot.
    pub fn set_read_mark(self, slot: usize, frame: u32) {
        self.0[READ_MARKS + slot.min(READ_SLOTS - 1)].store(frame, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryIndex;
    use super::*;

    fn header() -> IndexHeader {
        IndexHeader {
            unused: 0,
            change_counter: 5,
            order: ByteOrder::Big,
            page_size: Some(PageSize::new(65536).unwrap()),
            mx_frame: 17,
            database_size: 4,
            frame_checksum: Checksum([8, 9]),
            salts: Salts([1, 2, 3, 4, 5, 6, 7, 8]),
        }
    }

    #[test]
    fn published_headers_are_read_back() {
        let index = MemoryIndex::new();
        assert_eq!(IndexHeader::read(&index).unwrap(), None);
        for header in [header(), IndexHeader::recovered_empty()] {
            header.publish(&index).unwrap();
            assert_eq!(IndexHeader::read(&index).unwrap(), Some(header));
            assert!(header.is_current(&index).unwrap());
        }
    }

    #[test]
    fn the_words_lie_where_sqlite_has_them() {
        let index = MemoryIndex::new();
        header().publish(&index).unwrap();
        let region = index.region(0, false).unwrap().unwrap();
        let bytes: Vec<u8> = region[..12]
            .iter()
            .flat_map(|word| word.load(Relaxed).to_ne_bytes())
            .collect();
        assert_eq!(bytes[0..4], VERSION.to_ne_bytes());
        assert_eq!(bytes[8..12], 5u32.to_ne_bytes());
        assert_eq!(bytes[12..14], [1, 1]);
        assert_eq!(bytes[14..16], 1u16.to_ne_bytes());
        assert_eq!(bytes[16..20], 17u32.to_ne_bytes());
        assert_eq!(bytes[20..24], 4u32.to_ne_bytes());
        assert_eq!(bytes[32..40], [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn the_second_copy_is_written_first() {
        let index = MemoryIndex::new();
        header().publish(&index).unwrap();
        index.take_seen();
        IndexHeader {
            mx_frame: 18,
            ..header()
        }
        .publish(&index)
        .unwrap();
        let copies: Vec<_> = index
            .take_seen()
            .iter()
            .map(|seen| (seen[4], seen[16]))
            .collect();
        assert_eq!(copies, [(17, 18), (18, 18)]);
    }

    #[test]
    fn other_versions_and_sizes_are_refused() {
        let index = MemoryIndex::new();
        for (word, value) in [(0, VERSION + 1), (3, u32::from_ne_bytes([1, 0, 3, 3]))] {
            let mut words = header().to_words();
            words[word] = value;
            [words[10], words[11]] = checksum(&words).0;
            let region = index.region(0, true).unwrap().unwrap();
            store(region, 0, words);
            store(region, HEADER_WORDS, words);
            assert!(IndexHeader::read(&index).is_err());
        }
    }

    #[test]
    fn a_torn_or_damaged_header_is_none() {
        let index = MemoryIndex::new();
        let region = index.region(0, true).unwrap().unwrap();
        for word in 0..HEADER_WORDS {
            header().publish(&index).unwrap();
            region[HEADER_WORDS + word].fetch_xor(0x100, Relaxed);
            assert_eq!(
                IndexHeader::read(&index).unwrap(),
                None,
                "second word {word}"
            );
            header().publish(&index).unwrap();
            region[word].fetch_xor(0x100, Relaxed);
            assert_eq!(
                IndexHeader::read(&index).unwrap(),
                None,
                "first word {word}"
            );
            region[HEADER_WORDS + word].fetch_xor(0x100, Relaxed);
            assert_eq!(
                IndexHeader::read(&index).unwrap(),
                None,
                "both words {word}"
            );
        }
    }
}
