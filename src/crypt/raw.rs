//! A file as it lies on disk.

use crate::error::Result;

/// The most bytes of one call.
pub(crate) const MOST_BYTES: usize = 1 << 16;

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

/// Reads with calls that are short enough.
pub(crate) fn read_all(raw: &dyn RawFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    for chunk in buffer.chunks_mut(MOST_BYTES) {
        let read = raw.read(chunk, offset + done as u64)?;
        done += read;
        if read < chunk.len() {
            break;
        }
    }
    Ok(done)
}

/// Writes with calls that are short enough.
pub(crate) fn write_all(raw: &dyn RawFile, data: &[u8], offset: u64) -> Result<()> {
    for (at, chunk) in data.chunks(MOST_BYTES).enumerate() {
        raw.write(chunk, offset + (at * MOST_BYTES) as u64)?;
    }
    Ok(())
}
