//! Writing as SQLite does: the header of a frame, then its page; frames wait to be written together.

use super::frame::FrameStart;
use super::{FRAME_HEADER, LOG_HEADER, SEALED_HEADER, SealedLog};
use crate::crypt::page::associated;
use crate::crypt::raw::{MOST_BYTES, RawFile, write_all};
use crate::crypt::seal::TAG_BYTES;
use crate::error::{Error, Result};

impl SealedLog {
    /// Writes the log's header, or frames and parts of frames as SQLite does: see the head of the
    /// module.
    pub fn write(&mut self, raw: &dyn RawFile, mut data: &[u8], mut offset: u64) -> Result<()> {
        if offset == 0 && data.len() == LOG_HEADER {
            return self.write_start(raw, data);
        }
        let wrong = || Error::Misuse("a write that is none of a log".to_owned());
        if offset < LOG_HEADER as u64 {
            return Err(wrong());
        }
        let page_bytes = self.size.bytes();
        while !data.is_empty() {
            let (frame, from) = self.frame_at(offset)?;
            let taken = match from {
                0 => {
                    let header = data.first_chunk().ok_or_else(wrong)?;
                    self.put_header(raw, frame, *header)?;
                    FRAME_HEADER
                }
                FRAME_HEADER if data.len() >= page_bytes => {
                    self.put_page(raw, frame, &data[..page_bytes])?;
                    page_bytes
                }
                _ => return Err(wrong()),
            };
            data = &data[taken..];
            offset += taken as u64;
        }
        Ok(())
    }

    pub(super) fn put_header(
        &mut self,
        raw: &dyn RawFile,
        frame: u32,
        header: [u8; FRAME_HEADER],
    ) -> Result<()> {
        self.resolve(raw)?;
        match self.written {
            // Perhaps the last call before the transaction is published.
            Some((first, last)) if (first..=last).contains(&frame) => {
                self.reseal(raw, frame, header)
            }
            _ => {
                self.pending = Some((frame, header));
                Ok(())
            }
        }
    }

    pub(super) fn put_page(&mut self, raw: &dyn RawFile, frame: u32, page: &[u8]) -> Result<()> {
        match self.pending.take() {
            Some((waiting, header)) if waiting == frame => self.append(raw, frame, header, page),
            other => {
                self.pending = other;
                self.overwrite(raw, frame, page)
            }
        }
    }

    /// Puts a frame behind those that wait.
    pub(super) fn append(
        &mut self,
        raw: &dyn RawFile,
        frame: u32,
        header: [u8; FRAME_HEADER],
        page: &[u8],
    ) -> Result<()> {
        let waiting = self.waiting();
        let full = self.buffer.len() + self.stride() > MOST_BYTES;
        if waiting > 0 && (full || frame != self.first + waiting) {
            self.write_buffer(raw)?;
        }
        if self.buffer.is_empty() {
            self.first = frame;
        }
        let before = self.buffer.len();
        self.push(raw, frame, header, page)?;
        // A commit: others see it as soon as the index says so.
        if header[4..8] != [0; 4]
            && let Err(error) = self.write_buffer(raw)
        {
            // To SQLite this frame was not written; those before it were.
            self.buffer.truncate(before);
            return Err(error);
        }
        self.written = match self.written {
            Some((first, last)) if frame == last + 1 => Some((first, frame)),
            Some((first, last)) if (first..=last).contains(&frame) => Some((first, last)),
            _ => Some((frame, frame)),
        };
        Ok(())
    }

    /// Seals a frame behind `buffer`, or leaves it as it was.
    pub(super) fn push(
        &mut self,
        raw: &dyn RawFile,
        frame: u32,
        header: [u8; FRAME_HEADER],
        page: &[u8],
    ) -> Result<()> {
        let at = self.buffer.len();
        let sealed = self.seal_behind(raw, frame, header, page);
        if sealed.is_err() {
            self.buffer.truncate(at);
        }
        sealed
    }

    pub(super) fn seal_behind(
        &mut self,
        raw: &dyn RawFile,
        frame: u32,
        header: [u8; FRAME_HEADER],
        page: &[u8],
    ) -> Result<()> {
        let start = FrameStart {
            header,
            tag: [0; TAG_BYTES],
        };
        let number = start
            .page()
            .ok_or_else(|| Error::Misuse("a frame of page 0".to_owned()))?;
        let salts = self.salts(raw)?;
        let at = self.buffer.len();
        self.buffer.resize(at + self.stride(), 0);
        let nonce = self.nonces.next(&*self.keys.entropy)?;
        let (pages, associated) = (&self.keys.pages, associated(&self.id, number));
        let record = &mut self.buffer[at + SEALED_HEADER..];
        let seal = pages.seal_record(nonce, &associated, page, record)?;
        let sealed = self.seal_header(salts, frame, &header, &seal.tag)?;
        self.buffer[at..at + SEALED_HEADER].copy_from_slice(&sealed);
        Ok(())
    }

    /// Another page for a frame that is there: SQLite does so with pages that did not fit its cache.
    pub(super) fn overwrite(&mut self, raw: &dyn RawFile, frame: u32, page: &[u8]) -> Result<()> {
        self.flush(raw)?;
        let start = self.start_of(raw, frame)?;
        self.first = frame;
        self.push(raw, frame, start.header, page)?;
        let written = self.write_buffer(raw);
        // On failure SQLite knows.
        self.buffer.clear();
        written
    }

    /// Another header for a frame whose page stays.
    pub(super) fn reseal(
        &mut self,
        raw: &dyn RawFile,
        frame: u32,
        header: [u8; FRAME_HEADER],
    ) -> Result<()> {
        self.write_buffer(raw)?;
        let start = self.start_of(raw, frame)?;
        let salts = self.salts(raw)?;
        let sealed = self.seal_header(salts, frame, &header, &start.tag)?;
        raw.write(&sealed, self.place(frame))
    }

    /// A header whose page did not come was a new one for an old frame.
    pub(super) fn resolve(&mut self, raw: &dyn RawFile) -> Result<()> {
        match self.pending.take() {
            Some((frame, header)) => self.reseal(raw, frame, header),
            None => Ok(()),
        }
    }

    pub(super) fn write_buffer(&mut self, raw: &dyn RawFile) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        // What failed is kept: SQLite was told that these frames are written.
        write_all(raw, &self.buffer, self.place(self.first))?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes everything that waits.
    pub fn flush(&mut self, raw: &dyn RawFile) -> Result<()> {
        self.resolve(raw)?;
        self.write_buffer(raw)
    }
}
