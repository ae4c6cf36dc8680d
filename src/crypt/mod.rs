//! Encryption at rest, as bytes: keys, the page cipher, and where sealed pages lie in database,
//! log and journals. No SQLite handle, no files, no randomness of its own: the bytes on disk are
//! reached through [`RawFile`], random bytes through [`Entropy`].
//!
//! Everything of a database is sealed with one cipher, which its header names: XAES-256-GCM (C2SP),
//! or XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) where the processor that made it has no
//! instructions for AES; under a nonce of its own for every write. What is *not* defended:
//!
//! - putting back the whole set of files as it was at an earlier time;
//! - an older sealed image of a page at its own place, or in the log a frame that was written at the
//!   same place since the log began anew (`replica_verify` finds it, against the remote);
//! - taking the log away, or its end, when nobody has the database open: as if power had failed
//!   before (`replica_verify` finds it);
//! - taking away the rollback journal of a transaction, or the log of a checkpoint, between its last
//!   write and its sync, if power fails just then;
//! - taking away, or putting back, the super-journal of a transaction over several databases that was
//!   interrupted: some of them may then count it, and others not;
//! - sizes, names, the pattern of access, and the shared index (`-shm`), which holds page numbers and
//!   a running checksum in the clear, and is believed while the database is open.

pub mod blocks;
pub mod cipher;
pub mod database;
pub mod header;
pub mod key;
pub mod log;
pub mod nonces;
pub mod page;
pub(crate) mod raw;
pub mod seal;
pub mod super_journal;
pub mod xaes;
pub mod xchacha;

#[cfg(test)]
pub(crate) mod memory;

use crate::error::Result;
pub use raw::RawFile;

/// Where random bytes come from.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` from the operating system.
    fn fill(&self, bytes: &mut [u8]) -> Result<()>;
    /// Another number in a forked child than in its parent: what was drawn before counts no more.
    fn generation(&self) -> u64;
}
