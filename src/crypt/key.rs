//! Keys: what the user gives, what a database is sealed with, and how one leads to the other.
//!
//! A database has a random data key of 32 bytes for all its life. It lies in the header, wrapped by
//! the key-encryption key, which comes from the user's secret and a salt of 16 bytes:
//!
//! - a raw key: `BLAKE3 derive_key("sqlite-replica v1 raw key", key | salt)`
//! - a passphrase: Argon2id (RFC 9106), version 0x13, 32 bytes, with the parameters of the header.
//!
//! What is sealed is sealed under `BLAKE3 derive_key(context, data key)`, with a context for each
//! kind of record, with the cipher that the header names. The state store beside a database has the same data key, so that one derivation
//! opens both.

use std::sync::Arc;

use argon2::{Argon2, Params, Version};
use zeroize::Zeroizing;

use super::Entropy;
use super::cipher::{Algorithm, Cipher};
use super::header::{Derivation, Header};
use super::nonces::Nonces;
use super::seal::Seal;
use crate::error::{Error, Result};
use crate::page::PageSize;

const RAW: &str = "sqlite-replica v1 raw key";
const PAGES: &str = "sqlite-replica v1 pages";
const FRAMES: &str = "sqlite-replica v1 frame headers";
const BLOCKS: &str = "sqlite-replica v1 blocks";
const HEADERS: &str = "sqlite-replica v1 file headers";

/// What the data key is wrapped with, in every file.
const WRAPPING: Algorithm = Algorithm::XChaCha20Poly1305;

/// Thirty-two bytes that are wiped when they are dropped.
pub(super) type KeyBytes = Zeroizing<[u8; 32]>;

/// What the user gives.
#[derive(Clone)]
pub enum Secret {
    /// A key of 32 bytes, used without a costly derivation.
    Raw(Zeroizing<[u8; 32]>),
    /// Anything else: stretched by Argon2id.
    Passphrase(Zeroizing<Vec<u8>>),
}

impl Secret {
    /// `hex:` and 64 digits is a raw key, anything else a passphrase.
    pub fn parse(text: &str) -> Result<Self> {
        match text.strip_prefix("hex:") {
            Some(digits) => Self::from_hex(digits),
            None if text.is_empty() => Err(Error::Misuse("the key is empty".to_owned())),
            None => Ok(Self::of_text(text)),
        }
    }

    /// A passphrase, whatever it looks like.
    pub fn of_text(text: &str) -> Self {
        Self::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
    }

    /// A raw key of 64 hexadecimal digits.
    pub fn from_hex(digits: &str) -> Result<Self> {
        let mut key = Zeroizing::new([0; 32]);
        let digits = digits.as_bytes();
        let value = |digit: u8| (digit as char).to_digit(16).map(|value| value as u8);
        let right = digits.len() == 64
            && key.iter_mut().zip(digits.chunks(2)).all(|(byte, pair)| {
                let Some((high, low)) = value(pair[0]).zip(value(pair[1])) else {
                    return false;
                };
                *byte = high << 4 | low;
                true
            });
        match right {
            true => Ok(Self::Raw(key)),
            false => Err(Error::Misuse(
                "a raw key has 64 hexadecimal digits".to_owned(),
            )),
        }
    }

    /// How a key-encryption key comes from this secret, in files made today.
    pub(super) fn derivation(&self) -> Derivation {
        match self {
            Secret::Raw(_) => Derivation::Raw,
            Secret::Passphrase(_) => Derivation::LEAST,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Secret::Raw(key) => &key[..],
            Secret::Passphrase(text) => text,
        }
    }

    fn derive(&self, derivation: Derivation, salt: &[u8; 16]) -> Result<KeyBytes> {
        let mut key = KeyBytes::default();
        match (self, derivation) {
            (Secret::Raw(raw), Derivation::Raw) => {
                let mut material = Zeroizing::new([0; 48]);
                material[..32].copy_from_slice(&raw[..]);
                material[32..].copy_from_slice(salt);
                *key = blake3::derive_key(RAW, &material[..]);
            }
            (
                Secret::Passphrase(text),
                Derivation::Argon2id {
                    memory,
                    passes,
                    lanes,
                },
            ) => {
                let failed = |error| Error::Internal(format!("Argon2id: {error}"));
                let params = Params::new(memory, passes, lanes, Some(32)).map_err(failed)?;
                Argon2::new(argon2::Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(text, salt, &mut key[..])
                    .map_err(failed)?;
            }
            (Secret::Raw(_), _) => return Err(wrong("it was made with a passphrase")),
            (Secret::Passphrase(_), _) => return Err(wrong("it was made with a raw key (hex:)")),
        }
        Ok(key)
    }
}

fn wrong(why: &str) -> Error {
    Error::NotADatabase(format!("the key does not open the database: {why}"))
}

/// Compares in a time that does not depend on where the difference is, as BLAKE3's type does.
pub(super) fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    blake3::Hash::from_bytes(*a) == *b
}

