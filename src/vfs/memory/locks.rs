//! The locks of a file in memory: those of rollback journals, and the slots of the shared index.
//!
//! Source: SQLite's lockingv3.html (File Locking And Concurrency In SQLite Version 3), and the
//! description of `sqlite3_io_methods` (xLock, xShmLock).

/// How much of a file somebody has locked, as SQLite counts: none, shared, reserved, pending,
/// exclusive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// It reads.
    Shared,
    /// It is going to write; others may go on reading.
    Reserved,
    /// It waits for the readers, and lets no new ones in.
    Pending,
    /// It writes.
    Exclusive,
}

impl Level {
    /// The level of a number of SQLite's.
    pub fn from_number(number: std::ffi::c_int) -> Self {
        match number {
            0 => Level::None,
            1 => Level::Shared,
            2 => Level::Reserved,
            3 => Level::Pending,
            _ => Level::Exclusive,
        }
    }
}

/// What all handles of a file have locked.
#[derive(Default)]
pub struct FileLocks {
    /// Handles with a lock, that of a writer included.
    holders: usize,
    /// The level above shared that one of them has.
    writer: Level,
}

impl FileLocks {
    /// Takes a lock for a handle that has `held`. The level it has afterwards; less than `wanted` where
    /// others are in the way.
    pub fn lock(&mut self, held: Level, wanted: Level) -> Level {
        if held >= wanted {
            return held;
        }
        let is_writer = held > Level::Shared;
        match wanted {
            Level::None | Level::Pending => held,
            Level::Shared if self.writer >= Level::Pending => held,
            Level::Shared => {
                self.holders += 1;
                Level::Shared
            }
            _ if self.writer != Level::None && !is_writer => held,
            Level::Reserved => {
                self.writer = Level::Reserved;
                Level::Reserved
            }
            Level::Exclusive => {
                self.writer = match self.holders {
                    1 => Level::Exclusive,
                    // Of SQLite's locks this one is taken on the way only.
                    _ => Level::Pending,
                };
                self.writer
            }
        }
    }

    /// Goes back from `held` to `wanted`, shared or none.
    pub fn unlock(&mut self, held: Level, wanted: Level) -> Level {
        if held <= wanted {
            return held;
        }
        if held > Level::Shared {
            self.writer = Level::None;
        }
        if wanted == Level::None {
            self.holders -= 1;
        }
        wanted
    }

    /// Whether somebody is going to write.
    pub fn is_reserved(&self) -> bool {
        self.writer > Level::None
    }
}

/// How many slots the shared index has (`SQLITE_SHM_NLOCK`).
pub const SLOTS: usize = 8;

/// Slots of the shared index that a handle has locked, by bit.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Held {
    /// Together with others.
    pub shared: u8,
    /// Alone.
    pub exclusive: u8,
}

/// What all handles have locked of the slots.
#[derive(Default)]
pub struct SlotLocks {
    shared: [u32; SLOTS],
    exclusive: u8,
}

impl SlotLocks {
    /// Takes the slots of `mask` together with others; false where somebody has one alone.
    pub fn share(&mut self, held: &mut Held, mask: u8) -> bool {
        if self.exclusive & mask & !held.exclusive != 0 {
            return false;
        }
        let new = mask & !held.shared;
        each(new, |slot| self.shared[slot] += 1);
        held.shared |= new;
        true
    }

    /// Takes the slots of `mask` alone; false where anybody else has one.
    pub fn take(&mut self, held: &mut Held, mask: u8) -> bool {
        let mut is_free = self.exclusive & mask & !held.exclusive == 0;
        each(mask, |slot| {
            let own = u32::from(held.shared & (1 << slot) != 0);
            is_free &= self.shared[slot] == own;
        });
        if is_free {
            self.exclusive |= mask;
            held.exclusive |= mask;
        }
        is_free
    }

    /// Gives back what a handle has of the slots of `mask`.
    pub fn give_back(&mut self, held: &mut Held, mask: Held) {
        each(held.shared & mask.shared, |slot| self.shared[slot] -= 1);
        self.exclusive &= !(held.exclusive & mask.exclusive);
        held.shared &= !mask.shared;
        held.exclusive &= !mask.exclusive;
    }
}

fn each(mask: u8, mut work: impl FnMut(usize)) {
    (0..SLOTS)
        .filter(|slot| mask & (1 << slot) != 0)
        .for_each(&mut work);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_writer_waits_for_readers_and_lets_none_in() {
        let mut locks = FileLocks::default();
        let reader = locks.lock(Level::None, Level::Shared);
        let mut writer = locks.lock(Level::None, Level::Shared);
        writer = locks.lock(writer, Level::Reserved);
        assert_eq!((writer, locks.is_reserved()), (Level::Reserved, true));
        assert_eq!(locks.lock(reader, Level::Reserved), Level::Shared);
        assert_eq!(locks.lock(reader, Level::Exclusive), Level::Shared);
        // Another reader may come while the lock is reserved only.
        let late = locks.lock(Level::None, Level::Shared);
        assert_eq!(locks.unlock(late, Level::None), Level::None);
        writer = locks.lock(writer, Level::Exclusive);
        assert_eq!(writer, Level::Pending);
        assert_eq!(locks.lock(Level::None, Level::Shared), Level::None);
        locks.unlock(reader, Level::None);
        writer = locks.lock(writer, Level::Exclusive);
        assert_eq!(writer, Level::Exclusive);
        writer = locks.unlock(writer, Level::Shared);
        assert_eq!((writer, locks.is_reserved()), (Level::Shared, false));
        locks.unlock(writer, Level::None);
        assert_eq!(locks.holders, 0);
    }

    proptest! {
        #[test]
        fn levels_never_exclude_each_other(calls in prop::collection::vec((0..4_usize, 0..5_i32, any::<bool>()), 1..200)) {
            let mut locks = FileLocks::default();
            let mut held = [Level::None; 4];
            for (handle, number, takes) in calls {
                let wanted = Level::from_number(number);
                held[handle] = match takes {
                    // SQLite's order: nobody skips the shared lock.
                    true if wanted <= Level::Shared || held[handle] >= Level::Shared => locks.lock(held[handle], wanted),
                    true => held[handle],
                    false => locks.unlock(held[handle], wanted.min(Level::Shared)),
                };
                let writers = held.iter().filter(|level| **level > Level::Shared).count();
                let holders = held.iter().filter(|level| **level > Level::None).count();
                prop_assert!(writers <= 1);
                prop_assert!(!held.contains(&Level::Exclusive) || holders == 1);
                prop_assert_eq!(holders, locks.holders);
                prop_assert_eq!(writers == 1, locks.is_reserved());
            }
        }

        #[test]
        fn a_slot_is_shared_or_somebodys(calls in prop::collection::vec((0..4_usize, any::<u8>(), 0..3_u8), 1..200)) {
            let mut locks = SlotLocks::default();
            let mut held = [Held::default(); 4];
            for (handle, mask, call) in calls {
                let mine = &mut held[handle];
                match call {
                    0 => { locks.share(mine, mask & !mine.exclusive); }
                    1 => { locks.take(mine, mask & !mine.shared); }
                    _ => locks.give_back(mine, Held { shared: mask, exclusive: mask }),
                }
                for slot in 0..SLOTS {
                    let bit = 1 << slot;
                    let shared = held.iter().filter(|held| held.shared & bit != 0).count();
                    let alone = held.iter().filter(|held| held.exclusive & bit != 0).count();
                    prop_assert!(alone <= 1 && (alone == 0 || shared == 0));
                    prop_assert_eq!(shared as u32, locks.shared[slot]);
                }
            }
        }
    }
}
