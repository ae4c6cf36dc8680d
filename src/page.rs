//! Pages: their numbers, sizes and hashes.

use std::fmt;
use std::num::NonZeroU32;

use crate::error::{Error, Result};

/// Byte offset of the lock-byte page (SQLite file format, section 1.5.1): the page that holds it
/// is never read or written as content.
const PENDING_BYTE: u64 = 0x4000_0000;

/// The number of a page, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(NonZeroU32);

impl PageNumber {
    /// The first page, which holds the database header.
    pub const FIRST: PageNumber = PageNumber(NonZeroU32::MIN);

    /// A page number, or `None` for 0.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number as SQLite writes it.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// Where the page starts in the database file, in bytes.
    pub fn offset(self, size: PageSize) -> u64 {
        u64::from(self.get() - 1) * u64::from(size.get())
    }
}

impl fmt::Debug for PageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.get())
    }
}

impl fmt::Display for PageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// A page size in bytes: a power of two from 512 to 65536.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSize(u32);

impl PageSize {
    /// Checks a size in bytes.
    pub fn new(bytes: u32) -> Result<Self> {
        if bytes.is_power_of_two() && (512..=65536).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(Error::Corrupt(format!("{bytes} is not a page size")))
        }
    }

    /// Reads the two-byte form of the database header and the wal-index, where 1 means 65536.
    pub fn from_u16(stored: u16) -> Result<Self> {
        let stored = u32::from(stored);
        Self::new((stored & 0xfe00) + ((stored & 1) << 16))
    }

    /// The two-byte form of the database header and the wal-index.
    pub fn to_u16(self) -> u16 {
        ((self.0 & 0xff00) | (self.0 >> 16)) as u16
    }

    /// The size in bytes.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The size in bytes, for slices.
    pub fn bytes(self) -> usize {
        self.0 as usize
    }

    /// The page that holds the lock bytes and never any content.
    pub fn lock_page(self) -> PageNumber {
        let number = PENDING_BYTE / u64::from(self.0) + 1;
        PageNumber::new(number as u32).unwrap_or(PageNumber::FIRST)
    }
}

/// The first 128 bits of BLAKE3 over the page number (4 bytes, little-endian) and the page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageHash([u8; 16]);

impl PageHash {
    /// One that no page has: of a page that is not there, or cannot be read.
    pub const NONE: PageHash = PageHash([0; 16]);

    /// Hashes one page at its place.
    pub fn of(number: PageNumber, page: &[u8]) -> Self {
        let number = number.get().to_le_bytes();
        let mut together = [0; 4 + 4096];
        // In one piece it takes half the time.
        let full = match together.get_mut(..4 + page.len()) {
            Some(together) => {
                together[..4].copy_from_slice(&number);
                together[4..].copy_from_slice(page);
                blake3::hash(together)
            }
            None => blake3::Hasher::new()
                .update(&number)
                .update(page)
                .finalize(),
        };
        let mut hash = [0; 16];
        hash.copy_from_slice(&full.as_bytes()[..16]);
        Self(hash)
    }

    /// A hash read from a file or the wire.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The hash as it is stored and sent.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The sum, modulo 2^128, of the hashes of all pages of a database: free of order, kept current
/// page by page. The lock-byte page does not enter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContentDigest(u128);

impl ContentDigest {
    /// Adds a page.
    pub fn add(&mut self, hash: PageHash) {
        self.0 = self.0.wrapping_add(u128::from_le_bytes(hash.0));
    }

    /// Takes a page out.
    pub fn remove(&mut self, hash: PageHash) {
        self.0 = self.0.wrapping_sub(u128::from_le_bytes(hash.0));
    }

    /// A digest read from a file or the wire.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    /// The digest as it is stored and sent, little-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_round_trip_through_two_bytes() {
        for shift in 9..=16 {
            let size = PageSize::new(1 << shift).unwrap();
            assert_eq!(PageSize::from_u16(size.to_u16()).unwrap(), size);
        }
        for wrong in [0, 1, 256, 513, 131_072] {
            assert!(PageSize::new(wrong).is_err());
        }
    }

    #[test]
    fn lock_page_lies_at_one_gibibyte() {
        assert_eq!(PageSize::new(4096).unwrap().lock_page().get(), 262_145);
        assert_eq!(PageSize::new(512).unwrap().lock_page().get(), 2_097_153);
    }

    #[test]
    fn a_hash_covers_number_and_page() {
        for size in [0, 1, 512, 4096, 4097, 65536] {
            let page: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let mut whole = vec![9, 3, 0, 0];
            whole.extend_from_slice(&page);
            let hash = PageHash::of(PageNumber::new(0x309).unwrap(), &page);
            assert_eq!(hash.as_bytes()[..], blake3::hash(&whole).as_bytes()[..16]);
        }
    }

    #[test]
    fn digest_ignores_order_and_sees_place() {
        let (a, b) = (PageNumber::FIRST, PageNumber::new(2).unwrap());
        let (mut left, mut right, mut swapped) =
            <(ContentDigest, ContentDigest, ContentDigest)>::default();
        left.add(PageHash::of(a, b"x"));
        left.add(PageHash::of(b, b"y"));
        right.add(PageHash::of(b, b"y"));
        right.add(PageHash::of(a, b"x"));
        swapped.add(PageHash::of(a, b"y"));
        swapped.add(PageHash::of(b, b"x"));
        assert_eq!(left, right);
        assert_ne!(left, swapped);
        left.remove(PageHash::of(a, b"x"));
        left.remove(PageHash::of(b, b"y"));
        assert_eq!(left, ContentDigest::default());
    }
}
