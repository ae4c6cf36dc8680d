//! Making a live log recoverable again.
//!
//! SQLite 3.40.1 can publish frames with zero salts, or with checksums that do not follow each
//! other (ROLLBACK TO after spilled frames were overwritten): every reader is right, but recovery
//! stops at the first such frame and loses the rest.

use super::LogFile;
use super::anchor::Anchor;
use super::apply::Writer;
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
        while let Some((frame, stored, page)) = frames.next()? {
            let right = chain.next(stored.page, stored.database_size, page);
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
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Checksum;
    use super::super::frame::FrameIndex;
    use super::super::frames::transactions;
    use super::super::oracle::{World, recover};
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
}
