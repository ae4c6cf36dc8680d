//! Encrypted databases in real hosts: nothing of the content reaches a file, the wrong key opens nothing, and what was
//! changed on disk is an error, never another row.

#[path = "sealed/files.rs"]
mod files;
#[path = "sealed/keys.rs"]
mod keys;
#[path = "sealed/replicas.rs"]
mod replicas;
#[path = "sealed/tamper.rs"]
mod tamper;

/// A raw key.
pub const RAW: &str = "hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// The parameter that gives it.
pub fn raw() -> String {
    format!("encryption_key={RAW}")
}

/// What a database may be encrypted with.
pub const CIPHERS: [&str; 2] = ["xaes-256-gcm", "xchacha20-poly1305"];

/// The parameters that make a database with one of them.
pub fn raw_with(cipher: &str) -> String {
    format!("{}&cipher={cipher}", raw())
}
