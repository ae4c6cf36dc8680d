//! Changed pages, in memory while they are few, in a scratch file when they are many.
//!
//! Each page has a slot, in the order in which pages came; only where runs of pages lie is kept
//! in memory, so that a whole database is one entry.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::host::Spool;
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

/// How much is held in memory.
pub const MEMORY_BYTES: usize = 16 << 20;

/// Where pages go that are too many for memory.
pub trait Room {
    /// A file that nobody else has, and that is gone when it is dropped.
    fn scratch(&self) -> Result<Box<dyn Spool>>;
}

/// Pages of one size, each with its newest content.
pub struct Pages {
    size: PageSize,
    /// Runs by their first page: first slot, and how many pages.
    runs: BTreeMap<u32, (u32, u32)>,
    /// Slots in use.
    slots: u32,
    /// The slots, while there is no file.
    memory: Vec<u8>,
    file: Option<Box<dyn Spool>>,
}

impl Pages {
    /// No pages yet.
    pub fn new(size: PageSize) -> Self {
        Self {
            size,
            runs: BTreeMap::new(),
            slots: 0,
            memory: Vec::new(),
            file: None,
        }
    }

    /// Adds a page, or replaces what it was.
    pub fn put(&mut self, room: &dyn Room, number: PageNumber, data: &[u8]) -> Result<()> {
        if data.len() != self.size.bytes() {
            return Err(Error::Protocol(
                "the page size changed between two parts".to_owned(),
            ));
        }
        let slot = match self.slot(number) {
            Some(slot) => slot,
            None => self.new_slot(number)?,
        };
        let offset = self.offset(slot);
        if let Some(file) = &self.file {
            return file.write(data, offset);
        }
        let (start, end) = (offset as usize, offset as usize + data.len());
        if end > MEMORY_BYTES {
            let file = room.scratch()?;
            file.write(&self.memory, 0)?;
            self.memory = Vec::new();
            return self.file.insert(file).write(data, offset);
        }
        if end > self.memory.len() {
            self.memory.resize(end, 0);
        }
        self.memory[start..end].copy_from_slice(data);
        Ok(())
    }

    /// Forgets the pages above a database size.
    pub fn cut(&mut self, database_size: u32) {
        if let Some(above) = database_size.checked_add(1) {
            self.runs.split_off(&above);
        }
        if let Some((first, (_, count))) = self.runs.iter_mut().next_back() {
            *count = (*count).min(database_size - first + 1);
        }
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.runs.values().map(|(_, count)| *count as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Their numbers, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = PageNumber> {
        self.places().map(|(number, _)| number)
    }

    /// A page, where it is one of them.
    pub fn get(&self, number: PageNumber) -> Option<Result<Cow<'_, [u8]>>> {
        self.slot(number).map(|slot| self.read(slot))
    }

    /// The pages, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Result<(PageNumber, Cow<'_, [u8]>)>> {
        self.places()
            .map(|(number, slot)| Ok((number, self.read(slot)?)))
    }

    fn places(&self) -> impl Iterator<Item = (PageNumber, u32)> {
        self.runs.iter().flat_map(|(&first, &(slot, count))| {
            (0..count).filter_map(move |n| Some((PageNumber::new(first + n)?, slot + n)))
        })
    }

