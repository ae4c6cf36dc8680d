//! SQLite's side, for tests: recovery and checkpoints as its wal.c does them, written apart from
//! the rest of this layer, and a small database that knows what it must hold.

use super::anchor::Anchor;
use super::apply::Writer;
use super::checksum::{ByteOrder, Checksum};
use super::frame::{FrameIndex, Salts};
use super::hash::{find, insert};
use super::index::{CheckpointInfo, IndexHeader, READ_LOCKS, READ_MARK_NOT_USED};
use super::memory::{MemoryFile, MemoryIndex};
use super::read_lock::{Keep, ReadLock};
use super::snapshot::Snapshot;
use super::{Lock, LogFile, SharedIndex};
use crate::error::Result;
use crate::page::{PageNumber, PageSize};
use crate::position::Nonce;

/// What recovery finds in a log: the header it publishes, and the page of each live frame.
pub(crate) fn recover(log: &dyn LogFile) -> (IndexHeader, Vec<PageNumber>) {
    let bytes = {
        let mut bytes = vec![0; log.size().unwrap() as usize];
        log.read(&mut bytes, 0).unwrap();
        bytes
    };
    let be = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut header = IndexHeader::recovered_empty();
    if bytes.len() <= 32 || be(0) & !1 != 0x377f_0682 {
        return (header, Vec::new());
    }
    let big = be(0) & 1 == 1;
    let sum = |mut sum: [u32; 2], range: std::ops::Range<usize>| {
        for at in range.step_by(8) {
            let (x, y) = (be(at), be(at + 4));
            let (x, y) = if big {
                (x, y)
            } else {
                (x.swap_bytes(), y.swap_bytes())
            };
            sum[0] = sum[0].wrapping_add(x).wrapping_add(sum[1]);
            sum[1] = sum[1].wrapping_add(y).wrapping_add(sum[0]);
        }
        sum
    };
    header.order = if big {
        ByteOrder::Big
    } else {
        ByteOrder::Little
    };
    header.salts = Salts(bytes[16..24].try_into().unwrap());
    let mut running = sum([0, 0], 0..24);
    if running != [be(24), be(28)] {
        return (header, Vec::new());
    }
    let size = be(8) as usize;
    let mut pages = Vec::new();
    let mut live = 0;
    for at in (32..).step_by(24 + size) {
        if at + 24 + size > bytes.len() || bytes[at + 8..at + 16] != bytes[16..24] {
            break;
        }
        let Some(page) = PageNumber::new(be(at)) else {
            break;
        };
        running = sum(sum(running, at..at + 8), at + 24..at + 24 + size);
        if running != [be(at + 16), be(at + 20)] {
            break;
        }
        pages.push(page);
        if be(at + 4) != 0 {
            live = pages.len();
            header.mx_frame = live as u32;
            header.database_size = be(at + 4);
            header.page_size = Some(PageSize::new(size as u32).unwrap());
            header.frame_checksum = Checksum(running);
        }
    }
    pages.truncate(live);
    (header, pages)
}

/// An index as recovery makes it.
pub(crate) fn recovered_index(log: &dyn LogFile) -> MemoryIndex {
    let index = MemoryIndex::new();
    let (header, pages) = recover(log);
    for (frame, page) in (1..).zip(pages) {
        insert(&index, FrameIndex::new(frame).unwrap(), page).unwrap();
    }
    header.publish(&index).unwrap();
    let info = CheckpointInfo::of(&index).unwrap();
    info.set_backfill_attempted(header.mx_frame);
    for slot in 1..5 {
        let used = slot == 1 && header.mx_frame > 0;
        info.set_read_mark(
            slot,
            if used {
                header.mx_frame
            } else {
                READ_MARK_NOT_USED
            },
        );
    }
    index
}

