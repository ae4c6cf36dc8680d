//! How a key-encryption key is derived.

use crate::error::{Error, Result};

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

    pub(super) fn parse(kind: u8, memory: u32, passes: u32, lanes: u32) -> Result<Self> {
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
