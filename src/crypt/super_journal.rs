//! Super-journals: files that name the rollback journals of one transaction over several databases.
//!
//! The transaction has happened once its super-journal is gone. Who rolls one of the databases back
//! takes it away, unless a journal that it names still names it. Nothing else depends on what it
//! holds. Where an encrypted database takes part, each such database gets the names, sealed with
//! its own key. All numbers are little-endian unless said otherwise:
//!
//! ```text
//!  0   2  "/."
//!  2   P  the path of the super-journal itself, and a zero byte
//!         8  "rplsup" and version (2 bytes): 0, 1
//!         4  n: how many encrypted databases take part
//!         4  m: bytes of the names, each of which ends with a zero byte
//!         n records of 56 + m bytes: id of the database file (16), nonce (24), tag (16), the names,
//!           sealed under the key of journals; authenticated with it: "super" and version (8), id of
//!           the database file (16)
//!      P - 1  the path of the super-journal itself, again
//!         4  its length, big-endian
//!         4  the sum of its bytes as C's `char`s, big-endian
//!         8  d9 d5 05 f9 20 a1 63 d7
//! ```
//!
//! To SQLite without the extension this is a list whose first name is that of a journal that still
//! names the super-journal: the file itself, which ends like such a journal. So that leaves it alone,
//! whichever plain database it rolls back, and the encrypted ones are rolled back as well. The same
//! happens here where no key opens a record, or where a database that takes part is not open yet.
//! What nobody takes away in the end is of no harm.

use std::ffi::c_char;

use super::key::Keys;
use super::nonces::Nonces;
use super::seal::OVERHEAD;
use crate::error::{Error, Result};

/// What a rollback journal begins with, and what stands behind the name of a super-journal at its
/// end.
pub(super) const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

const MAGIC: [u8; 8] = *b"rplsup\0\x01";
const ID_BYTES: usize = 16;
/// Length and sum of a name, and the magic.
const END_BYTES: usize = 16;

/// The super-journal at `path` with these names, for encrypted databases of these keys and ids.
pub fn encode(path: &str, names: &[u8], databases: &[(&Keys, [u8; ID_BYTES])]) -> Result<Vec<u8>> {
    let long = |_| Error::Misuse("a super-journal is too long".to_owned());
    let mut bytes = start(path);
    bytes.extend(MAGIC);
    for number in [databases.len(), names.len()] {
        bytes.extend(u32::try_from(number).map_err(long)?.to_le_bytes());
    }
    for (keys, id) in databases {
        bytes.extend(id);
        let at = bytes.len();
        bytes.resize(at + OVERHEAD + names.len(), 0);
        let nonce = Nonces::new().next(&*keys.entropy)?;
        let record = &mut bytes[at..];
        keys.blocks
            .seal_record(nonce, &associated(id), names, record)?;
    }
    bytes.extend(path.as_bytes());
    let length = u32::try_from(path.len()).map_err(long)?;
    bytes.extend(length.to_be_bytes());
    bytes.extend(sum(path.as_bytes()).to_be_bytes());
    bytes.extend(JOURNAL_MAGIC);
    Ok(bytes)
}