/// A passive checkpoint.
pub(crate) fn checkpoint(index: &dyn SharedIndex, log: &dyn LogFile, database: &MemoryFile) {
    if !index.lock_exclusive(Lock::Checkpoint).unwrap() {
        return;
    }
    let header = loop {
        if let Some(header) = IndexHeader::read(index).unwrap() {
            break header;
        }
    };
    let info = CheckpointInfo::of(index).unwrap();
    assert!(info.backfilled() <= header.mx_frame);
    let mut safe = header.mx_frame;
    if info.backfilled() < header.mx_frame {
        for (slot, &lock) in READ_LOCKS.iter().enumerate().skip(1) {
            if safe > info.read_mark(slot) {
                if index.lock_exclusive(lock).unwrap() {
                    info.set_read_mark(slot, if slot == 1 { safe } else { READ_MARK_NOT_USED });
                    index.unlock_exclusive(lock);
                } else {
                    safe = info.read_mark(slot);
                }
            }
        }
        if info.backfilled() < safe && index.lock_exclusive(Lock::Read0).unwrap() {
            info.set_backfill_attempted(safe);
            log.sync().unwrap();
            let size = header.page_size.unwrap();
            let mut page = vec![0; size.bytes()];
            for number in (1..=header.database_size).filter_map(PageNumber::new) {
                let first = info.backfilled() + 1;
                let newest = find(index, number, first, header.mx_frame).unwrap();
                if let Some(frame) = newest.filter(|frame| frame.get() <= safe) {
                    assert_eq!(
                        log.read(&mut page, frame.offset(size) + 24).unwrap(),
                        page.len()
                    );
                    database.write(&page, number.offset(size)).unwrap();
                }
            }
            if safe == header.mx_frame {
                database.truncate(header.database_size as usize * size.bytes());
                database.sync().unwrap();
            }
            info.set_backfilled(safe);
            index.unlock_exclusive(Lock::Read0);
        }
    }
    index.unlock_exclusive(Lock::Checkpoint);
}

/// What `PRAGMA wal_checkpoint(TRUNCATE)` does after copying everything; true where it could.
pub(crate) fn truncate(index: &dyn SharedIndex, log: &MemoryFile, random: Salts) -> bool {
    let mut header = IndexHeader::read(index).unwrap().unwrap();
    let info = CheckpointInfo::of(index).unwrap();
    let mut taken = Vec::new();
    let free = info.backfilled() == header.mx_frame
        && READ_LOCKS[1..].iter().all(|&lock| {
            let free = index.lock_exclusive(lock).unwrap();
            taken.extend(free.then_some(lock));
            free
        });
    if free {
        header.mx_frame = 0;
        header.salts = header.salts.restarted(random);
        header.publish(index).unwrap();
        info.set_backfilled(0);
        info.set_backfill_attempted(0);
        info.set_read_mark(1, 0);
        (2..5).for_each(|slot| info.set_read_mark(slot, READ_MARK_NOT_USED));
        log.truncate(0);
    }
    taken
        .into_iter()
        .for_each(|lock| index.unlock_exclusive(lock));
    free
}

/// What a database must hold: for each page what it was made from.
pub(crate) type State = Vec<u64>;

/// A database with its log, and the state of every commit.
pub(crate) struct World {
    pub(crate) index: MemoryIndex,
    pub(crate) log: MemoryFile,
    pub(crate) database: MemoryFile,
    pub(crate) page_size: PageSize,
    /// The states so far; the last one is published.
    pub(crate) states: Vec<State>,
    random: u64,
}

impl World {
    /// A database of some pages without a log.
    pub(crate) fn new(page_size: u32, pages: u32) -> Self {
        let page_size = PageSize::new(page_size).unwrap();
        let database = MemoryFile::default();
        for number in (1..=pages).filter_map(PageNumber::new) {
            database
                .write(&page(page_size, number, 0), number.offset(page_size))
                .unwrap();
        }
        database.sync().unwrap();
        Self {
            index: recovered_index(&MemoryFile::default()),
            log: MemoryFile::default(),
            database,
            page_size,
            states: vec![vec![0; pages as usize]],
            random: 1,
        }
    }

    /// The same database on another connection.
    pub(crate) fn view(&self) -> Self {
        Self {
            index: self.index.connect(),
            log: self.log.clone(),
            database: self.database.clone(),
            page_size: self.page_size,
            states: self.states.clone(),
            random: self.random,
        }
    }

