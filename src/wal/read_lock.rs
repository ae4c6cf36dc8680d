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
            std::hint::spin_loop();
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
