//! SQL for clients over HTTP: streams of Hrana, each a connection of the host's SQLite with a thread of
//! its own.
//!
//! A stream writes like any other program on this machine: its commits lie in the log, where the
//! capture finds them. It waits for the write lock as SQLite does, for a few seconds; and because it has
//! a thread of its own, those who wait never keep the one who holds the lock from his COMMIT.

mod authorizer;
mod batch;
mod budget;
mod connection;
mod control;
mod failure;
mod pipeline;
mod policy;
mod pragma;
mod question;
mod session;
mod statement;
mod stream;
mod streams;

pub use self::question::{Asker, Pending, Question};
pub use self::streams::Streams;

use crate::wire::hrana;

/// What a request comes to.
type Outcome<T> = std::result::Result<T, hrana::Error>;
