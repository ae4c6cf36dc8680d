//! Read locks: what keeps a snapshot, or the log, as it is while someone reads.

use super::index::{CheckpointInfo, IndexHeader, READ_LOCKS, READ_SLOTS, not_initialised};
use super::{Lock, SharedIndex};
use crate::error::{Error, Result};

/// Attempts before a begin gives up. There is no clock here: the caller pauses and tries again.
const ATTEMPTS: usize = 50;

/// What a read lock is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// A snapshot. Where the database file holds all of it, the log may be written anew.
    Snapshot,
    /// A snapshot, and the log: no restart while the lock is held, so every frame from the
    /// snapshot on stays readable. Never slot 0.
    Log,
}

/// A read lock of one connection, as SQLite's readers take it. Locks belong to the connection of
/// the [`SharedIndex`] they were taken on: a connection holds at most one `ReadLock` at a time,
/// and gives it back with [`release`](ReadLock::release).
#[derive(Debug)]
#[must_use = "a read lock holds checkpoints back until it is released"]
pub struct ReadLock {
    header: IndexHeader,
    slot: usize,
    min_frame: u32,
    keep: Keep,
}

impl ReadLock {
    /// Begins to read at the newest commit.
    pub fn begin(index: &dyn SharedIndex, keep: Keep) -> Result<Self> {
        Self::take(index, keep, None)
    }

    /// Takes part, through another connection, in a read lock that somebody holds: the same
    /// snapshot, though there may be newer commits. The holder must keep its lock until this
    /// returns. Its mark cannot change meanwhile, so what it keeps this keeps too.
    pub fn join(index: &dyn SharedIndex, held: &ReadLock) -> Result<Self> {
        if !index.lock_shared(READ_LOCKS[held.slot])? {
            // A shared lock is in the way of an exclusive one, not of another shared one.
            return Err(Error::Busy("the wal-index is busy: no read lock".into()));
        }
        Ok(Self {
            header: held.header,
            ..*held
        })
    }

    /// Moves to the newest commit hand over hand: the new lock is taken before the old one goes,
    /// so with [`Keep::Log`] the frames between the two stay in the log. On an error the old
    /// lock is kept.
    pub fn advance(&mut self, index: &dyn SharedIndex) -> Result<()> {
        let new = Self::take(index, self.keep, Some(self.slot))?;
        let old = std::mem::replace(self, new);
        // One connection holds a slot once, however often it was taken.
        if old.slot != self.slot {
            index.unlock_shared(READ_LOCKS[old.slot]);
        }
        Ok(())
    }

    /// Moves to the newest commit for another purpose from now on. Where that commit is not the
    /// `expected` one, nothing moves and the answer is false.
    pub fn change(
        &mut self,
        index: &dyn SharedIndex,
        keep: Keep,
        expected: Option<&IndexHeader>,
    ) -> Result<bool> {
        let new = Self::take(index, keep, Some(self.slot))?;
        let moves = expected.is_none_or(|expected| new.header == *expected);
        let (kept, given_back) = if moves {
            (new.slot, self.slot)
        } else {
            (self.slot, new.slot)
        };
        if kept != given_back {
            index.unlock_shared(READ_LOCKS[given_back]);
        }
        if moves {
            *self = new;
        }
        Ok(moves)
    }

    /// Gives the lock back.
    pub fn release(self, index: &dyn SharedIndex) {
        index.unlock_shared(READ_LOCKS[self.slot]);
    }

    /// Gives the lock back for an owner that cannot part with the value.
    pub fn give_back(&mut self, index: &dyn SharedIndex) {
        index.unlock_shared(READ_LOCKS[self.slot]);
    }

    /// What the lock is for.
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// The header of the snapshot.
    pub fn header(&self) -> &IndexHeader {
        &self.header
    }

    /// The slot, 0 to 4. At 0 all content is in the database file.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The first frame that may be newer than the database file.
    pub fn min_frame(&self) -> u32 {
        self.min_frame
    }

