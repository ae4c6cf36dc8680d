//! The header of an encrypted database file: two copies, of which the newest whole one counts.
//!
//! Copy A lies at byte 0, copy B at byte 4096, so that they share no sector of a disk; pages begin at
//! 8192. A copy, little-endian:
//!
//! ```text
//!   0  16  "replica sealed\r\n"
//!  16   2  version of the format: 1
//!  18   1  derivation of the key-encryption key: 0 raw key, 1 Argon2id
//!  19   1  cipher: 0 XChaCha20-Poly1305, 1 XAES-256-GCM
//!  20   4  page size in bytes; 0 as long as it is not known
//!  24   4  Argon2id: memory in KiB
//!  28   4  Argon2id: passes
//!  32   4  Argon2id: lanes
//!  36   4  0
//!  40   8  sequence: the copy with the higher one is newer
//!  48  16  id of the file
//!  64  16  salt
//!  80  24  nonce of the wrapped data key
//! 104  16  tag of the wrapped data key
//! 120  32  the data key, wrapped with XChaCha20-Poly1305; authenticated with it: bytes 0..20, 24..40 and 48..80
//! 152   4  complete: the record of every page up to this one has been written
//! 156   4  rollback journal: 0 not needed; 1 pages are written whose former content is in it; 2 all
//!          pages of that transaction are written, it is about to go
//! 160   8  bytes of the rollback journal, as a plain file, that were synced before
//! 168   4  the number in the header of that journal, which is another one in each
//! 172   4  log: 0 as below; 1 pages of it are being copied into the database
//! 176   4  frames from its beginning that were copied into the database; others may have been
//! 180   8  salts of that log
//! 188  32  BLAKE3, keyed, of bytes 0..188
//! 220  32  BLAKE3 of bytes 0..220: whether the copy is whole
//! 252      zeros up to 4096
//! ```
//!
//! Every change is written over the older copy, with the next sequence; and over the same one again
//! until that is synced, so that the other one is durable. Nobody knows whether others have synced
//! theirs: it is synced before the first change. A copy that was torn is not whole, and the other one
//! still counts: so that a change of the key happens as a whole.

use super::RawFile;
use super::cipher::Algorithm;
use super::key::{Keys, equal};
use super::seal::{Seal, TAG_BYTES};
use crate::error::{Error, Result};
use crate::page::PageSize;

/// Bytes before the first page.
pub const HEADER_BYTES: u64 = 8192;

const MAGIC: &[u8; 16] = b"replica sealed\r\n";
const VERSION: u16 = 1;
const COPY_BYTES: usize = 4096;
const MAC_AT: usize = 188;
const CHECKSUM_AT: usize = 220;
const USED_BYTES: usize = 252;

/// How a key-encryption key is derived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Derivation {
    /// From a raw key.
    Raw,
    /// From a passphrase, by Argon2id.
    Argon2id {
        /// In KiB.
        memory: u32,
        /// Passes over it.
        passes: u32,
        /// Degree of parallelism.
        lanes: u32,
    },
}

impl Derivation {
    /// The weakest Argon2id that is made or accepted (OWASP's recommendation: 19 MiB, t = 2).
    pub const LEAST: Self = Self::Argon2id {
        memory: 19456,
        passes: 2,
        lanes: 1,
    };

    fn parse(kind: u8, memory: u32, passes: u32, lanes: u32) -> Result<Self> {
        let sound = (19456..=1 << 20).contains(&memory)
            && (2..=64).contains(&passes)
            && (1..=16).contains(&lanes);
        match kind {
            0 => Ok(Self::Raw),
            1 if sound => Ok(Self::Argon2id {
                memory,
                passes,
                lanes,
            }),
            _ => Err(Error::CannotOpen(
                "the encrypted file asks for a derivation of its key that is not accepted".into(),
            )),
        }
    }
}

/// A rollback journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Journal {
    /// So many of the plain file.
    pub bytes: u64,
    /// The number in its header, drawn by SQLite: whether a journal is the one that is meant.
    pub nonce: u32,
}

