//! Positions in the history of a database.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::page::{PageHash, PageNumber};

/// The number of a committed transaction, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The transaction after this one.
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

/// The random number a commit is known by: 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Nonce(pub [u8; 16]);

/// Names a history up to one transaction: two histories never share one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HistoryId(pub [u8; 16]);

impl HistoryId {
    /// The id after one more transaction: BLAKE3 of the id before, the commit's random nonce and
    /// the transaction's digest, cut to 128 bits.
    pub fn next(self, nonce: Nonce, transaction: TransactionDigest) -> HistoryId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(&nonce.0);
        hasher.update(&transaction.0);
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        HistoryId(id)
    }
}

/// Which state of a database a file holds. Written `lsn-id`: decimal, `-`, 32 lower-case hex
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Position {
    /// How many transactions led here.
    pub lsn: Lsn,
    /// The history they form.
    pub id: HistoryId,
}

impl Position {
    /// The position after one more transaction, known by `nonce`.
    pub fn next(self, nonce: Nonce, transaction: TransactionDigest) -> Position {
        Position {
            lsn: self.lsn.next(),
            id: self.id.next(nonce, transaction),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:032x}", self.lsn.0, u128::from_be_bytes(self.id.0))
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Misuse(format!("'{text}' is not a position (lsn-id)"));
        let (lsn, id) = text.split_once('-').ok_or_else(wrong)?;
        if id.len() != 32 || id.starts_with('+') || lsn.starts_with('+') {
            return Err(wrong());
        }
        Ok(Position {
            lsn: Lsn(lsn.parse().map_err(|_| wrong())?),
            id: HistoryId(
                u128::from_str_radix(id, 16)
                    .map_err(|_| wrong())?
                    .to_be_bytes(),
            ),
        })
    }
}

/// The permanent random id of a database: a replica never takes pages of another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DatabaseId(pub [u8; 16]);

impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// BLAKE3, cut to 128 bits, of what a transaction leaves behind: the database size in pages
/// (4 bytes, little-endian), then number (4 bytes) and hash of each changed page, ascending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionDigest(pub [u8; 16]);

impl TransactionDigest {
    /// Computes the digest; `pages` must ascend by number.
    pub fn of(database_size: u32, pages: impl IntoIterator<Item = (PageNumber, PageHash)>) -> Self {
        let mut hasher = TransactionHasher::new(database_size);
        for (number, hash) in pages {
            hasher.add(number, hash);
        }
        hasher.finish()
    }
}

/// Computes a [`TransactionDigest`] page by page.
pub struct TransactionHasher(blake3::Hasher);

impl TransactionHasher {
    /// Begins with the database size in pages.
    pub fn new(database_size: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&database_size.to_le_bytes());
        Self(hasher)
    }

    /// Adds a changed page; pages ascend by number.
    pub fn add(&mut self, number: PageNumber, hash: PageHash) {
        self.0.update(&number.get().to_le_bytes());
        self.0.update(hash.as_bytes());
    }

    /// The digest of what was added.
    pub fn finish(self) -> TransactionDigest {
        let mut digest = [0; 16];
        digest.copy_from_slice(&self.0.finalize().as_bytes()[..16]);
        TransactionDigest(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip_as_text() {
        let position = Position {
            lsn: Lsn(42),
            id: HistoryId([7; 16]),
        };
        let text = position.to_string();
        assert_eq!(text, "42-07070707070707070707070707070707");
        assert_eq!(text.parse::<Position>().unwrap(), position);
        for wrong in [
            "",
            "42",
            "42-",
            "x-07070707070707070707070707070707",
            "1-0707",
        ] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }
}
