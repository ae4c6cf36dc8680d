//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03).
//!
//! Long content goes through the assembly of `ring`, which picks the vector instructions of the
//! processor at run time and takes a third of the time: XChaCha20-Poly1305 is ChaCha20-Poly1305
//! (RFC 8439) under a subkey, HChaCha20 of key and nonce (section 2.3 of the draft).

use chacha20::{R20, hchacha};
use chacha20poly1305::{AeadInOut, KeyInit};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use zeroize::Zeroizing;

use super::seal::{Nonce, Seal, Tag};

/// Bytes from which content is long.
const LONG: usize = 256;

/// The cipher under one key, which is wiped when this is dropped.
pub struct XChaCha20Poly1305 {
    key: Zeroizing<[u8; 32]>,
    short: chacha20poly1305::XChaCha20Poly1305,
}

impl XChaCha20Poly1305 {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self {
            key: Zeroizing::new(*key),
            short: KeyInit::new(key.into()),
        }
    }

    /// Seals in place; `None` where the content is too long.
    pub(super) fn seal(&self, nonce: &Nonce, associated: &[u8], content: &mut [u8]) -> Option<Tag> {
        if content.len() < LONG {
            let sealed =
                self.short
                    .encrypt_inout_detached(nonce.into(), associated, content.into());
            return sealed.ok().map(Into::into);
        }
        let (key, nonce) = self.long(nonce)?;
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(associated), content);
        tag.ok()?.as_ref().try_into().ok()
    }

    /// Opens in place; false where it is not authentic.
    pub(super) fn open(&self, seal: &Seal, associated: &[u8], ciphertext: &mut [u8]) -> bool {
        if ciphertext.len() < LONG {
            let (nonce, tag) = (&seal.nonce.into(), &seal.tag.into());
            return self
                .short
                .decrypt_inout_detached(nonce, associated, ciphertext.into(), tag)
                .is_ok();
        }
        self.long(&seal.nonce).is_some_and(|(key, nonce)| {
            let (associated, tag) = (Aad::from(associated), seal.tag.into());
            key.open_in_place_separate_tag(nonce, associated, tag, ciphertext, 0..)
                .is_ok()
        })
    }

    /// ChaCha20-Poly1305 as it is used with this nonce.
    fn long(&self, nonce: &Nonce) -> Option<(LessSafeKey, ring::aead::Nonce)> {
        let (input, rest) = nonce.split_first_chunk::<16>()?;
        let subkey = hchacha::<R20>((&*self.key).into(), input.into());
        let subkey = Zeroizing::new(<[u8; 32]>::from(subkey));
        let mut short = [0; 12];
        short[4..].copy_from_slice(rest);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &subkey[..]).ok()?;
        let nonce = ring::aead::Nonce::assume_unique_for_key(short);
        Some((LessSafeKey::new(key), nonce))
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::hex;
    use super::*;

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn the_vector_of_the_draft() {
        let key: [u8; 32] = std::array::from_fn(|at| 0x80 + at as u8);
        let nonce: [u8; 24] = std::array::from_fn(|at| 0x40 + at as u8);
        let associated: [u8; 12] = hex("50515253c0c1c2c3c4c5c6c7");
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let mut text = plain.to_vec();
        let cipher = XChaCha20Poly1305::new(&key);
        let tag = cipher.seal(&nonce, &associated, &mut text).unwrap();
        assert_eq!(tag, hex("c0875924c1c7987947deafd8780acf49"));
        assert_eq!(text[..16], hex::<16>("bd6d179d3e83d43b9576579493c0e939"));
        assert!(cipher.open(&Seal { nonce, tag }, &associated, &mut text));
        assert_eq!(text, plain);
    }

    #[test]
    fn long_content_is_sealed_as_short_content_is() {
        let cipher = XChaCha20Poly1305::new(&[7; 32]);
        for length in [0, 1, LONG - 1, LONG, LONG + 1, 512, 4096, 65536] {
            let plain: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let nonce: [u8; 24] = std::array::from_fn(|at| at as u8 + 1);
            let (mut ours, mut theirs) = (plain.clone(), plain);
            let tag = cipher.seal(&nonce, b"associated", &mut ours).unwrap();
            let reference: Tag = cipher
                .short
                .encrypt_inout_detached(&nonce.into(), b"associated", theirs.as_mut_slice().into())
                .unwrap()
                .into();
            assert!(ours == theirs && tag == reference, "{length}");
        }
    }
}