    fn read(&self, slot: u32) -> Result<Cow<'_, [u8]>> {
        let (offset, size) = (self.offset(slot), self.size.bytes());
        let Some(file) = &self.file else {
            let start = offset as usize;
            return Ok(Cow::Borrowed(&self.memory[start..start + size]));
        };
        let mut data = vec![0; size];
        match file.read(&mut data, offset)? == size {
            true => Ok(Cow::Owned(data)),
            false => Err(Error::Corrupt("the scratch file was cut off".to_owned())),
        }
    }

    fn offset(&self, slot: u32) -> u64 {
        u64::from(slot) * u64::from(self.size.get())
    }

    fn slot(&self, number: PageNumber) -> Option<u32> {
        let (first, (slot, count)) = self.runs.range(..=number.get()).next_back()?;
        let place = number.get() - first;
        (place < *count).then(|| slot + place)
    }

    fn new_slot(&mut self, number: PageNumber) -> Result<u32> {
        let slot = self.slots;
        self.slots = slot
            .checked_add(1)
            .ok_or_else(|| Error::Protocol("there is no end of pages".to_owned()))?;
        let before = self.runs.range_mut(..number.get()).next_back();
        match before {
            Some((first, (start, count)))
                if first + *count == number.get() && *start + *count == slot =>
            {
                *count += 1;
            }
            _ => {
                self.runs.insert(number.get(), (slot, 1));
            }
        }
        Ok(slot)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::wal::memory::MemoryFile;

    /// Scratch files in memory, counted.
    #[derive(Default)]
    pub(crate) struct MemoryRoom(pub(crate) Cell<usize>);

    impl Room for MemoryRoom {
        fn scratch(&self) -> Result<Box<dyn Spool>> {
            self.0.set(self.0.get() + 1);
            Ok(Box::new(MemoryFile::default()))
        }
    }

    impl Spool for MemoryFile {
        fn truncate(&self, size: u64) -> Result<()> {
            MemoryFile::truncate(self, size as usize);
            Ok(())
        }
    }

    fn number(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    fn content(pages: &Pages) -> Vec<(u32, Vec<u8>)> {
        let page = |page: Result<(PageNumber, Cow<'_, [u8]>)>| {
            let (number, data) = page.unwrap();
            (number.get(), data.into_owned())
        };
        pages.iter().map(page).collect()
    }

    #[test]
    fn many_pages_move_to_a_file() {
        let (room, size) = (MemoryRoom::default(), PageSize::new(65536).unwrap());
        let mut pages = Pages::new(size);
        let fits = (MEMORY_BYTES / size.bytes()) as u32;
        let filled = |n: u32| vec![n as u8; 65536];
        for n in 1..=fits {
            pages.put(&room, number(n), &filled(n)).unwrap();
        }
        assert_eq!(room.0.get(), 0);
        for n in fits + 1..fits + 40 {
            pages.put(&room, number(n), &filled(n)).unwrap();
        }
        pages.put(&room, number(3), &filled(9)).unwrap();
        assert_eq!((room.0.get(), pages.memory.capacity()), (1, 0));
        assert_eq!(pages.runs.len(), 1);
        let content = content(&pages);
        assert_eq!(content.len(), pages.len());
        assert_eq!(content[2].1, filled(9));
        assert!(
            content
                .iter()
                .all(|(n, data)| *n == 3 || *data == filled(*n))
        );
        assert_eq!(pages.file.as_ref().unwrap().size().unwrap(), 295 * 65536);
    }

    #[test]
    fn another_page_size_is_refused() {
        let mut pages = Pages::new(PageSize::new(512).unwrap());
        let result = pages.put(&MemoryRoom::default(), number(1), &[0; 1024]);
        assert!(matches!(result, Err(Error::Protocol(_))));
    }

    proptest! {
        #[test]
        fn the_newest_content_counts(
            puts in prop::collection::vec((1..60_u32, any::<u8>()), 0..200),
            size in 0..70_u32,
        ) {
            let mut pages = Pages::new(PageSize::new(512).unwrap());
            let mut model = BTreeMap::new();
            for (n, fill) in puts {
                pages.put(&MemoryRoom::default(), number(n), &[fill; 512]).unwrap();
                model.insert(n, vec![fill; 512]);
            }
            prop_assert_eq!(content(&pages), model.clone().into_iter().collect::<Vec<_>>());
            pages.cut(size);
            model.retain(|n, _| *n <= size);
            prop_assert_eq!(pages.len(), model.len());
            for n in 1..70 {
                let found = pages.get(number(n)).map(|page| page.unwrap().into_owned());
                prop_assert_eq!(found.as_ref(), model.get(&n));
            }
            prop_assert_eq!(pages.is_empty(), model.is_empty());
            prop_assert_eq!(pages.numbers().map(PageNumber::get).collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(content(&pages), model.into_iter().collect::<Vec<_>>());
        }
    }
}
