//! The record of a page, which is the same in database and log: a checkpoint copies it. With pages of
//! N bytes it has N + 40:
//!
//! ```text
//!  0  24  nonce
//! 24  16  tag
//! 40   N  the page, sealed; authenticated with it: "page" and version (8 bytes), id of the file
//!         (16), page number (4, little-endian)
//! ```

use super::header::HEADER_BYTES;
use super::raw::RawFile;
use super::seal::{OVERHEAD, Seal};
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

/// What is authenticated with a page.
pub(super) fn associated(file: &[u8; 16], page: PageNumber) -> [u8; 28] {
    let mut bytes = *b"page\0\0\0\x01--------------------";
    bytes[8..24].copy_from_slice(file);
    bytes[24..].copy_from_slice(&page.get().to_le_bytes());
    bytes
}

/// A page as it is sealed in the log.
pub struct SealedPage {
    /// Which page it is.
    pub number: PageNumber,
    /// Before its ciphertext.
    pub seal: Seal,
    /// The frame that holds it, from 1.
    pub frame: u32,
    /// Salts of the log.
    pub salts: [u8; 8],
}

/// Where the record of a page begins.
pub(super) fn place(size: PageSize, number: PageNumber) -> u64 {
    HEADER_BYTES + u64::from(number.get() - 1) * (size.bytes() + OVERHEAD) as u64
}

/// How many records the file has, the last one perhaps cut.
pub(super) fn records(raw: &dyn RawFile, size: PageSize) -> Result<u32> {
    let bytes = raw.size()?.saturating_sub(HEADER_BYTES);
    u32::try_from(bytes / (size.bytes() + OVERHEAD) as u64)
        .map_err(|_| Error::Corrupt("the encrypted database is too large".to_owned()))
}
