//! Files and random bytes in memory, for tests.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cipher::Algorithm;
use super::key::{Keys, Secret};
use super::{Entropy, RawFile};
use crate::error::{Error, Result};

/// Keys of a database with this cipher.
pub fn keys_for(algorithm: Algorithm) -> Arc<Keys> {
    let secret = Secret::from_hex(&"01".repeat(32)).unwrap();
    Arc::new(Keys::create(&secret, algorithm, Arc::new(Counted::default())).unwrap())
}

/// Keys of a database whose cipher does not matter.
pub fn keys() -> Arc<Keys> {
    keys_for(Algorithm::Xaes256Gcm)
}

/// Bytes in hexadecimal digits.
pub fn hex<const N: usize>(digits: &str) -> [u8; N] {
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    std::array::from_fn(|at| byte(2 * at))
}

/// A file in memory. `fail_after` counts the writes down to one that is torn in its middle.
#[derive(Default)]
pub struct Bytes {
    pub bytes: RefCell<Vec<u8>>,
    pub fail_after: RefCell<Option<usize>>,
    pub writes: RefCell<usize>,
    pub reads: RefCell<usize>,
    /// As it was when it was synced.
    pub synced: RefCell<Vec<u8>>,
}

impl Bytes {
    pub fn of(bytes: Vec<u8>) -> Self {
        Self {
            bytes: RefCell::new(bytes),
            ..Self::default()
        }
    }

    pub fn copy(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }
}

impl RawFile for Bytes {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        assert!(buffer.len() <= 1 << 16, "a read of {} bytes", buffer.len());
        *self.reads.borrow_mut() += 1;
        let bytes = self.bytes.borrow();
        let there = bytes
            .len()
            .saturating_sub(offset as usize)
            .min(buffer.len());
        if there > 0 {
            buffer[..there].copy_from_slice(&bytes[offset as usize..offset as usize + there]);
        }
        Ok(there)
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        assert!(data.len() <= 1 << 16, "a write of {} bytes", data.len());
        let torn = match &mut *self.fail_after.borrow_mut() {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        let data = if torn { &data[..data.len() / 2] } else { data };
        let mut bytes = self.bytes.borrow_mut();
        let end = offset as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(data);
        *self.writes.borrow_mut() += 1;
        match torn {
            true => Err(Error::Io {
                action: "write",
                path: "memory".into(),
                code: libsqlite3_sys::SQLITE_IOERR,
            }),
            false => Ok(()),
        }
    }

    fn truncate(&self, size: u64) -> Result<()> {
        self.bytes.borrow_mut().resize(size as usize, 0);
        Ok(())
    }

    fn size(&self) -> Result<u64> {
        Ok(self.bytes.borrow().len() as u64)
    }

    fn sync(&self) -> Result<()> {
        *self.synced.borrow_mut() = self.copy();
        Ok(())
    }
}

/// Bytes that never repeat, and can be told apart.
#[derive(Default)]
pub struct Counted {
    drawn: AtomicU64,
    generation: AtomicU64,
}

impl Counted {
    pub fn fork(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

impl Entropy for Counted {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        let mut reader = blake3::Hasher::new()
            .update(&drawn.to_le_bytes())
            .finalize_xof();
        reader.fill(bytes);
        Ok(())
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}
