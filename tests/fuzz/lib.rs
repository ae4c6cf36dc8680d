//! What the fuzz targets share: a log and a shared index in memory, made of any bytes, and a small
//! reader of the fuzzer's input.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use replica::error::Result;
use replica::wal::frame::LogHeader;
use replica::wal::{Lock, LogFile, REGION_WORDS, SharedIndex};

/// The fuzzer's input, taken from the front; zeros behind its end.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next `count` bytes, or what is left of them.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next four bytes.
    pub fn word(&mut self) -> u32 {
        let mut word = [0; 4];
        let taken = self.bytes(4);
        word[..taken.len()].copy_from_slice(taken);
        u32::from_le_bytes(word)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }
}

/// A file in memory.
#[derive(Default)]
pub struct File(Mutex<Vec<u8>>);

impl File {
    /// A file with this content.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Mutex::new(bytes.to_vec()))
    }
}

/// What a file may grow to: positions come from damaged headers.
const LARGEST: u64 = 64 << 20;

impl LogFile for File {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let bytes = self.0.lock();
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        if offset + data.len() as u64 > LARGEST {
            return Err(replica::error::Error::Busy("the disk is full".to_owned()));
        }
        let mut bytes = self.0.lock();
        let end = offset as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn size(&self) -> Result<u64> {
        Ok(self.0.lock().len() as u64)
    }
}

/// Regions of the shared index there are at most.
const REGIONS: usize = 4;

/// A shared index in memory, with locks that count.
pub struct Index {
    regions: Vec<Box<[AtomicU32; REGION_WORDS]>>,
    locks: Mutex<BTreeMap<u8, i32>>,
}

impl Index {
    /// An index that begins with these bytes; the rest is zero.
    pub fn of(bytes: &[u8]) -> Self {
        let mut words = bytes.chunks(4).map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_ne_bytes(word)
        });
        let region = || -> Box<[AtomicU32; REGION_WORDS]> {
            Box::new(std::array::from_fn(|_| AtomicU32::new(0)))
        };
        let regions: Vec<_> = (0..REGIONS).map(|_| region()).collect();
        for word in regions.iter().flat_map(|region| region.iter()) {
            word.store(words.next().unwrap_or(0), Ordering::Relaxed);
        }
        Self {
            regions,
            locks: Mutex::default(),
        }
    }

    /// Sets bytes somewhere.
    pub fn set(&self, region: usize, word: usize, value: u32) {
        self.regions[region % REGIONS][word % REGION_WORDS].store(value, Ordering::Relaxed);
    }

    /// Publishes a header for the log that begins with `start`, as recovery does after reading its
    /// frames; `checksum` is that of the last frame.
    pub fn publish(&self, start: &LogHeader, frames: u32, size: u32, checksum: [u32; 2]) {
        let salt = |at: usize| {
            let bytes = &start.salts.0[at..at + 4];
            u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        let format = [
            1,
            0,
            start.page_size.to_u16().to_ne_bytes()[0],
            start.page_size.to_u16().to_ne_bytes()[1],
        ];
        let mut words = [0; 12];
        words[0] = 3_007_000;
        words[2] = 1;
        words[3] = u32::from_ne_bytes(format);
        words[4..10].copy_from_slice(&[frames, size, checksum[0], checksum[1], salt(0), salt(4)]);
        let (mut a, mut b) = (0_u32, 0_u32);
        for pair in words[..10].chunks(2) {
            a = a.wrapping_add(pair[0]).wrapping_add(b);
            b = b.wrapping_add(pair[1]).wrapping_add(a);
        }
        words[10..].copy_from_slice(&[a, b]);
        for (at, word) in words.iter().chain(&words).enumerate() {
            self.set(0, at, *word);
        }
    }

    /// Whether every lock was given back.
    pub fn is_free(&self) -> bool {
        self.locks.lock().values().all(|held| *held == 0)
    }
}

impl SharedIndex for Index {
    fn region(&self, index: usize, _extend: bool) -> Result<Option<&[AtomicU32; REGION_WORDS]>> {
        Ok(self.regions.get(index).map(|region| &**region))
    }

    fn lock_shared(&self, lock: Lock) -> Result<bool> {
        let mut locks = self.locks.lock();
        let held = locks.entry(lock as u8).or_default();
        let free = *held >= 0;
        *held += i32::from(free);
        Ok(free)
    }

    fn lock_exclusive(&self, lock: Lock) -> Result<bool> {
        let mut locks = self.locks.lock();
        let held = locks.entry(lock as u8).or_default();
        let free = *held == 0;
        *held -= i32::from(free);
        Ok(free)
    }

    fn unlock_shared(&self, lock: Lock) {
        *self.locks.lock().entry(lock as u8).or_default() -= 1;
    }

    fn unlock_exclusive(&self, lock: Lock) {
        *self.locks.lock().entry(lock as u8).or_default() += 1;
    }

    fn barrier(&self) {}
}

/// A message with the trailer that it has to have: no fuzzer finds that by itself.
pub fn with_trailer(mut message: Vec<u8>) -> Vec<u8> {
    let hash = blake3::hash(&message);
    message.extend_from_slice(&hash.as_bytes()[..16]);
    message
}
