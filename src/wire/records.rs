//! The records of a message that carries pages or hashes: one zstd frame (level 1, window at most
//! 8 MiB), inside it:
//!
//! ```text
//! size  field
//!    4  page number
//!    1  record kind: 0 = full page, 1 = delta, 2 = page hash, 3 = full page that replaces another
//!    n  content: the page (n = page size), a delta (delta.rs), the page's hash (n = 16), or the
//!       hash of the page before (16) and then the page
//! …  and at the end
//!    4  0
//!    1  255
//!    4  how many records came before
//!    4  the last page looked at when there is more after it, else 0
//! ```

use std::io::{Read, Write};

use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

use super::delta::{DELTA_HEAD, Delta};
use super::stream::{Reader, broken, refused};
use crate::error::{Error, Result};
use crate::page::{PageHash, PageNumber};

const LEVEL: i32 = 1;
/// What a decoder sets aside at most; level 1 writes windows of 512 KiB.
const WINDOW_LOG: u32 = 23;

/// The kind of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Page = 0,
    Delta = 1,
    Hash = 2,
    Replacement = 3,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Kind::Page, Kind::Delta, Kind::Hash, Kind::Replacement]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

const END: u8 = 255;

/// Writes records behind what a message holds so far.
pub(super) struct RecordWriter<W: Write> {
    encoder: Encoder<'static, W>,
    count: u32,
}

impl<W: Write> RecordWriter<W> {
    pub(super) fn start(message: W) -> Result<Self> {
        let encoder = Encoder::new(message, LEVEL).map_err(compressing)?;
        Ok(Self { encoder, count: 0 })
    }

    pub(super) fn put(&mut self, number: PageNumber, kind: Kind, content: &[u8]) -> Result<()> {
        self.head(number.get(), kind as u8)?;
        self.encoder.write_all(content).map_err(compressing)?;
        self.count += 1;
        Ok(())
    }

    pub(super) fn put_delta(&mut self, number: PageNumber, delta: &Delta) -> Result<()> {
        let length = u16::try_from(delta.bytes.len())
            .map_err(|_| Error::Internal(format!("the delta of {number:?} is too long")))?;
        let mut head = [0; DELTA_HEAD];
        head[..16].copy_from_slice(delta.base.as_bytes());
        head[16..].copy_from_slice(&length.to_le_bytes());
        self.put(number, Kind::Delta, &head)?;
        self.encoder.write_all(&delta.bytes).map_err(compressing)
    }

    pub(super) fn put_replacement(
        &mut self,
        number: PageNumber,
        old: PageHash,
        page: &[u8],
    ) -> Result<()> {
        self.put(number, Kind::Replacement, old.as_bytes())?;
        self.encoder.write_all(page).map_err(compressing)
    }

    pub(super) fn finish(mut self, next: Option<PageNumber>) -> Result<W> {
        self.head(0, END)?;
        let mut end = [0; 8];
        end[..4].copy_from_slice(&self.count.to_le_bytes());
        end[4..].copy_from_slice(&next.map_or(0, PageNumber::get).to_le_bytes());
        self.encoder.write_all(&end).map_err(compressing)?;
        self.encoder.finish().map_err(compressing)
    }

    fn head(&mut self, number: u32, kind: u8) -> Result<()> {
        let mut head = [0; 5];
        head[..4].copy_from_slice(&number.to_le_bytes());
        head[4] = kind;
        self.encoder.write_all(&head).map_err(compressing)
    }
}

pub(super) fn compressing(error: std::io::Error) -> Error {
    Error::Internal(format!("compress: {error}"))
}

/// Which page numbers are believed.
pub(super) struct Limits {
    /// Records must be of one of these kinds.
    pub(super) kinds: &'static [Kind],
    /// Numbers must be greater; 0 = any.
    pub(super) after: u32,
    /// Numbers must not be greater.
    pub(super) last: u32,
    /// This page has no content.
    pub(super) lock_page: PageNumber,
    /// More records make the part too large.
    pub(super) most: usize,
}

