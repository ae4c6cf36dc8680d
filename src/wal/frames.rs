//! The frames of a log as transactions.

use std::collections::BTreeMap;

use super::LogFile;
use super::anchor::Anchor;
use super::checksum::Checksum;
use super::frame::{Chain, FRAME_HEADER_BYTES, FrameHeader, FrameIndex, LogHeader};
use super::index::IndexHeader;
use super::pushed::NonceReader;
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};
use crate::position::Nonce;

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
    /// The nonce of the commit, where a replica has pushed it.
    pub nonce: Option<Nonce>,
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
        Some(FrameReader::new(log, page_size, after.mx_frame, header)),
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
        let mut nonce = NonceReader::default();
        while let Some((frame, header, database_size, page)) = reader.next()? {
            nonce.frame(header.page, page);
            self.intact &= self.chain.next(header.page, database_size, page) == header;
            let first = pages.is_empty();
            pages.insert(header.page, frame);
            if database_size == 0 {
                continue;
            }
            let repeated = first
                && self.last_page == page
                && self.ready.as_ref().is_some_and(|(last, number)| {
                    *number == header.page && last.database_size == database_size
                });
            self.last_page.clear();
            self.last_page.extend_from_slice(page);
            let lock_page = reader.page_size.lock_page();
            pages.retain(|&number, _| number.get() <= database_size && number != lock_page);
            let transaction = Transaction {
                last_frame: frame,
                database_size,
                pages,
                checksum: self.chain.checksum,
                intact: self.intact,
                nonce: nonce.nonce(),
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

/// A frame that was read: its index, its header as it is stored, the database size of a commit frame
/// or 0, its page. The last published frame is a commit, whatever its header says: the wal-index knows.
pub(super) type Read<'a> = (FrameIndex, FrameHeader, u32, &'a [u8]);

/// Reads frames in order, many at a time.
pub(super) struct FrameReader<'a> {
    log: &'a dyn LogFile,
    page_size: PageSize,
    /// The frames still to come.
    next: u32,
    last: u32,
    /// The published commit: its frame, and the database size in pages after it.
    commit: (u32, u32),
    buffer: Vec<u8>,
    /// Where the next frame starts in the buffer.
    at: usize,
}

impl<'a> FrameReader<'a> {
    fn new(log: &'a dyn LogFile, page_size: PageSize, after: u32, header: &IndexHeader) -> Self {
        Self {
            log,
            page_size,
            next: after + 1,
            last: header.mx_frame,
            commit: (header.mx_frame, header.database_size),
            buffer: Vec::new(),
            at: 0,
        }
    }

