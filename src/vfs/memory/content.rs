//! What a file in memory holds: bytes of its own, or the pages of a database as they once were.

use super::chunks::Chunks;
use super::overlay::Overlay;

/// There is no memory for what is to be written.
#[derive(Debug)]
pub struct NoMemory;

/// Why content cannot be read or written.
#[derive(Debug)]
pub enum Failure {
    /// There is no memory.
    NoMemory,
    /// What lies beneath failed; the reason is in the log.
    Beneath,
}

/// The content of a file.
pub enum Content {
    /// Bytes.
    Bytes(Chunks),
    /// Pages over those of a view.
    Pages(Overlay),
}

impl Default for Content {
    fn default() -> Self {
        Content::Bytes(Chunks::default())
    }
}

impl Content {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Content::Bytes(chunks) => chunks.size(),
            Content::Pages(overlay) => overlay.size(),
        }
    }

    /// Fills `buffer` from `offset` on; returns how much there was. The rest is zero.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Failure> {
        match self {
            Content::Bytes(chunks) => Ok(chunks.read(buffer, offset)),
            Content::Pages(overlay) => overlay.read(buffer, offset),
        }
    }

    /// Writes at `offset`, growing the file where needed.
    pub fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Failure> {
        match self {
            Content::Bytes(chunks) => chunks.write(data, offset).map_err(Failure::from),
            Content::Pages(overlay) => overlay.write(data, offset),
        }
    }

    /// Sets the size; what is added reads as zero.
    pub fn truncate(&mut self, size: u64) -> Result<(), Failure> {
        match self {
            Content::Bytes(chunks) => chunks.truncate(size).map_err(Failure::from),
            Content::Pages(overlay) => overlay.truncate(size),
        }
    }
}

impl From<NoMemory> for Failure {
    fn from(_: NoMemory) -> Self {
        Failure::NoMemory
    }
}
