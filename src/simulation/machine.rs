//! A simulated machine: disk, shared memory, state stores, and the processes that run on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::disk::Disk;
use super::memory::Memory;
use super::random::Random;
use super::store::StoreFile;

/// A machine.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) disk: Disk,
    /// The shared indexes that somebody has open, by database.
    pub(super) indexes: BTreeMap<PathBuf, Arc<Memory>>,
    /// State stores, by database.
    pub(super) stores: BTreeMap<PathBuf, StoreFile>,
    /// Which process makes or serves a database.
    pub(super) owners: BTreeMap<PathBuf, u64>,
    /// The processes that run, and how they are told that they do not any more.
    pub(super) processes: BTreeMap<u64, Arc<AtomicBool>>,
    /// When it is up again after a power loss.
    pub(super) up_at: u64,
    /// How often it has lost its power.
    pub(super) power_losses: u64,
}

impl Machine {
    /// Ends a process at once: what it held is free, what it was at is left as it is.
    pub(super) fn kill(&mut self, process: u64) {
        let Some(dead) = self.processes.remove(&process) else {
            return;
        };
        dead.store(true, Ordering::Relaxed);
        self.indexes.retain(|_, index| !index.end_process(process));
        self.owners.retain(|_, owner| *owner != process);
        for store in self.stores.values_mut() {
            store.end_process(process);
        }
    }

    /// Ends everything, and takes away what is not durable.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        let running: Vec<u64> = self.processes.keys().copied().collect();
        running.into_iter().for_each(|process| self.kill(process));
        self.indexes.clear();
        self.disk.lose_power(random);
        for store in self.stores.values_mut() {
            store.lose_power(random);
        }
        self.power_losses += 1;
    }
}
