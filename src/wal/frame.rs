//! The header of the log, and of each frame.
//!
//! Source: SQLite file format, section 4.1 (WAL File Format). All numbers are big-endian.
//!
//! ```text
//! log header, 32 bytes
//!    0  magic: 0x377f0682 (checksums over little-endian words) or 0x377f0683 (big-endian)
//!    4  version: 3007000
//!    8  page size in bytes
//!   12  checkpoint sequence number
//!   16  salt-1
//!   20  salt-2
//!   24  checksum over bytes 0..24
//!
//! frame: header, 24 bytes, then the page; frame n starts at 32 + (n - 1) * (24 + page size)
//!    0  page number
//!    4  database size in pages after the commit; 0 where the frame is not a commit
//!    8  salt-1, salt-2 as in the log header
//!   16  running checksum over bytes 0..8 and the page, from that of the frame before, or from
//!       that of the log header for frame 1
//! ```

use std::num::NonZeroU32;

use super::LogFile;
use super::checksum::{ByteOrder, Checksum};
use crate::error::Result;
use crate::page::{PageNumber, PageSize};

/// Bytes of the log header.
pub const LOG_HEADER_BYTES: usize = 32;
/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 24;
/// The version of the log and of the wal-index.
pub(super) const VERSION: u32 = 3_007_000;

const MAGIC: u32 = 0x377f_0682;

fn be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn eight(bytes: &[u8], at: usize) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    out
}

/// The number of a frame in the log, from 1. "No frame" is `None`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrameIndex(NonZeroU32);

impl FrameIndex {
    /// A frame index, or `None` for 0.
    pub fn new(index: u32) -> Option<Self> {
        NonZeroU32::new(index).map(Self)
    }

    /// The number as SQLite writes it.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// Where the frame's header starts in the log, in bytes.
    pub fn offset(self, size: PageSize) -> u64 {
        let frame = u64::from(size.get()) + FRAME_HEADER_BYTES as u64;
        LOG_HEADER_BYTES as u64 + u64::from(self.get() - 1) * frame
    }
}

/// Salt-1 and salt-2, the raw bytes that log header, frames and wal-index share: frames of an
/// earlier use of the log carry others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Salts(pub [u8; 8]);

impl Salts {
    /// Salt-1 as the big-endian number that grows by one at each restart of the log.
    pub fn first(self) -> u32 {
        be(&self.0, 0)
    }

    /// The salts after a restart: salt-1 plus one, and the salt-2 of `random`.
    #[must_use]
    pub fn restarted(self, random: Salts) -> Salts {
        let mut bytes = random.0;
        bytes[..4].copy_from_slice(&self.first().wrapping_add(1).to_be_bytes());
        Salts(bytes)
    }
}

/// The header of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogHeader {
    /// How words are read for the checksums of this log.
    pub order: ByteOrder,
    /// The page size.
    pub page_size: PageSize,
    /// The checkpoint sequence number; nothing depends on its value but the checksum.
    pub sequence: u32,
    /// The salts every live frame repeats.
    pub salts: Salts,
    /// The checksum that frame 1 starts from.
    pub checksum: Checksum,
}

impl LogHeader {
    /// The header of a new log, in native checksum order.
    pub fn new(page_size: PageSize, sequence: u32, salts: Salts) -> Self {
        let mut header = Self {
            order: ByteOrder::NATIVE,
            page_size,
            sequence,
            salts,
            checksum: Checksum::default(),
        };
        header.checksum = Checksum::default().update(&header.encode()[..24], header.order);
        header
    }

    /// Reads a header and verifies it; `None` where SQLite would take the log for empty (or, at
    /// another version, refuse it).
    pub fn parse(bytes: &[u8; LOG_HEADER_BYTES]) -> Option<Self> {
        let order = match be(bytes, 0) {
            MAGIC => ByteOrder::Little,
            magic if magic == MAGIC | 1 => ByteOrder::Big,
            _ => return None,
        };
        let header = Self {
            order,
            page_size: PageSize::new(be(bytes, 8)).ok()?,
            sequence: be(bytes, 12),
            salts: Salts(eight(bytes, 16)),
            checksum: Checksum::from_bytes(eight(bytes, 24)),
        };
        let sum = Checksum::default().update(&bytes[..24], order);
        (be(bytes, 4) == VERSION && sum == header.checksum).then_some(header)
    }

    /// Reads the header of a log; `None` also where the file is too short to have one.
    pub fn read(log: &dyn LogFile) -> Result<Option<Self>> {
        let mut bytes = [0; LOG_HEADER_BYTES];
        let read = log.read(&mut bytes, 0)?;
        Ok(if read == bytes.len() {
            Self::parse(&bytes)
        } else {
            None
        })
    }

