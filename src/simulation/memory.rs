//! The shared index of a database on one machine: memory that lives as long as a process of the
//! machine has it open, and its locks, which go with the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::process::Process;
use crate::error::{Error, Result};
use crate::wal::{Lock, REGION_WORDS, SharedIndex};

/// More than any run fills.
const REGIONS: usize = 4;

type Region = Box<[AtomicU32; REGION_WORDS]>;

/// The memory.
#[derive(Default)]
pub(super) struct Memory {
    regions: [OnceLock<Region>; REGIONS],
    users: Mutex<Users>,
}

#[derive(Default)]
struct Users {
    /// The process of each connection.
    connections: BTreeMap<u64, u64>,
    locks: [Holders; 8],
    next: u64,
    /// Whether the last connection is closing the database: nobody opens it meanwhile.
    closing: bool,
}

#[derive(Default)]
struct Holders {
    shared: BTreeSet<u64>,
    exclusive: Option<u64>,
}

impl Users {
    fn leave(&mut self, connection: u64) {
        self.connections.remove(&connection);
        for holders in &mut self.locks {
            holders.shared.remove(&connection);
            holders.exclusive = holders.exclusive.filter(|&who| who != connection);
        }
    }
}

impl Memory {
    /// Another connection of a process; `None` while the last one closes.
    fn join(&self, process: u64) -> Option<u64> {
        let mut users = self.users.lock();
        if users.closing {
            return None;
        }
        users.next += 1;
        let connection = users.next;
        users.connections.insert(connection, process);
        Some(connection)
    }

    /// Keeps everybody else out, where there is nobody else.
    pub(super) fn keep_others_out(&self) -> bool {
        let mut users = self.users.lock();
        users.closing = users.connections.len() == 1;
        users.closing
    }

    /// Lets others in again.
    pub(super) fn let_others_in(&self) {
        self.users.lock().closing = false;
    }

    /// A connection ends, with its locks. True where it was the last one.
    pub(super) fn leave(&self, connection: u64) -> bool {
        let mut users = self.users.lock();
        users.leave(connection);
        users.connections.is_empty()
    }

    /// A process ends. True where nobody is left.
    pub(super) fn end_process(&self, process: u64) -> bool {
        let mut users = self.users.lock();
        let ended: Vec<u64> = users
            .connections
            .iter()
            .filter(|(_, owner)| **owner == process)
            .map(|(connection, _)| *connection)
            .collect();
        ended
            .into_iter()
            .for_each(|connection| users.leave(connection));
        users.connections.is_empty()
    }

    /// Takes over the frames of another index, behind the header.
    pub(super) fn copy_frames(&self, other: &dyn SharedIndex) -> Result<()> {
        for number in 0..REGIONS {
            let Some(from) = other.region(number, false)? else {
                return Ok(());
            };
            let to = self.regions[number].get_or_init(empty);
            let start = if number == 0 { HEADER_WORDS } else { 0 };
            for (to, from) in to[start..].iter().zip(&from[start..]) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Words of the first region before the page numbers.
const HEADER_WORDS: usize = 34;

fn empty() -> Region {
    let words: Box<[AtomicU32]> = (0..REGION_WORDS).map(|_| AtomicU32::new(0)).collect();
    words.try_into().expect("the length is right")
}

/// A connection to a shared index.
pub(super) struct Index {
    pub(super) process: Process,
    pub(super) memory: Arc<Memory>,
    connection: u64,
    path: std::path::PathBuf,
}

impl Index {
    /// Connects to the index of the database at `path`.
    pub(super) fn open(process: &Process, path: &std::path::Path) -> Result<Self> {
        process.step("map")?;
        loop {
            let (memory, connection) = process.machine(|machine| {
                let memory = machine.indexes.entry(path.to_owned()).or_default();
                (Arc::clone(memory), memory.join(process.id()))
            });
            if let Some(connection) = connection {
                return Ok(Self {
                    process: process.clone(),
                    memory,
                    connection,
                    path: path.to_owned(),
                });
            }
            process.sleep(Duration::from_millis(1))?;
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if self.process.is_dead() {
            // Its locks went with it.
            return;
        }
        if self.memory.leave(self.connection) {
            self.process.machine(|machine| {
                machine.indexes.remove(&self.path);
            });
        }
    }
}

impl SharedIndex for Index {
    fn region(&self, index: usize, extend: bool) -> Result<Option<&[AtomicU32; REGION_WORDS]>> {
        self.process.step("region")?;
        let region = self.memory.regions.get(index).ok_or_else(|| Error::Io {
            action: "map",
            path: "the index".to_owned(),
            code: 10,
        })?;
        Ok(match extend {
            true => Some(region.get_or_init(empty)),
            false => region.get(),
        }
        .map(|words| &**words))
    }

    fn lock_shared(&self, lock: Lock) -> Result<bool> {
        self.process.step("lock shared")?;
        let holders = &mut self.memory.users.lock().locks[lock as usize];
        if holders.exclusive.is_some() {
            return Ok(false);
        }
        holders.shared.insert(self.connection);
        Ok(true)
    }

    fn lock_exclusive(&self, lock: Lock) -> Result<bool> {
        self.process.step("lock exclusive")?;
        let holders = &mut self.memory.users.lock().locks[lock as usize];
        if holders.exclusive.is_some() || !holders.shared.is_empty() {
            return Ok(false);
        }
        holders.exclusive = Some(self.connection);
        Ok(true)
    }

    fn unlock_shared(&self, lock: Lock) {
        if self.process.step("unlock shared").is_err() {
            return;
        }
        let held = self.memory.users.lock().locks[lock as usize]
            .shared
            .remove(&self.connection);
        assert!(held, "{lock:?} was not held shared");
    }

    fn unlock_exclusive(&self, lock: Lock) {
        if self.process.step("unlock exclusive").is_err() {
            return;
        }
        let held = self.memory.users.lock().locks[lock as usize]
            .exclusive
            .take();
        assert_eq!(held, Some(self.connection), "{lock:?} was not held");
    }

    fn barrier(&self) {
        // A dead process sees whatever it likes.
        let _ = self.process.step("barrier");
    }
}
