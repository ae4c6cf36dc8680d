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
    /// changed; after an error, run it again.
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
        if changed {
            log.sync()?;
        }
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