/// The keys of an open database, shared by all that has it open in this process.
pub struct Keys {
    data: KeyBytes,
    algorithm: Algorithm,
    wrapping: KeyBytes,
    derivation: Derivation,
    salt: [u8; 16],
    /// Of the secret, under a key of this process: says whether another connection has the same.
    check_key: KeyBytes,
    check: KeyBytes,
    mac: KeyBytes,
    /// For pages of database and log.
    pub(super) pages: Cipher,
    /// For headers of the log and its frames.
    pub(super) frames: Cipher,
    /// For journals, and for temporary files.
    pub(super) blocks: Cipher,
    /// Where nonces come from.
    pub(super) entropy: Arc<dyn Entropy>,
}

impl Keys {
    /// Keys of a database that is to be made: a new data key.
    pub fn create(
        secret: &Secret,
        algorithm: Algorithm,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let mut data = KeyBytes::default();
        entropy.fill(&mut data[..])?;
        Self::with_data((data, algorithm), secret, entropy)
    }

    /// Keys for files that nobody opens again.
    pub fn ephemeral(entropy: Arc<dyn Entropy>) -> Result<Self> {
        let mut raw = Zeroizing::new([0; 32]);
        entropy.fill(&mut raw[..])?;
        Self::create(&Secret::Raw(raw), Algorithm::fastest(), entropy)
    }

    /// The keys of an existing database; [`Error::NotADatabase`] where the secret is not its.
    pub fn unlock(header: &Header, secret: &Secret, entropy: Arc<dyn Entropy>) -> Result<Self> {
        let wrapping = secret.derive(header.derivation(), header.salt())?;
        let (seal, ciphertext) = header.wrapped();
        let mut data = KeyBytes::default();
        if !Cipher::new(WRAPPING, &wrapping).open_into(
            &seal,
            &header.wrapped_with(),
            ciphertext,
            &mut data[..],
        ) {
            return Err(wrong("it is another one"));
        }
        let keys = Self::new(
            (data, header.algorithm()),
            wrapping,
            (header.derivation(), *header.salt()),
            secret,
            entropy,
        )?;
        match keys.own(header) {
            true => Ok(keys),
            false => Err(Error::Tampered(
                "the header of the encrypted file was changed".to_owned(),
            )),
        }
    }

    /// The same data key under another secret.
    pub fn rekeyed(&self, secret: &Secret) -> Result<Self> {
        let data = (self.data.clone(), self.algorithm);
        Self::with_data(data, secret, Arc::clone(&self.entropy))
    }

    fn with_data(
        data: (KeyBytes, Algorithm),
        secret: &Secret,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let mut salt = [0; 16];
        entropy.fill(&mut salt)?;
        let derivation = secret.derivation();
        let wrapping = secret.derive(derivation, &salt)?;
        Self::new(data, wrapping, (derivation, salt), secret, entropy)
    }

    fn new(
        (data, algorithm): (KeyBytes, Algorithm),
        wrapping: KeyBytes,
        (derivation, salt): (Derivation, [u8; 16]),
        secret: &Secret,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let derived = |context| Zeroizing::new(blake3::derive_key(context, &data[..]));
        let mut check_key = KeyBytes::default();
        entropy.fill(&mut check_key[..])?;
        Ok(Self {
            check: Zeroizing::new(*blake3::keyed_hash(&check_key, secret.bytes()).as_bytes()),
            check_key,
            mac: derived(HEADERS),
            pages: Cipher::new(algorithm, &derived(PAGES)),
            frames: Cipher::new(algorithm, &derived(FRAMES)),
            blocks: Cipher::new(algorithm, &derived(BLOCKS)),
            data,
            algorithm,
            wrapping,
            derivation,
            salt,
            entropy,
        })
    }

