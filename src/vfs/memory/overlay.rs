//! The pages of a view as a database file, and what SQLite writes over them.
//!
//! A view is of a database in WAL mode, and has no log: the header says rollback mode here, in its
//! bytes 18 and 19 (SQLite file format, section 1.3.3), whatever it says beneath.

use std::sync::Arc;

use super::content::Failure;
use crate::database::pages::{Pages, Room};
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};
use crate::rows::view::View;

/// Where the header says how the database is written and read: 1 by a rollback journal, 2 by a log.
const VERSIONS: std::ops::Range<usize> = 18..20;
const ROLLBACK: u8 = 1;
const LOG: u8 = 2;

/// A view, and pages written over it.
pub struct Overlay {
    view: Arc<dyn View>,
    written: Pages,
    room: Box<dyn Room + Send>,
    database_size: u32,
}

impl Overlay {
    /// A view as it is. What is too much for memory goes to `room`.
    pub fn new(view: Arc<dyn View>, room: Box<dyn Room + Send>) -> Self {
        Self {
            written: Pages::new(view.page_size()),
            database_size: view.database_size(),
            view,
            room,
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        u64::from(self.database_size) * u64::from(self.page_size().get())
    }

    /// Fills `buffer` from `offset` on; returns how much there was. The rest is zero.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> std::result::Result<usize, Failure> {
        let there = self.size().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (found, behind) = buffer.split_at_mut(there);
        behind.fill(0);
        let mut done = 0;
        while done < found.len() {
            let (number, at) = self.place(offset + done as u64);
            let page = self.page(number).map_err(log)?;
            let count = (page.len() - at).min(found.len() - done);
            found[done..done + count].copy_from_slice(&page[at..at + count]);
            done += count;
        }
        Ok(there)
    }

    /// Writes at `offset`, growing the file where needed. SQLite writes whole pages, but for parts of
    /// the first.
    pub fn write(&mut self, data: &[u8], offset: u64) -> std::result::Result<(), Failure> {
        let mut done = 0;
        while done < data.len() {
            let (number, at) = self.place(offset + done as u64);
            let size = self.page_size().bytes();
            let count = (size - at).min(data.len() - done);
            let mut page = match count == size || number > self.database_size {
                true => vec![0; size],
                false => self.page(number).map_err(log)?,
            };
            page[at..at + count].copy_from_slice(&data[done..done + count]);
            self.put(number, &page).map_err(log)?;
            done += count;
        }
        Ok(())
    }

    /// Sets the size; what is added reads as zero.
    pub fn truncate(&mut self, size: u64) -> std::result::Result<(), Failure> {
        let (pages, _) = self.place(size);
        let wanted = pages - 1;
        self.written.cut(wanted);
        let zero = vec![0; self.page_size().bytes()];
        for number in self.database_size + 1..=wanted {
            self.put(number, &zero).map_err(log)?;
        }
        self.database_size = wanted;
        Ok(())
    }

    /// Hands every page that was written to `visit`, ascending, as part of a database in WAL mode.
    /// Returns the size in pages.
    pub fn written(&self, visit: &mut dyn FnMut(PageNumber, &[u8]) -> Result<()>) -> Result<u32> {
        for page in self.written.iter() {
            let (number, page) = page?;
            match number == PageNumber::FIRST {
                true => {
                    let mut page = page.into_owned();
                    page[VERSIONS].fill(LOG);
                    visit(number, &page)?;
                }
                false => visit(number, &page)?,
            }
        }
        Ok(self.database_size)
    }

    fn page_size(&self) -> PageSize {
        self.view.page_size()
    }

    /// The page of an offset, and the place in it.
    fn place(&self, offset: u64) -> (u32, usize) {
        let size = u64::from(self.page_size().get());
        let number = u32::try_from(offset / size + 1).unwrap_or(u32::MAX);
        (number, (offset % size) as usize)
    }

    fn put(&mut self, number: u32, page: &[u8]) -> Result<()> {
        let number = PageNumber::new(number)
            .filter(|number| number.get() < u32::MAX)
            .ok_or_else(|| Error::Internal("a page outside of every database".to_owned()))?;
        // What lies between was never written: it reads as zero.
        if number.get() > self.database_size {
            let zero = vec![0; self.page_size().bytes()];
            for between in (self.database_size + 1..number.get()).filter_map(PageNumber::new) {
                self.written.put(&*self.room, between, &zero)?;
            }
            self.database_size = number.get();
        }
        self.written.put(&*self.room, number, page)
    }

    /// A page within the database, as SQLite is to see it.
    fn page(&self, number: u32) -> Result<Vec<u8>> {
        let mut page = vec![0; self.page_size().bytes()];
        let Some(number) = PageNumber::new(number) else {
            return Ok(page);
        };
        match self.written.get(number) {
            Some(written) => page.copy_from_slice(&written?),
            // SQLite never writes there.
            None if number == self.page_size().lock_page() => {}
            None => self.view.read_page(number, &mut page)?,
        }
        if number == PageNumber::FIRST {
            page[VERSIONS].fill(ROLLBACK);
        }
        Ok(page)
    }
}

fn log(error: Error) -> Failure {
    log::error!(target: "replica", "a state of a database cannot be read: {error}");
    Failure::Beneath
}
