//! Reading pages at one commit, from the log and the database file.

use super::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameIndex};
use super::read_lock::ReadLock;
use super::{LogFile, SharedIndex, hash};
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

/// The size in pages where no log tells it: what the database header says, if the version-valid-for
/// number proves it current, else the size of the file (SQLite file format, section 1.3.8).
fn stored_size(database: &dyn LogFile, page_size: PageSize) -> Result<u32> {
    let mut header = [0; 100];
    let complete = database.read(&mut header, 0)? == header.len();
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (changes, size, valid_for) = (word(24), word(28), word(92));
    if complete && size > 0 && changes == valid_for {
        return Ok(size);
    }
    u32::try_from(database.size()? / u64::from(page_size.get()))
        .map_err(|_| Error::Corrupt("the database file is too large".into()))
}

/// Where the database header has the page size (SQLite file format, section 1.3).
const PAGE_SIZE_AT: u64 = 16;

/// The database as of one read lock.
pub struct Snapshot<'a> {
    index: &'a dyn SharedIndex,
    log: &'a dyn LogFile,
    database: &'a dyn LogFile,
    lock: &'a ReadLock,
    page_size: PageSize,
    database_size: u32,
}

impl<'a> Snapshot<'a> {
    /// The snapshot a read lock keeps. All four must belong to the same database.
    pub fn new(
        index: &'a dyn SharedIndex,
        log: &'a dyn LogFile,
        database: &'a dyn LogFile,
        lock: &'a ReadLock,
    ) -> Result<Self> {
        let header = lock.header();
        let page_size = match header.page_size {
            Some(size) => size,
            None => stored_page_size(database)?,
        };
        let database_size = match header.database_size {
            0 => stored_size(database, page_size)?,
            size => size,
        };
        Ok(Self {
            index,
            log,
            database,
            lock,
            page_size,
            database_size,
        })
    }

    /// The page size.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The size in pages.
    pub fn database_size(&self) -> u32 {
        self.database_size
    }

    /// Reads one page; `buffer` must have the page size. What lies beyond the end of the database
    /// file reads as zeros, as in SQLite.
    pub fn read_page(&self, number: PageNumber, buffer: &mut [u8]) -> Result<()> {
        self.read_pages(&[number], buffer)
    }

    /// Reads pages one behind the other. Those that follow each other in the database file are
    /// read with one call.
    pub fn read_pages(&self, numbers: &[PageNumber], buffer: &mut [u8]) -> Result<()> {
        let size = self.page_size.bytes();
        if buffer.len() != numbers.len() * size {
            return Err(Error::Misuse("the buffer has not the page size".into()));
        }
        let (mut numbers, mut buffer) = (numbers, buffer);
        while let Some(&first) = numbers.first() {
            let (run, frame) = self.run(first, numbers)?;
            let (pages, rest) = buffer.split_at_mut(run * size);
            let (stored, logged) = pages.split_at_mut((run - usize::from(frame.is_some())) * size);
            if !stored.is_empty() {
                let read = self.database.read(stored, first.offset(self.page_size))?;
                stored[read..].fill(0);
            }
            if let Some(frame) = frame {
                self.read_frame(numbers[run - 1], frame, logged)?;
            }
            (numbers, buffer) = (&numbers[run..], rest);
        }
        Ok(())
    }

    /// How many of `numbers`, from the front, are one piece of the database file; the last of them
    /// may be in the log instead, then with its frame.
    fn run(
        &self,
        first: PageNumber,
        numbers: &[PageNumber],
    ) -> Result<(usize, Option<FrameIndex>)> {
        for (n, number) in numbers.iter().enumerate() {
            if u64::from(number.get()) != u64::from(first.get()) + n as u64 {
                return Ok((n, None));
            }
            if let Some(frame) = self.frame(*number)? {
                return Ok((n + 1, Some(frame)));
            }
        }
        Ok((numbers.len(), None))
    }

    /// The frame that has a page, where it is in the log.
    fn frame(&self, number: PageNumber) -> Result<Option<FrameIndex>> {
        if number.get() > self.database_size || number == self.page_size.lock_page() {
            return Err(Error::Corrupt(format!(
                "page {number} is not in a database of {} pages",
                self.database_size
            )));
        }
        match self.lock.slot() {
            0 => Ok(None),
            _ => hash::find(
                self.index,
                number,
                self.lock.min_frame(),
                self.lock.header().mx_frame,
            ),
        }
    }

