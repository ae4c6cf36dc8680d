//! Rows as they lie in the pages of a database: which of them may be others in one state of it than
//! in another, found from the pages that changed.
//!
//! The format is SQLite's (<https://www.sqlite.org/fileformat2.html>, sections 1.5 to 1.8 and 2.1).

pub mod btree;
pub mod difference;
pub mod record;
pub mod tree;
mod varint;
pub mod view;

#[cfg(test)]
mod tests;
