//! The host of a simulated process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::file::File;
use super::memory::Index;
use super::merging;
use super::process::Process;
use super::sqlite::Sqlite;
use super::store::SimulatedStore;
use crate::crypt::cipher::Algorithm;
use crate::crypt::key::{Keys, Secret};
use crate::database::clock::Clock;
use crate::database::connection::Connection;
use crate::database::host::{DatabaseFiles, Host, ProcessLock, Spool};
use crate::database::paths;
use crate::database::store::Store;
use crate::database::views::Views;
use crate::error::{Error, Result};
use crate::merge::{Merged, Policy, States};
use crate::page::PageNumber;
use crate::rows::view::View;

/// The host.
pub(super) struct SimulatedHost(pub(super) Process);

/// The name of a database's log.
pub(super) fn log_path(path: &Path) -> std::path::PathBuf {
    let [log, _] = paths::logs(path);
    log
}

/// Why a database cannot be opened.
pub(super) fn not_there(path: &Path) -> Error {
    Error::CannotOpen(format!("{} is not there", path.display()))
}

impl Host for SimulatedHost {
    fn open_database(&self, path: &Path) -> Result<DatabaseFiles> {
        let content = File::open(&self.0, path, "database")?.ok_or_else(|| not_there(path))?;
        let index = Box::new(Index::open(&self.0, path)?);
        let log = File::create(&self.0, &log_path(path), "log")?;
        Ok(DatabaseFiles {
            log: Box::new(log),
            index,
            content: Box::new(content),
        })
    }

    fn open_spool(&self, path: &Path) -> Result<Box<dyn Spool>> {
        Ok(Box::new(File::create(&self.0, path, "spool")?))
    }

    fn open_scratch(&self, _: &Path) -> Result<Box<dyn Spool>> {
        Ok(Box::new(File::scratch(&self.0)?))
    }

    fn unlock(
        &self,
        _: &Path,
        _: Option<&Secret>,
        _: Option<Algorithm>,
    ) -> Result<Option<Arc<Keys>>> {
        Ok(None)
    }

    fn is_wrapped(&self, _: &Path, _: &Keys) -> Result<bool> {
        Ok(true)
    }

    fn rewrap(&self, _: &Path, _: &Keys) -> Result<()> {
        Err(Error::Misuse("nothing is encrypted here".to_owned()))
    }

    fn connect(&self, path: &Path) -> Result<Box<dyn Connection>> {
        Ok(Box::new(std::cell::RefCell::new(Sqlite::open(
            &self.0, path, true,
        )?)))
    }

    fn open_views(
        &self,
        _: &Path,
        _: &Arc<dyn View>,
        _: &[(&str, Arc<dyn View>)],
    ) -> Result<Box<dyn Views>> {
        Err(Error::Misuse("no SQL is run here".to_owned()))
    }

    fn merge(
        &self,
        _: &Path,
        states: &States,
        policy: Policy,
        take: &mut dyn FnMut(PageNumber, &[u8]) -> Result<()>,
    ) -> Result<(Merged, u32)> {
        merging::merge(&self.0, states, policy, take)
    }

    fn open_store(&self, path: &Path) -> Result<Box<dyn Store>> {
        Ok(Box::new(SimulatedStore::open(&self.0, path)?))
    }

    fn store_exists(&self, path: &Path) -> Result<bool> {
        self.0.step("look for store")?;
        Ok(self.0.machine(|machine| machine.stores.contains_key(path)))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.0.step("look for")?;
        Ok(self.0.machine(|machine| machine.disk.find(path).is_some()))
    }

    fn link(&self, path: &Path, name: &Path) -> Result<()> {
        self.0.step("link")?;
        let linked = self.0.machine(|machine| {
            let file = machine.disk.find(path);
            file.is_some_and(|file| machine.disk.name(name, file))
        });
        match linked {
            true => Ok(()),
            false => Err(Error::File {
                action: "link",
                path: name.display().to_string(),
                source: std::io::ErrorKind::AlreadyExists.into(),
            }),
        }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.0.step("remove")?;
        self.0.machine(|machine| machine.disk.remove(path));
        Ok(())
    }

    fn sync_folder(&self, _: &Path) -> Result<()> {
        self.0.step("sync folder")?;
        self.0.machine(|machine| machine.disk.sync_names());
        Ok(())
    }

    fn lock_process(&self, path: &Path) -> Result<Option<ProcessLock>> {
        self.0.step("lock process")?;
        let id = self.0.id();
        let taken = self.0.machine(|machine| {
            let is_free = !machine.owners.contains_key(path);
            if is_free {
                machine.owners.insert(path.to_owned(), id);
            }
            is_free
        });
        let owner = || -> ProcessLock {
            Box::new(Owner {
                process: self.0.clone(),
                path: path.to_owned(),
            })
        };
        Ok(taken.then(owner))
    }

    fn has_threads(&self) -> bool {
        false
    }

    fn random(&self) -> Result<[u8; 16]> {
        Ok(self.0.with(|state| state.entropy.bytes()))
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SimulatedClock(self.0.clone()))
    }
}

/// Who makes or serves a database, until it is dropped.
struct Owner {
    process: Process,
    path: std::path::PathBuf,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !self.process.is_dead() {
            self.process
                .machine(|machine| machine.owners.remove(&self.path));
        }
    }
}

/// The clock of the world.
struct SimulatedClock(Process);

impl Clock for SimulatedClock {
    fn now(&self) -> u64 {
        self.0.with(|state| state.now) / 1000
    }

    fn monotonic(&self) -> Duration {
        // Not 0: some count back from now.
        Duration::from_micros(self.0.with(|state| state.now) + 1_000_000)
    }

    fn sleep(&self, time: Duration) {
        // A dead process does not wait.
        let _ = self.0.sleep(time);
    }
}
