//! Files and a shared index in memory, for tests of this layer and of the engine.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{Lock, LogFile, REGION_WORDS, SharedIndex};
use crate::error::{Error, Result};

/// A file in memory; clones are handles of the same file.
#[derive(Clone, Default)]
pub(crate) struct MemoryFile(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    /// What survives a power loss for certain.
    synced: Vec<u8>,
    /// Writes since the last sync: each may or may not survive.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// Every call that changes the file, for tests of the order.
    calls: Vec<Call>,
    /// Writes and syncs that still succeed; `None` = all.
    budget: Option<u32>,
}

/// A call that changed a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Write { offset: u64, bytes: usize },
    Sync,
}

impl MemoryFile {
    /// The bytes now.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().bytes.clone()
    }

    /// The calls so far, and forgets them.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().calls)
    }

    /// Lets `count` more writes and syncs succeed, then none.
    pub(crate) fn fail_after(&self, count: Option<u32>) {
        self.0.lock().budget = count;
    }

    /// Cuts the file.
    pub(crate) fn truncate(&self, size: usize) {
        let mut content = self.0.lock();
        content.bytes.truncate(size);
        content.synced = content.bytes.clone();
        content.unsynced.clear();
    }

    /// The file as a power loss may leave it: `survives(i)` says whether the i-th write since
    /// the last sync reached the disk.
    pub(crate) fn after_power_loss(&self, mut survives: impl FnMut(usize) -> bool) -> MemoryFile {
        let content = self.0.lock();
        let mut bytes = content.synced.clone();
        for (i, (offset, data)) in content.unsynced.iter().enumerate() {
            if survives(i) {
                put(&mut bytes, data, *offset);
            }
        }
        let file = MemoryFile::default();
        *file.0.lock() = Content {
            synced: bytes.clone(),
            bytes,
            ..Content::default()
        };
        file
    }
}

