//! The checksum of the log and of the wal-index header.
//!
//! Source: SQLite file format, section 4.2 (Checksum Algorithm). The input is a row of 32-bit
//! words, always an even number of them; for each pair `x, y`:
//!
//! ```text
//! s0 += x + s1
//! s1 += y + s0
//! ```
//!
//! with wrapping sums. The words are read big-endian or little-endian as the lowest bit of the
//! log's magic number says, whatever the machine; the wal-index header uses native order. Where
//! a checksum is stored in the log, it is stored as two big-endian words.

/// How the words under a checksum are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteOrder {
    /// Magic number `0x377f0682`.
    Little,
    /// Magic number `0x377f0683`.
    Big,
}

impl ByteOrder {
    /// The order of this machine, in which new logs are written.
    pub const NATIVE: ByteOrder = if cfg!(target_endian = "big") {
        ByteOrder::Big
    } else {
        ByteOrder::Little
    };
}

/// A running checksum: what one frame ends with is what the next one starts from.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Checksum(pub [u32; 2]);

impl Checksum {
    /// The checksum after `bytes`, whose length must be a multiple of 8.
    #[must_use]
    pub fn update(self, bytes: &[u8], order: ByteOrder) -> Self {
        match order {
            ByteOrder::Little => self.fold(bytes, u32::from_le_bytes),
            ByteOrder::Big => self.fold(bytes, u32::from_be_bytes),
        }
    }

    #[inline(always)]
    fn fold(self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> Self {
        debug_assert_eq!(bytes.len() % 8, 0);
        let [mut s0, mut s1] = self.0;
        for pair in bytes.chunks_exact(8) {
            let x = word([pair[0], pair[1], pair[2], pair[3]]);
            let y = word([pair[4], pair[5], pair[6], pair[7]]);
            s0 = s0.wrapping_add(x).wrapping_add(s1);
            s1 = s1.wrapping_add(y).wrapping_add(s0);
        }
        Self([s0, s1])
    }

    /// The checksum as the log stores it.
    pub fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.0[0].to_be_bytes());
        bytes[4..].copy_from_slice(&self.0[1].to_be_bytes());
        bytes
    }

    /// A checksum as the log stores it.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self([
            u32::from_be_bytes([a, b, c, d]),
            u32::from_be_bytes([e, f, g, h]),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_definition() {
        let bytes: Vec<u8> = (0..64)
            .map(|i: u32| (i.wrapping_mul(37) ^ 0xa5) as u8)
            .collect();
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let words: Vec<u32> = bytes
                .chunks(4)
                .map(|w| match order {
                    ByteOrder::Little => u32::from_le_bytes(w.try_into().unwrap()),
                    ByteOrder::Big => u32::from_be_bytes(w.try_into().unwrap()),
                })
                .collect();
            let (mut s0, mut s1) = (1u32, 2u32);
            for i in (0..words.len()).step_by(2) {
                s0 = s0.wrapping_add(words[i].wrapping_add(s1));
                s1 = s1.wrapping_add(words[i + 1].wrapping_add(s0));
            }
            assert_eq!(Checksum([1, 2]).update(&bytes, order), Checksum([s0, s1]));
        }
    }

    #[test]
    fn runs_on_over_pieces() {
        let bytes = [9u8; 48];
        let whole = Checksum::default().update(&bytes, ByteOrder::Big);
        let parts = Checksum::default()
            .update(&bytes[..16], ByteOrder::Big)
            .update(&bytes[16..], ByteOrder::Big);
        assert_eq!(whole, parts);
        assert_eq!(Checksum::from_bytes(whole.to_bytes()), whole);
    }
}
