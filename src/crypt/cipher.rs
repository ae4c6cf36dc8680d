//! The cipher: XChaCha20-Poly1305, detached, in place or from buffer to buffer.
//!
//! Long content goes through the assembly of `ring`, which picks the vector instructions of the
//! processor at run time and takes a third of the time: XChaCha20-Poly1305 is ChaCha20-Poly1305
//! (RFC 8439) under a subkey, HChaCha20 of key and nonce (section 2.3 of the draft).
//!
//! A sealed record is `nonce 24 | tag 16 | ciphertext`, [`OVERHEAD`] bytes longer than what it
//! holds. A nonce is 16 random bytes, drawn when its [`Nonces`] is made, and a counter of 8 bytes:
//! unique for every write of every connection.

use chacha20::{R20, hchacha};
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use zeroize::Zeroizing;

use super::Entropy;
use crate::error::{Error, Result};

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// Bytes a sealed record is longer than its content.
pub const OVERHEAD: usize = NONCE_BYTES + TAG_BYTES;

/// Nonce and tag of a sealed record: what lies before its ciphertext.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Used for this one write.
    pub nonce: [u8; NONCE_BYTES],
    /// Authenticates ciphertext and associated data.
    pub tag: [u8; TAG_BYTES],
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

/// Makes nonces that were never used before.
pub struct Nonces {
    prefix: [u8; 16],
    counter: u64,
    generation: Option<u64>,
}

impl Nonces {
    /// Nothing is drawn before the first use.
    pub fn new() -> Self {
        Self {
            prefix: [0; 16],
            counter: 0,
            generation: None,
        }
    }

    /// The next nonce.
    pub fn next(&mut self, entropy: &dyn Entropy) -> Result<[u8; NONCE_BYTES]> {
        let generation = Some(entropy.generation());
        if self.generation != generation {
            entropy.fill(&mut self.prefix)?;
            (self.counter, self.generation) = (0, generation);
        }
        self.counter += 1;
        let mut nonce = [0; NONCE_BYTES];
        nonce[..16].copy_from_slice(&self.prefix);
        nonce[16..].copy_from_slice(&self.counter.to_le_bytes());
        Ok(nonce)
    }
}

