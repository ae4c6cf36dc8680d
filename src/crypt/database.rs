//! The pages of an encrypted database file.
//!
//! Behind the header (header.rs), which has 8192 bytes, lies a record (page.rs) for each page, in
//! order. With pages of N bytes, the record of page p begins at 8192 + (p - 1) * (N + 40).
//!
//! SQLite leaves holes for pages that
//! were freed before they were ever written; a plain file has zeros there. Here such a page gets a
//! record of its own when the file grows beyond it, and the header says up to which page there is
//! one for every page (`complete`): up to there a record that is missing, or zero, was taken away.

mod ahead;
mod checkpoint;
mod heal;
mod read;
mod write;

use std::sync::Arc;

use self::ahead::Ahead;
use super::RawFile;
use super::header::{Backfill, Header, Journal, Rollback};
use super::key::Keys;
use super::nonces::Nonces;
use super::page::records;
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

/// Times the same header is read again before it is believed that the file was cut.
const MOST_LOOKS: u32 = 3;

/// An encrypted database file, as one connection sees it.
pub struct SealedDatabase {
    keys: Arc<Keys>,
    header: Header,
    id: [u8; 16],
    nonces: Nonces,
    /// Records on their way.
    scratch: Vec<u8>,
    /// A page of which a part was asked for.
    page: Vec<u8>,
    /// Every page up to this one was looked at while the file grows: it has a record.
    grown: u32,
    /// What the checkpoint that is under way has copied.
    copied: Option<Backfill>,
    /// For reads one after the other.
    ahead: Option<Ahead>,
}

impl SealedDatabase {
    /// A file whose header was found.
    pub fn new(keys: Arc<Keys>, header: Header) -> Self {
        Self {
            keys,
            id: header.id(),
            nonces: Nonces::new(),
            scratch: Vec::new(),
            page: Vec::new(),
            grown: header.complete(),
            copied: None,
            ahead: None,
            header,
        }
    }

    /// A lock was taken: others may have written since.
    pub fn refresh(&mut self, raw: &dyn RawFile) -> Result<()> {
        self.forget_ahead();
        self.header.refresh(raw, &self.keys)
    }

    /// A lock was taken under which the file may be written: others may have cut it since, and what
    /// was looked at before counts no more.
    pub fn begin_write(&mut self, raw: &dyn RawFile) -> Result<()> {
        self.refresh(raw)?;
        self.grown = self.header.complete();
        // Another checkpointer may have come further with the same log.
        self.copied = None;
        // Power failed when the first pages were written, and none is there: nothing needs the
        // journal, which SQLite is about to take away.
        if matches!(self.header.rollback(), Rollback::Needed(_)) && self.size(raw)? == 0 {
            self.set_rollback(raw, Rollback::NotNeeded)?;
            self.sync(raw)?;
        }
        Ok(())
    }

    /// The lock is given back after a transaction or a checkpoint that was not synced
    /// (`synchronous=OFF`): what there is counts as well.
    pub fn end_write(&mut self, raw: &dyn RawFile) -> Result<()> {
        if self.grown <= self.header.complete()
            || matches!(self.header.rollback(), Rollback::Needed(_))
        {
            return Ok(());
        }
        self.before_sync(raw)?;
        let grown = self.grown;
        self.header
            .update(raw, &self.keys, |header| header.grow(grown))
    }

    /// Before pages are written whose former content is in the rollback journal: in its first
    /// bytes, which were synced.
    pub fn needs_journal(&mut self, raw: &dyn RawFile, journal: Journal) -> Result<()> {
        self.set_rollback(raw, Rollback::Needed(journal))
    }

    /// Before the sync that ends a transaction with a rollback journal.
    pub fn all_written(&mut self, raw: &dyn RawFile) -> Result<()> {
        match self.header.rollback() {
            Rollback::Needed(journal) => self.set_rollback(raw, Rollback::Complete(journal)),
            _ => Ok(()),
        }
    }

    fn set_rollback(&mut self, raw: &dyn RawFile, rollback: Rollback) -> Result<()> {
        if self.header.rollback() == rollback {
            return Ok(());
        }
        self.header
            .update(raw, &self.keys, |header| header.rollback(rollback))
    }

    /// The header as it was last read.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The keys.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The page size, once there is a page.
    pub fn page_size(&self) -> Option<PageSize> {
        self.header.page_size()
    }

    /// The size of the plain file, in whole pages.
    pub fn size(&mut self, raw: &dyn RawFile) -> Result<u64> {
        let Some(size) = self.known_page_size(raw)? else {
            return Ok(0);
        };
        let mut seen = 0;
        loop {
            let (records, complete) = (records(raw, size)?, self.header.complete());
            if records >= complete {
                return Ok(u64::from(records) * u64::from(size.get()));
            }
            // Others may have cut it, and have said so before; or they are saying it.
            self.header.refresh(raw, &self.keys)?;
            seen += u32::from(self.header.complete() == complete);
            if seen == MOST_LOOKS {
                return Err(Error::Tampered(format!(
                    "the encrypted database has {records} pages, and had {complete}"
                )));
            }
        }
    }

    /// The page size, which others may have told first.
    fn known_page_size(&mut self, raw: &dyn RawFile) -> Result<Option<PageSize>> {
        if self.page_size().is_none() {
            self.header.refresh(raw, &self.keys)?;
        }
        Ok(self.page_size())
    }

    /// Before the file is synced: every page up to its end gets a record.
    pub fn before_sync(&mut self, raw: &dyn RawFile) -> Result<()> {
        let Some(size) = self.page_size() else {
            return Ok(());
        };
        if self.grown <= self.header.complete() {
            return Ok(());
        }
        let end = PageNumber::new(records(raw, size)?.saturating_add(1));
        end.map_or(Ok(()), |end| self.fill_before(raw, size, end))
    }

    fn sync(&mut self, raw: &dyn RawFile) -> Result<()> {
        raw.sync()?;
        self.header.synced();
        Ok(())
    }

    /// After it: the header says so.
    pub fn after_sync(&mut self, raw: &dyn RawFile) -> Result<()> {
        self.header.synced();
        let grown = self.grown;
        if grown <= self.header.complete() {
            return Ok(());
        }
        self.header
            .update(raw, &self.keys, |header| header.grow(grown))
    }
}

#[cfg(test)]
mod tests;