/// Reads records. What it can be made to decompress is bounded by `Limits::most`: it asks the
/// decoder for one record at a time.
pub(super) struct RecordReader<'a> {
    decoder: Decoder<'static, Reader<'a>>,
    limits: Limits,
    before: u32,
    count: usize,
}

impl<'a> RecordReader<'a> {
    pub(super) fn start(message: Reader<'a>, limits: Limits) -> Result<Self> {
        let mut decoder = Decoder::with_buffer(message)
            .map_err(broken)?
            .single_frame();
        decoder.window_log_max(WINDOW_LOG).map_err(broken)?;
        Ok(Self {
            decoder,
            before: limits.after,
            limits,
            count: 0,
        })
    }

    /// The next record's page number and kind; `None` at the end record. Its content must be
    /// read before the next one.
    pub(super) fn next(&mut self) -> Result<Option<(PageNumber, Kind)>> {
        let mut head = [0; 5];
        self.fill(&mut head)?;
        let [a, b, c, d, kind] = head;
        let number = PageNumber::new(u32::from_le_bytes([a, b, c, d]));
        if number.is_none() && kind == END {
            return Ok(None);
        }
        let kind = Kind::of(kind)
            .filter(|kind| self.limits.kinds.contains(kind))
            .ok_or_else(|| refused(format!("record kind {kind}")))?;
        let number = number.ok_or_else(|| refused("page 0"))?;
        self.check(number)?;
        self.before = number.get();
        self.count += 1;
        Ok(Some((number, kind)))
    }

    /// The content of a delta record; its frame is less than `most` bytes.
    pub(super) fn delta(&mut self, most: usize) -> Result<Delta> {
        let (mut base, mut length) = ([0; 16], [0; 2]);
        self.fill(&mut base)?;
        self.fill(&mut length)?;
        let length = usize::from(u16::from_le_bytes(length));
        if length == 0 || length >= most {
            return Err(refused(format!("a delta of {length} bytes")));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(Delta {
            base: PageHash::from_bytes(base),
            bytes,
        })
    }

    fn check(&self, number: PageNumber) -> Result<()> {
        if number.get() <= self.before {
            return Err(refused(format!("{number:?} after page {}", self.before)));
        }
        if number.get() > self.limits.last {
            return Err(refused(format!("{number:?} of {}", self.limits.last)));
        }
        if number == self.limits.lock_page {
            return Err(refused(format!("{number:?} is the lock page")));
        }
        if self.count == self.limits.most {
            return Err(refused(format!("more than {} records", self.limits.most)));
        }
        Ok(())
    }

    /// Behind the end record: where to continue, and the message to read on.
    pub(super) fn finish(mut self) -> Result<(Option<PageNumber>, Reader<'a>)> {
        let mut end = [0; 8];
        self.fill(&mut end)?;
        let [a, b, c, d, e, f, g, h] = end;
        let count = u32::from_le_bytes([a, b, c, d]);
        if count as usize != self.count {
            return Err(refused(format!("{} records of {count}", self.count)));
        }
        let next = PageNumber::new(u32::from_le_bytes([e, f, g, h]));
        self.check_next(next)?;
        // The decoder takes the frame's epilogue only when asked for more.
        if self.decoder.read(&mut [0]).map_err(broken)? != 0 {
            return Err(refused("records go on behind their end"));
        }
        Ok((next, self.decoder.finish()))
    }

    /// A continuation must lead on, or the asker would turn in circles. It may lie beyond the end
    /// of the database: the next part's head may be larger.
    fn check_next(&self, next: Option<PageNumber>) -> Result<()> {
        match next.map(PageNumber::get) {
            Some(next) if next < self.before || next <= self.limits.after => {
                Err(refused(format!("continuation after page {next}")))
            }
            _ => Ok(()),
        }
    }

    /// Content of a record.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.decoder.read_exact(bytes).map_err(broken)
    }
}
