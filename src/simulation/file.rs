//! Open files of a simulated machine.

use std::path::Path;

use super::disk::Disk;
use super::faults::Fault;
use super::process::Process;
use crate::database::host::Spool;
use crate::error::{Error, Result};
use crate::wal::LogFile;

/// `SQLITE_IOERR_WRITE`, and of a sync.
const WRITE_FAILED: i32 = 778;
const SYNC_FAILED: i32 = 1034;

/// An open file.
#[derive(Clone)]
pub(super) struct File {
    process: Process,
    number: usize,
    name: &'static str,
}

impl File {
    /// The file of a name; `None` where there is none.
    pub(super) fn open(process: &Process, path: &Path, name: &'static str) -> Result<Option<Self>> {
        process.step("open")?;
        let number = process.machine(|machine| machine.disk.find(path));
        Ok(number.map(|number| Self::new(process, number, name)))
    }

    /// The same, made where there is none.
    pub(super) fn create(process: &Process, path: &Path, name: &'static str) -> Result<Self> {
        process.step("create")?;
        let number = process.machine(|machine| match machine.disk.find(path) {
            Some(number) => number,
            None => {
                let number = machine.disk.create();
                machine.disk.name(path, number);
                number
            }
        });
        Ok(Self::new(process, number, name))
    }

    /// A file without a name.
    pub(super) fn scratch(process: &Process) -> Result<Self> {
        process.step("create")?;
        let number = process.machine(|machine| machine.disk.create());
        Ok(Self::new(process, number, "scratch"))
    }

    fn new(process: &Process, number: usize, name: &'static str) -> Self {
        Self {
            process: process.clone(),
            number,
            name,
        }
    }

    fn disk<T>(&self, work: impl FnOnce(&mut Disk) -> T) -> T {
        self.process.machine(|machine| work(&mut machine.disk))
    }

    fn may_fail(&self, action: &'static str, code: i32) -> Result<()> {
        let process = &self.process;
        let failed = process.with(|state| {
            let disk = state.plan.disk;
            let number = state.happens(disk)?;
            state.faults.count(Fault::Disk);
            state.note(process.actor(), || {
                format!("fault {number}: {action} of the {} fails", self.name)
            });
            Some(())
        });
        match failed {
            None => Ok(()),
            Some(()) => Err(Error::Io {
                action,
                path: self.name.to_owned(),
                code,
            }),
        }
    }
}

impl LogFile for File {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.process.step("read")?;
        Ok(self.disk(|disk| disk.read(self.number, buffer, offset)))
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        self.process.step("write")?;
        self.may_fail("write", WRITE_FAILED)?;
        self.disk(|disk| disk.write(self.number, data, offset));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.process.step("sync")?;
        self.may_fail("sync", SYNC_FAILED)?;
        self.disk(|disk| {
            disk.sync(self.number);
            if self.name == "log" {
                // SQLite syncs the folder of a log with it.
                disk.sync_names();
            }
        });
        Ok(())
    }

    fn size(&self) -> Result<u64> {
        self.process.step("size")?;
        Ok(self.disk(|disk| disk.size(self.number)))
    }
}

impl Spool for File {
    fn truncate(&self, size: u64) -> Result<()> {
        self.process.step("truncate")?;
        self.may_fail("truncate", WRITE_FAILED)?;
        self.disk(|disk| disk.resize(self.number, size));
        Ok(())
    }
}
