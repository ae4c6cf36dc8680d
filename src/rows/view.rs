//! A database as its pages were at one moment.

use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};

/// The pages of a database at one moment: they stay what they are.
pub trait View: Send + Sync {
    /// The page size.
    fn page_size(&self) -> PageSize;
    /// The size in pages.
    fn database_size(&self) -> u32;
    /// Reads one page of the database into `page`, which has the page size.
    fn read_page(&self, number: PageNumber, page: &mut [u8]) -> Result<()>;
}

impl dyn View + '_ {
    /// One page.
    pub fn page(&self, number: u32) -> Result<Vec<u8>> {
        let number = PageNumber::new(number)
            .filter(|number| number.get() <= self.database_size())
            .ok_or_else(|| Error::Corrupt(format!("a reference to page {number}")))?;
        let mut page = vec![0; self.page_size().bytes()];
        self.read_page(number, &mut page)?;
        Ok(page)
    }
}
