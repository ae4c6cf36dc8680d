//! The header of the log.

use super::{LOG_HEADER, MAGIC, START, SealedLog};
use crate::crypt::raw::RawFile;
use crate::error::{Error, Result};

impl SealedLog {
    /// Reads from the header of the log; false where there is none.
    pub(super) fn read_start(
        &mut self,
        raw: &dyn RawFile,
        from: usize,
        target: &mut [u8],
    ) -> Result<bool> {
        let header = self.open_start(raw)?;
        if let Some(header) = header {
            target.copy_from_slice(&header[from..from + target.len()]);
        }
        Ok(header.is_some())
    }

    /// The header of the log; its salts are remembered.
    pub(super) fn open_start(&mut self, raw: &dyn RawFile) -> Result<Option<[u8; LOG_HEADER]>> {
        let mut bytes = [0; START];
        if raw.read(&mut bytes, 0)? < START {
            return Ok(None);
        }
        let (magic, record) = bytes.split_at(MAGIC.len());
        let mut header = [0; LOG_HEADER];
        let (frames, associated) = (&self.keys.frames, self.start_associated());
        let opened = magic == MAGIC && frames.open_record(record, &associated, &mut header);
        if !opened {
            return Err(Error::Tampered(
                "the header of the encrypted log was changed".to_owned(),
            ));
        }
        self.salts = header[16..24].first_chunk().copied();
        Ok(Some(header))
    }

    pub(super) fn write_start(&mut self, raw: &dyn RawFile, header: &[u8]) -> Result<()> {
        self.flush(raw)?;
        let mut bytes = [0; START];
        bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        let nonce = self.nonces.next(&*self.keys.entropy)?;
        let (frames, associated) = (&self.keys.frames, self.start_associated());
        frames.seal_record(nonce, &associated, header, &mut bytes[MAGIC.len()..])?;
        raw.write(&bytes, 0)?;
        (self.salts, self.written) = (header[16..24].first_chunk().copied(), None);
        Ok(())
    }

    pub(super) fn start_associated(&self) -> [u8; 24] {
        let mut bytes = *b"log\0\0\0\0\x01----------------";
        bytes[8..].copy_from_slice(&self.id);
        bytes
    }

    /// The salts of the log; an error where there is no log.
    pub(super) fn salts(&mut self, raw: &dyn RawFile) -> Result<[u8; 8]> {
        if self.salts.is_none() {
            self.open_start(raw)?;
        }
        self.salts
            .ok_or_else(|| Error::Tampered("the encrypted log has no header".to_owned()))
    }
}