fn put(bytes: &mut Vec<u8>, data: &[u8], offset: u64) {
    let offset = offset as usize;
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl Content {
    fn spend(&mut self, action: &'static str) -> Result<()> {
        match &mut self.budget {
            Some(0) => Err(Error::Io {
                action,
                path: "memory".into(),
                code: 10,
            }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl LogFile for MemoryFile {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let content = self.0.lock();
        let start = content.bytes.len().min(offset as usize);
        let count = buffer.len().min(content.bytes.len() - start);
        buffer[..count].copy_from_slice(&content.bytes[start..start + count]);
        Ok(count)
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut content = self.0.lock();
        content.spend("write")?;
        content.calls.push(Call::Write {
            offset,
            bytes: data.len(),
        });
        content.unsynced.push((offset, data.to_vec()));
        put(&mut content.bytes, data, offset);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut content = self.0.lock();
        content.spend("sync")?;
        content.calls.push(Call::Sync);
        let content = &mut *content;
        // As after_power_loss would with every write surviving, without copying the whole file.
        for (offset, data) in content.unsynced.drain(..) {
            put(&mut content.synced, &data, offset);
        }
        Ok(())
    }

    fn size(&self) -> Result<u64> {
        Ok(self.0.lock().bytes.len() as u64)
    }
}

/// Regions a test index can have: 64 of them index a quarter of a million frames.
const REGIONS: usize = 64;

type Region = Box<[AtomicU32; REGION_WORDS]>;

#[derive(Default)]
struct Shared {
    regions: [OnceLock<Region>; REGIONS / 2],
    more: [OnceLock<Region>; REGIONS / 2],
    locks: Mutex<[Holders; 8]>,
    connections: AtomicU64,
}

#[derive(Default)]
struct Holders {
    shared: BTreeSet<u64>,
    exclusive: Option<u64>,
}

/// One connection to a shared index in memory, with the lock rules of SQLite's unix VFS.
pub(crate) struct MemoryIndex {
    shared: Arc<Shared>,
    connection: u64,
    /// The first words of the index at each barrier of this connection, for tests of the order.
    seen: Mutex<Vec<[u32; SEEN_WORDS]>>,
    /// Done just before the next shared lock: what others may do in that moment.
    before_lock: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// Both copies of the header, and nBackfill.
const SEEN_WORDS: usize = 25;

impl MemoryIndex {
    /// A connection to a new index.
    pub(crate) fn new() -> Self {
        Self::connected(Arc::default(), 0)
    }

    /// Another connection to the same index.
    pub(crate) fn connect(&self) -> Self {
        let connection = self.shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        Self::connected(Arc::clone(&self.shared), connection)
    }

    fn connected(shared: Arc<Shared>, connection: u64) -> Self {
        Self {
            shared,
            connection,
            seen: Mutex::default(),
            before_lock: Mutex::default(),
        }
    }

    /// Has something happen just before this connection takes its next shared lock.
    pub(crate) fn before_lock(&self, action: impl FnOnce() + Send + 'static) {
        *self.before_lock.lock() = Some(Box::new(action));
    }

    /// What stood in the index at each barrier since the last call.
    pub(crate) fn take_seen(&self) -> Vec<[u32; SEEN_WORDS]> {
        std::mem::take(&mut self.seen.lock())
    }

    /// The locks this connection holds: `(lock, exclusive)`.
    pub(crate) fn held(&self) -> Vec<(usize, bool)> {
        let locks = self.shared.locks.lock();
        let mut held = Vec::new();
        for (i, holders) in locks.iter().enumerate() {
            if holders.exclusive == Some(self.connection) {
                held.push((i, true));
            } else if holders.shared.contains(&self.connection) {
                held.push((i, false));
            }
        }
        held
    }
}

impl Drop for MemoryIndex {
    fn drop(&mut self) {
        for holders in self.shared.locks.lock().iter_mut() {
            holders.shared.remove(&self.connection);
            holders.exclusive = holders.exclusive.filter(|&who| who != self.connection);
        }
    }
}

impl SharedIndex for MemoryIndex {
    fn region(&self, index: usize, extend: bool) -> Result<Option<&[AtomicU32; REGION_WORDS]>> {
        let mut all = self.shared.regions.iter().chain(&self.shared.more);
        let Some(region) = all.nth(index) else {
            return Err(Error::Io {
                action: "map",
                path: "memory".into(),
                code: 10,
            });
        };
        let new = || {
            let words: Box<[AtomicU32]> = (0..REGION_WORDS).map(|_| AtomicU32::new(0)).collect();
            words.try_into().expect("the length is right")
        };
        Ok(if extend {
            Some(region.get_or_init(new))
        } else {
            region.get()
        }
        .map(|words| &**words))
    }

    fn lock_shared(&self, lock: Lock) -> Result<bool> {
        let action = self.before_lock.lock().take();
        if let Some(action) = action {
            action();
        }
        let holders = &mut self.shared.locks.lock()[lock as usize];
        if holders.exclusive.is_some() {
            return Ok(false);
        }
        holders.shared.insert(self.connection);
        Ok(true)
    }

    fn lock_exclusive(&self, lock: Lock) -> Result<bool> {
        let holders = &mut self.shared.locks.lock()[lock as usize];
        // A shared lock of its own stands in the way too, as it does in SQLite.
        if holders.exclusive.is_some() || !holders.shared.is_empty() {
            return Ok(false);
        }
        holders.exclusive = Some(self.connection);
        Ok(true)
    }

    fn unlock_shared(&self, lock: Lock) {
        let holders = &mut self.shared.locks.lock()[lock as usize];
        assert!(
            holders.shared.remove(&self.connection),
            "{lock:?} was not held shared"
        );
    }

    fn unlock_exclusive(&self, lock: Lock) {
        let holders = &mut self.shared.locks.lock()[lock as usize];
        assert_eq!(
            holders.exclusive.take(),
            Some(self.connection),
            "{lock:?} was not held"
        );
    }

    fn barrier(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if let Some(region) = self.shared.regions[0].get() {
            let words = std::array::from_fn(|i| region[i].load(Ordering::Relaxed));
            self.seen.lock().push(words);
        }
    }
}
