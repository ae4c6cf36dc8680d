//! Merging by rows: what changed between a base and a local state of a database is done once more on
//! top of a third one, that of the remote.
//!
//! Rows are told apart by their key: the declared PRIMARY KEY, else the rowid. What both sides changed
//! in different ways is a conflict. All of it happens in a connection to states of the database
//! ([`Views`](crate::database::views::Views)): schema `main` is the remote's and is written to, `base`,
//! `local` and `remote` are read.

mod apply;
mod carry;
mod changes;
mod foreign_keys;
mod fts5;
mod json;
mod merging;
mod policy;
mod row;
mod schema;
mod sequence;
mod sql;
mod states;
mod table;
mod value;

pub use changes::{Change, changes, count_changes};
pub use merging::{Conflict, Merged, merge};
pub use policy::Policy;
pub use states::{States, Two};
