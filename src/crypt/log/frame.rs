//! One frame: its header, and the page behind it.

use super::{FRAME_HEADER, SEALED_HEADER, SealedLog, changed};
use crate::crypt::page::associated;
use crate::crypt::raw::{RawFile, read_all};
use crate::crypt::seal::{OVERHEAD, Seal, TAG_BYTES};
use crate::error::{Error, Result};
use crate::page::PageNumber;

/// The header of a frame, opened.
pub(super) struct FrameStart {
    pub(super) header: [u8; FRAME_HEADER],
    pub(super) tag: [u8; TAG_BYTES],
}

impl FrameStart {
    pub(super) fn page(&self) -> Option<PageNumber> {
        let [a, b, c, d, ..] = self.header;
        PageNumber::new(u32::from_be_bytes([a, b, c, d]))
    }
}

impl SealedLog {
    /// Reads `length` bytes of a frame into `scratch` and opens its header; `None` where they are
    /// not all there.
    pub(super) fn load(
        &mut self,
        raw: &dyn RawFile,
        frame: u32,
        length: usize,
    ) -> Result<Option<FrameStart>> {
        let place = self.place(frame);
        self.scratch.resize(length, 0);
        if read_all(raw, &mut self.scratch, place)? < length {
            return Ok(None);
        }
        let salts = self.salts(raw)?;
        if let Some(start) = self.open_header(salts, frame) {
            return Ok(Some(start));
        }
        // Another writer may have begun the log anew.
        self.salts = None;
        match self.salts(raw)? {
            now if now != salts => self.open_header(now, frame),
            _ => None,
        }
        .map(Some)
        .ok_or_else(|| changed(frame))
    }

    pub(super) fn open_header(&self, salts: [u8; 8], frame: u32) -> Option<FrameStart> {
        let mut plain = [0; FRAME_HEADER + TAG_BYTES];
        let (frames, record) = (&self.keys.frames, &self.scratch[..SEALED_HEADER]);
        if !frames.open_record(record, &self.frame_associated(salts, frame), &mut plain) {
            return None;
        }
        let (header, tag) = plain.split_first_chunk()?;
        Some(FrameStart {
            header: *header,
            tag: *tag.first_chunk()?,
        })
    }

    pub(super) fn seal_header(
        &mut self,
        salts: [u8; 8],
        frame: u32,
        header: &[u8; FRAME_HEADER],
        tag: &[u8; TAG_BYTES],
    ) -> Result<[u8; SEALED_HEADER]> {
        let (mut content, mut sealed) = ([0; FRAME_HEADER + TAG_BYTES], [0; SEALED_HEADER]);
        content[..FRAME_HEADER].copy_from_slice(header);
        content[FRAME_HEADER..].copy_from_slice(tag);
        let nonce = self.nonces.next(&*self.keys.entropy)?;
        let (frames, associated) = (&self.keys.frames, self.frame_associated(salts, frame));
        frames.seal_record(nonce, &associated, &content, &mut sealed)?;
        Ok(sealed)
    }

    pub(super) fn frame_associated(&self, salts: [u8; 8], frame: u32) -> [u8; 36] {
        let mut bytes = *b"frame\0\0\x01----------------------------";
        bytes[8..24].copy_from_slice(&self.id);
        bytes[24..32].copy_from_slice(&salts);
        bytes[32..].copy_from_slice(&frame.to_le_bytes());
        bytes
    }

    /// The seal of the page in `scratch`, which its frame's header must name, and its number.
    pub(super) fn page_seal(&self, frame: u32, start: &FrameStart) -> Result<(PageNumber, Seal)> {
        let seal = Seal::parse(&self.scratch[SEALED_HEADER..]);
        match (seal, start.page()) {
            (Some(seal), Some(page)) if seal.tag == start.tag => Ok((page, seal)),
            _ => Err(changed(frame)),
        }
    }

    /// Opens the page in `scratch` and hands out a range of it.
    pub(super) fn open_page(
        &mut self,
        frame: u32,
        start: &FrameStart,
        from: usize,
        target: &mut [u8],
    ) -> Result<()> {
        let (number, seal) = self.page_seal(frame, start)?;
        let associated = associated(&self.id, number);
        let ciphertext = &self.scratch[SEALED_HEADER + OVERHEAD..];
        let pages = &self.keys.pages;
        let opened = if target.len() == self.size.bytes() {
            pages.open_into(&seal, &associated, ciphertext, target)
        } else {
            self.page.resize(self.size.bytes(), 0);
            let opened = pages.open_into(&seal, &associated, ciphertext, &mut self.page);
            if opened {
                target.copy_from_slice(&self.page[from..from + target.len()]);
            }
            opened
        };
        match opened {
            true => Ok(()),
            false => Err(Error::Tampered(format!(
                "page {number} in frame {frame} of the encrypted log was changed"
            ))),
        }
    }

    /// The header of a frame that must be there.
    pub(super) fn start_of(&mut self, raw: &dyn RawFile, frame: u32) -> Result<FrameStart> {
        self.load(raw, frame, SEALED_HEADER)?
            .ok_or_else(|| changed(frame))
    }
}