    /// `held` is the slot this connection has already: neither locked again nor unlocked here.
    fn take(index: &dyn SharedIndex, keep: Keep, held: Option<usize>) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let header = match IndexHeader::read(index)? {
                Some(header) => header,
                None => match read_when_quiet(index)? {
                    Some(header) => header,
                    None => continue,
                },
            };
            if let Some(lock) = Self::take_at(index, keep, held, header)? {
                return Ok(lock);
            }
            std::thread::yield_now();
        }
        Err(Error::Busy("the wal-index is busy: no read lock".into()))
    }

    /// One attempt; `None` where something moved meanwhile.
    fn take_at(
        index: &dyn SharedIndex,
        keep: Keep,
        held: Option<usize>,
        header: IndexHeader,
    ) -> Result<Option<Self>> {
        let info = CheckpointInfo::of(index)?;
        let lock = |slot| Ok(held == Some(slot) || index.lock_shared(READ_LOCKS[slot])?);
        let unlock = |slot| {
            if held != Some(slot) {
                index.unlock_shared(READ_LOCKS[slot]);
            }
        };
        if keep == Keep::Snapshot && info.backfilled() == header.mx_frame && lock(0)? {
            index.barrier();
            // Frames appended before the lock was there may be half checkpointed by someone who
            // was killed: then the database file alone is no snapshot.
            if header.is_current(index)? {
                let min_frame = header.mx_frame.saturating_add(1);
                return Ok(Some(Self {
                    header,
                    slot: 0,
                    min_frame,
                    keep,
                }));
            }
            unlock(0);
            return Ok(None);
        }
        let Some((slot, mark)) = choose(index, info, header.mx_frame, held)? else {
            return Ok(None);
        };
        if !lock(slot)? {
            return Ok(None);
        }
        // nBackfill is read before the header is compared: if the header has not moved, whoever
        // set nBackfill knew no newer one, and left no page of ours only half replaced.
        let min_frame = info.backfilled().saturating_add(1);
        index.barrier();
        if info.read_mark(slot) == mark && header.is_current(index)? {
            return Ok(Some(Self {
                header,
                slot,
                min_frame,
                keep,
            }));
        }
        unlock(slot);
        Ok(None)
    }
}

/// The slot with the largest mark not beyond `mx_frame`, after raising one to it where possible.
fn choose(
    index: &dyn SharedIndex,
    info: CheckpointInfo<'_>,
    mx_frame: u32,
    held: Option<usize>,
) -> Result<Option<(usize, u32)>> {
    let best = (1..READ_SLOTS)
        .map(|slot| (slot, info.read_mark(slot)))
        .filter(|&(_, mark)| mark <= mx_frame)
        .max_by_key(|&(_, mark)| mark);
    if best.is_some_and(|(_, mark)| mark == mx_frame) {
        return Ok(best);
    }
    for slot in (1..READ_SLOTS).filter(|&slot| held != Some(slot)) {
        if index.lock_exclusive(READ_LOCKS[slot])? {
            info.set_read_mark(slot, mx_frame);
            index.unlock_exclusive(READ_LOCKS[slot]);
            return Ok(Some((slot, mx_frame)));
        }
    }
    Ok(best)
}

