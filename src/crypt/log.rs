//! The write-ahead log of an encrypted database. SQLite sees its own format (wal/frame.rs): a
//! header of 32 bytes, then frames of a header of 24 bytes and a page of N. On disk:
//!
//! ```text
//!  0   8  "rplwal" and version (2 bytes): 0, 1
//!  8  24  nonce of the log's header
//! 32  16  its tag
//! 48  32  SQLite's header of the log, sealed; authenticated with it: "log" and version (8 bytes), id
//!         of the database file (16)
//! 80      frames of 120 + N bytes
//! ```
//!
//! A frame:
//!
//! ```text
//!   0  24  nonce
//!  24  16  tag
//!  40  40  SQLite's header of the frame (24) and the tag of its page (16), sealed; authenticated
//!          with it: "frame" and version (8), id of the database file (16), salts of the log's
//!          header (8), index of the frame from 1 (4, little-endian)
//!  80      the record of the page, as it lies in the database file (database.rs)
//! ```
//!
//! So a frame opens at its own place only, in its own use of the log, and with its own page. Not told
//! apart are two frames that were written at one place in one use of the log, as after a transaction
//! that was given up: who has kept the earlier one can put it back while the log is in use. SQLite's
//! checksums, over all frames before, find it when the log is recovered.
//!
//! SQLite writes the header of a frame and then its page; where it only puts the checksum of a header
//! right, nothing follows. It reads a frame from its header on when it looks for the end of the log,
//! and without its header when it wants the page.

use std::sync::Arc;

use super::RawFile;
use super::database::{SealedPage, associated};
use super::header::Backfill;
use super::key::Keys;
use super::nonces::Nonces;
use super::raw::{MOST_BYTES, read_all, write_all};
use super::seal::{OVERHEAD, Seal, TAG_BYTES};
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

const MAGIC: [u8; 8] = *b"rplwal\0\x01";
/// SQLite's header of the log, and that of a frame.
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The sealed header of the log, on disk.
const START: usize = MAGIC.len() + OVERHEAD + LOG_HEADER;
/// The sealed header of a frame, on disk.
const SEALED_HEADER: usize = OVERHEAD + FRAME_HEADER + TAG_BYTES;

/// What a frame that does not open means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// It was changed.
    IsAnError,
    /// The log ends before it: it was torn by a crash, or is of an earlier use. When SQLite looks
    /// for the end of the log, such a frame reads as zeros.
    EndsTheLog,
}

/// The header of a frame, opened.
struct FrameStart {
    header: [u8; FRAME_HEADER],
    tag: [u8; TAG_BYTES],
}

impl FrameStart {
    fn page(&self) -> Option<PageNumber> {
        let [a, b, c, d, ..] = self.header;
        PageNumber::new(u32::from_be_bytes([a, b, c, d]))
    }
}

/// The log, as one connection sees it.
pub struct SealedLog {
    keys: Arc<Keys>,
    id: [u8; 16],
    size: PageSize,
    nonces: Nonces,
    /// Those of the log's header, as long as nobody else can have begun it anew.
    salts: Option<[u8; 8]>,
    /// A frame's header whose page is to come.
    pending: Option<(u32, [u8; FRAME_HEADER])>,
    /// Frames that wait to be written, and the index of the first.
    buffer: Vec<u8>,
    first: u32,
    /// First and last frame this connection has written in its transaction.
    written: Option<(u32, u32)>,
    /// What the database cannot do without.
    needed: Backfill,
    scratch: Vec<u8>,
    page: Vec<u8>,
}

impl SealedLog {
    /// The log of the database file with this id.
    pub fn new(keys: Arc<Keys>, file_id: [u8; 16], page_size: PageSize, needed: Backfill) -> Self {
        Self {
            keys,
            id: file_id,
            size: page_size,
            nonces: Nonces::new(),
            salts: None,
            pending: None,
            buffer: Vec::new(),
            first: 0,
            written: None,
            needed,
            scratch: Vec::new(),
            page: Vec::new(),
        }
    }

    /// Locks were taken or given back: another connection may have begun the log anew.
    pub fn forget(&mut self) {
        self.salts = None;
    }

