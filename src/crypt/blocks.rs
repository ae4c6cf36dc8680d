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

use std::sync::Arc;

use super::RawFile;
use super::header::{Journal, Rollback};
use super::key::Keys;
use super::nonces::Nonces;
use super::raw::{MOST_BYTES, read_all, write_all};
use super::seal::OVERHEAD;
use super::super_journal::{self, JOURNAL_MAGIC as MAGIC};
use crate::error::{Error, Result};

/// Bytes of a block of a journal: SQLite's sector, with SQLITE_IOCAP_POWERSAFE_OVERWRITE.
const JOURNAL_BLOCK: usize = 512;

/// Bytes of the length of a block.
const LENGTH: usize = 2;

/// Where the header of a journal has the number that is another one in each.
const NONCE_AT: usize = 12;

/// Which blocks of a file must open.
#[derive(Clone, Copy)]
enum Reliable {
    /// All.
    Whole,
    /// Of a journal: those that hold its first bytes, so many; but the first only where it is not
    /// about to go, which is done by writing over it.
    Start { journal: Journal, first: bool },
}

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

    /// The rollback journal of the database file with this id, for which that needs it.
    pub fn journal(keys: Arc<Keys>, file_id: [u8; 16], rollback: Rollback) -> Self {
        let (journal, first) = match rollback {
            Rollback::NotNeeded => (Journal::default(), true),
            Rollback::Needed(journal) => (journal, true),
            Rollback::Complete(journal) => (journal, false),
        };
        Self {
            reliable: Reliable::Start { journal, first },
            // A super-journal goes when all databases of its transaction are complete. As long as one
            // is not, it has to be rolled back, even where somebody took the super-journal away.
            hides_super: matches!(rollback, Rollback::Needed(_)),
            ..Self::new(keys, file_id, JOURNAL_BLOCK)
        }
    }

    /// The journal of the present transaction, as far as it was written.
    pub fn as_journal(&self) -> Journal {
        match self.reliable {
            Reliable::Whole => Journal::default(),
            Reliable::Start { journal, .. } => journal,
        }
    }

    /// The number in the header of this journal.
    pub fn journal_nonce(&mut self, raw: &dyn RawFile) -> Result<u32> {
        let mut nonce = [0; 4];
        self.read(raw, &mut nonce, NONCE_AT as u64)?;
        Ok(u32::from_be_bytes(nonce))
    }

    /// A journal that was complete may have gone long ago: nothing relies on another one.
    pub fn recognise(&mut self, raw: &dyn RawFile) -> Result<()> {
        if let Reliable::Start {
            journal,
            first: false,
        } = self.reliable
            && self.journal_nonce(raw)? != journal.nonce
        {
            self.reliable = Reliable::Start {
                journal: Journal::default(),
                first: true,
            };
        }
        Ok(())
    }

    /// The super-journal that this journal names, and whose name is kept from SQLite.
    pub fn hidden_super(&mut self, raw: &dyn RawFile) -> Result<Option<String>> {
        if !self.hides_super {
            return Ok(None);
        }
        let size = self.size(raw)?;
        super_journal::named_at_end(size, |buffer, offset| self.read_range(raw, buffer, offset))
    }

    /// That is still there: SQLite may see its name, and takes it away when it has rolled back.
    pub fn show_super(&mut self) {
        self.hides_super = false;
    }

    /// A journal was written: its header begins another one.
    fn note_write(&mut self, data: &[u8], offset: u64) {
        self.hides_super = false;
        if data.len() == 1 {
            // Takes the magic of an older journal away, where the next header is to come: nothing
            // relies on it.
            return;
        }
        if let Reliable::Start { journal, first } = &mut self.reliable {
            let end = offset + data.len() as u64;
            if offset == 0 && data.len() >= JOURNAL_BLOCK {
                *first = true;
                journal.bytes = end;
                journal.nonce = data[NONCE_AT..]
                    .first_chunk()
                    .map_or(0, |nonce| u32::from_be_bytes(*nonce));
            } else if offset <= journal.bytes.next_multiple_of(JOURNAL_BLOCK as u64) {
                // Further headers begin at a sector.
                journal.bytes = journal.bytes.max(end);
            }
        }
    }

    fn must_open(&self, number: u64) -> bool {
        match self.reliable {
            Reliable::Whole => true,
            Reliable::Start { journal, first } => {
                number * (self.size as u64) < journal.bytes && (first || number > 0)
            }
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
        let looks_for_super = read == MAGIC.len() && buffer[..read] == MAGIC && offset > 0;
        if self.hides_super && looks_for_super && offset + MAGIC.len() as u64 == self.size(raw)? {
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
mod tests {
    use proptest::prelude::*;

    use super::super::cipher::Algorithm;
    use super::super::memory::{Bytes, keys, keys_for};
    use super::*;

    fn content(blocks: &mut SealedBlocks, raw: &Bytes) -> Vec<u8> {
        let mut bytes = vec![1; blocks.size(raw).unwrap() as usize + 7];
        let read = blocks.read(raw, &mut bytes, 0).unwrap();
        bytes.truncate(read);
        bytes
    }

    #[test]
    fn every_damage_is_an_error() {
        for algorithm in Algorithm::ALL {
            damage_blocks(&keys_for(algorithm));
        }
    }

    fn damage_blocks(keys: &Arc<Keys>) {
        let raw = Bytes::default();
        let mut blocks = SealedBlocks::new(Arc::clone(keys), [1; 16], 512);
        blocks.write(&raw, &[7; 1300], 0).unwrap();
        let whole = raw.copy();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let mut blocks = SealedBlocks::new(Arc::clone(keys), [1; 16], 512);
            let read = blocks.read(&Bytes::of(bytes), &mut [0; 1300], 0);
            assert!(matches!(read, Err(Error::Tampered(_))), "byte {at}");
        }
        // Two blocks of one length, exchanged.
        let mut bytes = whole.clone();
        let (a, b) = bytes.split_at_mut(554);
        a.swap_with_slice(&mut b[..554]);
        let read = SealedBlocks::new(Arc::clone(keys), [1; 16], 512).read(
            &Bytes::of(bytes),
            &mut [0; 8],
            0,
        );
        assert!(matches!(read, Err(Error::Tampered(_))));
    }

    #[test]
    fn another_file_with_the_same_key_is_an_error() {
        let (raw, keys) = (Bytes::default(), keys());
        let mut blocks = SealedBlocks::new(Arc::clone(&keys), [1; 16], 512);
        blocks.write(&raw, &[7; 600], 0).unwrap();
        let read = SealedBlocks::new(keys, [2; 16], 512).read(&raw, &mut [0; 8], 0);
        assert!(matches!(read, Err(Error::Tampered(_))));
    }

    /// Reads each block of a journal of four, all of which are damaged: which of them are errors.
    fn errors(keys: &Arc<Keys>, raw: &Bytes, rollback: Rollback) -> Vec<u64> {
        let mut journal = SealedBlocks::journal(Arc::clone(keys), [1; 16], rollback);
        let mut is_error = |number: &u64| {
            let mut bytes = [1; 8];
            match journal.read(raw, &mut bytes, number * 512) {
                Err(Error::Tampered(_)) => true,
                read => {
                    assert_eq!((read.unwrap(), bytes), (8, [0; 8]));
                    false
                }
            }
        };
        (0..4).filter(|number| is_error(number)).collect()
    }

    fn needed(bytes: u64) -> Journal {
        Journal { bytes, nonce: 7 }
    }

    /// The header of a journal that has this number.
    fn head(nonce: u8) -> [u8; 512] {
        let mut head = [7; 512];
        head[12..16].copy_from_slice(&[0, 0, 0, nonce]);
        head
    }

    fn journal(keys: &Arc<Keys>, rollback: Rollback) -> SealedBlocks {
        SealedBlocks::journal(Arc::clone(keys), [1; 16], rollback)
    }

    #[test]
    fn blocks_of_a_journal_must_open_where_the_database_relies_on_them() {
        let (raw, keys) = (Bytes::default(), keys());
        let mut first = journal(&keys, Rollback::NotNeeded);
        first.write(&raw, &head(7), 0).unwrap();
        first.write(&raw, &[7; 1400], 512).unwrap();
        assert_eq!(first.as_journal(), needed(1912));
        // The header of a second part begins at a sector; what lies behind a gap is of others.
        let mut parts = journal(&keys, Rollback::NotNeeded);
        parts.write(&raw, &head(7), 0).unwrap();
        parts.write(&raw, &[7; 1400], 512).unwrap();
        parts.write(&raw, &[0], 2048).unwrap();
        assert_eq!(parts.as_journal(), needed(1912));
        parts.write(&raw, &[7; 512], 2048).unwrap();
        assert_eq!(parts.as_journal(), needed(2560));
        parts.write(&raw, &[7; 4], 4096).unwrap();
        assert_eq!(parts.as_journal(), needed(2560));
        raw.truncate(4 * 554).unwrap();
        for number in 0..4 {
            raw.bytes.borrow_mut()[number * 554 + 100] ^= 1;
        }
        let errors = |rollback| errors(&keys, &raw, rollback);
        assert_eq!(errors(Rollback::NotNeeded), [0; 0]);
        assert_eq!(errors(Rollback::Needed(needed(1024))), [0, 1]);
        assert_eq!(errors(Rollback::Needed(needed(1025))), [0, 1, 2]);
        assert_eq!(errors(Rollback::Complete(needed(1912))), [1, 2, 3]);
        // The connection that has written it relies on it too.
        assert!(first.read(&raw, &mut [0; 8], 512).is_err());
        // Another transaction in the same file.
        first.write(&raw, &head(8), 0).unwrap();
        let journal = first.as_journal();
        assert_eq!((journal.bytes, journal.nonce), (512, 8));
        assert_eq!(first.read(&raw, &mut [0; 8], 512).unwrap(), 8);
        first.truncate(&raw, 0).unwrap();
        assert_eq!(first.as_journal().bytes, 0);
    }

    #[test]
    fn a_super_journal_counts_once_the_database_is_complete() {
        let (raw, keys) = (Bytes::default(), keys());
        let mut own = journal(&keys, Rollback::NotNeeded);
        own.write(&raw, &head(7), 0).unwrap();
        own.write(&raw, &MAGIC, 600).unwrap();
        let found = |rollback| {
            let mut bytes = [0; 8];
            let mut left = journal(&keys, rollback);
            assert_eq!(left.read(&raw, &mut bytes, 600).unwrap(), 8);
            bytes
        };
        assert_eq!(found(Rollback::Needed(needed(608))), [0; 8]);
        assert_eq!(found(Rollback::Complete(needed(608))), MAGIC);
        assert_eq!(found(Rollback::NotNeeded), MAGIC);
    }

    /// The header of the database may speak of a transaction before: its journal is gone, and this
    /// one was not synced when power failed.
    #[test]
    fn a_torn_journal_of_a_later_transaction_is_no_tampering() {
        let (raw, keys) = (Bytes::default(), keys());
        let mut later = journal(&keys, Rollback::NotNeeded);
        later.write(&raw, &head(8), 0).unwrap();
        later.write(&raw, &[7; 1400], 512).unwrap();
        raw.bytes.borrow_mut()[554 + 100] ^= 1;
        let mut bytes = [1; 8];
        for (nonce, opens) in [(7, true), (8, false)] {
            let mut journal = journal(&keys, Rollback::Complete(Journal { bytes: 1912, nonce }));
            journal.recognise(&raw).unwrap();
            assert_eq!(journal.read(&raw, &mut bytes, 512).is_ok(), opens);
            assert_eq!(journal.as_journal().bytes > 0, !opens);
        }
        assert_eq!(bytes, [0; 8]);
    }

    /// The part of a journal that was synced may end within a block.
    #[test]
    fn what_was_synced_is_not_written_again_where_the_file_grows() {
        for end in [600, 1023, 1024] {
            let (raw, keys) = (Bytes::default(), keys());
            let mut blocks = journal(&keys, Rollback::NotNeeded);
            blocks.write(&raw, &head(7), 0).unwrap();
            blocks.write(&raw, &vec![7; end - 512], 512).unwrap();
            let synced = raw.copy();
            blocks.write(&raw, &head(8), 1024).unwrap();
            blocks.write(&raw, &[8; 8], 5000).unwrap();
            assert_eq!(raw.copy()[..synced.len()], synced, "{end}");
            let content = content(&mut blocks, &raw);
            assert_eq!(content.len(), 5008);
            assert!(content[end..1024].iter().all(|byte| *byte == 0), "{end}");
            // So ends the file when none of the rest has come to the disk.
            let raw = Bytes::of(synced);
            let mut blocks = journal(&keys, Rollback::NotNeeded);
            assert_eq!(blocks.size(&raw).unwrap(), end as u64);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize, usize, u8),
        Truncate(usize),
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..4000_usize, 0..2600_usize, any::<u8>()).prop_map(|(at, n, fill)| Step::Write(at, n, fill)),
            1 => (0..5000_usize).prop_map(Step::Truncate),
            1 => Just(Step::Reopen),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_file(steps in prop::collection::vec(step(), 1..30), block in prop_oneof![Just(512_usize), Just(4096)], algorithm in prop::sample::select(&Algorithm::ALL[..])) {
            let (raw, keys) = (Bytes::default(), keys_for(algorithm));
            let mut blocks = SealedBlocks::new(Arc::clone(&keys), [1; 16], block);
            let mut model: Vec<u8> = Vec::new();
            for step in steps {
                match step {
                    Step::Write(at, n, fill) => {
                        blocks.write(&raw, &vec![fill; n], at as u64).unwrap();
                        if n > 0 {
                            model.resize(model.len().max(at + n), 0);
                            model[at..at + n].fill(fill);
                        }
                    }
                    Step::Truncate(size) => {
                        blocks.truncate(&raw, size as u64).unwrap();
                        model.resize(size, 0);
                    }
                    Step::Reopen => blocks = SealedBlocks::new(Arc::clone(&keys), [1; 16], block),
                }
                prop_assert_eq!(content(&mut blocks, &raw), &model[..]);
            }
            let mut other = SealedBlocks::new(keys, [1; 16], block);
            prop_assert_eq!(content(&mut other, &raw), model);
        }
    }
}
