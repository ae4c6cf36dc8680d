//! Writing the log anew from its first frame, once the database file holds all of it.

use super::apply::Writer;
use super::frame::{LogHeader, Salts};
use super::index::{CheckpointInfo, READ_MARK_NOT_USED, READ_SLOTS};
use super::{Lock, LogFile, SharedIndex};
use crate::error::{Error, Result};
use crate::page::PageSize;

impl Writer<'_> {
    /// Starts the log anew where all of it is in the database file and nobody needs it.
    /// The header tells whether it was.
    pub fn restart(&mut self, random: Salts) -> Result<()> {
        self.finish_restart()?;
        let info = CheckpointInfo::of(self.index)?;
        if self.header.mx_frame == 0 || info.backfilled() < self.header.mx_frame {
            return Ok(());
        }
        const LOCKS: [Lock; 5] = [
            Lock::Checkpoint,
            Lock::Read1,
            Lock::Read2,
            Lock::Read3,
            Lock::Read4,
        ];
        let Some(_locks) = Exclusive::try_take(self.index, &LOCKS)? else {
            return Ok(());
        };
        // First: nobody copies while the locks are held, and whoever is killed right here leaves a log
        // that has yet to be copied, once more.
        info.set_backfilled(0);
        let mut header = self.header;
        header.mx_frame = 0;
        header.salts = header.salts.restarted(random);
        header.publish(self.index)?;
        self.header = header;
        info.set_backfill_attempted(0);
        info.set_read_mark(1, 0);
        for slot in 2..READ_SLOTS {
            info.set_read_mark(slot, READ_MARK_NOT_USED);
        }
        Ok(())
    }

    /// Runs `work` while nobody copies from the log, where the database file holds all of it. `None`
    /// where it does not, or somebody is copying.
    pub fn while_all_copied<T>(&self, work: impl FnOnce() -> T) -> Result<Option<T>> {
        let Some(_lock) = Exclusive::try_take(self.index, &[Lock::Checkpoint])? else {
            return Ok(None);
        };
        let copied = CheckpointInfo::of(self.index)?.backfilled();
        Ok((copied == self.header.mx_frame).then(work))
    }

    /// nBackfill beyond mxFrame is what a restart leaves whose process was killed in the middle:
    /// it would hide every frame appended from here on. Nothing of this log counts as copied. Whoever
    /// has begun to read since goes by the wrong nBackfill: the header becomes another one, so that
    /// nobody writes on such a snapshot.
    pub fn finish_restart(&mut self) -> Result<()> {
        let info = CheckpointInfo::of(self.index)?;
        if info.backfilled() <= self.header.mx_frame {
            return Ok(());
        }
        let Some(_lock) = Exclusive::try_take(self.index, &[Lock::Checkpoint])? else {
            return Err(Error::Busy("a checkpoint is under way".into()));
        };
        if info.backfilled() > self.header.mx_frame {
            info.set_backfilled(0);
            info.set_backfill_attempted(self.header.mx_frame);
            self.header.change_counter = self.header.change_counter.wrapping_add(1);
            self.header.publish(self.index)?;
        }
        Ok(())
    }

    /// Writes the header of a new log. The salts a restart published stay, so that an anchor of
    /// that state still stands; those recovery found in a log without a commit may be on frames
    /// that are still there, and go. The sequence number makes every header another one, so that
    /// frames of a transaction given up under the same salts do not follow it.
    pub(super) fn start_log(
        &self,
        log: &dyn LogFile,
        page_size: PageSize,
        random: Salts,
    ) -> Result<LogHeader> {
        let sequence = LogHeader::read(log)?.map_or(1, |old| old.sequence.wrapping_add(1).max(1));
        let blank = self.header.anchor().is_blank();
        let salts = if blank { random } else { self.header.salts };
        let header = LogHeader::new(page_size, sequence, salts);
        log.write(&header.encode(), 0)?;
        log.sync()?;
        Ok(header)
    }
}

/// Exclusive locks, all or none, released on drop.
pub(super) struct Exclusive<'a> {
    index: &'a dyn SharedIndex,
    locks: &'a [Lock],
}

impl<'a> Exclusive<'a> {
    pub(super) fn try_take(index: &'a dyn SharedIndex, locks: &'a [Lock]) -> Result<Option<Self>> {
        let mut taken = Self { index, locks: &[] };
        for (i, &lock) in locks.iter().enumerate() {
            if !index.lock_exclusive(lock)? {
                return Ok(None);
            }
            taken.locks = &locks[..=i];
        }
        Ok(Some(taken))
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        for &lock in self.locks.iter().rev() {
            self.index.unlock_exclusive(lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::World;
    use super::super::read_lock::{Keep, ReadLock};
    use super::*;

    #[test]
    fn the_log_is_kept_while_it_is_needed() {
        for lock in [Lock::Checkpoint, Lock::Read1, Lock::Read4] {
            let mut world = World::new(512, 2);
            world.append(&[1], 2).unwrap();
            world.checkpoint();
            let other = world.index.connect();
            assert!(other.lock_exclusive(lock).unwrap());
            assert_eq!(world.append(&[2], 2).unwrap().mx_frame, 2, "{lock:?}");
            assert_eq!(world.index.held(), []);
        }
        // A reader of the database file alone does not need it.
        let mut world = World::new(512, 2);
        world.append(&[1], 2).unwrap();
        world.checkpoint();
        let (other, state) = (world.index.connect(), world.state().clone());
        let lock = ReadLock::begin(&other, Keep::Snapshot).unwrap();
        assert_eq!(world.append(&[2], 2).unwrap().mx_frame, 1);
        world.check(&other, &lock, &state);
        world.check_newest();
    }

    #[test]
    fn a_restart_hides_nothing_wherever_it_is_cut_off() {
        let mut world = World::new(512, 2);
        world.append(&[1], 2).unwrap();
        world.checkpoint();
        world.index.take_seen();
        world.append(&[2], 2).unwrap();
        // mxFrame in the first copy, in the second, and nBackfill: never beyond mxFrame.
        let seen: Vec<_> = world
            .index
            .take_seen()
            .iter()
            .map(|seen| (seen[4], seen[16], seen[24]))
            .collect();
        assert_eq!(seen[1..], [(1, 0, 0), (0, 0, 0), (0, 1, 0), (1, 1, 0)]);
        let info = CheckpointInfo::of(&world.index).unwrap();
        assert_eq!(
            [1, 2, 3, 4].map(|slot| info.read_mark(slot)),
            [0, u32::MAX, u32::MAX, u32::MAX]
        );
        assert_eq!(info.backfill_attempted(), 0);
    }

    #[test]
    fn a_restart_of_sqlite_cut_off_in_the_middle_hides_nothing() {
        let mut world = World::new(512, 2);
        world.append(&[1], 2).unwrap();
        world.append(&[1], 2).unwrap();
        world.checkpoint();
        // Published, but nBackfill still counts the frames of the old log.
        let mut header = world.header();
        header.mx_frame = 0;
        header.salts = header.salts.restarted(Salts([1; 8]));
        header.publish(&world.index).unwrap();
        let checkpointer = world.index.connect();
        assert!(checkpointer.lock_exclusive(Lock::Checkpoint).unwrap());
        assert!(matches!(world.append(&[2], 2), Err(Error::Busy(_))));
        checkpointer.unlock_exclusive(Lock::Checkpoint);
        world.append(&[2], 2).unwrap();
        world.check_newest();
    }
}
