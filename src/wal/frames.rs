//! The frames of a log as transactions.

use std::collections::BTreeMap;

use super::LogFile;
use super::anchor::Anchor;
use super::checksum::Checksum;
use super::frame::{Chain, FRAME_HEADER_BYTES, FrameHeader, FrameIndex, LogHeader};
use super::index::IndexHeader;
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

/// How much of the log is read at once.
const BATCH_BYTES: usize = 256 * 1024;

/// One committed transaction of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Its commit frame; with padding, the last repetition of it.
    pub last_frame: FrameIndex,
    /// The size of the database in pages after it.
    pub database_size: u32,
    /// The newest frame of each page it wrote; pages beyond the database size are left out.
    pub pages: BTreeMap<PageNumber, FrameIndex>,
    /// The running checksum behind it: what is stored there, or, where it is not intact, what
    /// has to be.
    pub checksum: Checksum,
    /// Whether salts and checksums of all frames since the start are right. If not, recovery
    /// would stop here and lose the rest; the content is good all the same, as the wal-index
    /// published it.
    pub intact: bool,
}

/// The transactions behind `after`, up to `header`, oldest first. The caller holds WAL_WRITE, or
/// a read lock that keeps the log. `after` must be a commit of this log, or its start
/// ([`Anchor::log_start`]).
pub fn transactions<'a>(
    log: &'a dyn LogFile,
    header: &IndexHeader,
    after: &Anchor,
) -> Result<Transactions<'a>> {
    let (reader, chain) = open(log, header, after)?;
    let intact = reader.is_none() || after.mx_frame == 0 || after.stands_in(header, log)?;
    Ok(Transactions {
        reader,
        chain,
        intact,
        last_page: Vec::new(),
        ready: None,
    })
}

/// A reader of the frames behind `after`, and the chain they have to follow. No reader where
/// there are none.
pub(super) fn open<'a>(
    log: &'a dyn LogFile,
    header: &IndexHeader,
    after: &Anchor,
) -> Result<(Option<FrameReader<'a>>, Chain)> {
    let mut chain = Chain {
        order: header.order,
        salts: header.salts,
        checksum: header.frame_checksum,
    };
    if after.salts != header.salts || after.mx_frame > header.mx_frame {
        return Err(Error::Misuse("the anchor is not of this log".into()));
    }
    if after.mx_frame == header.mx_frame {
        return Ok((None, chain));
    }
    let page_size = header.require_page_size()?;
    chain.checksum = match after.mx_frame {
        0 => log_header(log, header)?.checksum,
        _ => after.checksum,
    };
    Ok((
        Some(FrameReader::new(
            log,
            page_size,
            after.mx_frame,
            header.mx_frame,
        )),
        chain,
    ))
}

/// The header of the log, which must be the one the index speaks of.
pub(super) fn log_header(log: &dyn LogFile, header: &IndexHeader) -> Result<LogHeader> {
    LogHeader::read(log)?
        .filter(|found| {
            found.salts == header.salts
                && found.order == header.order
                && Some(found.page_size) == header.page_size
        })
        .ok_or_else(|| Error::Corrupt("the log is not the one of the wal-index".into()))
}

/// Reads the page a frame holds; `buffer` must have the page size.
pub fn read_frame(
    log: &dyn LogFile,
    page_size: PageSize,
    frame: FrameIndex,
    buffer: &mut [u8],
) -> Result<()> {
    if buffer.len() != page_size.bytes() {
        return Err(Error::Misuse("the buffer has not the page size".into()));
    }
    let offset = frame.offset(page_size) + FRAME_HEADER_BYTES as u64;
    if log.read(buffer, offset)? < buffer.len() {
        return Err(ends_early(frame));
    }
    Ok(())
}

fn ends_early(frame: FrameIndex) -> Error {
    Error::Corrupt(format!(
        "the log ends before the end of frame {}",
        frame.get()
    ))
}

/// Iterator of [`transactions`].
pub struct Transactions<'a> {
    reader: Option<FrameReader<'a>>,
    chain: Chain,
    intact: bool,
    /// The page of the last commit frame.
    last_page: Vec<u8>,
    /// A transaction held back until it is known that no padding follows.
    ready: Option<(Transaction, PageNumber)>,
}