    /// The same, where the shared index has the salts of the newest commit: whoever begins the log
    /// anew says so there first.
    pub fn forget_unless(&mut self, salts: [u8; 8]) {
        if self.salts != Some(salts) {
            self.salts = None;
        }
    }

    /// A transaction begins or ends. What was not written yet is of one that was given up.
    pub fn end_transaction(&mut self) {
        (self.pending, self.written) = (None, None);
        self.buffer.clear();
    }

    /// What the header of the database says of its log.
    pub fn need(&mut self, backfill: Backfill) {
        self.needed = backfill;
    }

    /// Bytes of a frame for SQLite, and on disk.
    fn frame_bytes(&self) -> u64 {
        (FRAME_HEADER + self.size.bytes()) as u64
    }

    fn stride(&self) -> usize {
        SEALED_HEADER + OVERHEAD + self.size.bytes()
    }

    fn place(&self, frame: u32) -> u64 {
        START as u64 + u64::from(frame - 1) * self.stride() as u64
    }

    /// The frame a byte behind the header belongs to, and where in it that is.
    fn frame_at(&self, offset: u64) -> Result<(u32, usize)> {
        let behind = offset - LOG_HEADER as u64;
        let frame = u32::try_from(behind / self.frame_bytes() + 1)
            .map_err(|_| Error::Misuse("a log of too many frames".to_owned()))?;
        Ok((frame, (behind % self.frame_bytes()) as usize))
    }

    /// Size of the log for SQLite, in whole frames.
    pub fn size(&mut self, raw: &dyn RawFile, damage: Damage) -> Result<u64> {
        if damage == Damage::EndsTheLog {
            self.check_needed(raw)?;
        }
        let Some(frames) = raw.size()?.checked_sub(START as u64) else {
            return Ok(0);
        };
        let stride = self.stride() as u64;
        let frames = match self.waiting() {
            0 => frames / stride,
            waiting => (frames / stride).max(u64::from(self.first - 1 + waiting)),
        };
        Ok(LOG_HEADER as u64 + frames * self.frame_bytes())
    }

    /// Frames that wait to be written.
    fn waiting(&self) -> u32 {
        (self.buffer.len() / self.stride()) as u32
    }

    /// Before SQLite looks for the end of the log: a checkpoint that was interrupted, or some of
    /// whose frames were not the last, is of use only with its log.
    fn check_needed(&mut self, raw: &dyn RawFile) -> Result<()> {
        let needed = self.needed;
        let opened = match self.open_start(raw) {
            Ok(header) => header.is_some(),
            Err(Error::Tampered(_)) => false,
            Err(error) => return Err(error),
        };
        let same = opened && self.salts == Some(needed.salts);
        if needed.under_way && !same {
            return Err(Error::Tampered(
                "the encrypted log was taken away before it was copied into the database"
                    .to_owned(),
            ));
        }
        if same && raw.size()? < self.place(needed.frames.saturating_add(1)) {
            return Err(changed(needed.frames));
        }
        Ok(())
    }

    /// Whether the database has pages of this frame, or of one behind it.
    fn is_needed(&self, frame: u32) -> bool {
        frame <= self.needed.frames && self.salts == Some(self.needed.salts)
    }

    /// Cuts the log.
    pub fn truncate(&mut self, raw: &dyn RawFile, size: u64) -> Result<()> {
        self.flush(raw)?;
        let frames = size.saturating_sub(LOG_HEADER as u64) / self.frame_bytes();
        match size {
            0 => raw.truncate(0),
            _ => raw.truncate(START as u64 + frames * self.stride() as u64),
        }
    }

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

    /// Writes what waits, if this frame is among it.
    fn write_waiting(&mut self, raw: &dyn RawFile, frame: u32) -> Result<()> {
        let waiting = self.first..self.first.saturating_add(self.waiting());
        match waiting.contains(&frame) {
            true => self.write_buffer(raw),
            false => Ok(()),
        }
    }

    /// Reads from the header of the log; false where there is none.
    fn read_start(&mut self, raw: &dyn RawFile, from: usize, target: &mut [u8]) -> Result<bool> {
        let header = self.open_start(raw)?;
        if let Some(header) = header {
            target.copy_from_slice(&header[from..from + target.len()]);
        }
        Ok(header.is_some())
    }

