//! A program that uses a database: reads, writes, syncs, and compares what it sees with what may be.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ledger::{Floor, Told};
use super::process::Process;
use super::random::Random;
use super::replica::WRITER;
use super::sqlite::{Content, Sqlite};
use super::transaction::{Change, Transaction};
use crate::error::{Error, Result};
use crate::replica::follower::Replica;
use crate::replica::writing::Writing;
use crate::wal::read_lock::{Keep, ReadLock};

/// The smallest and the largest database, in pages.
const SIZES: std::ops::RangeInclusive<u32> = 3..=9;

/// A program's way into a database.
pub(super) struct Program<'a> {
    pub(super) process: &'a Process,
    pub(super) sqlite: Sqlite,
    /// Where it is a replica.
    pub(super) replica: Option<(&'a Replica, Writing)>,
    pub(super) random: &'a mut Random,
}

impl Program<'_> {
    /// Reads everything, and compares.
    pub(super) fn read(&mut self) -> Result<Content> {
        let floor = self.floor();
        let lock = self.sqlite.begin_read(Keep::Snapshot)?;
        let content = self.see(&lock, floor);
        lock.release(&self.sqlite.index);
        content
    }

    fn floor(&self) -> Floor {
        let machine = self.process.machine_number();
        self.process.with(|state| state.ledger.floor(machine))
    }

    fn see(&mut self, lock: &ReadLock, floor: Floor) -> Result<Content> {
        let content = self.sqlite.read(lock)?;
        let (digest, machine) = (content.digest(), self.process.machine_number());
        let shown = self.process.with(|state| {
            let transactions = state.ledger.transactions(digest);
            state.note(self.process.actor(), || {
                format!(
                    "reads {transactions} transactions, up to frame {} of slot {}",
                    lock.header().mx_frame,
                    lock.slot()
                )
            });
            state.ledger.show(machine, floor, digest)
        });
        if let Err(reason) = shown {
            self.process.fail(reason);
        }
        if let Some((replica, _)) = &self.replica
            && let Some(state) = replica.recorded_state()?
            && state.anchor == Some(lock.header().anchor())
            && !lock.header().anchor().is_blank()
            && state.content != digest
        {
            self.process.fail(format!(
                "position {} is on record for another content",
                state.position
            ));
        }
        Ok(content)
    }

    /// One transaction. Begun anew for a while where others are in the way, as with BEGIN IMMEDIATE.
    pub(super) fn write(&mut self) -> Result<()> {
        let immediate = self.random.once_in(2);
        let deadline = self.process.with(|state| state.now) + 5_000_000;
        loop {
            let written = self.try_write();
            match written {
                Err(Error::Busy(_) | Error::Unreachable { .. })
                    if immediate && self.process.with(|state| state.now) < deadline =>
                {
                    let time = 1_000 + self.random.below(50_000);
                    self.process.sleep(Duration::from_micros(time))?;
                }
                other => return other,
            }
        }
    }

    fn try_write(&mut self) -> Result<()> {
        let begun = self.process.with(|state| state.now);
        let floor = self.floor();
        let mut lock = self.sqlite.begin_read(Keep::Snapshot)?;
        let written = self
            .see(&lock, floor)
            .and_then(|content| self.write_on(&mut lock, begun, content));
        lock.release(&self.sqlite.index);
        written
    }

    fn write_on(&mut self, lock: &mut ReadLock, begun: u64, base: Content) -> Result<()> {
        let (process, machine) = (self.process, self.process.machine_number());
        let (change, after) = self.change(&base);
        let is_replica = self.replica.is_some();
        let writing = self.replica.as_mut().map(|(_, writing)| writing);
        let mut transaction = Transaction::begin(&mut self.sqlite, writing, lock, base.size)?;
        // What a replica commits is on the primary, however it syncs.
        // On a replica it is the primary that syncs, unless it is committed there first.
        let offline = self.process.with(|state| state.plan.offline) && machine == WRITER;
        let careless = (!is_replica || offline) && !change.synced;
        let digest = after.digest();
        let attempted = process.with(|state| {
            let depth = state.ledger.transactions(base.digest());
            let pages: Vec<u32> = change.pages.keys().copied().collect();
            state.note(process.actor(), || {
                format!(
                    "writes pages {pages:?} of {} over {depth} transactions",
                    change.size
                )
            });
            state
                .ledger
                .attempt((machine, careless), begun, base.digest(), digest)
        });
        if let Err(reason) = attempted {
            process.fail(reason);
        }
        let committed = transaction.commit(lock, &change);
        transaction.end();
        let floor = self.floor();
        let shown = self.process.with(|state| {
            let told = match &committed {
                Ok(()) => Told::Committed(state.now),
                Err(Error::Unknown(_) | Error::Io { .. }) => Told::Unknown,
                Err(_) => Told::Refused,
            };
            state.note(process.actor(), || match &committed {
                Ok(()) => "has committed".to_owned(),
                Err(error) => format!("has not committed ({told:?}): {error}"),
            });
            state.ledger.tell(digest, told);
            match told {
                Told::Committed(_) => state.ledger.show(machine, floor, digest),
                _ => Ok(()),
            }
        });
        if let Err(reason) = shown {
            process.fail(reason);
        }
        committed
    }

    /// Some pages become others; now and then the database grows or shrinks.
    fn change(&mut self, base: &Content) -> (Change, Content) {
        let mark = self.process.with(|state| state.entropy.bytes());
        let old = base.pages.len() as u32;
        let size = match self.random.below(5) {
            0 if old < *SIZES.end() => old + 1,
            1 if old > *SIZES.start() => old - 1,
            _ => old,
        };
        let mut pages = BTreeMap::new();
        let mut after = base.clone();
        after
            .pages
            .resize(size as usize, vec![0; base.size.bytes()]);
        let mut numbers: Vec<u32> = (old + 1..=size).collect();
        for _ in 0..=self.random.below(3) {
            numbers.push(1 + self.random.below(size.into()) as u32);
        }
        if size != old || self.random.once_in(2) {
            numbers.push(1);
        }
        for number in numbers {
            let page = &mut after.pages[number as usize - 1];
            let at = 128 + self.random.below(base.size.bytes() as u64 - 160) as usize;
            page[at..at + 16].copy_from_slice(&mark);
            if number == 1 {
                set_header(page, size);
            }
            pages.insert(number, page.clone());
        }
        let change = Change {
            pages,
            size,
            spills: self.random.once_in(4),
            synced: self.process.with(|state| state.plan.synced),
        };
        (change, after)
    }
}

/// What SQLite keeps on page 1: change counter and size.
pub(super) fn set_header(page: &mut [u8], size: u32) {
    let mut counter = [0; 4];
    counter.copy_from_slice(&page[24..28]);
    let counter = (u32::from_be_bytes(counter) + 1).to_be_bytes();
    page[24..28].copy_from_slice(&counter);
    page[28..32].copy_from_slice(&size.to_be_bytes());
    page[92..96].copy_from_slice(&counter);
}
