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

mod change;
mod derivation;
mod needed;

pub use self::change::Change;
pub use self::derivation::Derivation;
pub use self::needed::{Backfill, Journal, Rollback};
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

    /// Whether the file still begins with this header: the copy is there byte for byte, and no newer
    /// one beside it.
    pub fn is_current(&self, file: &dyn RawFile) -> Result<bool> {
        let mut bytes = [0; COPY_BYTES + USED_BYTES];
        if file.read(&mut bytes, 0)? < bytes.len() {
            return Ok(false);
        }
        let copies = [&bytes[..USED_BYTES], &bytes[COPY_BYTES..]];
        let (this, other) = (copies[self.copy], copies[1 - self.copy]);
        let is_older =
            !other.starts_with(MAGIC) || sequence(other) < sequence(this) || other == this;
        Ok(this == self.bytes && is_older)
    }

    /// Takes over what others have written since.
    pub fn refresh(&mut self, file: &dyn RawFile, keys: &Keys) -> Result<()> {
        if self.is_current(file)? {
            return Ok(());
        }
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
mod tests;
