//! Publishing a transaction whose pages are in the log already.
//!
//! Where SQLite wrote all frames of a commit and then failed (no memory for its hash table, say), it
//! gives the transaction up, although its remote has accepted it. The pages stay where they are,
//! behind the published frames, until somebody else writes: under the same lock they can still be
//! made the commit they were to be.

use super::apply::Writer;
use super::frame::{Chain, FRAME_HEADER_BYTES, FrameIndex, LogHeader};
use super::frames::{log_header, read_frame};
use super::index::IndexHeader;
use super::{LogFile, hash};
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

impl Writer<'_> {
    /// Gives the frames behind the published ones, one for each of `numbers`, the headers that a
    /// transaction of `database_size` pages has, syncs, and publishes it. On an error nothing was
    /// published; it may be tried again.
    pub fn publish_written(
        &mut self,
        log: &dyn LogFile,
        page_size: PageSize,
        numbers: &[PageNumber],
        database_size: u32,
    ) -> Result<IndexHeader> {
        let mut header = self.header;
        header.page_size = Some(page_size);
        let mut chain = match header.mx_frame {
            // The log begins anew with this very transaction.
            0 => chain_of(&LogHeader::read(log)?.ok_or_else(no_log)?),
            _ => {
                log_header(log, &header)?;
                Chain {
                    order: header.order,
                    salts: header.salts,
                    checksum: header.frame_checksum,
                }
            }
        };
        (header.salts, header.order) = (chain.salts, chain.order);
        let mut page = vec![0; page_size.bytes()];
        let mut left = numbers.len();
        for number in numbers {
            left -= 1;
            let frame = header.mx_frame.checked_add(1).and_then(FrameIndex::new);
            let frame = frame.ok_or_else(|| Error::Corrupt("the log is full".into()))?;
            read_frame(log, page_size, frame, &mut page)?;
            let size = if left == 0 { database_size } else { 0 };
            let right = chain.next(*number, size, &page).encode();
            let mut stored = [0; FRAME_HEADER_BYTES];
            let offset = frame.offset(page_size);
            if log.read(&mut stored, offset)? < stored.len() || stored != right {
                log.write(&right, offset)?;
            }
            header.mx_frame = frame.get();
        }
        log.sync()?;
        for (frame, number) in (self.header.mx_frame + 1..).zip(numbers) {
            if let Some(frame) = FrameIndex::new(frame) {
                hash::insert(self.index, frame, *number)?;
            }
        }
        header.database_size = database_size;
        header.frame_checksum = chain.checksum;
        header.change_counter = header.change_counter.wrapping_add(1);
        header.publish(self.index)?;
        self.header = header;
        Ok(header)
    }
}

fn chain_of(log: &LogHeader) -> Chain {
    Chain {
        order: log.order,
        salts: log.salts,
        checksum: log.checksum,
    }
}

fn no_log() -> Error {
    Error::Corrupt("the log has no header".into())
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryFile;
    use super::super::oracle::{World, page, recover, recovered_index};
    use super::*;

    /// Writes frames as a commit that is given up leaves them: pages, and headers without salts.
    fn given_up(world: &World, log: &MemoryFile, numbers: &[PageNumber], made_from: u64) {
        let from = world.header().mx_frame + 1;
        for (frame, number) in (from..).zip(numbers) {
            let offset = FrameIndex::new(frame).unwrap().offset(world.page_size);
            let mut header = [0; FRAME_HEADER_BYTES];
            header[..4].copy_from_slice(&number.get().to_be_bytes());
            log.write(&header, offset).unwrap();
            let data = page(world.page_size, *number, made_from);
            log.write(&data, offset + 24).unwrap();
        }
    }

    #[test]
    fn given_up_frames_become_their_commit() {
        for restarted in [false, true] {
            let mut world = World::new(512, 3);
            world.append(&[1, 2], 3).unwrap();
            if restarted {
                world.checkpoint();
                let random = world.salts();
                let mut writer = Writer::try_begin(&world.index).unwrap().unwrap();
                writer.restart(random).unwrap();
                assert_eq!(writer.header().mx_frame, 0);
                writer
                    .start_log(&world.log, world.page_size, random)
                    .unwrap();
            }
            let numbers = [2, 3, 4].map(|number| PageNumber::new(number).unwrap());
            let next = world.next_state(&[2, 3, 4], 4);
            given_up(&world, &world.log, &numbers, next[3]);
            // The third time all headers are there, and the sync fails.
            for budget in [0, 2, 1] {
                world.log.fail_after(Some(budget));
                let mut writer = Writer::try_begin(&world.index).unwrap().unwrap();
                let before = *writer.header();
                let result = writer.publish_written(&world.log, world.page_size, &numbers, 4);
                assert!(result.is_err());
                assert_eq!(*writer.header(), before);
            }
            world.log.fail_after(None);
            let mut writer = Writer::try_begin(&world.index).unwrap().unwrap();
            writer
                .publish_written(&world.log, world.page_size, &numbers, 4)
                .unwrap();
            drop(writer);
            world.states.push(next);
            world.check_newest();
            assert_eq!(recover(&world.log).0.anchor(), world.anchor());
            world.index = recovered_index(&world.log);
            world.check_newest();
        }
    }
}
