//! Anchors: which state of the log a recorded position belongs to.
//!
//! An anchor names the content of database and log together at one published wal-index header.
//! It is stored as 20 bytes:
//!
//! ```text
//!  0  salt-1 and salt-2, raw
//!  8  mxFrame, big-endian
//! 12  running checksum of frame mxFrame, two words, big-endian
//! ```

use super::LogFile;
use super::checksum::Checksum;
use super::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameIndex, LogHeader, Salts};
use super::index::IndexHeader;
use crate::error::{Error, Result};

/// The state of the log a position was recorded at.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Anchor {
    /// The salts of the log.
    pub salts: Salts,
    /// The last frame of the last commit; 0 for a log without any.
    pub mx_frame: u32,
    /// The running checksum the index header had.
    pub checksum: Checksum,
}

/// What the content has become since an anchor was recorded.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Relation {
    /// The content is the anchor's.
    Equal,
    /// The content is the anchor's, and then the frames behind it, up to the header's mxFrame.
    Extended,
    /// The content is the anchor's: all of it was checkpointed, and the log is about to be
    /// written anew.
    Restarted,
    /// Nothing is known: the content has to be looked at.
    Unknown,
}

impl IndexHeader {
    /// The anchor of this state.
    pub fn anchor(&self) -> Anchor {
        Anchor {
            salts: self.salts,
            mx_frame: self.mx_frame,
            checksum: self.frame_checksum,
        }
    }
}

impl Anchor {
    /// The anchor before the first frame of the log with these salts: what [`transactions`] and
    /// [`repair`] take to go through all of it. Not for storage, as it is blank.
    ///
    /// [`transactions`]: super::frames::transactions
    /// [`repair`]: super::apply::Writer::repair
    pub fn log_start(salts: Salts) -> Self {
        Self {
            salts,
            mx_frame: 0,
            checksum: Checksum::default(),
        }
    }

    /// Whether this anchor names no content: recovery leaves no frames and checksum 0, with
    /// salts of 0 or of whatever stood in the log's header, each time it finds no commit,
    /// whatever the database file holds. To get an anchor that says something, append page 1
    /// as it is.
    pub fn is_blank(&self) -> bool {
        self.mx_frame == 0 && self.checksum == Checksum::default()
    }

    /// How the published state relates to this anchor. The caller holds WAL_WRITE, or a read lock
    /// that keeps the log, so that the log is not written anew meanwhile.
    ///
    /// `Equal` and `Extended` hold because salts and running checksum name a log up to a frame:
    /// the checksum runs over salts, page numbers, sizes and pages of all frames. Without frames
    /// the salts do it alone: a restart draws them for exactly the state it finds. If a crash
    /// throws frames away and others follow under the same salts, the checksum differs.
    ///
    /// `Restarted` holds because a restart (by a writer, or by a checkpoint that truncates) is
    /// done under WAL_WRITE on the current header, only when all its frames are in the database
    /// file, and changes nothing in the header but mxFrame (0), salt-1 (plus one) and salt-2
    /// (random). So a header with mxFrame 0, salt-1 one above the anchor's and the anchor's
    /// frame checksum was made from a header with the anchor's salt-1 and checksum; every commit
    /// replaces the checksum by one that depends on its frames, so that header is the anchor's.
    /// An anchor without frames may be restarted too (TRUNCATE of an empty log). Two things are
    /// left out on purpose. A checksum of 0 proves nothing, because recovery writes it whenever
    /// it finds no commit, be there a log of the next salts or none. And two restarts in a row
    /// are not followed: that is only a scan more.
    pub fn relation(&self, header: &IndexHeader, log: &dyn LogFile) -> Result<Relation> {
        if self.is_blank() {
            return Ok(Relation::Unknown);
        }
        if *self == header.anchor() {
            return Ok(Relation::Equal);
        }
        if self.salts == header.salts && header.mx_frame > self.mx_frame {
            return Ok(if self.stands_in(header, log)? {
                Relation::Extended
            } else {
                Relation::Unknown
            });
        }
        let restarted = header.mx_frame == 0
            && header.salts.first() == self.salts.first().wrapping_add(1)
            && header.frame_checksum == self.checksum
            && self.checksum != Checksum::default();
        Ok(if restarted {
            Relation::Restarted
        } else {
            Relation::Unknown
        })
    }

    /// Whether the log has this anchor's frame (or, without frames, this log's header).
    pub(super) fn stands_in(&self, header: &IndexHeader, log: &dyn LogFile) -> Result<bool> {
        let Some(frame) = FrameIndex::new(self.mx_frame) else {
            return Ok(LogHeader::read(log)?.is_some_and(|log| log.salts == self.salts));
        };
        let mut bytes = [0; FRAME_HEADER_BYTES];
        if log.read(&mut bytes, frame.offset(header.require_page_size()?))? < bytes.len() {
            return Err(Error::Corrupt(format!(
                "the log ends before frame {} although the wal-index goes to {}",
                self.mx_frame, header.mx_frame
            )));
        }
        Ok(FrameHeader::parse(&bytes).is_some_and(|frame| frame.checksum == self.checksum))
    }

