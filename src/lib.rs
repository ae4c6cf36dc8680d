//! Embedded replicas for stock SQLite.
//!
//! One loadable extension registers a VFS named `replica`. The folders are the layers; what is
//! used lies below: [`functions`] and [`vfs`] use [`replica`] and [`primary`], these use
//! [`remote`], [`database`] and [`wal`], and [`remote`] uses [`wire`]. [`crypt`] is what
//! [`vfs`] puts between a file and its bytes on disk; [`merge`] puts the rows of three states together,
//! which [`rows`] finds in their pages.
#![deny(missing_docs)]

pub mod crypt;
pub mod database;
pub mod error;
pub mod ffi;
pub mod functions;
pub mod last_error;
pub mod logging;
pub mod merge;
pub mod page;
mod planted;
pub mod position;
pub mod primary;
pub mod remote;
pub mod replica;
pub mod rows;
#[cfg(test)]
mod simulation;
pub mod vfs;
pub mod wal;
pub mod wire;
