//! The tokens of a served database: making and withdrawing them, and letting their bearers in.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use super::history;
use super::server::admission::{Admission, Gate, NOT_KNOWN};
use crate::database::host::Host;
use crate::database::store::Store;
use crate::database::tokens::{Scope, TokenRecord};
use crate::error::{Error, Result};

/// How old the copy of the record may get: other processes change it too.
const LONGEST_MEMORY: Duration = Duration::from_secs(1);

/// The longest life of a token, in seconds: a hundred years.
const LONGEST_LIFE: i64 = 100 * 366 * 24 * 3600;

/// What all tokens begin with; the digit is the version of their form.
const PREFIX: &str = "r1_";

/// A token as `replica_token` returns it, which is the only time it is seen.
#[derive(Serialize)]
pub struct NewToken {
    /// Its number, for `replica_revoke`.
    pub id: u64,
    /// What its bearer sends.
    pub token: String,
    /// What it allows.
    pub scope: &'static str,
    /// Unix seconds.
    pub expires: u64,
}

/// The tokens of one database, with a copy of the record in memory.
pub struct Tokens {
    host: Arc<dyn Host>,
    store: Mutex<Box<dyn Store>>,
    known: RwLock<Known>,
}

/// The record as it was at a moment.
struct Known {
    read: Instant,
    records: Vec<TokenRecord>,
}

impl Tokens {
    /// The tokens of a database that is, or is to be, a primary.
    pub fn open(host: Arc<dyn Host>, path: &Path) -> Result<Self> {
        let store = host.open_store(path)?;
        history::identify(&*host, &*store)?;
        let known = Known::read(&*store)?;
        Ok(Self {
            host,
            store: Mutex::new(store),
            known: RwLock::new(known),
        })
    }

    /// Makes a token that is good for `seconds` from now.
    pub fn make(&self, scope: Scope, seconds: i64) -> Result<NewToken> {
        let seconds = u64::try_from(seconds)
            .ok()
            .filter(|_| (1..=LONGEST_LIFE).contains(&seconds))
            .ok_or_else(|| {
                Error::Misuse(format!(
                    "a token is good for 1 to {LONGEST_LIFE} seconds, not {seconds}"
                ))
            })?;
        let secret = secret(&*self.host)?;
        let now = self.now();
        let expires = now + seconds;
        let store = self.store.lock();
        let id = store.add_token(scope, expires, now, &|id| hash(&text(id, &secret)))?;
        self.reload(&**store)?;
        Ok(NewToken {
            id,
            token: text(id, &secret),
            scope: scope.word(),
            expires,
        })
    }

    /// Withdraws a token, at once.
    pub fn revoke(&self, id: i64) -> Result<()> {
        let store = self.store.lock();
        let revoked = match u64::try_from(id) {
            Ok(id) => store.revoke_token(id)?,
            Err(_) => false,
        };
        self.reload(&**store)?;
        match revoked {
            true => Ok(()),
            false => Err(Error::Misuse(format!("there is no token {id} to revoke"))),
        }
    }

    /// Whether some bearer could be let in now.
    pub fn has_valid(&self) -> bool {
        let now = self.now();
        let is_valid = |record: &TokenRecord| !record.revoked && record.expires > now;
        self.known.read().records.iter().any(is_valid)
    }

    fn now(&self) -> u64 {
        self.host.now() / 1000
    }

    fn reload(&self, store: &dyn Store) -> Result<()> {
        let known = Known::read(store)?;
        *self.known.write() = known;
        Ok(())
    }

    /// What a token of the record's number comes to.
    fn judge(&self, record: &TokenRecord, hash: blake3::Hash) -> Admission {
        // In constant time: blake3 compares hashes so.
        if record.hash != hash {
            return Admission::Refused(NOT_KNOWN);
        }
        if record.revoked {
            return Admission::Refused("the token was revoked");
        }
        if record.expires <= self.now() {
            return Admission::Refused("the token has expired");
        }
        Admission::Bearer {
            id: record.id,
            scope: record.scope,
        }
    }
}

impl Gate for Tokens {
    fn is_current(&self) -> bool {
        self.known.read().read.elapsed() < LONGEST_MEMORY
    }

    fn refresh(&self) -> Result<()> {
        let store = self.store.lock();
        // Someone else may have done it while this thread waited.
        match self.is_current() {
            true => Ok(()),
            false => self.reload(&**store),
        }
    }

    fn needs_token(&self) -> bool {
        !self.known.read().records.is_empty()
    }

    fn admit(&self, token: &str) -> Admission {
        let hash = hash(token);
        let known = self.known.read();
        let record = number(token).and_then(|id| known.records.iter().find(|r| r.id == id));
        match record {
            Some(record) => self.judge(record, hash),
            None => Admission::Refused(NOT_KNOWN),
        }
    }
}

impl Known {
    fn read(store: &dyn Store) -> Result<Self> {
        // The moment before: what is written while the record is read may be missed.
        let read = Instant::now();
        let records = store.tokens()?;
        Ok(Self { read, records })
    }
}

fn secret(host: &dyn Host) -> Result<String> {
    let mut digits = String::with_capacity(64);
    for byte in [host.random()?, host.random()?].as_flattened() {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
    }
    Ok(digits)
}

fn text(id: u64, secret: &str) -> String {
    format!("{PREFIX}{id}_{secret}")
}

fn hash(token: &str) -> blake3::Hash {
    blake3::hash(token.as_bytes())
}

/// The number in a token.
fn number(token: &str) -> Option<u64> {
    let (id, _) = token.strip_prefix(PREFIX)?.split_once('_')?;
    id.parse().ok()
}
