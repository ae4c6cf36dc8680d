//! States of a database, opened for SQL: one that is written to, without changing anything elsewhere,
//! and others beside it.

use crate::error::Result;
use crate::page::PageNumber;

/// A connection to states of a database, and what it wrote.
pub trait Views {
    /// The connection: the first state is its schema `main`, the others are attached.
    fn connection(&self) -> &rusqlite::Connection;
    /// Hands every page of `main` that was written to `visit`, ascending. Returns the size of `main` in
    /// pages.
    fn written(&self, visit: &mut dyn FnMut(PageNumber, &[u8]) -> Result<()>) -> Result<u32>;
}
