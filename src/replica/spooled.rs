//! The content of a database that is being fetched: a spool without gaps, and the digest of what is
//! in it, kept current with every write so that the spool need not be read again to prove it.

use crate::database::host::Spool;
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::replica::fetch::Whole;

/// Bytes gathered for one write.
const RUN_BYTES: usize = 1 << 16;

/// The pages from 1 up to some number, without the lock-byte page.
pub(super) struct Spooled<'a> {
    spool: &'a dyn Spool,
    size: PageSize,
    /// The last page there is.
    last: u32,
    content: ContentDigest,
    /// Pages on their way into the spool, which follow each other.
    run: Vec<u8>,
}

impl<'a> Spooled<'a> {
    /// Nothing yet, or what the spool has up to page `last`.
    pub(super) fn open(spool: &'a dyn Spool, size: PageSize, last: u32) -> Result<Self> {
        let mut spooled = Self {
            spool,
            size,
            last: 0,
            content: ContentDigest::default(),
            run: Vec::new(),
        };
        let mut buffer = vec![0; RUN_BYTES];
        while let Some(first) = PageNumber::new(spooled.next()).filter(|first| first.get() <= last)
        {
            // A run ends at the lock-byte page, which nobody has written.
            let end = match size.lock_page().get() {
                lock_page if lock_page > first.get() => last.min(lock_page - 1),
                _ => last,
            };
            let count = (buffer.len() / size.bytes()).min((end - first.get() + 1) as usize);
            let run = &mut buffer[..count * size.bytes()];
            if spool.read(run, first.offset(size))? < run.len() {
                return Err(left_out(first.get()));
            }
            for page in run.chunks(size.bytes()) {
                spooled.enter(page)?;
            }
        }
        Ok(spooled)
    }

    /// The page size.
    pub(super) fn page_size(&self) -> PageSize {
        self.size
    }

    /// The last page there is.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// The digest of all pages.
    pub(super) fn content(&self) -> ContentDigest {
        self.content
    }

    /// Adds pages behind the last one, with few writes.
    pub(super) fn append(&mut self, pages: &Whole) -> Result<()> {
        let mut start = None;
        for (number, data) in pages {
            let follows = number.get() == self.last + 1;
            if !follows || self.run.len() + data.len() > RUN_BYTES {
                self.write_run(start.take())?;
            }
            if number.get() != self.next() {
                return Err(left_out(self.next()));
            }
            self.enter(data)?;
            self.run.extend_from_slice(data);
            start.get_or_insert(*number);
        }
        self.write_run(start)
    }

    /// Adds a page, or replaces what it was.
    pub(super) fn put(&mut self, number: PageNumber, data: &[u8]) -> Result<()> {
        if number.get() <= self.last {
            self.forget(number)?;
            self.content.add(PageHash::of(number, data));
        } else if number.get() == self.next() {
            self.enter(data)?;
        } else {
            return Err(left_out(self.next()));
        }
        self.spool.write(data, number.offset(self.size))
    }

    /// Ends the content behind page `size`.
    pub(super) fn cut(&mut self, size: u32) -> Result<()> {
        let next = self.next();
        if size > self.last && size.saturating_add(1) != next {
            return Err(left_out(next));
        }
        for number in (size.saturating_add(1)..=self.last).filter_map(PageNumber::new) {
            self.forget(number)?;
        }
        self.last = size;
        self.spool
            .truncate(u64::from(size) * u64::from(self.size.get()))
    }

    /// The page that is to come next.
    fn next(&self) -> u32 {
        let next = self.last.saturating_add(1);
        next.saturating_add(u32::from(next == self.size.lock_page().get()))
    }

    /// Counts the next page in.
    fn enter(&mut self, data: &[u8]) -> Result<()> {
        let number = PageNumber::new(self.next())
            .ok_or_else(|| Error::Internal("page 0 in a spool".to_owned()))?;
        self.content.add(PageHash::of(number, data));
        self.last = number.get();
        Ok(())
    }

    /// Takes a page that is in the spool out of the digest.
    fn forget(&mut self, number: PageNumber) -> Result<()> {
        if number == self.size.lock_page() {
            return Ok(());
        }
        let mut page = vec![0; self.size.bytes()];
        if self.spool.read(&mut page, number.offset(self.size))? < page.len() {
            return Err(left_out(number.get()));
        }
        self.content.remove(PageHash::of(number, &page));
        Ok(())
    }

    fn write_run(&mut self, first: Option<PageNumber>) -> Result<()> {
        if let (Some(first), false) = (first, self.run.is_empty()) {
            self.spool.write(&self.run, first.offset(self.size))?;
            self.run.clear();
        }
        Ok(())
    }
}