    /// Whether `secret` is the one these keys came from.
    pub fn is_secret(&self, secret: &Secret) -> bool {
        let same_kind = matches!(
            (secret, self.derivation),
            (Secret::Raw(_), Derivation::Raw)
                | (Secret::Passphrase(_), Derivation::Argon2id { .. })
        );
        let check = *blake3::keyed_hash(&self.check_key, secret.bytes()).as_bytes();
        equal(&check, &self.check) && same_kind
    }

    /// Whether a header was made with this data key, and not changed since.
    pub fn own(&self, header: &Header) -> bool {
        header.has_mac(&self.mac) && header.algorithm() == self.algorithm
    }

    /// Whether the header's data key is wrapped by the key these keys came from.
    pub fn wraps(&self, header: &Header) -> bool {
        self.salt == *header.salt() && self.derivation == header.derivation()
    }

    /// Whether both seal with the same data key.
    pub fn same_data(&self, other: &Keys) -> bool {
        equal(&self.data, &other.data)
    }

    /// The header of a new file.
    pub fn new_header(&self, page_size: Option<PageSize>) -> Result<Header> {
        let mut id = [0; 16];
        self.entropy.fill(&mut id)?;
        Header::new(self, id, page_size)
    }

    /// What is sealed with these keys is sealed with this cipher.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn derivation(&self) -> (Derivation, &[u8; 16]) {
        (self.derivation, &self.salt)
    }

    pub(super) fn mac(&self) -> &[u8; 32] {
        &self.mac
    }

    /// The data key, wrapped; `associated` is what the wrapping authenticates.
    pub(super) fn wrap(&self, associated: &[u8]) -> Result<(Seal, [u8; 32])> {
        let nonce = Nonces::new().next(&*self.entropy)?;
        let mut ciphertext = [0; 32];
        let seal = Cipher::new(WRAPPING, &self.wrapping).seal_into(
            nonce,
            associated,
            &self.data[..],
            &mut ciphertext,
        )?;
        Ok((seal, ciphertext))
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Counted;
    use super::*;

    fn entropy() -> Arc<dyn Entropy> {
        Arc::new(Counted::default())
    }

    #[test]
    fn what_is_a_raw_key_and_what_is_not() {
        let digits = "00ff".repeat(16);
        assert!(matches!(
            Secret::parse(&format!("hex:{digits}")),
            Ok(Secret::Raw(_))
        ));
        assert!(matches!(Secret::parse(&digits), Ok(Secret::Passphrase(_))));
        for wrong in ["", "hex:", "hex:00", "hex:+0ff"] {
            assert!(Secret::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Secret::from_hex(&"0g".repeat(32)).is_err());
        assert!(Secret::from_hex(&"+1".repeat(32)).is_err());
    }

    #[test]
    fn only_the_right_secret_opens() {
        let secrets = ["a passphrase", &format!("hex:{}", "07".repeat(32))]
            .map(|text| Secret::parse(text).unwrap());
        for (at, secret) in secrets.iter().enumerate() {
            let keys = Keys::create(secret, Algorithm::Xaes256Gcm, entropy()).unwrap();
            let header = keys.new_header(None).unwrap();
            let opened = Keys::unlock(&header, secret, entropy()).unwrap();
            assert!(opened.same_data(&keys) && opened.own(&header) && opened.wraps(&header));
            assert!(opened.is_secret(secret) && !opened.is_secret(&secrets[1 - at]));
            let others = [
                secrets[1 - at].clone(),
                Secret::parse("another").unwrap(),
                Secret::from_hex(&"08".repeat(32)).unwrap(),
            ];
            for other in others {
                let result = Keys::unlock(&header, &other, entropy());
                assert!(matches!(result, Err(Error::NotADatabase(_))));
            }
        }
    }

    #[test]
    fn a_new_secret_wraps_the_same_data_key() {
        let (old, new) = (
            Secret::parse("old").unwrap(),
            Secret::from_hex(&"01".repeat(32)).unwrap(),
        );
        let entropy = entropy();
        let keys = Keys::create(&old, Algorithm::Xaes256Gcm, Arc::clone(&entropy)).unwrap();
        let header = keys.new_header(None).unwrap();
        let rekeyed = keys.rekeyed(&new).unwrap();
        assert!(rekeyed.same_data(&keys) && rekeyed.own(&header) && !rekeyed.wraps(&header));
        let other = Keys::create(&old, Algorithm::Xaes256Gcm, entropy).unwrap();
        assert!(!other.same_data(&keys) && !other.own(&header));
    }
}
