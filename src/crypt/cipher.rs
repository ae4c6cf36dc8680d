//! The cipher of a database: detached, in place or from buffer to buffer, under nonces of 24 bytes.
//!
//! A sealed record is `nonce 24 | tag 16 | ciphertext`, [`OVERHEAD`] bytes longer than what it
//! holds.

use super::seal::{Nonce, OVERHEAD, Seal};
use super::xaes::Xaes256Gcm;
use super::xchacha::XChaCha20Poly1305;
use crate::error::{Error, Result};

/// Which cipher a database is sealed with; its header says so. Both can be read on every machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// XChaCha20-Poly1305: the faster one without instructions for AES.
    XChaCha20Poly1305,
    /// XAES-256-GCM: the faster one with them.
    Xaes256Gcm,
}

impl Algorithm {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::XChaCha20Poly1305, Self::Xaes256Gcm];

    /// The one that is faster on this machine.
    pub fn fastest() -> Self {
        match has_aes() {
            true => Self::Xaes256Gcm,
            false => Self::XChaCha20Poly1305,
        }
    }

    /// Its name for users.
    pub fn name(self) -> &'static str {
        match self {
            Self::XChaCha20Poly1305 => "xchacha20-poly1305",
            Self::Xaes256Gcm => "xaes-256-gcm",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// Its number in the header of a file.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::XChaCha20Poly1305 => 0,
            Self::Xaes256Gcm => 1,
        }
    }

    /// The one of this number.
    pub(super) fn numbered(number: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.number() == number)
    }
}

/// Whether the processor has instructions for both halves of AES-GCM.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// A cipher under one key. The key is wiped when this is dropped.
// One for each kind of record of an open database: their size does not matter.
#[allow(clippy::large_enum_variant)]
pub enum Cipher {
    /// See [`Algorithm::XChaCha20Poly1305`].
    XChaCha20Poly1305(XChaCha20Poly1305),
    /// See [`Algorithm::Xaes256Gcm`].
    Xaes256Gcm(Xaes256Gcm),
}

impl Cipher {
    /// A cipher under `key`.
    pub fn new(algorithm: Algorithm, key: &[u8; 32]) -> Self {
        match algorithm {
            Algorithm::XChaCha20Poly1305 => Self::XChaCha20Poly1305(XChaCha20Poly1305::new(key)),
            Algorithm::Xaes256Gcm => Self::Xaes256Gcm(Xaes256Gcm::new(key)),
        }
    }

    /// Seals `content` in place under a nonce that was never used before.
    pub fn seal(&self, nonce: Nonce, associated: &[u8], content: &mut [u8]) -> Result<Seal> {
        let tag = match self {
            Self::XChaCha20Poly1305(cipher) => cipher.seal(&nonce, associated, content),
            Self::Xaes256Gcm(cipher) => cipher.seal(&nonce, associated, content),
        };
        let tag = tag.ok_or_else(|| Error::Internal("too long to be sealed".to_owned()))?;
        Ok(Seal { nonce, tag })
    }

    /// Seals `content` into `ciphertext`, which has its length.
    pub fn seal_into(
        &self,
        nonce: Nonce,
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
        match self {
            Self::XChaCha20Poly1305(cipher) => cipher.open(seal, associated, ciphertext),
            Self::Xaes256Gcm(cipher) => cipher.open(seal, associated, ciphertext),
        }
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
        nonce: Nonce,
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
    use super::*;

    #[test]
    fn names_and_numbers() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::named(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::numbered(algorithm.number()), Some(algorithm));
        }
        assert!(Algorithm::named("aes").is_none() && Algorithm::numbered(2).is_none());
    }

    #[test]
    fn whatever_is_changed_does_not_open() {
        for algorithm in Algorithm::ALL {
            let cipher = Cipher::new(algorithm, &[7; 32]);
            for length in [1, 40, 255, 256, 514, 4096] {
                let plain: Vec<u8> = (0..length).map(|at| at as u8).collect();
                let mut record = vec![0; length + OVERHEAD];
                cipher
                    .seal_record([9; 24], b"associated", &plain, &mut record)
                    .unwrap();
                let mut opened = vec![1; length];
                assert!(cipher.open_record(&record, b"associated", &mut opened));
                assert!(opened == plain, "{algorithm:?} {length}");
                assert!(!cipher.open_record(&record, b"other", &mut opened));
                let short = &mut opened[1..];
                assert!(!cipher.open_record(&record, b"associated", short));
                for at in (0..record.len()).step_by(1 + length / 300) {
                    record[at] ^= 1;
                    assert!(!cipher.open_record(&record, b"associated", &mut opened));
                    record[at] ^= 1;
                }
            }
        }
    }
}