/// What the database needs its rollback journal for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rollback {
    /// For nothing.
    NotNeeded,
    /// Pages are written whose former content is in the first bytes of the journal, so many, which
    /// were synced before.
    Needed(Journal),
    /// All pages of the transaction are written. Once they are synced the journal goes: where it is
    /// still whole, it counts. This stays here when it has gone, while later transactions write
    /// journals of their own.
    Complete(Journal),
}

/// What checkpoints have copied: of this log, the database holds pages and cannot do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backfill {
    /// Of the log's header.
    pub salts: [u8; 8],
    /// So many frames from the beginning, at least.
    pub frames: u32,
    /// Some pages were copied and others not yet.
    pub under_way: bool,
}

/// What a file begins with.
pub enum Found {
    /// Nothing: the file is empty, or the write of its header never reached the disk.
    Empty,
    /// Something else: a plain database, or no database.
    Plain,
    /// A header.
    Sealed(Box<Header>),
}

/// Whether a copy is durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was found: others have written it.
    Unknown,
    /// It was written here, and not synced since.
    Unsynced,
    /// It is.
    Durable,
}

/// The header that counts.
#[derive(Clone)]
pub struct Header {
    bytes: [u8; USED_BYTES],
    algorithm: Algorithm,
    derivation: Derivation,
    page_size: Option<PageSize>,
    /// Which copy it is: 0 or 1.
    copy: usize,
    state: State,
}

impl Header {
    /// Reads the header of a file.
    pub fn find(file: &dyn RawFile) -> Result<Found> {
        let mut bytes = [0; HEADER_BYTES as usize];
        let read = file.read(&mut bytes, 0)?;
        if bytes.iter().all(|byte| *byte == 0) && file.size()? <= read as u64 {
            return Ok(Found::Empty);
        }
        let copies = [0, 1].map(|copy| &bytes[copy * COPY_BYTES..][..USED_BYTES]);
        if !copies.iter().any(|copy| copy.starts_with(MAGIC)) {
            return Ok(Found::Plain);
        }
        let newest = (0..2)
            .filter(|copy| is_whole(copies[*copy]))
            .max_by_key(|copy| sequence(copies[*copy]));
        match newest {
            Some(copy) => Ok(Found::Sealed(Box::new(Self::parse(copies[copy], copy)?))),
            // Its first write was torn, or is being made: there never was a page.
            None if file.size()? <= HEADER_BYTES => Ok(Found::Empty),
            None => Err(Error::Tampered(
                "both copies of the header of the encrypted file are damaged".to_owned(),
            )),
        }
    }

    /// Whether a file with these first bytes is encrypted.
    pub fn is_sealed(start: &[u8]) -> bool {
        start.starts_with(MAGIC)
    }

    fn parse(stored: &[u8], copy: usize) -> Result<Self> {
        let version = u16::from_le_bytes([stored[16], stored[17]]);
        if version != VERSION {
            return Err(Error::CannotOpen(format!(
                "the encrypted file has version {version}, this extension knows version {VERSION}"
            )));
        }
        let mut bytes = [0; USED_BYTES];
        bytes.copy_from_slice(stored);
        let page_size = match word(stored, 20) {
            0 => None,
            size => Some(PageSize::new(size)?),
        };
        let derivation = Derivation::parse(
            stored[18],
            word(stored, 24),
            word(stored, 28),
            word(stored, 32),
        )?;
        let algorithm = Algorithm::numbered(stored[19]).ok_or_else(|| {
            Error::CannotOpen(
                "the encrypted file has a cipher that this extension does not know".to_owned(),
            )
        })?;
        Ok(Self {
            bytes,
            algorithm,
            derivation,
            page_size,
            copy,
            state: State::Unknown,
        })
    }