    /// The anchor as it is stored.
    pub fn to_bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.salts.0);
        bytes[8..12].copy_from_slice(&self.mx_frame.to_be_bytes());
        bytes[12..].copy_from_slice(&self.checksum.to_bytes());
        bytes
    }

    /// An anchor as it is stored.
    pub fn from_bytes(bytes: [u8; 20]) -> Self {
        let (mut salts, mut mx_frame, mut checksum) = ([0; 8], [0; 4], [0; 8]);
        salts.copy_from_slice(&bytes[..8]);
        mx_frame.copy_from_slice(&bytes[8..12]);
        checksum.copy_from_slice(&bytes[12..]);
        Self {
            salts: Salts(salts),
            mx_frame: u32::from_be_bytes(mx_frame),
            checksum: Checksum::from_bytes(checksum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryFile;
    use super::super::oracle::{World, recovered_index, truncate};
    use super::super::read_lock::{Keep, ReadLock};
    use super::*;

    fn relation(world: &World, anchor: Anchor) -> Relation {
        anchor.relation(&world.header(), &world.log).unwrap()
    }

    #[test]
    fn anchors_round_trip_as_bytes() {
        let anchor = Anchor {
            salts: Salts([1; 8]),
            mx_frame: 0x0102_0304,
            checksum: Checksum([5, 6]),
        };
        assert_eq!(Anchor::from_bytes(anchor.to_bytes()), anchor);
        assert_eq!(anchor.to_bytes()[8..12], [1, 2, 3, 4]);
    }

    #[test]
    fn commits_extend_an_anchor_and_checkpoints_do_not_touch_it() {
        let mut world = World::new(512, 3);
        world.append(&[1], 3).unwrap();
        let anchor = world.anchor();
        world.checkpoint();
        assert_eq!(relation(&world, anchor), Relation::Equal);
        let reader = ReadLock::begin(&world.index, Keep::Log).unwrap();
        world.append(&[2], 3).unwrap();
        assert_eq!(relation(&world, anchor), Relation::Extended);
        reader.release(&world.index);
        // A clean close that keeps the log, and an open: recovery finds the same.
        world.index = recovered_index(&world.log);
        assert_eq!(relation(&world, anchor), Relation::Extended);
        // The log is written anew.
        world.checkpoint();
        world.append(&[2], 3).unwrap();
        assert_eq!(relation(&world, anchor), Relation::Unknown);
    }

    #[test]
    fn a_restart_is_followed_once() {
        let mut world = World::new(512, 3);
        world.append(&[1], 3).unwrap();
        let early = world.anchor();
        world.append(&[2], 3).unwrap();
        let anchor = world.anchor();
        world.checkpoint();
        assert!(truncate(&world.index, &world.log, Salts([7; 8])));
        assert_eq!(relation(&world, anchor), Relation::Restarted);
        assert_eq!(relation(&world, early), Relation::Unknown);
        let between = world.anchor();
        assert!(!between.is_blank());
        assert_eq!(relation(&world, between), Relation::Equal);
        // TRUNCATE does it again, on an empty log.
        assert!(truncate(&world.index, &world.log, Salts([8; 8])));
        assert_eq!(relation(&world, between), Relation::Restarted);
        assert_eq!(relation(&world, anchor), Relation::Unknown);
        // The salts of a restart stay: the next commit extends the anchor.
        let after = world.anchor();
        world.append(&[3], 3).unwrap();
        assert_eq!(relation(&world, after), Relation::Extended);
        let other = LogHeader::new(world.page_size, 1, Salts([6; 8]));
        world.log.write(&other.encode(), 0).unwrap();
        assert_eq!(relation(&world, after), Relation::Unknown);
    }

    #[test]
    fn a_blank_anchor_proves_nothing() {
        let world = World::new(512, 3);
        let anchor = world.anchor();
        assert!(anchor.is_blank());
        assert_eq!(relation(&world, anchor), Relation::Unknown);
        // Neither does a checksum of zero that recovery may have left.
        let anchor = Anchor {
            mx_frame: 1,
            ..Anchor::log_start(Salts([9; 8]))
        };
        let mut header = world.header();
        header.salts = anchor.salts.restarted(Salts([1; 8]));
        assert_eq!(
            anchor.relation(&header, &world.log).unwrap(),
            Relation::Unknown
        );
    }

    #[test]
    fn other_frames_under_the_same_salts_are_unknown() {
        let mut world = World::new(512, 3);
        world.append(&[1], 3).unwrap();
        let first = world.anchor();
        let log = world.log.bytes();
        world.append(&[2], 3).unwrap();
        let lost = world.anchor();
        // Frame 2 goes in a power loss; others take its place.
        let file = MemoryFile::default();
        file.write(&log, 0).unwrap();
        world.log = file;
        world.index = recovered_index(&world.log);
        assert_eq!(relation(&world, first), Relation::Equal);
        world.append(&[3], 3).unwrap();
        world.append(&[3], 3).unwrap();
        assert_eq!(world.header().salts, lost.salts);
        assert_eq!(relation(&world, lost), Relation::Unknown);
    }

    #[test]
    fn a_log_shorter_than_the_index_is_corrupt() {
        let mut world = World::new(512, 3);
        world.append(&[1], 3).unwrap();
        let anchor = world.anchor();
        world.append(&[1], 3).unwrap();
        world.log.truncate(40);
        let relation = anchor.relation(&world.header(), &world.log);
        assert!(matches!(relation, Err(Error::Corrupt(_))));
    }
}
