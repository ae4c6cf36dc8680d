//! Files that are read and written in any ranges: rollback journals of encrypted databases, and
//! temporary files.
//!
//! The plain file is cut into blocks of B bytes (512 for journals, 4096 for temporary files). The
//! record of block b, from 0, begins at b * (B + 42):
//!
//! ```text
//!  0  24      nonce
//! 24  16      tag
//! 40  B + 2   the block, zeros where it is shorter, and its length (2, little-endian), sealed;
//!             authenticated with it: "block" and version (8 bytes), id of the database file or of
//!             the temporary file (16), B (4, little-endian), b (8)
//! ```
//!
//! Only the last block ends the file where it is shorter: one with others behind it reads as with
//! zeros.
//!
//! What was written is in the file when the call returns. A block of a journal is a sector to
//! SQLite: what was synced and what is written later never share one. So a block is not written
//! again where the file only grows behind it: power may fail, and tear what was synced before. Blocks
//! behind those that were synced may be torn: they read as zeros, which SQLite takes for the end of
//! the journal, as it does with a checksum that is wrong. Blocks that the database relies on
//! ([`Rollback`](super::header::Rollback)) must open.

mod journal;

use std::sync::Arc;

use self::journal::Reliable;

use super::RawFile;
use super::key::Keys;
use super::nonces::Nonces;
use super::raw::{MOST_BYTES, read_all, write_all};
use super::seal::OVERHEAD;
use super::super_journal::JOURNAL_MAGIC;
use crate::error::{Error, Result};

/// Bytes of the length of a block.
const LENGTH: usize = 2;

/// An encrypted file of blocks.
pub struct SealedBlocks {
    keys: Arc<Keys>,
    id: [u8; 16],
    size: usize,
    reliable: Reliable,
    /// Whether the name of a super-journal at the end of a journal is kept from SQLite.
    hides_super: bool,
    nonces: Nonces,
    /// The block that was read or written last, in the clear, with its length; and its number.
    block: Vec<u8>,
    at: Option<u64>,
    /// Size of the file on disk, and of the plain file that is in it.
    known: Option<(u64, u64)>,
    record: Vec<u8>,
    run: Vec<u8>,
}

impl SealedBlocks {
    /// A temporary file, with an id that no other one has.
    pub fn new(keys: Arc<Keys>, id: [u8; 16], block_bytes: usize) -> Self {
        Self {
            keys,
            id,
            size: block_bytes,
            reliable: Reliable::Whole,
            hides_super: false,
            nonces: Nonces::new(),
            block: Vec::new(),
            at: None,
            known: None,
            record: Vec::new(),
            run: Vec::new(),
        }
    }

    fn record_bytes(&self) -> u64 {
        (OVERHEAD + self.size + LENGTH) as u64
    }

    /// Length of the content of `block`.
    fn length(&self) -> usize {
        match self.block[self.size..] {
            [low, high] => usize::from(u16::from_le_bytes([low, high])).min(self.size),
            _ => 0,
        }
    }

    fn set_length(&mut self, length: usize) {
        self.block[self.size..].copy_from_slice(&(length as u16).to_le_bytes());
    }

    /// Size of the plain file.
    pub fn size(&mut self, raw: &dyn RawFile) -> Result<u64> {
        let there = raw.size()?;
        if let Some((known, size)) = self.known
            && known == there
        {
            return Ok(size);
        }
        let size = match (there / self.record_bytes()).checked_sub(1) {
            Some(last) => {
                self.load(raw, last)?;
                last * self.size as u64 + self.length() as u64
            }
            None => 0,
        };
        self.known = Some((there, size));
        Ok(size)
    }

    /// Reads any range; returns how many bytes there were before the end.
    pub fn read(&mut self, raw: &dyn RawFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let read = self.read_range(raw, buffer, offset)?;
        let looks_for_super =
            read == JOURNAL_MAGIC.len() && buffer[..read] == JOURNAL_MAGIC && offset > 0;
        if self.hides_super
            && looks_for_super
            && offset + JOURNAL_MAGIC.len() as u64 == self.size(raw)?
        {
            buffer[..read].fill(0);
        }
        Ok(read)
    }

