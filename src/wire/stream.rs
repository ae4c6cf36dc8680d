//! The envelope around every message, in both directions.
//!
//! All integers are little-endian.
//!
//! ```text
//! offset  size  field
//!      0     4  magic "sqrp"
//!      4     2  version: 1
//!      6     1  kind: 0x01..=0x06 requests, 0x81..=0x89 answers
//!      7     …  what the kind says (request.rs, response.rs, push.rs)
//!    end    16  the first 16 bytes of BLAKE3 over everything before, as it travelled
//! ```
//!
//! The trailer covers the travelling, compressed form: it costs less, and what decompresses from
//! the very bytes that were sent is what was meant. It guards against accidents; whoever can
//! change the bytes on their way can also compute it.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::BODY_BYTES;
use crate::error::{Error, Result};
use crate::page::PageNumber;
use crate::position::{DatabaseId, HistoryId, Lsn, Position};

const MAGIC: [u8; 4] = *b"sqrp";
const VERSION: u16 = 1;
const TRAILER: usize = 16;

/// Positions count transactions in SQLite integers, which are signed.
const LAST_LSN: u64 = i64::MAX as u64;

/// A message that is being written.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Starts a message.
    pub(super) fn start(kind: u8) -> Self {
        let mut writer = Self(Vec::with_capacity(256));
        writer.bytes(&MAGIC);
        writer.bytes(&VERSION.to_le_bytes());
        writer.u8(kind);
        writer
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn position(&mut self, position: Position) {
        self.bytes(&position.lsn.0.to_le_bytes());
        self.bytes(&position.id.0);
    }

    /// A page number, or 0 for none.
    pub(super) fn page(&mut self, number: Option<PageNumber>) {
        self.u32(number.map_or(0, PageNumber::get));
    }

    /// What was written so far, for an encoder that appends.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Goes on behind what an encoder appended.
    pub(super) fn resume(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Ends the message with its trailer.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let hash = blake3::hash(&self.0);
        self.bytes(&hash.as_bytes()[..TRAILER]);
        self.0
    }
}

/// A message that is being read: counts and hashes what is taken from the source.
pub(super) struct Reader<'a> {
    source: BufReader<&'a mut dyn Read>,
    hasher: blake3::Hasher,
    /// How many more bytes the message may have before its trailer.
    left: u64,
}

impl<'a> Reader<'a> {
    /// Starts a message; gives its kind.
    pub(super) fn start(source: &'a mut dyn Read) -> Result<(Self, u8)> {
        Self::start_long(source, BODY_BYTES)
    }

    /// Starts a message that may have `most` bytes before its trailer; gives its kind.
    pub(super) fn start_long(source: &'a mut dyn Read, most: u64) -> Result<(Self, u8)> {
        let mut reader = Self {
            source: BufReader::with_capacity(64 << 10, source),
            hasher: blake3::Hasher::new(),
            left: most,
        };
        if reader.array()? != MAGIC {
            return Err(refused("it does not speak this protocol"));
        }
        let version = u16::from_le_bytes(reader.array()?);
        if version != VERSION {
            return Err(refused(format!(
                "protocol version {version}, not {VERSION}"
            )));
        }
        let kind = reader.u8()?;
        Ok((reader, kind))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes).map_err(broken)?;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn database(&mut self) -> Result<DatabaseId> {
        Ok(DatabaseId(self.array()?))
    }

    pub(super) fn position(&mut self) -> Result<Position> {
        let lsn = u64::from_le_bytes(self.array()?);
        if lsn > LAST_LSN {
            return Err(refused(format!("transaction number {lsn}")));
        }
        Ok(Position {
            lsn: Lsn(lsn),
            id: HistoryId(self.array()?),
        })
    }

    /// A page number, or 0 for none.
    pub(super) fn page(&mut self) -> Result<Option<PageNumber>> {
        Ok(PageNumber::new(self.u32()?))
    }

    /// Compares the trailer and demands the end of the source.
    pub(super) fn finish(mut self) -> Result<()> {
        let hash = self.hasher.finalize();
        let mut trailer = [0; TRAILER];
        // Straight from the source: the trailer is not part of what it covers.
        self.source.read_exact(&mut trailer).map_err(broken)?;
        if trailer != hash.as_bytes()[..TRAILER] {
            return Err(refused("its checksum does not match"));
        }
        match self.source.bytes().next() {
            None => Ok(()),
            Some(Ok(_)) => Err(refused("it goes on behind its end")),
            Some(Err(error)) => Err(broken(error)),
        }
    }
}

/// A message that is written piece by piece to wherever it goes.
pub(super) struct HashingWriter<W> {
    sink: W,
    hasher: blake3::Hasher,
}

impl<W: Write> HashingWriter<W> {
    /// Begins with what a writer holds.
    pub(super) fn start(sink: W, message: Writer) -> io::Result<Self> {
        let mut writer = Self {
            sink,
            hasher: blake3::Hasher::new(),
        };
        writer.write_all(&message.into_bytes())?;
        Ok(writer)
    }

    /// Ends the message with its trailer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        let hash = self.hasher.finalize();
        self.sink.write_all(&hash.as_bytes()[..TRAILER])?;
        Ok(self.sink)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.sink.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Err(io::Error::other("it is longer than a part may be"));
        }
        let buffer = self.source.fill_buf()?;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        Ok(&buffer[..buffer.len().min(most)])
    }

    fn consume(&mut self, amount: usize) {
        self.hasher.update(&self.source.buffer()[..amount]);
        self.source.consume(amount);
        self.left -= amount as u64;
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

/// A message that breaks the format.
pub(super) fn refused(reason: impl Into<String>) -> Error {
    Error::Protocol(reason.into())
}

/// A message that cannot be read on.
pub(super) fn broken(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => refused("it ends early"),
        _ => refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> Result<u8> {
        let (reader, kind) = Reader::start(&mut bytes)?;
        reader.finish()?;
        Ok(kind)
    }

    #[test]
    fn an_envelope_is_as_documented() {
        let bytes = Writer::start(9).finish();
        assert_eq!(bytes[..7], *b"sqrp\x01\x00\x09");
        assert_eq!(bytes[7..], blake3::hash(&bytes[..7]).as_bytes()[..16]);
        assert_eq!(read(&bytes).unwrap(), 9);
    }

    #[test]
    fn other_protocols_and_versions_are_told_apart() {
        let mut bytes = Writer::start(9).finish();
        bytes[4] = 2;
        assert!(read(&bytes).unwrap_err().to_string().contains("version 2"));
        assert!(
            read(b"<!DOCTYPE html>")
                .unwrap_err()
                .to_string()
                .contains("does not speak")
        );
        assert!(read(b"").unwrap_err().to_string().contains("ends early"));
    }

    #[test]
    fn an_endless_message_is_broken_off() {
        let endless: &mut dyn Read = &mut io::repeat(0);
        let mut head = &Writer::start(9).into_bytes()[..];
        let mut source = (&mut head).chain(endless);
        let (mut reader, _) = Reader::start(&mut source).unwrap();
        let read = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        assert!(read.to_string().contains("longer than a part"));
    }
}
