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
//! - sizes, names, the pattern of access, and the shared index (`-shm`), which holds page numbers and
//!   a running checksum in the clear, and is believed while the database is open.

pub mod blocks;
pub mod cipher;
pub mod database;
pub mod header;
pub mod key;
pub mod log;
pub mod nonces;
pub mod seal;
pub mod xaes;
pub mod xchacha;

#[cfg(test)]
pub(crate) mod memory;

use crate::error::Result;

/// A file as it lies on disk.
pub trait RawFile {
    /// Reads up to `buffer.len()` bytes at `offset`; returns how many there were before the end
    /// of the file.
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of `data` at `offset`.
    fn write(&self, data: &[u8], offset: u64) -> Result<()>;
    /// Sets the size in bytes.
    fn truncate(&self, size: u64) -> Result<()>;
    /// The size in bytes.
    fn size(&self) -> Result<u64>;
    /// Makes what was written durable.
    fn sync(&self) -> Result<()>;
}

/// Where random bytes come from.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` from the operating system.
    fn fill(&self, bytes: &mut [u8]) -> Result<()>;
    /// Another number in a forked child than in its parent: what was drawn before counts no more.
    fn generation(&self) -> u64;
}