    /// The header of a new file.
    pub(super) fn new(keys: &Keys, id: [u8; 16], page_size: Option<PageSize>) -> Result<Self> {
        let mut header = Self {
            bytes: [0; USED_BYTES],
            algorithm: keys.algorithm(),
            derivation: Derivation::Raw,
            page_size,
            copy: 1,
            state: State::Durable,
        };
        header.bytes[..16].copy_from_slice(MAGIC);
        header.put(16, &VERSION.to_le_bytes());
        header.put(19, &[header.algorithm.number()]);
        header.put(20, &page_size.map_or(0, PageSize::get).to_le_bytes());
        header.put(40, &1_u64.to_le_bytes());
        header.put(48, &id);
        header.wrap(keys)?;
        header.finish(keys);
        Ok(header)
    }

    /// Writes both copies of a new file's header, and makes them durable: pages without a header
    /// would be of no use, and look as if somebody had taken it away.
    pub fn create(&self, file: &dyn RawFile) -> Result<()> {
        let mut bytes = [0; HEADER_BYTES as usize];
        for copy in 0..2 {
            bytes[copy * COPY_BYTES..][..USED_BYTES].copy_from_slice(&self.bytes);
        }
        file.write(&bytes, 0)?;
        file.sync()
    }

    /// Changes the header as it is in the file now. Callers exclude each other: they hold the lock
    /// under which the database file is written.
    pub fn update(
        &mut self,
        file: &dyn RawFile,
        keys: &Keys,
        change: impl FnOnce(&mut Change<'_>),
    ) -> Result<()> {
        self.refresh(file, keys)?;
        let mut next = self.clone();
        change(&mut Change(&mut next));
        next.write_next(file, keys)?;
        *self = next;
        Ok(())
    }

    /// Wraps the data key anew, under the secret of `keys`, in the older copy. Once that is
    /// durable the change has happened; [`Header::overwrite`] then takes the old one away.
    pub fn rewrap(&mut self, file: &dyn RawFile, keys: &Keys) -> Result<()> {
        self.refresh(file, keys)?;
        let mut next = self.clone();
        next.wrap(keys)?;
        next.write_next(file, keys)?;
        *self = next;
        Ok(())
    }

    /// Writes the header over the older copy as well.
    pub fn overwrite(&mut self, file: &dyn RawFile, keys: &Keys) -> Result<()> {
        let mut next = self.clone();
        next.state = State::Durable;
        next.write_next(file, keys)?;
        *self = next;
        Ok(())
    }

    /// The file was synced: the copy that counts is durable.
    pub(super) fn synced(&mut self) {
        self.state = State::Durable;
    }

    /// Takes over what others have written since.
    pub fn refresh(&mut self, file: &dyn RawFile, keys: &Keys) -> Result<()> {
        match Self::find(file)? {
            Found::Sealed(found) if found.bytes == self.bytes => Ok(()),
            Found::Sealed(found) if keys.own(&found) && found.id() == self.id() => {
                *self = *found;
                Ok(())
            }
            _ => Err(Error::Tampered(
                "the header of the encrypted file was changed".to_owned(),
            )),
        }
    }

    fn write_next(&mut self, file: &dyn RawFile, keys: &Keys) -> Result<()> {
        if self.state == State::Unknown {
            file.sync()?;
        }
        if self.state != State::Unsynced {
            self.copy = 1 - self.copy;
        }
        self.state = State::Unsynced;
        let sequence = sequence(&self.bytes).wrapping_add(1);
        self.put(40, &sequence.to_le_bytes());
        self.finish(keys);
        file.write(&self.bytes, (self.copy * COPY_BYTES) as u64)
    }

    fn wrap(&mut self, keys: &Keys) -> Result<()> {
        let (derivation, salt) = keys.derivation();
        let (kind, parameters) = match derivation {
            Derivation::Raw => (0, [0; 3]),
            Derivation::Argon2id {
                memory,
                passes,
                lanes,
            } => (1, [memory, passes, lanes]),
        };
        self.derivation = derivation;
        self.bytes[18] = kind;
        for (at, value) in [24, 28, 32].into_iter().zip(parameters) {
            self.put(at, &value.to_le_bytes());
        }
        self.put(64, salt);
        let (seal, ciphertext) = keys.wrap(&self.wrapped_with())?;
        self.put(80, &seal.encode());
        self.put(120, &ciphertext);
        Ok(())
    }

    fn finish(&mut self, keys: &Keys) {
        let mac = *blake3::keyed_hash(keys.mac(), &self.bytes[..MAC_AT]).as_bytes();
        self.put(MAC_AT, &mac);
        let checksum = *blake3::hash(&self.bytes[..CHECKSUM_AT]).as_bytes();
        self.put(CHECKSUM_AT, &checksum);
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The page size, once it is known.
    pub fn page_size(&self) -> Option<PageSize> {
        self.page_size
    }

    /// The id of the file: what is sealed for it opens nowhere else.
    pub fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.bytes[48..64]);
        id
    }