impl Default for Nonces {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes from which content is long.
const LONG: usize = 256;

/// A cipher under one key. The key is wiped when this is dropped.
pub struct Cipher {
    key: Zeroizing<[u8; 32]>,
    short: XChaCha20Poly1305,
}

impl Cipher {
    /// A cipher under `key`.
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            key: Zeroizing::new(*key),
            short: XChaCha20Poly1305::new(key.into()),
        }
    }

    /// Seals `content` in place under a nonce that was never used before.
    pub fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        content: &mut [u8],
    ) -> Result<Seal> {
        let tag = match content.len() < LONG {
            true => self
                .short
                .encrypt_inout_detached(&nonce.into(), associated, content.into())
                .ok()
                .map(Into::into),
            false => self.long(&nonce).and_then(|(key, nonce)| {
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(associated), content);
                tag.ok()?.as_ref().try_into().ok()
            }),
        };
        let tag = tag.ok_or_else(|| Error::Internal("too long to be sealed".to_owned()))?;
        Ok(Seal { nonce, tag })
    }

    /// Seals `content` into `ciphertext`, which has its length.
    pub fn seal_into(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        content: &[u8],
        ciphertext: &mut [u8],
    ) -> Result<Seal> {
        copy(content, ciphertext)?;
        self.seal(nonce, associated, ciphertext)
    }

    /// Opens `ciphertext` in place; false where it is not authentic, and its bytes are then of
    /// no use.
    #[must_use]
    pub fn open(&self, seal: &Seal, associated: &[u8], ciphertext: &mut [u8]) -> bool {
        if ciphertext.len() < LONG {
            let (nonce, tag) = (&seal.nonce.into(), &seal.tag.into());
            return self
                .short
                .decrypt_inout_detached(nonce, associated, ciphertext.into(), tag)
                .is_ok();
        }
        self.long(&seal.nonce).is_some_and(|(key, nonce)| {
            let (associated, tag) = (Aad::from(associated), Tag::from(seal.tag));
            key.open_in_place_separate_tag(nonce, associated, tag, ciphertext, 0..)
                .is_ok()
        })
    }

    /// Opens `ciphertext` into `content`, which has its length; false where it is not authentic.
    #[must_use]
    pub fn open_into(
        &self,
        seal: &Seal,
        associated: &[u8],
        ciphertext: &[u8],
        content: &mut [u8],
    ) -> bool {
        copy(ciphertext, content).is_ok() && self.open(seal, associated, content)
    }

    /// Seals `content` as a record, which is [`OVERHEAD`] bytes longer.
    pub fn seal_record(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        content: &[u8],
        record: &mut [u8],
    ) -> Result<Seal> {
        let seal = self.seal_into(nonce, associated, content, &mut record[OVERHEAD..])?;
        record[..OVERHEAD].copy_from_slice(&seal.encode());
        Ok(seal)
    }

    /// Opens a record into `content`; false where it is not authentic, or of another length.
    #[must_use]
    pub fn open_record(&self, record: &[u8], associated: &[u8], content: &mut [u8]) -> bool {
        Seal::parse(record)
            .is_some_and(|seal| self.open_into(&seal, associated, &record[OVERHEAD..], content))
    }

    /// ChaCha20-Poly1305 as XChaCha20-Poly1305 uses it with this nonce.
    fn long(&self, nonce: &[u8; NONCE_BYTES]) -> Option<(LessSafeKey, Nonce)> {
        let (input, rest) = nonce.split_first_chunk::<16>()?;
        let subkey = hchacha::<R20>((&*self.key).into(), input.into());
        let subkey = Zeroizing::new(<[u8; 32]>::from(subkey));
        let mut short = [0; 12];
        short[4..].copy_from_slice(rest);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &subkey[..]).ok()?;
        Some((LessSafeKey::new(key), Nonce::assume_unique_for_key(short)))
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> Result<()> {
    if from.len() != to.len() {
        return Err(Error::Internal("a sealed buffer has another length".into()));
    }
    to.copy_from_slice(from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::memory::Counted;
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        std::array::from_fn(|at| digit(2 * at))
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn the_vector_of_the_draft() {
        let key: [u8; 32] = std::array::from_fn(|at| 0x80 + at as u8);
        let nonce: [u8; 24] = std::array::from_fn(|at| 0x40 + at as u8);
        let associated: [u8; 12] = bytes("50515253c0c1c2c3c4c5c6c7");
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let mut text = plain.to_vec();
        let cipher = Cipher::new(&key);
        let seal = cipher.seal(nonce, &associated, &mut text).unwrap();
        assert_eq!(seal.tag, bytes("c0875924c1c7987947deafd8780acf49"));
        assert_eq!(text[..16], bytes::<16>("bd6d179d3e83d43b9576579493c0e939"));
        assert_eq!(Seal::parse(&seal.encode()).unwrap().tag, seal.tag);
        let mut opened = [0; 114];
        assert!(cipher.open_into(&seal, &associated, &text, &mut opened));
        assert_eq!(&opened, plain);
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert!(!cipher.open(&seal, &associated, &mut changed));
        }
        assert!(!cipher.open(&seal, b"other", &mut text));
    }

    #[test]
    fn long_content_is_sealed_as_short_content_is() {
        let cipher = Cipher::new(&[7; 32]);
        for length in [0, 1, LONG - 1, LONG, LONG + 1, 512, 4096, 65536] {
            let plain: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let nonce: [u8; 24] = std::array::from_fn(|at| at as u8 + 1);
            let (mut ours, mut theirs) = (plain.clone(), plain.clone());
            let seal = cipher.seal(nonce, b"associated", &mut ours).unwrap();
            let tag: [u8; 16] = cipher
                .short
                .encrypt_inout_detached(&nonce.into(), b"associated", theirs.as_mut_slice().into())
                .unwrap()
                .into();
            assert!(ours == theirs && seal.tag == tag, "{length}");
            let mut opened = vec![1; length];
            assert!(cipher.open_into(&seal, b"associated", &ours, &mut opened));
            assert!(opened == plain, "{length}");
            assert!(!cipher.open_into(&seal, b"other", &ours, &mut opened));
        }
    }

    #[test]
    fn no_nonce_comes_twice_not_even_after_a_fork() {
        let entropy = Counted::default();
        let mut seen = HashSet::new();
        let mut nonces = [Nonces::new(), Nonces::new()];
        for round in 0..3 {
            for _ in 0..1000 {
                for nonces in &mut nonces {
                    assert!(seen.insert(nonces.next(&entropy).unwrap()), "{round}");
                }
            }
            entropy.fork();
        }
    }
}
