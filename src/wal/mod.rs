//! SQLite's write-ahead log and its shared index, as bytes: reading frames and snapshots, and
//! entering a foreign transaction beside live readers. No SQLite handle, no clock, no network:
//! the log file and the shared memory are reached through [`LogFile`] and [`SharedIndex`].

pub mod anchor;
pub mod apply;
pub mod checksum;
pub mod frame;
pub mod frames;
pub mod hash;
pub mod index;
pub mod publish;
pub mod pushed;
pub mod read_lock;
pub mod repair;
mod restart;
pub mod snapshot;

#[cfg(test)]
mod history;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
pub(crate) mod oracle;

use std::sync::atomic::AtomicU32;

use crate::error::Result;

/// A file read and written at byte offsets: the log, or the database itself.
pub trait LogFile {
    /// Reads up to `buffer.len()` bytes at `offset`; returns how many there were before the end
    /// of the file.
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of `data` at `offset`.
    fn write(&self, data: &[u8], offset: u64) -> Result<()>;
    /// Makes everything written so far durable.
    fn sync(&self) -> Result<()>;
    /// The size in bytes.
    fn size(&self) -> Result<u64>;
}

/// Words (32 bits) in one region of the wal-index: 32 KiB.
pub const REGION_WORDS: usize = 8192;

/// The locks of the wal-index by their slot number (`SQLITE_SHM_NLOCK` = 8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Lock {
    /// `WAL_WRITE_LOCK`
    Write = 0,
    /// `WAL_CKPT_LOCK`
    Checkpoint = 1,
    /// `WAL_RECOVER_LOCK`
    Recover = 2,
    /// `WAL_READ_LOCK(0)`: the reader uses the database file alone.
    Read0 = 3,
    /// `WAL_READ_LOCK(1)`
    Read1 = 4,
    /// `WAL_READ_LOCK(2)`
    Read2 = 5,
    /// `WAL_READ_LOCK(3)`
    Read3 = 6,
    /// `WAL_READ_LOCK(4)`
    Read4 = 7,
}

/// The shared index (`-shm`) of one connection: its locks belong to that connection.
pub trait SharedIndex: Send {
    /// Region `index`, mapped; `None` where it does not exist and `extend` is false. The words
    /// are shared with other processes, hence atomics, in native byte order.
    fn region(&self, index: usize, extend: bool) -> Result<Option<&[AtomicU32; REGION_WORDS]>>;
    /// Tries to take a lock shared; false when someone holds it exclusively.
    fn lock_shared(&self, lock: Lock) -> Result<bool>;
    /// Tries to take a lock exclusively; false when anyone else holds it.
    fn lock_exclusive(&self, lock: Lock) -> Result<bool>;
    /// Gives a shared lock back.
    fn unlock_shared(&self, lock: Lock);
    /// Gives an exclusive lock back.
    fn unlock_exclusive(&self, lock: Lock);
    /// A full memory barrier that also orders against other threads of the host's VFS.
    fn barrier(&self);
}
