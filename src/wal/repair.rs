//! Making a live log recoverable again: all that is published, and nothing else.
//!
//! SQLite 3.40.1 can publish frames with zero salts, or with checksums that do not follow each
//! other (ROLLBACK TO after spilled frames were overwritten): every reader is right, but recovery
//! stops at the first such frame and loses the rest.

use super::LogFile;
use super::anchor::Anchor;
use super::apply::Writer;
use super::frame::{
    FRAME_HEADER_BYTES, FrameHeader, FrameIndex, LOG_HEADER_BYTES, LogHeader, Salts,
};
use super::frames::open;
use crate::error::{Error, Result};

impl Writer<'_> {
    /// Gives all live frames behind `from` the header they must have, syncs, and then publishes
    /// the right running checksum if another one stood there. `from` is a commit known to be
    /// recoverable, or the start of the log ([`Anchor::log_start`]). True where anything was
    /// changed; after an error, run it again. It syncs in any case, as an earlier run may have
    /// failed at that: whether there is anything to do,
    /// [`transactions`](super::frames::transactions) tells for less.
    pub fn repair(&mut self, log: &dyn LogFile, from: &Anchor) -> Result<bool> {
        let (Some(mut frames), mut chain) = open(log, &self.header, from)? else {
            return Ok(false);
        };
        if from.mx_frame > 0 && !from.stands_in(&self.header, log)? {
            return Err(Error::Misuse(
                "the log does not have the anchor: start earlier".into(),
            ));
        }
        let page_size = self.header.require_page_size()?;
        let mut changed = false;
        while let Some((frame, stored, database_size, page)) = frames.next()? {
            let right = chain.next(stored.page, database_size, page);
            if right != stored {
                log.write(&right.encode(), frame.offset(page_size))?;
                changed = true;
            }
        }
        log.sync()?;
        // The header goes last: what follows the published checksum must find it in the log.
        if self.header.frame_checksum != chain.checksum {
            let mut header = self.header;
            header.frame_checksum = chain.checksum;
            header.publish(self.index)?;
            self.header = header;
            changed = true;
        }
        Ok(changed)
    }

    /// Makes sure that recovery finds nothing behind the published frames: what somebody left there
    /// who failed, or was killed, after writing a whole transaction and before publishing it would
    /// come into the content with the next recovery. Durable when it returns.
    pub fn discard_unpublished(&self, log: &dyn LogFile) -> Result<()> {
        let next = self.header.mx_frame.checked_add(1);
        let offset = match (next.and_then(FrameIndex::new), self.header.page_size) {
            (Some(frame), Some(page_size)) => frame.offset(page_size),
            // The first frame has the same place whatever the page size will be.
            (Some(_), None) if self.header.mx_frame == 0 => LOG_HEADER_BYTES as u64,
            _ => return Ok(()),
        };
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let read = match log.read(&mut bytes, offset) {
            // A frame of an earlier use of an encrypted log, where recovery stops as well.
            Err(Error::Tampered(_)) => return Ok(()),
            read => read?,
        };
        let salts = match self.header.mx_frame {
            0 => match LogHeader::read(log)? {
                // Restarted, and not begun: all of it is in the database file, perhaps not durably.
                Some(old) if self.is_restart_of(old.salts) => return Ok(()),
                // It goes by its own header, as recovery does: SQLite draws other salts than a restart
                // has published where the connection did not see the log begun before.
                begun => begun.map(|log| log.salts),
            },
            _ => Some(self.header.salts),
        };
        let left = FrameHeader::parse(&bytes);
        if read < bytes.len() || left.is_some_and(|frame| Some(frame.salts) != salts) {
            return Ok(());
        }
        if left.is_some() {
            log.write(&[0; FRAME_HEADER_BYTES], offset)?;
        }
        // Also where it is gone: perhaps whoever took it away has failed to make that durable.
        log.sync()
    }

    /// Whether the published header is that of a restart of the log with these salts.
    fn is_restart_of(&self, salts: Salts) -> bool {
        !self.header.anchor().is_blank()
            && self.header.salts.first() == salts.first().wrapping_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Checksum;
    use super::super::frames::transactions;
    use super::super::memory::MemoryIndex;
    use super::super::oracle::{World, recover, recovered_index};
    use super::*;

    /// Three commits; the last two have lost salts and checksums, as the bug leaves them.
    fn poisoned() -> (World, Anchor) {
        let mut world = World::new(512, 3);
        world.append(&[1, 2], 3).unwrap();
        let first = world.anchor();
        world.append(&[1, 3], 3).unwrap();
        world.append(&[2], 3).unwrap();
        for frame in [3, 4, 5] {
            let offset = FrameIndex::new(frame).unwrap().offset(world.page_size);
            world.log.write(&[0; 16], offset + 8).unwrap();
        }
        let mut header = world.header();
        header.frame_checksum = Checksum::default();
        header.publish(&world.index).unwrap();
        (world, first)
    }

    #[test]
    fn repaired_logs_are_recovered_whole() {
        for from_start in [false, true] {
            let (mut world, first) = poisoned();
            assert_eq!(recover(&world.log).0.mx_frame, 2);
            let from = if from_start {
                Anchor::log_start(first.salts)
            } else {
                first
            };
            let mut writer = Writer::try_begin(&world.index).unwrap().unwrap();
            assert!(writer.repair(&world.log, &from).unwrap());
            assert!(!writer.repair(&world.log, &from).unwrap());
            assert!(
                !writer
                    .repair(&world.log, &writer.header().anchor())
                    .unwrap()
            );
            drop(writer);
            assert_eq!(recover(&world.log).0.anchor(), world.anchor());
            let header = world.header();
            assert!(
                transactions(&world.log, &header, &from)
                    .unwrap()
                    .all(|t| t.unwrap().intact)
            );
            world.check_newest();
            world.append(&[1], 3).unwrap();
            assert_eq!(recover(&world.log).0.anchor(), world.anchor());
        }
    }

    #[test]
    fn a_repair_that_failed_is_run_again() {
        for after in 0..4 {
            let (world, first) = poisoned();
            let published = world.header();
            world.log.fail_after(Some(after));
            let mut writer = Writer::try_begin(&world.index).unwrap().unwrap();
            assert!(writer.repair(&world.log, &first).is_err());
            assert_eq!(world.header(), published);
            world.log.fail_after(None);
            assert!(writer.repair(&world.log, &first).unwrap());
            assert_eq!(recover(&world.log).0.anchor(), world.anchor());
        }
    }

    #[test]
    fn it_starts_only_from_what_the_log_has() {
        let (world, first) = poisoned();
        let mut writer = Writer::try_begin(&world.index).unwrap().unwrap();
        let wrong = Anchor {
            checksum: Checksum([1, 1]),
            ..first
        };
        assert!(matches!(
            writer.repair(&world.log, &wrong),
            Err(Error::Misuse(_))
        ));
    }

    /// The index as it was before the last commit of `world`, whose frames are in the log.
    fn unpublished(world: &World, before: &MemoryIndex) -> World {
        let mut view = world.view();
        view.index = before.connect();
        view.states.pop();
        view
    }

    #[test]
    fn what_was_not_published_never_comes_back() {
        for (begun, restarted) in [(false, false), (true, false), (true, true)] {
            let mut world = World::new(512, 3);
            if begun {
                world.append(&[1, 2], 3).unwrap();
            }
            if restarted {
                world.checkpoint();
                let mut writer = Writer::try_begin(&world.index).unwrap().unwrap();
                writer.restart(Salts([4; 8])).unwrap();
            }
            let before = world.header();
            world.append(&[1, 3], 3).unwrap();
            assert_eq!(recover(&world.log).0.anchor(), world.anchor());
            before.publish(&world.index).unwrap();
            let world = unpublished(&world, &world.index);
            let writer = Writer::try_begin(&world.index).unwrap().unwrap();
            writer.discard_unpublished(&world.log).unwrap();
            // Durably, and as often as one likes.
            world.log.take_calls();
            writer.discard_unpublished(&world.log).unwrap();
            drop(writer);
            let mut crashed = world.crash(|_| false);
            assert_eq!(recover(&crashed.log).0.mx_frame, before.mx_frame);
            crashed.check_newest();
            crashed.append(&[2], 3).unwrap();
            crashed.check_newest();
            crashed.index = recovered_index(&crashed.log);
            crashed.check_newest();
        }
    }

    /// SQLite begins a restarted log under salts of its own where the connection knows of no log before.
    #[test]
    fn a_log_begun_under_other_salts_never_comes_back() {
        let mut world = World::new(512, 3);
        world.append(&[1, 2], 3).unwrap();
        world.checkpoint();
        Writer::try_begin(&world.index)
            .unwrap()
            .unwrap()
            .restart(Salts([4; 8]))
            .unwrap();
        let restarted = world.header();
        let mut other = restarted;
        other.salts = Salts([9; 8]);
        other.publish(&world.index).unwrap();
        world.append(&[1, 3], 3).unwrap();
        assert_eq!(recover(&world.log).0.mx_frame, 2);
        restarted.publish(&world.index).unwrap();
        let world = unpublished(&world, &world.index);
        let writer = Writer::try_begin(&world.index).unwrap().unwrap();
        writer.discard_unpublished(&world.log).unwrap();
        drop(writer);
        assert_eq!(recover(&world.log).0.mx_frame, 0);
        world.check_newest();
    }

    #[test]
    fn frames_of_an_earlier_log_are_left_alone() {
        let mut world = World::new(512, 3);
        world.append(&[1, 2, 3], 3).unwrap();
        world.checkpoint();
        let mut writer = Writer::try_begin(&world.index).unwrap().unwrap();
        writer.restart(Salts([4; 8])).unwrap();
        world.log.take_calls();
        writer.discard_unpublished(&world.log).unwrap();
        assert_eq!(world.log.take_calls(), []);
        drop(writer);
        world.append(&[1], 3).unwrap();
        world.log.take_calls();
        let writer = Writer::try_begin(&world.index).unwrap().unwrap();
        writer.discard_unpublished(&world.log).unwrap();
        assert_eq!(world.log.take_calls(), []);
        let empty = World::new(512, 3);
        let writer = Writer::try_begin(&empty.index).unwrap().unwrap();
        writer.discard_unpublished(&empty.log).unwrap();
        assert_eq!(empty.log.take_calls(), []);
    }
}
