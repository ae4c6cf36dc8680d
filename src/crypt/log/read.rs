//! Reading as SQLite does, and for a checkpoint.

use super::{Damage, FRAME_HEADER, LOG_HEADER, SEALED_HEADER, SealedLog, changed};
use crate::crypt::page::SealedPage;
use crate::crypt::raw::RawFile;
use crate::crypt::seal::OVERHEAD;
use crate::error::{Error, Result};

impl SealedLog {
    /// Reads any range; returns how many bytes there were before the end.
    pub fn read(
        &mut self,
        raw: &dyn RawFile,
        buffer: &mut [u8],
        offset: u64,
        damage: Damage,
    ) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let rest = &mut buffer[done..];
            let (count, read) = if at < LOG_HEADER as u64 {
                let at = at as usize;
                let count = rest.len().min(LOG_HEADER - at);
                let read = self.read_start(raw, at, &mut rest[..count]);
                (count, lenient(read, damage, &mut rest[..count]))
            } else {
                let (frame, from) = self.frame_at(at)?;
                let count = rest.len().min(self.frame_bytes() as usize - from);
                self.write_waiting(raw, frame)?;
                let read = self.read_frame(raw, frame, from, &mut rest[..count]);
                let own = self
                    .written
                    .is_some_and(|(first, last)| (first..=last).contains(&frame));
                let damage = match from == 0 && !own && !self.is_needed(frame) {
                    true => damage,
                    false => Damage::IsAnError,
                };
                (count, lenient(read, damage, &mut rest[..count]))
            };
            if !read? {
                return Ok(done);
            }
            done += count;
        }
        Ok(done)
    }

    /// The page of a frame as it is sealed, for a checkpoint: `offset` is that of the page.
    pub fn read_sealed(
        &mut self,
        raw: &dyn RawFile,
        ciphertext: &mut [u8],
        offset: u64,
    ) -> Result<SealedPage> {
        let wrong = || Error::Misuse("a checkpoint reads whole pages".to_owned());
        let (frame, from) = match offset >= LOG_HEADER as u64 {
            true => self.frame_at(offset)?,
            false => return Err(wrong()),
        };
        if from != FRAME_HEADER || ciphertext.len() != self.size.bytes() {
            return Err(wrong());
        }
        self.write_waiting(raw, frame)?;
        let start = self.load(raw, frame, self.stride())?;
        let start = start.ok_or_else(|| changed(frame))?;
        let (number, seal) = self.page_seal(frame, &start)?;
        ciphertext.copy_from_slice(&self.scratch[SEALED_HEADER + OVERHEAD..]);
        Ok(SealedPage {
            number,
            seal,
            frame,
            salts: self.salts(raw)?,
        })
    }

    /// Reads a range of one frame; false where the log ends before the end of the frame.
    pub(super) fn read_frame(
        &mut self,
        raw: &dyn RawFile,
        frame: u32,
        from: usize,
        target: &mut [u8],
    ) -> Result<bool> {
        let end = from + target.len();
        let length = match end <= FRAME_HEADER {
            true => SEALED_HEADER,
            false => self.stride(),
        };
        let Some(start) = self.load(raw, frame, length)? else {
            return Ok(false);
        };
        if from < FRAME_HEADER {
            let count = FRAME_HEADER.min(end) - from;
            target[..count].copy_from_slice(&start.header[from..from + count]);
        }
        if end > FRAME_HEADER {
            let skipped = FRAME_HEADER.saturating_sub(from);
            let from = from.saturating_sub(FRAME_HEADER);
            self.open_page(frame, &start, from, &mut target[skipped..])?;
        }
        Ok(true)
    }

    /// Writes what waits, if this frame is among it.
    pub(super) fn write_waiting(&mut self, raw: &dyn RawFile, frame: u32) -> Result<()> {
        let waiting = self.first..self.first.saturating_add(self.waiting());
        match waiting.contains(&frame) {
            true => self.write_buffer(raw),
            false => Ok(()),
        }
    }
}

/// What was changed reads as zeros, where that ends the log.
fn lenient(read: Result<bool>, damage: Damage, target: &mut [u8]) -> Result<bool> {
    match read {
        Err(Error::Tampered(_)) if damage == Damage::EndsTheLog => {
            target.fill(0);
            Ok(true)
        }
        read => read,
    }
}