    /// The header of the log; its salts are remembered.
    fn open_start(&mut self, raw: &dyn RawFile) -> Result<Option<[u8; LOG_HEADER]>> {
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

    fn start_associated(&self) -> [u8; 24] {
        let mut bytes = *b"log\0\0\0\0\x01----------------";
        bytes[8..].copy_from_slice(&self.id);
        bytes
    }

    fn frame_associated(&self, salts: [u8; 8], frame: u32) -> [u8; 36] {
        let mut bytes = *b"frame\0\0\x01----------------------------";
        bytes[8..24].copy_from_slice(&self.id);
        bytes[24..32].copy_from_slice(&salts);
        bytes[32..].copy_from_slice(&frame.to_le_bytes());
        bytes
    }

    /// The salts of the log; an error where there is no log.
    fn salts(&mut self, raw: &dyn RawFile) -> Result<[u8; 8]> {
        if self.salts.is_none() {
            self.open_start(raw)?;
        }
        self.salts
            .ok_or_else(|| Error::Tampered("the encrypted log has no header".to_owned()))
    }

    /// Reads a range of one frame; false where the log ends before the end of the frame.
    fn read_frame(
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

    /// Reads `length` bytes of a frame into `scratch` and opens its header; `None` where they are
    /// not all there.
    fn load(&mut self, raw: &dyn RawFile, frame: u32, length: usize) -> Result<Option<FrameStart>> {
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

    fn open_header(&self, salts: [u8; 8], frame: u32) -> Option<FrameStart> {
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

    /// The seal of the page in `scratch`, which its frame's header must name, and its number.
    fn page_seal(&self, frame: u32, start: &FrameStart) -> Result<(PageNumber, Seal)> {
        let seal = Seal::parse(&self.scratch[SEALED_HEADER..]);
        match (seal, start.page()) {
            (Some(seal), Some(page)) if seal.tag == start.tag => Ok((page, seal)),
            _ => Err(changed(frame)),
        }
    }

    /// Opens the page in `scratch` and hands out a range of it.
    fn open_page(
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

    fn write_start(&mut self, raw: &dyn RawFile, header: &[u8]) -> Result<()> {
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

    fn put_header(
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

    fn put_page(&mut self, raw: &dyn RawFile, frame: u32, page: &[u8]) -> Result<()> {
        match self.pending.take() {
            Some((waiting, header)) if waiting == frame => self.append(raw, frame, header, page),
            other => {
                self.pending = other;
                self.overwrite(raw, frame, page)
            }
        }
    }

    /// Puts a frame behind those that wait.
    fn append(
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
    fn push(
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

    fn seal_behind(
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

    fn seal_header(
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

    /// The header of a frame that must be there.
    fn start_of(&mut self, raw: &dyn RawFile, frame: u32) -> Result<FrameStart> {
        self.load(raw, frame, SEALED_HEADER)?
            .ok_or_else(|| changed(frame))
    }

    /// Another page for a frame that is there: SQLite does so with pages that did not fit its cache.
    fn overwrite(&mut self, raw: &dyn RawFile, frame: u32, page: &[u8]) -> Result<()> {
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
    fn reseal(&mut self, raw: &dyn RawFile, frame: u32, header: [u8; FRAME_HEADER]) -> Result<()> {
        self.write_buffer(raw)?;
        let start = self.start_of(raw, frame)?;
        let salts = self.salts(raw)?;
        let sealed = self.seal_header(salts, frame, &header, &start.tag)?;
        raw.write(&sealed, self.place(frame))
    }

    /// A header whose page did not come was a new one for an old frame.
    fn resolve(&mut self, raw: &dyn RawFile) -> Result<()> {
        match self.pending.take() {
            Some((frame, header)) => self.reseal(raw, frame, header),
            None => Ok(()),
        }
    }

    fn write_buffer(&mut self, raw: &dyn RawFile) -> Result<()> {
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

fn changed(frame: u32) -> Error {
    Error::Tampered(format!(
        "frame {frame} of the encrypted log was changed, moved or cut off"
    ))
}

#[cfg(test)]
mod tests;
