//! The hash tables of the shared index: which frame holds the newest copy of a page.
//!
//! Source: SQLite's walformat.html, section 2.2 (WAL-Index Page Mapping and Hash Table). Each
//! region of 32 KiB holds, in native byte order:
//!
//! ```text
//! region 0:   136 bytes of header, then 4062 page numbers (u32), frames 1 to 4062
//! region n:   4096 page numbers (u32), frames 4063 + (n - 1) * 4096 and on
//! both:       at byte 16384, 8192 hash slots (u16)
//! ```
//!
//! A slot holds the place, from 1, of a page number in its region, or 0. The search for page `p`
//! starts at slot `(p * 383) % 8192` and goes on, wrapping, to the first 0; of several entries
//! the largest not beyond the reader's mxFrame counts. Entries beyond mxFrame belong to a writer
//! at work, or to one that was killed: the next writer clears them.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use super::frame::FrameIndex;
use super::index::not_initialised;
use super::{REGION_WORDS, SharedIndex};
use crate::error::{Error, Result};
use crate::page::PageNumber;

/// Words of the header in region 0.
const HEADER_WORDS: usize = 34;
/// The word where the slots start, two to a word.
const SLOTS_AT: usize = 4096;
const SLOTS: usize = 8192;
/// Frames in region 0, and in each further one.
const FIRST_FRAMES: u32 = 4062;
const FRAMES: u32 = 4096;

/// Enters a frame, after those below it. Only under WAL_WRITE; nobody sees the entry before a
/// header with this frame is published.
pub fn insert(index: &dyn SharedIndex, frame: FrameIndex, page: PageNumber) -> Result<()> {
    let table = Table::open(index, Table::number(frame), true)?;
    let entry = frame.get() - table.before;
    if entry == 1 {
        table.truncate(0);
    } else if table.page(entry) != 0 {
        table.truncate(entry - 1);
    }
    let mut key = hash(page);
    // At most `entry - 1` slots are taken, so a longer search means a corrupt table.
    for _ in 0..entry {
        if table.slot(key) == 0 {
            table.pages()[entry as usize - 1].store(page.get(), Relaxed);
            table.set_slot(key, entry as u16);
            return Ok(());
        }
        key = (key + 1) % SLOTS;
    }
    Err(corrupt())
}

/// Makes the regions there that hold the frames up to this one.
pub fn make_room(index: &dyn SharedIndex, frame: FrameIndex) -> Result<()> {
    for number in 0..=Table::number(frame) {
        index.region(number, true)?;
    }
    Ok(())
}

/// The newest frame of a page within `min_frame..=max_frame`.
pub fn find(
    index: &dyn SharedIndex,
    page: PageNumber,
    min_frame: u32,
    max_frame: u32,
) -> Result<Option<FrameIndex>> {
    let (Some(min), Some(max)) = (
        FrameIndex::new(min_frame.max(1)),
        FrameIndex::new(max_frame),
    ) else {
        return Ok(None);
    };
    for number in (Table::number(min)..=Table::number(max)).rev() {
        let table = Table::open(index, number, false)?;
        if let Some(frame) = table.find(page, min, max)? {
            return Ok(Some(frame));
        }
    }
    Ok(None)
}

fn hash(page: PageNumber) -> usize {
    page.get().wrapping_mul(383) as usize % SLOTS
}

fn corrupt() -> Error {
    Error::Corrupt("the wal-index has a corrupt hash table".into())
}

/// The page numbers and slots of one region.
struct Table<'a> {
    words: &'a [AtomicU32; REGION_WORDS],
    /// The word of the first page number.
    start: usize,
    /// The frame before the first one here.
    before: u32,
}

impl<'a> Table<'a> {
    /// The region that holds a frame.
    fn number(frame: FrameIndex) -> usize {
        match frame.get().checked_sub(FIRST_FRAMES + 1) {
            None => 0,
            Some(rest) => (rest / FRAMES) as usize + 1,
        }
    }

    fn open(index: &'a dyn SharedIndex, number: usize, extend: bool) -> Result<Self> {
        let words = match index.region(number, extend)? {
            Some(words) => words,
            None if number == 0 => return Err(not_initialised()),
            None => return Err(corrupt()),
        };
        Ok(match number {
            0 => Self {
                words,
                start: HEADER_WORDS,
                before: 0,
            },
            n => Self {
                words,
                start: 0,
                before: FIRST_FRAMES + (n as u32 - 1) * FRAMES,
            },
        })
    }

    fn pages(&self) -> &[AtomicU32] {
        &self.words[self.start..SLOTS_AT]
    }

    /// The page number at a place from 1.
    fn page(&self, entry: u32) -> u32 {
        self.pages()[entry as usize - 1].load(Relaxed)
    }

    fn slot(&self, key: usize) -> u16 {
        halves(self.words[SLOTS_AT + key / 2].load(Acquire))[key % 2]
    }

