//! Records that were read ahead, for pages that are read one after the other.

use super::SealedDatabase;
use crate::crypt::page::{associated, place};
use crate::crypt::raw::{MOST_BYTES, RawFile};
use crate::crypt::seal::OVERHEAD;
use crate::error::Result;
use crate::page::{PageNumber, PageSize};

/// Records that were read ahead. They are good for as long as the locks of the connection stay as
/// they are: what a transaction reads from the database file nobody writes meanwhile.
#[derive(Default)]
pub(super) struct Ahead {
    records: Vec<u8>,
    /// The page of the first, and how many there are.
    first: u32,
    count: u32,
    /// The page that was asked for last.
    last: u32,
}

impl Ahead {
    /// Where the record of a page lies in `records`.
    fn find(&self, number: PageNumber, length: usize) -> Option<std::ops::Range<usize>> {
        let at = number.get().checked_sub(self.first)?;
        let start = at as usize * length;
        (at < self.count).then_some(start..start + length)
    }
}

impl SealedDatabase {
    /// Has pages read ahead where they are read one after the other. Whoever asks for this says when
    /// locks change ([`SealedDatabase::forget_ahead`]).
    pub fn read_ahead(&mut self) {
        self.ahead = Some(Ahead::default());
    }

    /// Locks were taken or given back: what was read ahead may be old.
    pub fn forget_ahead(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.count = 0;
        }
    }

    /// Whether the record of a page was read ahead; where pages are read one after the other, the
    /// next ones are.
    pub(super) fn look_ahead(
        &mut self,
        raw: &dyn RawFile,
        size: PageSize,
        number: PageNumber,
    ) -> Result<bool> {
        let length = size.bytes() + OVERHEAD;
        let Some(ahead) = &mut self.ahead else {
            return Ok(false);
        };
        let next = ahead.last > 0 && number.get() == ahead.last.wrapping_add(1);
        ahead.last = number.get();
        if ahead.find(number, length).is_some() {
            return Ok(true);
        }
        let count = MOST_BYTES / length;
        if !next || count < 2 {
            return Ok(false);
        }
        ahead.count = 0;
        ahead.records.resize(count * length, 0);
        let read = raw.read(&mut ahead.records, place(size, number))?;
        (ahead.first, ahead.count) = (number.get(), (read / length) as u32);
        Ok(ahead.count > 0)
    }

    pub(super) fn open_ahead(&self, number: PageNumber, page: &mut [u8]) -> bool {
        let (pages, associated) = (&self.keys.pages, associated(&self.id, number));
        let record = self
            .ahead
            .as_ref()
            .and_then(|ahead| Some(&ahead.records[ahead.find(number, page.len() + OVERHEAD)?]));
        record.is_some_and(|record| pages.open_record(record, &associated, page))
    }
}
