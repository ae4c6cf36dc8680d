//! The body of a long message: in memory while it is short, in a scratch file when it is long.

use std::io::{self, Read, Write};

use super::host::Spool;
use super::pages::Room;
use crate::error::Result;

/// How much is held in memory.
pub const MEMORY_BYTES: usize = 1 << 20;

/// Bytes that were written once and can be read any number of times.
#[derive(Default)]
pub struct Body {
    /// What is not in the file.
    memory: Vec<u8>,
    /// Everything before.
    file: Option<Box<dyn Spool>>,
    /// Bytes in the file.
    filed: u64,
}

impl Body {
    /// A body without anything in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.filed + self.memory.len() as u64
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds bytes. May block once there are more than [`MEMORY_BYTES`].
    pub fn add(&mut self, room: &dyn Room, bytes: &[u8]) -> Result<()> {
        if self.memory.len() + bytes.len() > MEMORY_BYTES {
            if self.file.is_none() {
                self.file = Some(room.scratch()?);
            }
            self.spill()?;
        }
        self.memory.extend_from_slice(bytes);
        Ok(())
    }

    fn spill(&mut self) -> Result<()> {
        if let Some(file) = &self.file {
            file.write(&self.memory, self.filed)?;
            self.filed += self.memory.len() as u64;
            self.memory.clear();
        }
        Ok(())
    }

    /// Reads it from the start.
    pub fn reader(&self) -> BodyReader<'_> {
        BodyReader { body: self, at: 0 }
    }

    /// Writes to it, as far as there is room.
    pub fn writer<'a>(&'a mut self, room: &'a dyn Room) -> BodyWriter<'a> {
        BodyWriter { body: self, room }
    }
}

/// Reads a [`Body`].
pub struct BodyReader<'a> {
    body: &'a Body,
    at: u64,
}

impl Read for BodyReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let body = self.body;
        let count = match (&body.file, self.at.checked_sub(body.filed)) {
            (_, Some(at)) => {
                let rest = body.memory.get(at as usize..).unwrap_or_default();
                let count = rest.len().min(into.len());
                into[..count].copy_from_slice(&rest[..count]);
                count
            }
            (Some(file), None) => {
                let most = into.len().min((body.filed - self.at) as usize);
                let count = file
                    .read(&mut into[..most], self.at)
                    .map_err(io::Error::other)?;
                if count == 0 && most > 0 {
                    return Err(io::Error::other("the scratch file was cut off"));
                }
                count
            }
            (None, None) => 0,
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// Writes to a [`Body`].
pub struct BodyWriter<'a> {
    body: &'a mut Body,
    room: &'a dyn Room,
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.body.add(self.room, bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pages::tests::MemoryRoom;
    use super::*;

    #[test]
    fn long_bodies_move_to_a_file() {
        let room = MemoryRoom::default();
        for pieces in [1, 10, 100] {
            let mut body = Body::new();
            let mut expected = Vec::new();
            for n in 0..pieces {
                let piece = vec![n as u8; 100_000 + n];
                body.add(&room, &piece).unwrap();
                expected.extend(piece);
            }
            assert_eq!(body.len(), expected.len() as u64);
            assert_eq!(body.file.is_some(), pieces > 10);
            for _ in 0..2 {
                let mut found = Vec::new();
                body.reader().read_to_end(&mut found).unwrap();
                assert!(found == expected);
            }
        }
    }
}