    /// The header as it stands in the log.
    pub fn encode(&self) -> [u8; LOG_HEADER_BYTES] {
        let magic = match self.order {
            ByteOrder::Little => MAGIC,
            ByteOrder::Big => MAGIC | 1,
        };
        let mut bytes = [0; LOG_HEADER_BYTES];
        bytes[..4].copy_from_slice(&magic.to_be_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.get().to_be_bytes());
        bytes[12..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.salts.0);
        bytes[24..].copy_from_slice(&self.checksum.to_bytes());
        bytes
    }
}

/// The header of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// The page this frame holds.
    pub page: PageNumber,
    /// The database size in pages where this frame commits, else 0.
    pub database_size: u32,
    /// The salts of the log.
    pub salts: Salts,
    /// The running checksum up to and with this frame.
    pub checksum: Checksum,
}

impl FrameHeader {
    /// Reads a header; `None` where the page number is 0. Whether salts and checksum are right
    /// is for [`Chain`] to say.
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Option<Self> {
        Some(Self {
            page: PageNumber::new(be(bytes, 0))?,
            database_size: be(bytes, 4),
            salts: Salts(eight(bytes, 8)),
            checksum: Checksum::from_bytes(eight(bytes, 16)),
        })
    }

    /// The header as it stands in the log.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.page.get().to_be_bytes());
        bytes[4..8].copy_from_slice(&self.database_size.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.salts.0);
        bytes[16..].copy_from_slice(&self.checksum.to_bytes());
        bytes
    }
}

/// The running checksum through the frames of one log.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// How words are read.
    pub order: ByteOrder,
    /// The salts of the log.
    pub salts: Salts,
    /// The checksum so far.
    pub checksum: Checksum,
}

impl Chain {
    /// The header the next frame must have, and moves on past that frame.
    pub fn next(&mut self, number: PageNumber, database_size: u32, page: &[u8]) -> FrameHeader {
        let mut header = FrameHeader {
            page: number,
            database_size,
            salts: self.salts,
            checksum: self.checksum,
        };
        header.checksum = self
            .checksum
            .update(&header.encode()[..8], self.order)
            .update(page, self.order);
        self.checksum = header.checksum;
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_headers_round_trip_in_both_orders() {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let mut header = LogHeader::new(PageSize::new(65536).unwrap(), 7, Salts([3; 8]));
            header.order = order;
            header.checksum = Checksum::default().update(&header.encode()[..24], order);
            let bytes = header.encode();
            assert_eq!(LogHeader::parse(&bytes), Some(header));
            for at in 0..bytes.len() {
                let mut wrong = bytes;
                wrong[at] ^= 0x10;
                assert_eq!(LogHeader::parse(&wrong), None, "byte {at}");
            }
        }
    }

    #[test]
    fn a_header_written_by_sqlite_is_read() {
        // The first 32 bytes of a log of SQLite 3.40.1 on x86-64.
        let bytes = WRITTEN_BY_SQLITE;
        let header = LogHeader::parse(&bytes).unwrap();
        assert_eq!(header.order, ByteOrder::Little);
        assert_eq!(header.page_size.get(), 4096);
        assert_eq!(header.encode(), bytes);
    }

    #[rustfmt::skip]
    const WRITTEN_BY_SQLITE: [u8; 32] = [
        0x37, 0x7f, 0x06, 0x82, 0x00, 0x2d, 0xe2, 0x18, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00,
        0xe6, 0x0a, 0x3f, 0x3e, 0x66, 0xb1, 0x18, 0x51, 0x13, 0x26, 0x0d, 0xf9, 0x1c, 0x26, 0x97, 0x04,
    ];

    #[test]
    fn frames_lie_behind_each_other() {
        let size = PageSize::new(512).unwrap();
        assert_eq!(FrameIndex::new(1).unwrap().offset(size), 32);
        assert_eq!(FrameIndex::new(3).unwrap().offset(size), 32 + 2 * 536);
        let large = PageSize::new(65536).unwrap();
        assert_eq!(
            FrameIndex::new(u32::MAX).unwrap().offset(large),
            32 + u64::from(u32::MAX - 1) * 65560
        );
    }

    #[test]
    fn frame_headers_round_trip() {
        let mut chain = Chain {
            order: ByteOrder::Big,
            salts: Salts([5; 8]),
            checksum: Checksum([1, 2]),
        };
        let header = chain.next(PageNumber::FIRST, 9, &[1; 512]);
        assert_eq!(chain.checksum, header.checksum);
        assert_eq!(FrameHeader::parse(&header.encode()), Some(header));
        assert_eq!(FrameHeader::parse(&[0; 24]), None);
    }

    #[test]
    fn a_restart_adds_one_to_the_first_salt() {
        let salts = Salts([0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]);
        assert_eq!(
            salts.restarted(Salts([9; 8])),
            Salts([0, 0, 0, 0, 9, 9, 9, 9])
        );
    }
}