    fn read_range(&mut self, raw: &dyn RawFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let (number, start) = self.place(at);
            self.load(raw, number)?;
            let mut there = self.length();
            if there < self.size && raw.size()? / self.record_bytes() > number + 1 {
                there = self.size;
            }
            let count = there.saturating_sub(start).min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&self.block[start..start + count]);
            done += count;
            if start + count < self.size {
                break;
            }
        }
        Ok(done)
    }

    /// Number of the block of a byte, and where in it that is.
    fn place(&self, offset: u64) -> (u64, usize) {
        let size = self.size as u64;
        (offset / size, (offset % size) as usize)
    }

    /// Puts a block into `block`: empty behind the end.
    fn load(&mut self, raw: &dyn RawFile, number: u64) -> Result<()> {
        if self.at == Some(number) {
            return Ok(());
        }
        self.at = None;
        let whole = self.record_bytes();
        self.record.resize(whole as usize, 0);
        self.block.clear();
        self.block.resize(self.size + LENGTH, 0);
        let read = read_all(raw, &mut self.record, number * whole)?;
        if read > 0 && !self.open(number, read) {
            if self.must_open(number) {
                return Err(Error::Tampered(format!(
                    "block {number} of an encrypted journal or temporary file was changed"
                )));
            }
            self.block.fill(0);
            self.set_length(if read as u64 == whole { self.size } else { 0 });
        }
        self.at = Some(number);
        Ok(())
    }

    /// Opens the record of which so many bytes were read.
    fn open(&mut self, number: u64, read: usize) -> bool {
        let associated = self.associated(number);
        let blocks = &self.keys.blocks;
        blocks.open_record(&self.record[..read], &associated, &mut self.block)
    }

    fn associated(&self, number: u64) -> [u8; 36] {
        let mut bytes = *b"block\0\0\x01----------------------------";
        bytes[8..24].copy_from_slice(&self.id);
        bytes[24..28].copy_from_slice(&(self.size as u32).to_le_bytes());
        bytes[28..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    /// Writes any range; what lies between the end and it becomes zero.
    pub fn write(&mut self, raw: &dyn RawFile, data: &[u8], offset: u64) -> Result<()> {
        self.write_range(raw, data, offset)?;
        self.note_write(data, offset);
        Ok(())
    }

    fn write_range(&mut self, raw: &dyn RawFile, data: &[u8], offset: u64) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let size = self.size(raw)?;
        self.known = None;
        self.fill(raw, size, offset)?;
        self.put(raw, data, offset)?;
        let size = size.max(offset + data.len() as u64);
        let there = size.div_ceil(self.size as u64) * self.record_bytes();
        self.known = Some((there, size));
        Ok(())
    }

    /// Gives blocks of zeros to all between the last one and that of `offset`.
    fn fill(&mut self, raw: &dyn RawFile, size: u64, offset: u64) -> Result<()> {
        let block = self.size as u64;
        let (mut at, end) = (size.next_multiple_of(block), offset / block * block);
        let zeros = [0; 4096];
        while at < end {
            let count = (end - at).min(zeros.len() as u64);
            self.put(raw, &zeros[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    /// Writes a range that begins within the file or in the block behind it.
    fn put(&mut self, raw: &dyn RawFile, data: &[u8], offset: u64) -> Result<()> {
        let (mut begin, _) = self.place(offset);
        let record = self.record_bytes();
        let mut done = 0;
        self.run.clear();
        while done < data.len() {
            let (number, start) = self.place(offset + done as u64);
            let count = (self.size - start).min(data.len() - done);
            if count < self.size {
                self.load(raw, number)?;
            }
            self.block.resize(self.size + LENGTH, 0);
            // Not known to be in the file before it is written.
            self.at = None;
            self.block[start..start + count].copy_from_slice(&data[done..done + count]);
            self.set_length(self.length().max(start + count));
            self.append_record(number)?;
            done += count;
            if self.run.len() as u64 + record > MOST_BYTES as u64 || done == data.len() {
                write_all(raw, &self.run, begin * record)?;
                self.at = Some(number);
                self.run.clear();
                begin = number + 1;
            }
        }
        Ok(())
    }

    /// Seals `block` behind the records that wait in `run`.
    fn append_record(&mut self, number: u64) -> Result<()> {
        let nonce = self.nonces.next(&*self.keys.entropy)?;
        let associated = self.associated(number);
        let start = self.run.len();
        self.run.resize(start + OVERHEAD + self.block.len(), 0);
        let blocks = &self.keys.blocks;
        blocks
            .seal_record(nonce, &associated, &self.block, &mut self.run[start..])
            .map(drop)
    }

    /// Cuts the plain file, or lets it grow by zeros.
    pub fn truncate(&mut self, raw: &dyn RawFile, size: u64) -> Result<()> {
        if let Reliable::Start { journal, .. } = &mut self.reliable {
            journal.bytes = size.min(journal.bytes);
        }
        let now = self.size(raw)?;
        if size == now {
            return Ok(());
        }
        let Some(end) = size.checked_sub(1) else {
            (self.at, self.known) = (None, None);
            return raw.truncate(0);
        };
        if size > now {
            return self.write_range(raw, &[0], end);
        }
        let (last, at) = self.place(end);
        self.load(raw, last)?;
        (self.at, self.known) = (None, None);
        raw.truncate((last + 1) * self.record_bytes())?;
        if self.length() == at + 1 {
            return Ok(());
        }
        self.block[at + 1..].fill(0);
        self.set_length(at + 1);
        self.run.clear();
        self.append_record(last)?;
        write_all(raw, &self.run, last * self.record_bytes())
    }
}

#[cfg(test)]
mod tests;