/// Reads the header while nobody writes: `None` while somebody does, an error where it is not
/// initialised.
fn read_when_quiet(index: &dyn SharedIndex) -> Result<Option<IndexHeader>> {
    if !index.lock_shared(Lock::Write)? {
        return Ok(None);
    }
    let header = IndexHeader::read(index);
    index.unlock_shared(Lock::Write);
    header?.ok_or_else(not_initialised).map(Some)
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryIndex;
    use super::super::oracle::World;
    use super::*;

    #[test]
    fn what_is_checkpointed_is_read_from_the_file() {
        let mut world = World::new(512, 2);
        let empty = ReadLock::begin(&world.index, Keep::Snapshot).unwrap();
        assert_eq!(empty.slot(), 0);
        empty.release(&world.index);
        world.append(&[1], 2).unwrap();
        let live = ReadLock::begin(&world.index, Keep::Snapshot).unwrap();
        assert_eq!((live.slot() > 0, live.min_frame()), (true, 1));
        live.release(&world.index);
        world.checkpoint();
        let lock = ReadLock::begin(&world.index, Keep::Snapshot).unwrap();
        assert_eq!((lock.slot(), lock.header().mx_frame), (0, 1));
        lock.release(&world.index);
        let lock = ReadLock::begin(&world.index, Keep::Log).unwrap();
        assert_eq!((lock.slot() > 0, lock.min_frame()), (true, 2));
        // It keeps the log: the next commit is frame 2.
        assert_eq!(world.append(&[1], 2).unwrap().mx_frame, 2);
    }

    #[test]
    fn a_busy_slot_zero_is_passed_over() {
        let world = World::new(512, 2);
        let checkpointer = world.index.connect();
        assert!(checkpointer.lock_exclusive(Lock::Read0).unwrap());
        let lock = ReadLock::begin(&world.index, Keep::Snapshot).unwrap();
        assert!(lock.slot() > 0);
        world.check(&world.index, &lock, world.state());
    }

    #[test]
    fn what_moves_before_the_lock_is_there_is_seen() {
        for (copied, keep) in [
            (true, Keep::Snapshot),
            (false, Keep::Snapshot),
            (true, Keep::Log),
            (false, Keep::Log),
        ] {
            let mut world = World::new(512, 2);
            world.append(&[1], 2).unwrap();
            if copied {
                world.checkpoint();
            }
            let (index, mut other) = (world.index.connect(), world.view());
            index.before_lock(move || {
                other.append(&[1, 2], 2).unwrap();
                other.checkpoint();
            });
            let lock = ReadLock::begin(&index, keep).unwrap();
            assert_eq!(*lock.header(), world.header(), "{copied} {keep:?}");
            assert_eq!(lock.header().change_counter, 2);
            assert_eq!(index.held().len(), 1);
        }
    }

    #[test]
    fn a_mark_that_moves_before_the_lock_is_there_is_not_taken() {
        let mut world = World::new(512, 2);
        world.append(&[1], 2).unwrap();
        let (index, other) = (world.index.connect(), world.index.connect());
        index.before_lock(move || {
            for slot in 1..READ_SLOTS {
                CheckpointInfo::of(&other).unwrap().set_read_mark(slot, 7);
            }
        });
        let lock = ReadLock::begin(&index, Keep::Log).unwrap();
        assert_eq!(
            CheckpointInfo::of(&index).unwrap().read_mark(lock.slot()),
            1
        );
        assert_eq!(index.held().len(), 1);
    }

    #[test]
    fn advancing_takes_a_new_slot_before_it_gives_the_old_one_back() {
        let mut world = World::new(512, 2);
        world.append(&[1], 2).unwrap();
        let index = world.index.connect();
        let mut lock = ReadLock::begin(&index, Keep::Log).unwrap();
        let first = lock.slot();
        lock.advance(&index).unwrap();
        assert_eq!((lock.slot(), index.held().len()), (first, 1));
        world.append(&[2], 2).unwrap();
        lock.advance(&index).unwrap();
        assert_ne!(lock.slot(), first);
        assert_eq!(lock.header().mx_frame, 2);
        assert_eq!(index.held(), [(READ_LOCKS[lock.slot()] as usize, false)]);
        lock.release(&index);
        assert_eq!(index.held(), []);
    }

    #[test]
    fn without_a_free_slot_the_old_one_serves_on() {
        let mut world = World::new(512, 2);
        world.append(&[1], 2).unwrap();
        let others: Vec<_> = READ_LOCKS[1..]
            .iter()
            .map(|_| world.index.connect())
            .collect();
        let index = world.index.connect();
        let mut lock = ReadLock::begin(&index, Keep::Log).unwrap();
        for (other, &slot) in others.iter().zip(&READ_LOCKS[1..]) {
            assert!(other.lock_shared(slot).unwrap());
        }
        let slot = lock.slot();
        world.append(&[2], 2).unwrap();
        lock.advance(&index).unwrap();
        assert_eq!((lock.slot(), lock.header().mx_frame), (slot, 2));
        assert_eq!(index.held().len(), 1);
        world.check(&index, &lock, world.state());
        // Its mark still is frame 1, so that a checkpoint copies no more than that.
        world.checkpoint();
        assert_eq!(CheckpointInfo::of(&index).unwrap().backfilled(), 1);
        lock.release(&index);
    }

    #[test]
    fn a_change_happens_only_at_the_commit_it_is_meant_for() {
        let mut world = World::new(512, 2);
        world.append(&[1], 2).unwrap();
        world.checkpoint();
        let index = world.index.connect();
        let mut lock = ReadLock::begin(&index, Keep::Log).unwrap();
        let (slot, expected) = (lock.slot(), *lock.header());
        world.append(&[2], 2).unwrap();
        assert!(
            !lock
                .change(&index, Keep::Snapshot, Some(&expected))
                .unwrap()
        );
        assert_eq!((lock.slot(), lock.keep()), (slot, Keep::Log));
        assert_eq!(index.held(), [(READ_LOCKS[slot] as usize, false)]);
        lock.advance(&index).unwrap();
        world.checkpoint();
        let expected = *lock.header();
        assert!(
            lock.change(&index, Keep::Snapshot, Some(&expected))
                .unwrap()
        );
        assert_eq!((lock.slot(), lock.keep()), (0, Keep::Snapshot));
        assert_eq!(index.held(), [(READ_LOCKS[0] as usize, false)]);
        assert!(lock.change(&index, Keep::Log, None).unwrap());
        assert!(lock.slot() > 0);
        assert_eq!(index.held().len(), 1);
        lock.give_back(&index);
        assert_eq!(index.held(), []);
    }

    #[test]
    fn without_a_slot_or_a_header_there_is_an_error() {
        let index = MemoryIndex::new();
        assert!(matches!(
            ReadLock::begin(&index, Keep::Log),
            Err(Error::Misuse(_))
        ));
        // While somebody writes, the header may only be in motion.
        let writer = index.connect();
        assert!(writer.lock_exclusive(Lock::Write).unwrap());
        assert!(matches!(
            ReadLock::begin(&index, Keep::Log),
            Err(Error::Busy(_))
        ));
        assert_eq!(index.held(), []);

        let world = World::new(512, 2);
        let other = world.index.connect();
        for lock in READ_LOCKS {
            assert!(other.lock_exclusive(lock).unwrap());
        }
        let lock = ReadLock::begin(&world.index, Keep::Snapshot);
        assert!(matches!(lock, Err(Error::Busy(_))));
        assert_eq!(world.index.held(), []);
    }
}
