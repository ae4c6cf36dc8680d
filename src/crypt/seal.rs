//! What lies before the ciphertext of a sealed record: `nonce 24 | tag 16`.

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// Bytes a sealed record is longer than its content.
pub const OVERHEAD: usize = NONCE_BYTES + TAG_BYTES;

/// A nonce: for one write.
pub type Nonce = [u8; NONCE_BYTES];
/// Authenticates ciphertext and associated data.
pub type Tag = [u8; TAG_BYTES];

/// Nonce and tag of a sealed record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Used for this one write.
    pub nonce: Nonce,
    /// Of what was written.
    pub tag: Tag,
}

impl Seal {
    /// Reads the first [`OVERHEAD`] bytes of a record.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let (nonce, rest) = record.split_first_chunk()?;
        let (tag, _) = rest.split_first_chunk()?;
        Some(Self {
            nonce: *nonce,
            tag: *tag,
        })
    }

    /// The bytes before the ciphertext.
    pub fn encode(&self) -> [u8; OVERHEAD] {
        let mut bytes = [0; OVERHEAD];
        bytes[..NONCE_BYTES].copy_from_slice(&self.nonce);
        bytes[NONCE_BYTES..].copy_from_slice(&self.tag);
        bytes
    }
}