    /// The next frame.
    pub(super) fn next(&mut self) -> Result<Option<Read<'_>>> {
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
        let database_size = match self.commit {
            (last, size) if last == frame.get() && size != 0 => size,
            _ => header.database_size,
        };
        Ok(Some((frame, header, database_size, page)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::Salts;
    use super::super::memory::MemoryFile;
    use super::super::oracle::World;
    use super::*;

    /// A log of these frames: page number, database size, what the page is filled with.
    fn log(frames: &[(u32, u32, u8)]) -> (MemoryFile, IndexHeader) {
        let (file, size) = (MemoryFile::default(), PageSize::new(512).unwrap());
        let start = LogHeader::new(size, 1, Salts([4; 8]));
        file.write(&start.encode(), 0).unwrap();
        let mut chain = Chain {
            order: start.order,
            salts: start.salts,
            checksum: start.checksum,
        };
        for (index, &(page, database_size, fill)) in (1..).zip(frames) {
            let offset = FrameIndex::new(index).unwrap().offset(size);
            let header = chain.next(PageNumber::new(page).unwrap(), database_size, &[fill; 512]);
            file.write(&header.encode(), offset).unwrap();
            file.write(&[fill; 512], offset + 24).unwrap();
        }
        let mut header = IndexHeader::recovered_empty();
        header.order = start.order;
        header.page_size = Some(size);
        header.mx_frame = frames.len() as u32;
        header.salts = start.salts;
        header.frame_checksum = chain.checksum;
        (file, header)
    }

    fn all(log: &MemoryFile, header: &IndexHeader) -> Result<Vec<Transaction>> {
        transactions(log, header, &Anchor::log_start(header.salts))?.collect()
    }

    fn pages(transaction: &Transaction) -> Vec<(u32, u32)> {
        transaction
            .pages
            .iter()
            .map(|(page, frame)| (page.get(), frame.get()))
            .collect()
    }

    #[test]
    fn the_newest_frame_of_each_page_counts_up_to_the_size() {
        let (log, header) = log(&[
            (2, 0, 1),
            (9, 0, 2),
            (2, 0, 3),
            (1, 3, 4),
            (3, 3, 5),
            (4, 0, 6),
            (1, 4, 7),
        ]);
        let found = all(&log, &header).unwrap();
        assert_eq!(
            found.iter().map(|t| t.last_frame.get()).collect::<Vec<_>>(),
            [4, 5, 7]
        );
        assert_eq!(pages(&found[0]), [(1, 4), (2, 3)]);
        assert_eq!(pages(&found[2]), [(1, 7), (4, 6)]);
        assert_eq!(found[2].database_size, 4);
        assert!(found.iter().all(|transaction| transaction.intact));
        assert_eq!(found[2].checksum, header.frame_checksum);
        // From the middle on it is the same.
        let after = Anchor {
            salts: header.salts,
            mx_frame: 4,
            checksum: found[0].checksum,
        };
        let rest: Vec<_> = transactions(&log, &header, &after)
            .unwrap()
            .flatten()
            .collect();
        assert_eq!(rest, found[1..]);
        assert_eq!(
            transactions(&log, &header, &header.anchor())
                .unwrap()
                .count(),
            0
        );
        let mut content = [0; 512];
        read_frame(
            &log,
            PageSize::new(512).unwrap(),
            FrameIndex::new(6).unwrap(),
            &mut content,
        )
        .unwrap();
        assert_eq!(content, [6; 512]);
    }

    #[test]
    fn padding_belongs_to_its_transaction() {
        let (log, header) = log(&[
            (1, 0, 1),
            (2, 2, 2),
            (2, 2, 2),
            (2, 2, 2),
            (2, 2, 3),
            (1, 2, 3),
            (1, 3, 3),
        ]);
        let found = all(&log, &header).unwrap();
        assert_eq!(
            found.iter().map(|t| t.last_frame.get()).collect::<Vec<_>>(),
            [4, 5, 6, 7]
        );
        assert_eq!(pages(&found[0]), [(1, 1), (2, 4)]);
        let (log, header) = self::log(&[(2, 2, 2), (1, 0, 1), (2, 2, 2)]);
        assert_eq!(all(&log, &header).unwrap().len(), 2);
    }

    #[test]
    fn live_frames_that_recovery_would_not_take_are_marked() {
        let (log, header) = log(&[(1, 1, 1), (1, 1, 2), (1, 1, 3)]);
        log.write(
            &[0; 16],
            FrameIndex::new(2)
                .unwrap()
                .offset(header.page_size.unwrap())
                + 8,
        )
        .unwrap();
        let found = all(&log, &header).unwrap();
        assert_eq!(
            found.iter().map(|t| t.intact).collect::<Vec<_>>(),
            [true, false, false]
        );
        assert_eq!(found[2].checksum, header.frame_checksum);
    }

    #[test]
    fn a_log_that_is_not_what_the_index_says_is_refused() {
        let (log_file, header) = log(&[(1, 1, 1), (1, 0, 2)]);
        assert!(matches!(all(&log_file, &header), Err(Error::Corrupt(_))));
        let (log_file, header) = log(&[(1, 1, 1), (1, 1, 2)]);
        let mut other = header;
        other.salts = Salts([5; 8]);
        assert!(matches!(all(&log_file, &other), Err(Error::Corrupt(_))));
        let after = Anchor::log_start(Salts([5; 8]));
        assert!(matches!(
            transactions(&log_file, &header, &after),
            Err(Error::Misuse(_))
        ));
        log_file.truncate(32 + 536 + 100);
        assert!(matches!(all(&log_file, &header), Err(Error::Corrupt(_))));
    }

    #[test]
    fn many_frames_are_read_in_few_pieces() {
        let mut world = World::new(512, 1);
        world.append(&[], 1500).unwrap();
        world.append(&[1, 700], 1500).unwrap();
        let header = world.header();
        let found = all(&world.log, &header).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].pages.len(), 1499);
        assert_eq!(found[1].pages.len(), 2);
    }

    proptest! {
        #[test]
        fn damage_is_an_error_or_is_seen(
            damage in prop::collection::vec((0usize..32 + 5 * 536, 1u8..), 1..4),
            cut in prop::option::of(0usize..32 + 5 * 536),
        ) {
            let (log, header) = log(&[(1, 0, 1), (2, 2, 2), (3, 0, 3), (1, 0, 4), (2, 3, 5)]);
            let before = log.bytes();
            for (at, flip) in damage {
                let byte = log.bytes()[at] ^ flip;
                log.write(&[byte], at as u64).unwrap();
            }
            if let Some(cut) = cut {
                log.truncate(cut);
            }
            if let Ok(found) = all(&log, &header) {
                let untouched = log.bytes() == before;
                prop_assert_eq!(found.iter().all(|transaction| transaction.intact), untouched);
            }
        }
    }
}