    /// The record of every page up to this number has been written.
    pub fn complete(&self) -> u32 {
        word(&self.bytes, 152)
    }

    /// What the rollback journal is needed for.
    pub fn rollback(&self) -> Rollback {
        let journal = Journal {
            bytes: double(&self.bytes, 160),
            nonce: word(&self.bytes, 168),
        };
        match word(&self.bytes, 156) {
            1 => Rollback::Needed(journal),
            2 => Rollback::Complete(journal),
            _ => Rollback::NotNeeded,
        }
    }

    /// What checkpoints have copied.
    pub fn backfill(&self) -> Backfill {
        let mut salts = [0; 8];
        salts.copy_from_slice(&self.bytes[180..188]);
        Backfill {
            salts,
            frames: word(&self.bytes, 176),
            under_way: word(&self.bytes, 172) == 1,
        }
    }

    /// What is sealed for it is sealed with this cipher.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn derivation(&self) -> Derivation {
        self.derivation
    }

    pub(super) fn salt(&self) -> &[u8; 16] {
        self.bytes[64..80].first_chunk().unwrap_or(&[0; 16])
    }

    pub(super) fn wrapped(&self) -> (Seal, &[u8]) {
        let mut seal = Seal {
            nonce: [0; 24],
            tag: [0; TAG_BYTES],
        };
        seal.nonce.copy_from_slice(&self.bytes[80..104]);
        seal.tag.copy_from_slice(&self.bytes[104..120]);
        (seal, &self.bytes[120..152])
    }

    /// What is authenticated with the wrapped key: all but page size and sequence.
    pub(super) fn wrapped_with(&self) -> [u8; 68] {
        let mut bytes = [0; 68];
        bytes[..20].copy_from_slice(&self.bytes[..20]);
        bytes[20..36].copy_from_slice(&self.bytes[24..40]);
        bytes[36..].copy_from_slice(&self.bytes[48..80]);
        bytes
    }

    pub(super) fn has_mac(&self, key: &[u8; 32]) -> bool {
        let mut stored = [0; 32];
        stored.copy_from_slice(&self.bytes[MAC_AT..CHECKSUM_AT]);
        equal(
            blake3::keyed_hash(key, &self.bytes[..MAC_AT]).as_bytes(),
            &stored,
        )
    }
}

/// What may change in the header of a database in use.
pub struct Change<'a>(&'a mut Header);

