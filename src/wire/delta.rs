//! A page as the difference from what it was before.
//!
//! The content of a delta record (records.rs):
//!
//! ```text
//! size  field
//!   16  hash of the base: the page the delta was made from, at its place
//!    2  length n: at least 1, less than the page size
//!    n  a zstd frame without its 4 bytes of magic number, with the base as prefix; it
//!       decompresses to exactly one page
//! ```
//!
//! Without base hash the wrong old page would give a wrong new one that looks right.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, ErrorCode, compress_bound, get_error_name};

use super::stream::refused;
use crate::error::{Error, Result};
use crate::page::{PageHash, PageNumber};

/// What every zstd frame begins with, and a delta leaves out.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

const LEVEL: i32 = 3;

/// Bytes of a delta record before the frame.
pub(super) const DELTA_HEAD: usize = 18;

/// How a page became what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delta {
    /// The hash of the page it was made from.
    pub base: PageHash,
    /// The frame without its magic number; not checked before it is applied.
    pub bytes: Vec<u8>,
}

impl Delta {
    /// The delta from `base`, whose hash is given, to `page`, which lies elsewhere in memory;
    /// `None` where the page itself is no larger.
    pub fn between(hash: PageHash, base: &[u8], page: &[u8]) -> Result<Option<Delta>> {
        if base.len() != page.len() {
            return Ok(None);
        }
        let mut context = CCtx::try_create().ok_or_else(no_memory)?;
        for parameter in [
            CParameter::CompressionLevel(LEVEL),
            // The page is proved by the content digest, its size is known.
            CParameter::ChecksumFlag(false),
            CParameter::ContentSizeFlag(false),
            CParameter::DictIdFlag(false),
        ] {
            context.set_parameter(parameter).map_err(compressing)?;
        }
        context.ref_prefix(base).map_err(compressing)?;
        let mut frame = Vec::with_capacity(compress_bound(page.len()));
        context.compress2(&mut frame, page).map_err(compressing)?;
        match frame.strip_prefix(&MAGIC) {
            Some(bytes) if bytes.len() + DELTA_HEAD < page.len() => Ok(Some(Delta {
                base: hash,
                bytes: bytes.to_vec(),
            })),
            _ => Ok(None),
        }
    }

    /// The page that this makes of `base`; `None` where it was made from another one. However
    /// the delta was made, no more than a page is written.
    pub fn apply(&self, number: PageNumber, base: &[u8]) -> Result<Option<Vec<u8>>> {
        if PageHash::of(number, base) != self.base {
            return Ok(None);
        }
        let mut frame = MAGIC.to_vec();
        frame.extend_from_slice(&self.bytes);
        let mut context = DCtx::try_create().ok_or_else(no_memory)?;
        context.ref_prefix(base).map_err(compressing)?;
        let mut page = vec![0; base.len()];
        let size = context
            .decompress(&mut page[..], &frame)
            .map_err(|code| refused(format!("delta of {number:?}: {}", get_error_name(code))))?;
        match size == page.len() {
            true => Ok(Some(page)),
            false => Err(refused(format!("the delta of {number:?} makes no page"))),
        }
    }
}

fn compressing(code: ErrorCode) -> Error {
    Error::Internal(format!("compress: {}", get_error_name(code)))
}

fn no_memory() -> Error {
    Error::Internal("no memory to compress with".to_owned())
}

#[cfg(test)]
mod tests;