impl Transactions<'_> {
    /// Reads on to the next commit frame. Second: the page of that frame; third: whether it only
    /// repeats the commit frame before, as SQLite does to fill a sector.
    fn read(&mut self) -> Result<Option<(Transaction, PageNumber, bool)>> {
        let Some(reader) = &mut self.reader else {
            return Ok(None);
        };
        let mut pages = BTreeMap::new();
        while let Some((frame, header, page)) = reader.next()? {
            self.intact &= self.chain.next(header.page, header.database_size, page) == header;
            let first = pages.is_empty();
            pages.insert(header.page, frame);
            if header.database_size == 0 {
                continue;
            }
            let repeated = first
                && self.last_page == page
                && self.ready.as_ref().is_some_and(|(last, number)| {
                    *number == header.page && last.database_size == header.database_size
                });
            self.last_page.clear();
            self.last_page.extend_from_slice(page);
            let lock_page = reader.page_size.lock_page();
            pages.retain(|&number, _| number.get() <= header.database_size && number != lock_page);
            let transaction = Transaction {
                last_frame: frame,
                database_size: header.database_size,
                pages,
                checksum: self.chain.checksum,
                intact: self.intact,
            };
            return Ok(Some((transaction, header.page, repeated)));
        }
        if !pages.is_empty() {
            return Err(Error::Corrupt(
                "the last frame of the log is not a commit".into(),
            ));
        }
        Ok(None)
    }
}

impl Iterator for Transactions<'_> {
    type Item = Result<Transaction>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.read() {
                Ok(Some((next, number, repeated))) => match &mut self.ready {
                    Some((last, _)) if repeated => {
                        last.last_frame = next.last_frame;
                        last.checksum = next.checksum;
                        last.intact = next.intact;
                        last.pages.extend(next.pages);
                    }
                    ready => {
                        if let Some((last, _)) = ready.replace((next, number)) {
                            return Some(Ok(last));
                        }
                    }
                },
                Ok(None) => return self.ready.take().map(|(last, _)| Ok(last)),
                Err(error) => {
                    self.reader = None;
                    self.ready = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Reads frames in order, many at a time.
pub(super) struct FrameReader<'a> {
    log: &'a dyn LogFile,
    page_size: PageSize,
    /// The frames still to come.
    next: u32,
    last: u32,
    buffer: Vec<u8>,
    /// Where the next frame starts in the buffer.
    at: usize,
}

impl<'a> FrameReader<'a> {
    fn new(log: &'a dyn LogFile, page_size: PageSize, after: u32, last: u32) -> Self {
        Self {
            log,
            page_size,
            next: after + 1,
            last,
            buffer: Vec::new(),
            at: 0,
        }
    }

    /// The next frame: its index, its header as it is stored, its page.
    pub(super) fn next(&mut self) -> Result<Option<(FrameIndex, FrameHeader, &[u8])>> {
        let frame = match FrameIndex::new(self.next) {
            Some(frame) if self.next <= self.last => frame,
            _ => return Ok(None),
        };
        let size = FRAME_HEADER_BYTES + self.page_size.bytes();
        if self.at == self.buffer.len() {
            let left = (self.last - self.next) as usize + 1;
            self.buffer
                .resize(left.min((BATCH_BYTES / size).max(1)) * size, 0);
            let read = self
                .log
                .read(&mut self.buffer, frame.offset(self.page_size))?;
            self.buffer.truncate(read - read % size);
            self.at = 0;
            if self.buffer.is_empty() {
                return Err(ends_early(frame));
            }
        }
        let stored = &self.buffer[self.at..self.at + size];
        let (header, page) = stored.split_at(FRAME_HEADER_BYTES);
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes.copy_from_slice(header);
        let header = FrameHeader::parse(&bytes).ok_or_else(|| {
            Error::Corrupt(format!(
                "frame {} of the log has page number 0",
                frame.get()
            ))
        })?;
        self.at += size;
        // `last` may be the largest number there is.
        match self.next.checked_add(1) {
            Some(next) => self.next = next,
            None => self.last = 0,
        }
        Ok(Some((frame, header, page)))
    }
}