impl Change<'_> {
    /// Sets the page size, once.
    pub fn page_size(&mut self, size: PageSize) {
        self.0.page_size = Some(size);
        self.0.put(20, &size.get().to_le_bytes());
    }

    /// Says that every page up to this one has a record, where nobody has said more.
    pub fn grow(&mut self, pages: u32) {
        let complete = self.0.complete().max(pages);
        self.complete(complete);
    }

    /// Sets up to where every page has a record.
    pub fn complete(&mut self, pages: u32) {
        self.0.put(152, &pages.to_le_bytes());
    }

    /// Says what checkpoints have copied.
    pub fn backfill(&mut self, backfill: Backfill) {
        self.0
            .put(172, &u32::from(backfill.under_way).to_le_bytes());
        self.0.put(176, &backfill.frames.to_le_bytes());
        self.0.put(180, &backfill.salts);
    }

    /// Says what the rollback journal is needed for.
    pub fn rollback(&mut self, rollback: Rollback) {
        let (state, journal) = match rollback {
            Rollback::NotNeeded => (0_u32, Journal::default()),
            Rollback::Needed(journal) => (1, journal),
            Rollback::Complete(journal) => (2, journal),
        };
        self.0.put(156, &state.to_le_bytes());
        self.0.put(160, &journal.bytes.to_le_bytes());
        self.0.put(168, &journal.nonce.to_le_bytes());
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn double(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

fn sequence(bytes: &[u8]) -> u64 {
    double(bytes, 40)
}

fn is_whole(copy: &[u8]) -> bool {
    copy.starts_with(MAGIC) && copy[CHECKSUM_AT..] == *blake3::hash(&copy[..CHECKSUM_AT]).as_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::key::Secret;
    use super::super::memory::{Bytes, Counted};
    use super::*;

    fn made(secret: &Secret) -> (Bytes, Keys, Header) {
        let keys =
            Keys::create(secret, Algorithm::Xaes256Gcm, Arc::new(Counted::default())).unwrap();
        let header = keys.new_header(None).unwrap();
        let file = Bytes::default();
        header.create(&file).unwrap();
        (file, keys, header)
    }

    fn found(file: &Bytes) -> Header {
        match Header::find(file).unwrap() {
            Found::Sealed(header) => *header,
            _ => panic!("no header"),
        }
    }

    fn raw(byte: &str) -> Secret {
        Secret::from_hex(&byte.repeat(32)).unwrap()
    }

    #[test]
    fn changes_are_found_again() {
        let (file, keys, mut header) = made(&raw("01"));
        assert_eq!(file.size().unwrap(), HEADER_BYTES);
        let mut other = found(&file);
        let size = PageSize::new(4096).unwrap();
        header
            .update(&file, &keys, |header| header.page_size(size))
            .unwrap();
        // Another process has an older one in memory.
        other
            .update(&file, &keys, |header| header.complete(7))
            .unwrap();
        for rollback in [
            Rollback::Needed(Journal {
                bytes: 1 << 40,
                nonce: 9,
            }),
            Rollback::Complete(Journal { bytes: 7, nonce: 8 }),
            Rollback::NotNeeded,
        ] {
            header
                .update(&file, &keys, |header| header.rollback(rollback))
                .unwrap();
            assert_eq!(found(&file).rollback(), rollback);
        }
        let backfill = Backfill {
            salts: *b"saltsalt",
            frames: 9,
            under_way: true,
        };
        header
            .update(&file, &keys, |header| header.backfill(backfill))
            .unwrap();
        let found = found(&file);
        assert_eq!((found.page_size(), found.complete()), (Some(size), 7));
        assert_eq!(found.backfill(), backfill);
        assert!(keys.own(&found));
        assert_eq!(found.id(), header.id());
    }

    #[test]
    fn the_copy_that_was_synced_stays_until_the_next_sync() {
        let (file, keys, mut header) = made(&raw("01"));
        for pages in [1, 5, 9] {
            let mut set = |pages| {
                let set = header.update(&file, &keys, |header| header.complete(pages));
                set.unwrap();
            };
            set(pages);
            header.synced();
            let synced = file.copy();
            let mut set = |pages| {
                let set = header.update(&file, &keys, |header| header.complete(pages));
                set.unwrap();
            };
            set(pages + 1);
            set(pages + 2);
            assert_eq!(found(&file).complete(), pages + 2);
            // Power fails, and everything that was written since is torn.
            let mut bytes = file.copy();
            for (at, before) in synced.iter().enumerate() {
                bytes[at] ^= u8::from(bytes[at] != *before);
            }
            assert_eq!(found(&Bytes::of(bytes)).complete(), pages);
            header.synced();
        }
    }

    /// Two processes change the header in turn; each syncs now and then.
    #[test]
    fn a_torn_change_never_takes_the_header_away() {
        for seed in 0..64_u32 {
            let (file, keys, header) = made(&raw("01"));
            let mut headers = [header, found(&file)];
            for turn in 0..12 {
                let bits = seed.wrapping_mul(0x9e37_79b9) >> turn;
                let header = &mut headers[(bits & 1) as usize];
                header
                    .update(&file, &keys, |header| header.complete(turn))
                    .unwrap();
                if bits & 6 == 0 {
                    file.sync().unwrap();
                    header.synced();
                }
                // Power fails, and everything that was not synced is torn.
                let mut bytes = file.copy();
                for (at, before) in file.synced.borrow().iter().enumerate() {
                    bytes[at] ^= u8::from(bytes[at] != *before);
                }
                assert!(keys.own(&found(&Bytes::of(bytes))), "{seed} {turn}");
            }
        }
    }

    #[test]
    fn what_is_no_header() {
        assert!(matches!(
            Header::find(&Bytes::default()).unwrap(),
            Found::Empty
        ));
        // The size of a new file may reach the disk before its first bytes.
        let torn = Bytes::of(vec![0; HEADER_BYTES as usize]);
        assert!(matches!(Header::find(&torn).unwrap(), Found::Empty));
        let taken = Bytes::of(vec![0; HEADER_BYTES as usize + 552]);
        assert!(matches!(Header::find(&taken).unwrap(), Found::Plain));
        let plain = Bytes::of(b"SQLite format 3\0".repeat(300));
        assert!(matches!(Header::find(&plain).unwrap(), Found::Plain));
    }

    #[test]
    fn every_damage_is_harmless_or_an_error() {
        let (file, keys, mut header) = made(&raw("01"));
        header
            .update(&file, &keys, |header| header.complete(1))
            .unwrap();
        file.truncate(HEADER_BYTES + 552).unwrap();
        let whole = file.copy();
        for at in (0..USED_BYTES).chain(COPY_BYTES..COPY_BYTES + USED_BYTES) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let header = found(&Bytes::of(bytes.clone()));
            assert!(keys.own(&header), "byte {at}");
            // Both copies.
            let twin = (at + COPY_BYTES) % (2 * COPY_BYTES);
            bytes[twin] ^= 0x10;
            match Header::find(&Bytes::of(bytes)) {
                Err(Error::Tampered(_)) => {}
                Ok(Found::Plain) => assert!(at % COPY_BYTES < 16),
                _ => panic!("byte {at} is not noticed"),
            }
        }
    }

    #[test]
    fn an_edited_header_with_a_right_checksum_does_not_open() {
        let (file, keys, header) = made(&raw("01"));
        for at in 20..MAC_AT {
            let mut edited = header.clone();
            edited.bytes[at] ^= 1;
            let checksum = *blake3::hash(&edited.bytes[..CHECKSUM_AT]).as_bytes();
            edited.put(CHECKSUM_AT, &checksum);
            edited.put(40, &9_u64.to_le_bytes());
            assert!(!keys.own(&edited), "byte {at}");
        }
        drop(file);
    }

    #[test]
    fn an_interrupted_rekey_opens_with_exactly_one_key() {
        for writes in 0..3 {
            for torn in [false, true] {
                let (old, new) = (raw("01"), raw("02"));
                let (file, keys, mut header) = made(&old);
                let keys = keys.rekeyed(&new).unwrap();
                let before = file.copy();
                if torn {
                    *file.fail_after.borrow_mut() = Some(writes);
                }
                let mut steps = Vec::new();
                if writes > 0 || torn {
                    steps.push(header.rewrap(&file, &keys).is_ok());
                }
                if writes > 1 || (torn && writes > 0) {
                    steps.push(header.overwrite(&file, &keys).is_ok());
                }
                let found = found(&file);
                let opens =
                    |secret| Keys::unlock(&found, secret, Arc::new(Counted::default())).is_ok();
                assert!(opens(&old) != opens(&new), "{writes} {torn} {steps:?}");
                assert_eq!(opens(&new), writes > 0, "{writes} {torn}");
                if writes == 2 && !torn {
                    // Nothing of the old key is left.
                    let now = file.copy();
                    for copy in [0, COPY_BYTES] {
                        assert_ne!(now[copy + 120..copy + 152], before[copy + 120..copy + 152]);
                    }
                }
            }
        }
    }
}