/// The names in the super-journal at `path`, where one of the keys opens it.
pub fn decode(path: &str, bytes: &[u8], keys: &[impl AsRef<Keys>]) -> Option<Vec<u8>> {
    let rest = bytes.strip_prefix(start(path).as_slice())?;
    let rest = rest.strip_prefix(&MAGIC)?;
    let (count, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let [count, length] = [count, length].map(|number| u32::from_le_bytes(*number) as usize);
    let size = length.checked_add(ID_BYTES + OVERHEAD)?;
    let records = rest.get(..count.checked_mul(size)?)?;
    // Of no record the length says nothing.
    let mut names = vec![0; length.min(records.len())];
    for (id, record) in records
        .chunks_exact(size)
        .filter_map(<[u8]>::split_first_chunk)
    {
        for keys in keys {
            let blocks = &keys.as_ref().blocks;
            if blocks.open_record(record, &associated(id), &mut names) {
                return Some(names);
            }
        }
    }
    None
}

/// The name of the super-journal at the end of a rollback journal of this size; `read` reads from
/// that.
pub(super) fn named_at_end(
    size: u64,
    mut read: impl FnMut(&mut [u8], u64) -> Result<usize>,
) -> Result<Option<String>> {
    let Some(end) = size.checked_sub(END_BYTES as u64) else {
        return Ok(None);
    };
    let mut bytes = [0; END_BYTES];
    if read(&mut bytes, end)? < END_BYTES || bytes[8..] != JOURNAL_MAGIC {
        return Ok(None);
    }
    let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
    let (length, wanted) = (number(0), number(4));
    // No name is longer.
    if length > 1 << 16 || u64::from(length) > end {
        return Ok(None);
    }
    let mut name = vec![0; length as usize];
    let whole = read(&mut name, end - u64::from(length))? == name.len();
    match whole && sum(&name) == wanted {
        true => Ok(String::from_utf8(name).ok()),
        false => Ok(None),
    }
}

/// What the super-journal at `path` begins with.
fn start(path: &str) -> Vec<u8> {
    [b"/.", path.as_bytes(), b"\0"].concat()
}

fn sum(name: &[u8]) -> u32 {
    name.iter()
        .fold(0, |sum, byte| sum.wrapping_add(*byte as c_char as u32))
}

fn associated(id: &[u8; ID_BYTES]) -> [u8; 24] {
    let mut bytes = *b"super\0\0\x01----------------";
    bytes[8..].copy_from_slice(id);
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::cipher::Algorithm;
    use super::super::memory::{Counted, keys_for};
    use super::*;

    const PATH: &str = "/folder/a.db-mj0011";
    const NAMES: &[u8] = b"/folder/a.db-journal\0/folder/b.db-journal\0";

    fn another() -> Arc<Keys> {
        let entropy = Arc::new(Counted::default());
        entropy.fork();
        Arc::new(Keys::ephemeral(entropy).unwrap())
    }

    fn named(bytes: &[u8]) -> Option<String> {
        named_at_end(bytes.len() as u64, |buffer, offset| {
            let there = &bytes[offset as usize..];
            let count = there.len().min(buffer.len());
            buffer[..count].copy_from_slice(&there[..count]);
            Ok(count)
        })
        .unwrap()
    }

    #[test]
    fn every_database_that_takes_part_reads_the_names_and_nobody_else() {
        let [one, other] = Algorithm::ALL.map(keys_for);
        let third = another();
        let bytes = encode(PATH, NAMES, &[(&one, [1; 16]), (&other, [2; 16])]).unwrap();
        for keys in [&one, &other] {
            let names = decode(PATH, &bytes, &[Arc::clone(&third), Arc::clone(keys)]);
            assert_eq!(names.as_deref(), Some(NAMES));
        }
        assert!(decode(PATH, &bytes, &[third]).is_none());
        assert!(decode("/folder/a.db-mj0012", &bytes, &[Arc::clone(&one)]).is_none());
        let hidden = |needle: &[u8]| !bytes.windows(needle.len()).any(|part| part == needle);
        assert!(hidden(b"-journal") && hidden(b"b.db"));
        let none = [start(PATH).as_slice(), &MAGIC, &[0; 4], &[0xff; 4]].concat();
        assert!(decode(PATH, &none, &[Arc::clone(&one)]).is_none());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let names = decode(PATH, &changed, &[Arc::clone(&one), Arc::clone(&other)]);
            assert!(names.is_none_or(|names| names == NAMES), "byte {at}");
            let names = decode(PATH, &bytes[..at], &[Arc::clone(&one)]);
            assert!(names.is_none_or(|names| names == NAMES), "cut at {at}");
        }
    }

    /// As `pager_delsuper` of SQLite reads it.
    #[test]
    fn to_others_it_names_a_journal_that_names_it() {
        let keys = keys_for(Algorithm::Xaes256Gcm);
        let bytes = encode(PATH, NAMES, &[(&keys, [1; 16])]).unwrap();
        let first = bytes.split(|byte| *byte == 0).next().unwrap();
        assert_eq!(first, format!("/.{PATH}").as_bytes());
        assert_eq!(named(&bytes).as_deref(), Some(PATH));
    }

    #[test]
    fn ends_that_name_nothing() {
        let keys = keys_for(Algorithm::Xaes256Gcm);
        let bytes = encode(PATH, NAMES, &[(&keys, [1; 16])]).unwrap();
        for back in 1..=END_BYTES + PATH.len() {
            let mut changed = bytes.clone();
            let at = changed.len() - back;
            changed[at] ^= 0x11;
            assert!(named(&changed).is_none(), "{back} from the end");
        }
        assert!(named(b"short").is_none());
    }
}