fn left_out(number: u32) -> Error {
    Error::Protocol(format!("the remote left out page {number}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::LogFile;
    use crate::wal::memory::{Call, MemoryFile};

    const SIZE: u32 = 512;

    fn number(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    fn pages(numbers: std::ops::RangeInclusive<u32>, fill: u8) -> Whole {
        numbers
            .map(|n| (number(n), vec![fill; SIZE as usize].into()))
            .collect()
    }

    fn empty(spool: &dyn Spool) -> Spooled<'_> {
        Spooled::open(spool, PageSize::new(SIZE).unwrap(), 0).unwrap()
    }

    fn digest(model: &[u8]) -> ContentDigest {
        let mut content = ContentDigest::default();
        for (n, fill) in model.iter().enumerate() {
            content.add(PageHash::of(
                number(n as u32 + 1),
                &vec![*fill; SIZE as usize],
            ));
        }
        content
    }

    #[test]
    fn many_pages_are_few_writes() {
        let file = MemoryFile::default();
        let mut spooled = empty(&file);
        spooled.append(&pages(1..=200, 1)).unwrap();
        let write = |offset, bytes| Call::Write { offset, bytes };
        assert_eq!(
            file.take_calls(),
            [write(0, 65536), write(65536, 200 * 512 - 65536)]
        );
        assert_eq!(spooled.content(), digest(&[1; 200]));
    }

    #[test]
    fn a_gap_is_refused() {
        let file = MemoryFile::default();
        let mut spooled = empty(&file);
        spooled.append(&pages(1..=2, 1)).unwrap();
        let mut gap = pages(3..=3, 1);
        gap.extend(pages(5..=5, 1));
        assert!(matches!(spooled.append(&gap), Err(Error::Protocol(_))));
        let page = vec![1; SIZE as usize];
        assert!(spooled.put(number(u32::MAX), &page).is_err());
        assert!(spooled.cut(4).is_err());
        assert!(file.bytes().len() <= 3 * SIZE as usize);
        assert!(Spooled::open(&file, PageSize::new(SIZE).unwrap(), 4).is_err());
    }

    /// A file of zeros of any size, in which nobody touches the lock-byte page.
    struct Zeros(PageSize);

    impl Zeros {
        fn check(&self, bytes: usize, offset: u64) {
            let lock_page = self.0.lock_page().offset(self.0);
            let behind = lock_page + u64::from(self.0.get());
            assert!(offset >= behind || offset + bytes as u64 <= lock_page);
        }
    }

    impl LogFile for Zeros {
        fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
            self.check(buffer.len(), offset);
            buffer.fill(0);
            Ok(buffer.len())
        }

        fn write(&self, data: &[u8], offset: u64) -> Result<()> {
            self.check(data.len(), offset);
            Ok(())
        }

        fn sync(&self) -> Result<()> {
            Ok(())
        }

        fn size(&self) -> Result<u64> {
            Ok(u64::MAX)
        }
    }

    impl Spool for Zeros {
        fn truncate(&self, _: u64) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_lock_page_is_left_out() {
        let size = PageSize::new(65536).unwrap();
        let lock_page = size.lock_page().get();
        let zeros = Zeros(size);
        let page = |n| (number(n), vec![0; 65536].into());
        let mut spooled = Spooled::open(&zeros, size, lock_page - 2).unwrap();
        let before = spooled.content();
        spooled
            .append(&vec![page(lock_page - 1), page(lock_page + 1)])
            .unwrap();
        spooled
            .put(number(lock_page + 2), &page(lock_page + 2).1)
            .unwrap();
        assert_eq!(spooled.last(), lock_page + 2);
        let whole = Spooled::open(&zeros, size, lock_page + 2).unwrap();
        assert_eq!(whole.content(), spooled.content());
        spooled.cut(lock_page - 2).unwrap();
        assert_eq!(spooled.content(), before);
        assert!(spooled.append(&vec![page(lock_page)]).is_err());
    }

    proptest! {
        #[test]
        fn the_digest_is_that_of_the_spool(
            parts in prop::collection::vec((1..150_u32, any::<u8>()), 0..4),
            puts in prop::collection::vec((1..400_u32, any::<u8>()), 0..50),
            size in 0..500_u32,
        ) {
            let file = MemoryFile::default();
            let (mut spooled, mut model) = (empty(&file), Vec::new());
            for (count, fill) in parts {
                let last = spooled.last();
                spooled.append(&pages(last + 1..=last + count, fill)).unwrap();
                model.resize(model.len() + count as usize, fill);
            }
            for (n, fill) in puts {
                let result = spooled.put(number(n), &vec![fill; SIZE as usize]);
                prop_assert_eq!(result.is_ok(), n as usize <= model.len() + 1);
                if n as usize <= model.len() {
                    model[n as usize - 1] = fill;
                } else if result.is_ok() {
                    model.push(fill);
                }
            }
            prop_assert_eq!(spooled.content(), digest(&model));
            let size = size.min(model.len() as u32);
            spooled.cut(size).unwrap();
            model.truncate(size as usize);
            prop_assert_eq!(spooled.content(), digest(&model));
            let bytes: Vec<u8> = model.iter().flat_map(|fill| [*fill; SIZE as usize]).collect();
            prop_assert_eq!(file.bytes(), bytes);
            let again = Spooled::open(&file, PageSize::new(SIZE).unwrap(), size).unwrap();
            prop_assert_eq!(again.content(), spooled.content());
        }
    }
}
