//! One page of a B-tree (SQLite file format, section 1.6).
//!
//! ```text
//! offset  bytes  (100 further on page 1)
//! 0       1      kind: 2 interior of an index, 5 interior of a table, 10 leaf of an index, 13 leaf of
//!                a table
//! 3       2      number of cells
//! 8       4      rightmost child, interior pages only
//! 8 or 12 2 each offsets of the cells in the page
//!
//! cell of    child page  payload bytes  rowid   payload, first part  first overflow page
//! 13                     varint         varint  bytes                4, where it does not fit
//! 5          4                          varint
//! 10                     varint                 bytes                4, where it does not fit
//! 2          4           varint                 bytes                4, where it does not fit
//! ```

use super::varint;
use super::view::View;
use crate::error::{Error, Result};
use crate::page::PageNumber;

/// Where the database header has the bytes at the end of each page that hold no content.
const RESERVED_AT: usize = 20;

/// What a page of a B-tree is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Keys between children; those of an index are rows of their own.
    Interior,
    /// Rows.
    Leaf,
}

/// A page of a B-tree.
pub struct Page {
    number: u32,
    bytes: Vec<u8>,
    start: usize,
    usable: usize,
    /// Whether it belongs to a table, whose rows have a rowid.
    pub is_table: bool,
    /// What it is.
    pub kind: Kind,
}

/// A row, or the key of one.
pub struct Cell<'a> {
    /// The rowid, in the leaf of a table.
    pub rowid: i64,
    /// Bytes of the payload.
    pub payload: usize,
    /// Its first part.
    pub first: &'a [u8],
    /// Where it goes on.
    pub overflow: Option<u32>,
}

/// Bytes of each page that hold content.
pub fn usable(view: &dyn View) -> Result<usize> {
    let first = view.page(1)?;
    let usable = first.len() - usize::from(first[RESERVED_AT]);
    match usable >= 480 {
        true => Ok(usable),
        false => Err(Error::Corrupt(format!("pages of {usable} usable bytes"))),
    }
}

impl Page {
    /// Reads a page that must be one of a B-tree.
    pub fn read(view: &dyn View, number: u32, usable: usize) -> Result<Self> {
        let bytes = view.page(number)?;
        let start = if number == PageNumber::FIRST.get() {
            100
        } else {
            0
        };
        let (is_table, kind) = match bytes[start] {
            2 => (false, Kind::Interior),
            5 => (true, Kind::Interior),
            10 => (false, Kind::Leaf),
            13 => (true, Kind::Leaf),
            other => return Err(corrupt(number, &format!("is of kind {other}"))),
        };
        Ok(Self {
            number,
            bytes,
            start,
            usable,
            is_table,
            kind,
        })
    }

    fn count(&self) -> usize {
        usize::from(u16::from_be_bytes([
            self.bytes[self.start + 3],
            self.bytes[self.start + 4],
        ]))
    }

    fn word(&self, at: usize) -> Result<u32> {
        word(&self.bytes, at).ok_or_else(|| self.cut())
    }

    /// What is at the offset of a cell.
    fn cell_bytes(&self, n: usize) -> Result<&[u8]> {
        let header = if self.kind == Kind::Leaf { 8 } else { 12 };
        let at = self.start + header + 2 * n;
        let offset = self.bytes.get(at..at + 2).ok_or_else(|| self.cut())?;
        let offset = usize::from(u16::from_be_bytes([offset[0], offset[1]]));
        self.bytes
            .get(offset..self.usable)
            .ok_or_else(|| self.cut())
    }

    /// The children of an interior page, from left to right.
    pub fn children(&self) -> Result<Vec<u32>> {
        let mut children = Vec::with_capacity(self.count() + 1);
        for n in 0..self.count() {
            let cell = self.cell_bytes(n)?;
            children.push(word(cell, 0).ok_or_else(|| self.cut())?);
        }
        children.push(self.word(self.start + 8)?);
        Ok(children)
    }

    /// The rows of a page; those of an interior page of a table are none.
    pub fn cells(&self) -> Result<Vec<Cell<'_>>> {
        if self.is_table && self.kind == Kind::Interior {
            return Ok(Vec::new());
        }
        (0..self.count()).map(|n| self.cell(n)).collect()
    }

    fn cell(&self, n: usize) -> Result<Cell<'_>> {
        let mut bytes = self.cell_bytes(n)?;
        if self.kind == Kind::Interior {
            bytes = bytes.get(4..).ok_or_else(|| self.cut())?;
        }
        let mut integer = || -> Result<u64> {
            let (value, length) = varint::read(bytes).ok_or_else(|| self.cut())?;
            bytes = &bytes[length..];
            Ok(value)
        };
        let payload = usize::try_from(integer()?).map_err(|_| self.cut())?;
        let rowid = match self.is_table {
            true => integer()? as i64,
            false => 0,
        };
        let here = self.payload_here(payload);
        let first = bytes.get(..here).ok_or_else(|| self.cut())?;
        let overflow = match here < payload {
            true => Some(word(bytes, here).ok_or_else(|| self.cut())?),
            false => None,
        };
        Ok(Cell {
            rowid,
            payload,
            first,
            overflow,
        })
    }

    /// How much of a payload lies in the page itself.
    fn payload_here(&self, payload: usize) -> usize {
        let usable = self.usable;
        let most = match self.is_table {
            true => usable - 35,
            false => (usable - 12) * 64 / 255 - 23,
        };
        if payload <= most {
            return payload;
        }
        let least = (usable - 12) * 32 / 255 - 23;
        let here = least + (payload - least) % (usable - 4);
        if here <= most { here } else { least }
    }

    fn cut(&self) -> Error {
        corrupt(self.number, "is cut off")
    }
}

/// The pages of an overflow chain that holds `bytes`, each handed to `visit` with its part.
pub fn follow(
    view: &dyn View,
    usable: usize,
    first: u32,
    mut bytes: usize,
    mut visit: impl FnMut(u32, &[u8]),
) -> Result<()> {
    if bytes.div_ceil(usable - 4) > view.database_size() as usize {
        return Err(Error::Corrupt(format!(
            "a row of {bytes} bytes on the pages from {first} on is larger than the database"
        )));
    }
    let mut number = first;
    while bytes > 0 {
        let page = view.page(number)?;
        let part = bytes.min(usable - 4);
        visit(number, &page[4..4 + part]);
        bytes -= part;
        number = word(&page, 0).unwrap_or(0);
    }
    Ok(())
}

/// A big-endian word.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn corrupt(number: u32, what: &str) -> Error {
    Error::Corrupt(format!("page {number} of a B-tree {what}"))
}