    /// The published state.
    pub(crate) fn state(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    /// The published header.
    pub(crate) fn header(&self) -> IndexHeader {
        IndexHeader::read(&self.index).unwrap().unwrap()
    }

    /// The anchor of the published state.
    pub(crate) fn anchor(&self) -> Anchor {
        self.header().anchor()
    }

    /// Salts nobody else gets.
    pub(crate) fn salts(&mut self) -> Salts {
        self.random += 1;
        Salts(
            self.random
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_be_bytes(),
        )
    }

    /// Appends a transaction that makes a new version of these pages, and of those by which the
    /// database grows.
    pub(crate) fn append(&mut self, numbers: &[u32], size: u32) -> Result<IndexHeader> {
        let next = self.next_state(numbers, size);
        let random = self.salts();
        let changed = (1..)
            .zip(&next)
            .filter(|(_, made_from)| **made_from == self.random);
        let pages: Vec<_> = changed
            .filter_map(|(number, &from)| PageNumber::new(number).map(|number| (number, from)))
            .map(|(number, from)| (number, page(self.page_size, number, from)))
            .collect();
        let mut writer = Writer::try_begin(&self.index)?.expect("nobody else writes");
        let pages = pages.iter().map(|(number, page)| (*number, &page[..]));
        let header = writer.append(&self.log, self.page_size, size, pages, random)?;
        drop(writer);
        self.states.push(next);
        Ok(header)
    }

    /// Enters a transaction as pushed, with these pages.
    pub(crate) fn append_pushed(
        &mut self,
        numbers: &[u32],
        size: u32,
        nonce: Nonce,
    ) -> Result<IndexHeader> {
        let random = self.salts();
        let mut next = self.state().clone();
        next.resize(size as usize, self.random);
        let made: Vec<_> = numbers
            .iter()
            .filter_map(|number| PageNumber::new(*number))
            .map(|number| {
                next[number.get() as usize - 1] = self.random;
                Ok((number, page(self.page_size, number, self.random)))
            })
            .collect();
        let mut writer = Writer::try_begin(&self.index)?.expect("nobody else writes");
        let (log, page_size) = (&self.log, self.page_size);
        let header = writer.append_pushed(log, page_size, size, made, nonce, random)?;
        drop(writer);
        self.states.push(next);
        Ok(header)
    }

    /// The state `append` makes next.
    pub(crate) fn next_state(&self, numbers: &[u32], size: u32) -> State {
        let mut next = self.state().clone();
        next.resize(size as usize, self.random + 1);
        for &number in numbers {
            next[number as usize - 1] = self.random + 1;
        }
        next
    }

    pub(crate) fn checkpoint(&self) {
        checkpoint(&self.index, &self.log, &self.database);
    }

    /// Reads all pages under a lock; the first one that is not what the state says.
    pub(crate) fn differs(
        &self,
        index: &dyn SharedIndex,
        lock: &ReadLock,
        state: &State,
    ) -> Option<u32> {
        let snapshot = Snapshot::new(index, &self.log, &self.database, lock).unwrap();
        if snapshot.database_size() as usize != state.len() {
            return Some(0);
        }
        let mut found = vec![0; self.page_size.bytes()];
        (1..).zip(state).map(|(number, _)| number).find(|&number| {
            let page_number = PageNumber::new(number).unwrap();
            snapshot.read_page(page_number, &mut found).unwrap();
            found != page(self.page_size, page_number, state[number as usize - 1])
        })
    }

    /// Reads all pages under a lock and compares them.
    pub(crate) fn check(&self, index: &dyn SharedIndex, lock: &ReadLock, state: &State) {
        assert_eq!(self.differs(index, lock, state), None, "{lock:?}");
    }

    /// Checks what a new reader sees.
    pub(crate) fn check_newest(&self) {
        for keep in [Keep::Snapshot, Keep::Log] {
            let index = self.index.connect();
            let lock = ReadLock::begin(&index, keep).unwrap();
            self.check(&index, &lock, self.state());
            lock.release(&index);
            assert_eq!(index.held(), []);
        }
    }

    /// The world after a power loss; `survives` says of each unsynced write, first of the log,
    /// then of the database, whether it is there. The last state given must be what is found.
    pub(crate) fn crash(&self, mut survives: impl FnMut(usize) -> bool) -> Self {
        let log = self.log.after_power_loss(&mut survives);
        Self {
            index: recovered_index(&log),
            log,
            database: self.database.after_power_loss(&mut survives),
            page_size: self.page_size,
            states: self.states.clone(),
            random: self.random,
        }
    }
}

/// The page made from a number.
pub(crate) fn page(size: PageSize, number: PageNumber, made_from: u64) -> Vec<u8> {
    let mut word = (made_from << 20) ^ u64::from(number.get()) ^ 0x5851_f42d_4c95_7f2d;
    let mut bytes = Vec::with_capacity(size.bytes());
    while bytes.len() < size.bytes() {
        word = word
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    if number == PageNumber::FIRST {
        bytes[16..18].copy_from_slice(&size.to_u16().to_be_bytes());
    }
    bytes
}
