//! XAES-256-GCM (C2SP, c2sp.org/XAES-256-GCM): AES-256-GCM under a subkey, which comes from the key
//! and the first half of the nonce.
//!
//! With K1 the first subkey of CMAC with AES-256 and the key, the subkey is
//! `AES-256(00 01 "X" 00 nonce[..12] ^ K1) | AES-256(00 02 "X" 00 nonce[..12] ^ K1)`, and the nonce
//! of AES-256-GCM is `nonce[12..]`.
//!
//! A connection has the first half of its nonces in common ([`Nonces`](super::nonces::Nonces)), so
//! that a subkey that was derived is kept for the records to come.

use aes::Aes256Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use parking_lot::Mutex;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, UnboundKey};
use zeroize::Zeroizing;

use super::seal::{Nonce, Seal, Tag};

/// Bytes of a nonce that choose the subkey.
const CHOICE: usize = 12;

/// Subkeys that are kept.
const KEPT: usize = 8;

/// The cipher under one key, which is wiped when this is dropped.
pub struct Xaes256Gcm {
    aes: Aes256Enc,
    mask: Zeroizing<[u8; 16]>,
    subkeys: [Mutex<Option<Subkey>>; KEPT],
}

/// AES-256-GCM for all nonces that begin with the same bytes.
struct Subkey {
    choice: [u8; CHOICE],
    key: LessSafeKey,
}

impl Xaes256Gcm {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let aes = Aes256Enc::new(key.into());
        let mut zero = aes::Block::default();
        aes.encrypt_block(&mut zero);
        // NIST SP 800-38B, section 6.1.
        let zero = u128::from_be_bytes(zero.into());
        let mask = (zero << 1) ^ ((zero >> 127) * 0x87);
        Self {
            aes,
            mask: Zeroizing::new(mask.to_be_bytes()),
            subkeys: Default::default(),
        }
    }

    /// Seals in place; `None` where the content is too long.
    pub(super) fn seal(&self, nonce: &Nonce, associated: &[u8], content: &mut [u8]) -> Option<Tag> {
        self.with_subkey(nonce, |key, nonce| {
            let tag = key.seal_in_place_separate_tag(nonce, Aad::from(associated), content);
            tag.ok()?.as_ref().try_into().ok()
        })
    }

    /// Opens in place; false where it is not authentic.
    pub(super) fn open(&self, seal: &Seal, associated: &[u8], ciphertext: &mut [u8]) -> bool {
        let opened = self.with_subkey(&seal.nonce, |key, nonce| {
            let (associated, tag) = (Aad::from(associated), seal.tag.into());
            key.open_in_place_separate_tag(nonce, associated, tag, ciphertext, 0..)
                .ok()
                .map(drop)
        });
        opened.is_some()
    }

    fn with_subkey<T>(
        &self,
        nonce: &Nonce,
        work: impl FnOnce(&LessSafeKey, ring::aead::Nonce) -> Option<T>,
    ) -> Option<T> {
        let (choice, rest) = nonce.split_first_chunk::<CHOICE>()?;
        let nonce = ring::aead::Nonce::try_assume_unique_for_key(rest).ok()?;
        // Deriving it again costs less than waiting for another thread.
        let Some(mut kept) = self.subkeys[usize::from(choice[0]) % KEPT].try_lock() else {
            return work(&self.derive(choice)?, nonce);
        };
        let subkey = match kept.take().filter(|subkey| subkey.choice == *choice) {
            Some(subkey) => subkey,
            None => Subkey {
                choice: *choice,
                key: self.derive(choice)?,
            },
        };
        work(&kept.insert(subkey).key, nonce)
    }

    fn derive(&self, choice: &[u8; CHOICE]) -> Option<LessSafeKey> {
        let mut subkey = Zeroizing::new([0; 32]);
        for (counter, half) in (1..).zip(subkey.chunks_exact_mut(16)) {
            half[..4].copy_from_slice(&[0, counter, b'X', 0]);
            half[4..].copy_from_slice(choice);
            for (byte, mask) in half.iter_mut().zip(*self.mask) {
                *byte ^= mask;
            }
            self.aes.encrypt_block(half.try_into().ok()?);
        }
        let key = UnboundKey::new(&AES_256_GCM, &subkey[..]).ok()?;
        Some(LessSafeKey::new(key))
    }
}

#[cfg(test)]
mod tests {
    use sha3::Shake128;
    use sha3::digest::{ExtendableOutput, Update, XofReader};

    use super::super::memory::hex;
    use super::*;

    const NONCE: &Nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";

    /// Ciphertext and tag, after the way back.
    fn sealed(cipher: &Xaes256Gcm, nonce: &Nonce, associated: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut text = plain.to_vec();
        let tag = cipher.seal(nonce, associated, &mut text).unwrap();
        let sealed = [text.as_slice(), &tag].concat();
        let seal = Seal { nonce: *nonce, tag };
        assert!(cipher.open(&seal, associated, &mut text) && text == plain);
        sealed
    }

    /// The two vectors of the specification, of which one has each first bit of L.
    #[test]
    fn the_vectors_of_the_specification() {
        let cipher = Xaes256Gcm::new(&[1; 32]);
        assert_eq!(*cipher.mask, hex("e531954aca063d5b8d9c47a47d4cc6f0"));
        assert_eq!(
            sealed(&cipher, NONCE, b"", b"XAES-256-GCM"),
            hex::<28>("ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271")
        );
        let cipher = Xaes256Gcm::new(&[3; 32]);
        assert_eq!(*cipher.mask, hex("23810ec50edb99f374409466ed1f4b7b"));
        assert_eq!(
            sealed(&cipher, NONCE, b"c2sp.org/XAES-256-GCM", b"XAES-256-GCM"),
            hex::<28>("986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d")
        );
    }

    /// Its accumulated test, of 10,000 rounds.
    #[test]
    fn the_accumulated_vector_of_the_specification() {
        let mut random = Shake128::default().finalize_xof();
        let mut hash = Shake128::default();
        for _ in 0..10_000 {
            let (mut key, mut nonce) = ([0; 32], [0; 24]);
            random.read(&mut key);
            random.read(&mut nonce);
            let [plain, associated] = [(); 2].map(|()| {
                let mut length = [0];
                random.read(&mut length);
                let mut bytes = vec![0; length[0].into()];
                random.read(&mut bytes);
                bytes
            });
            hash.update(&sealed(&Xaes256Gcm::new(&key), &nonce, &associated, &plain));
        }
        let mut digest = [0; 32];
        hash.finalize_xof().read(&mut digest);
        let expected = hex("e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939");
        assert_eq!(digest, expected);
    }

    #[test]
    fn a_subkey_that_is_kept_is_the_right_one() {
        let cipher = Xaes256Gcm::new(&[7; 32]);
        for at in (0..40).chain(0..40) {
            let mut nonce = *NONCE;
            nonce[..2].copy_from_slice(&[at, 9]);
            nonce[23] = at;
            let fresh = sealed(&Xaes256Gcm::new(&[7; 32]), &nonce, b"", b"content");
            assert_eq!(sealed(&cipher, &nonce, b"", b"content"), fresh);
            // While another thread has it.
            let _held = cipher.subkeys[usize::from(nonce[0]) % KEPT].lock();
            assert_eq!(sealed(&cipher, &nonce, b"", b"content"), fresh);
        }
    }
}
