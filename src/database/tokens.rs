//! The tokens on record in the state store of a primary: hashes, never the tokens themselves.

use rusqlite::params;

use super::sqlite_store::SqliteStore;
use super::store::Store;
use crate::error::{Error, Result};

/// How long a token stays on record after its end, in seconds: its bearer is told why.
const KEPT: u64 = 30 * 24 * 3600;

/// What a token allows; the second includes the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// To follow the database.
    Read,
    /// To change it as well.
    Write,
}

impl Scope {
    /// The word of `replica_token` and of the store.
    pub fn word(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
        }
    }

    /// The scope a word means.
    pub fn from_word(word: &str) -> Result<Self> {
        match word {
            "read" => Ok(Scope::Read),
            "write" => Ok(Scope::Write),
            _ => Err(Error::Misuse(format!(
                "'{word}' is not a scope: 'read' and 'write' are"
            ))),
        }
    }
}

/// A token on record.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// Its number, which is part of the token.
    pub id: u64,
    /// Of the whole token. Its comparison takes the same time for all values.
    pub hash: blake3::Hash,
    /// What it allows.
    pub scope: Scope,
    /// Unix seconds.
    pub expires: u64,
    /// Whether it was withdrawn.
    pub revoked: bool,
}

/// What a state store has on record about tokens.
pub trait TokenStore {
    /// Puts a token on record under the next number, from which `hash` is made. Old tokens that
    /// are good for nothing any more leave the record.
    fn add_token(
        &self,
        scope: Scope,
        expires: u64,
        now: u64,
        hash: &dyn Fn(u64) -> blake3::Hash,
    ) -> Result<u64>;
    /// Withdraws a token; false when there is none of this number that was not withdrawn before.
    fn revoke_token(&self, id: u64) -> Result<bool>;
    /// All tokens on record.
    fn tokens(&self) -> Result<Vec<TokenRecord>>;
}

impl TokenStore for SqliteStore {
    fn add_token(
        &self,
        scope: Scope,
        expires: u64,
        now: u64,
        hash: &dyn Fn(u64) -> blake3::Hash,
    ) -> Result<u64> {
        (self as &dyn Store).transaction(|_| {
            self.change(
                "INSERT INTO tokens (hash, scope, expires, made) VALUES (zeroblob(32), ?1, ?2, ?3)",
                params![scope.word(), expires, now],
            )?;
            let [id] = self.rows("SELECT max(id) FROM tokens", [], |row| row.get(0))?[..] else {
                return Err(Error::Internal("the token is not on record".to_owned()));
            };
            self.change(
                "UPDATE tokens SET hash = ?2 WHERE id = ?1",
                params![id, hash(id).as_bytes()],
            )?;
            self.change(
                "DELETE FROM tokens WHERE expires < ?1",
                [now.saturating_sub(KEPT)],
            )?;
            Ok(id)
        })
    }

    fn revoke_token(&self, id: u64) -> Result<bool> {
        (self as &dyn Store).transaction(|_| {
            let sql = "SELECT id FROM tokens WHERE id = ?1 AND revoked = 0";
            let found: Vec<u64> = self.rows(sql, [id], |row| row.get(0))?;
            self.change("UPDATE tokens SET revoked = 1 WHERE id = ?1", [id])?;
            Ok(!found.is_empty())
        })
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>> {
        let sql = "SELECT id, hash, scope = 'write', expires, revoked FROM tokens ORDER BY id";
        self.rows(sql, [], |row| {
            Ok(TokenRecord {
                id: row.get(0)?,
                hash: blake3::Hash::from_bytes(row.get(1)?),
                scope: match row.get(2)? {
                    true => Scope::Write,
                    false => Scope::Read,
                },
                expires: row.get(3)?,
                revoked: row.get(4)?,
            })
        })
    }
}