    fn read_frame(&self, number: PageNumber, frame: FrameIndex, buffer: &mut [u8]) -> Result<()> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let offset = frame.offset(self.page_size);
        let read = self.log.read(&mut bytes, offset)?
            + self.log.read(buffer, offset + FRAME_HEADER_BYTES as u64)?;
        let right = FrameHeader::parse(&bytes).is_some_and(|found| found.page == number);
        match right && read == bytes.len() + buffer.len() {
            true => Ok(()),
            false => Err(Error::Corrupt(format!(
                "frame {} of the log does not hold page {number}",
                frame.get()
            ))),
        }
    }
}

fn stored_page_size(database: &dyn LogFile) -> Result<PageSize> {
    let mut bytes = [0; 2];
    if database.read(&mut bytes, PAGE_SIZE_AT)? < bytes.len() {
        return Err(Error::Corrupt(
            "the database is empty: it has no page size yet".into(),
        ));
    }
    match u16::from_be_bytes(bytes) {
        1 => PageSize::new(65536),
        size => PageSize::new(u32::from(size)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryFile;
    use super::super::oracle::World;
    use super::super::read_lock::Keep;
    use super::*;

    fn page(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    #[test]
    fn without_a_log_the_file_says_sizes() {
        for size in [512, 4096, 65536] {
            let world = World::new(size, 3);
            let lock = ReadLock::begin(&world.index, Keep::Log).unwrap();
            let snapshot = Snapshot::new(&world.index, &world.log, &world.database, &lock).unwrap();
            assert_eq!(
                (snapshot.page_size().get(), snapshot.database_size()),
                (size, 3)
            );
            world.check(&world.index, &lock, world.state());
            let nothing = MemoryFile::default();
            let snapshot = Snapshot::new(&world.index, &world.log, &nothing, &lock);
            assert!(matches!(snapshot, Err(Error::Corrupt(_))));
        }
    }

    #[test]
    fn what_the_file_does_not_have_is_zero() {
        let mut world = World::new(512, 2);
        world.append(&[3], 3).unwrap();
        world.checkpoint();
        world.database.truncate(2 * 512 + 100);
        let lock = ReadLock::begin(&world.index, Keep::Snapshot).unwrap();
        let snapshot = Snapshot::new(&world.index, &world.log, &world.database, &lock).unwrap();
        let mut found = [1; 512];
        snapshot.read_page(page(3), &mut found).unwrap();
        assert_ne!(found[..100], [0; 100]);
        assert_eq!(found[100..], [0; 412]);
    }

    #[test]
    fn pages_outside_and_wrong_frames_are_refused() {
        let mut world = World::new(512, 2);
        world.append(&[2], 2).unwrap();
        let lock = ReadLock::begin(&world.index, Keep::Snapshot).unwrap();
        let read = |number, bytes: usize| {
            let snapshot = Snapshot::new(&world.index, &world.log, &world.database, &lock).unwrap();
            snapshot.read_page(page(number), &mut vec![0; bytes])
        };
        assert!(read(2, 512).is_ok());
        assert!(matches!(read(3, 512), Err(Error::Corrupt(_))));
        assert!(matches!(read(2, 511), Err(Error::Misuse(_))));
        // The frame says it is page 1.
        world.log.write(&[0, 0, 0, 1], 32).unwrap();
        assert!(matches!(read(2, 512), Err(Error::Corrupt(_))));
        world.log.write(&[0, 0, 0, 2], 32).unwrap();
        assert!(read(2, 512).is_ok());
        world.log.truncate(32 + 24 + 500);
        assert!(matches!(read(2, 512), Err(Error::Corrupt(_))));
    }

    #[test]
    fn many_pages_are_those_read_one_by_one() {
        let mut world = World::new(512, 12);
        world.append(&[3, 4, 9], 12).unwrap();
        world.database.truncate(11 * 512 + 7);
        let lock = ReadLock::begin(&world.index, Keep::Log).unwrap();
        let snapshot = Snapshot::new(&world.index, &world.log, &world.database, &lock).unwrap();
        for numbers in [
            vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
            vec![1, 3, 4, 6, 7, 9],
            vec![2, 5, 8, 10],
            vec![9, 11, 12],
            vec![4],
            vec![],
        ] {
            let numbers: Vec<_> = numbers.into_iter().map(page).collect();
            let mut together = vec![1; numbers.len() * 512];
            snapshot.read_pages(&numbers, &mut together).unwrap();
            for (number, found) in numbers.iter().zip(together.chunks(512)) {
                let mut alone = [2; 512];
                snapshot.read_page(*number, &mut alone).unwrap();
                assert_eq!(found, alone, "{number:?} of {numbers:?}");
            }
        }
        let outside = [page(12), page(13)];
        assert!(snapshot.read_pages(&outside, &mut [0; 1024]).is_err());
    }
}