    fn set_slot(&self, key: usize, value: u16) {
        let word = &self.words[SLOTS_AT + key / 2];
        let mut slots = halves(word.load(Relaxed));
        slots[key % 2] = value;
        word.store(whole(slots), Release);
    }

    /// Clears what lies behind the first `keep` entries.
    fn truncate(&self, keep: u32) {
        for word in &self.words[SLOTS_AT..] {
            let old = halves(word.load(Relaxed));
            let new = old.map(|slot| if u32::from(slot) > keep { 0 } else { slot });
            if new != old {
                word.store(whole(new), Relaxed);
            }
        }
        for page in &self.pages()[keep as usize..] {
            page.store(0, Relaxed);
        }
    }

    fn find(
        &self,
        page: PageNumber,
        min: FrameIndex,
        max: FrameIndex,
    ) -> Result<Option<FrameIndex>> {
        let mut found = None;
        let mut key = hash(page);
        for _ in 0..SLOTS {
            let entry = u32::from(self.slot(key));
            if entry == 0 {
                return Ok(found);
            }
            if entry as usize > self.pages().len() {
                return Err(corrupt());
            }
            let frame = FrameIndex::new(self.before + entry);
            if frame > found
                && frame >= Some(min)
                && frame <= Some(max)
                && self.page(entry) == page.get()
            {
                found = frame;
            }
            key = (key + 1) % SLOTS;
        }
        Err(corrupt())
    }
}

/// The two slots of a word, in the order of their addresses.
fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

fn whole([first, second]: [u16; 2]) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryIndex;
    use super::*;

    fn frame(index: u32) -> FrameIndex {
        FrameIndex::new(index).unwrap()
    }

    fn page(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    #[test]
    fn regions_change_where_sqlite_changes_them() {
        for (at, number) in [
            (1, 0),
            (4062, 0),
            (4063, 1),
            (8158, 1),
            (8159, 2),
            (12254, 2),
        ] {
            assert_eq!(Table::number(frame(at)), number, "frame {at}");
        }
    }

    #[test]
    fn the_newest_frame_in_range_is_found_across_regions() {
        let index = MemoryIndex::new();
        // Pages 1 to 1000 again and again: page p is in frames p, p + 1000, …
        for i in 1..=9000 {
            insert(&index, frame(i), page((i - 1) % 1000 + 1)).unwrap();
        }
        for number in [1, 7, 63, 500, 1000] {
            for max in [1, 999, 4062, 4063, 8158, 8159, 9000] {
                for min in [1, 4000, 8100] {
                    let newest = (1..=max).rev().find(|i| (i - 1) % 1000 + 1 == number);
                    let expected = newest.filter(|&i| i >= min).map(frame);
                    let found = find(&index, page(number), min, max).unwrap();
                    assert_eq!(found, expected, "page {number} in {min}..={max}");
                }
            }
        }
        assert_eq!(find(&index, page(1001), 1, 9000).unwrap(), None);
        assert_eq!(find(&index, page(1), 1, 0).unwrap(), None);
    }

    #[test]
    fn leftovers_of_an_aborted_writer_are_cleared() {
        let index = MemoryIndex::new();
        for i in 1..=4070 {
            insert(&index, frame(i), page(i)).unwrap();
        }
        // Frames 3 and on were never published; another writer goes on from there.
        insert(&index, frame(3), page(77)).unwrap();
        assert_eq!(find(&index, page(77), 1, 4062).unwrap(), Some(frame(3)));
        assert_eq!(find(&index, page(3), 1, 4062).unwrap(), None);
        assert_eq!(find(&index, page(2), 1, 4062).unwrap(), Some(frame(2)));
        for i in 4..=4063 {
            insert(&index, frame(i), page(9)).unwrap();
        }
        assert_eq!(find(&index, page(4064), 1, 4070).unwrap(), None);
    }

    #[test]
    fn a_full_table_ends_the_search() {
        let index = MemoryIndex::new();
        insert(&index, frame(1), page(1)).unwrap();
        let region = index.region(0, false).unwrap().unwrap();
        for word in &region[SLOTS_AT..] {
            word.store(whole([1, 1]), Relaxed);
        }
        assert!(matches!(
            find(&index, page(2), 1, 1),
            Err(Error::Corrupt(_))
        ));
        assert!(matches!(
            insert(&index, frame(2), page(2)),
            Err(Error::Corrupt(_))
        ));
        for word in &region[SLOTS_AT..] {
            word.store(u32::MAX, Relaxed);
        }
        assert!(matches!(
            find(&index, page(2), 1, 1),
            Err(Error::Corrupt(_))
        ));
        assert!(matches!(
            find(&index, page(2), 1, 5000),
            Err(Error::Corrupt(_))
        ));
    }
}
