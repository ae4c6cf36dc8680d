//! Hrana 3 in its JSON encoding: SQL over HTTP, as libSQL's servers and clients speak it. Pure, as
//! everything here.
//!
//! `POST {url}/v2/pipeline` and `{url}/v3/pipeline` carry a [`PipelineRequest`] and are answered by a
//! [`PipelineResponse`]; `POST {url}/v3/cursor` carries a [`CursorRequest`] and is answered by lines: a
//! [`CursorResponse`], then [`CursorEntry`]s. A stream is one connection of the server; the baton of an
//! answer names it in the next request, once. An answer with a 4xx or 5xx status carries an [`Error`].
//!
//! Two fields are ours, which other peers ignore as the protocol demands: `want_position` of a
//! request, and `position` of its answer.
//!
//! Structures are read by their `type` from flat objects, and not by serde's tagged enumerations: those
//! copy everything first, and lose what is no number of Rust's (`1e999` is SQLite's infinity).

mod batch;
mod code;
mod cursor;
mod describe;
mod error;
mod pipeline;
mod statement;
mod value;

#[cfg(test)]
mod tests;

pub use self::batch::{Batch, BatchCond, BatchResult, BatchStep};
pub use self::code::{code, name};
pub use self::cursor::{CursorEntry, CursorRequest, CursorResponse};
pub use self::describe::{DescribeCol, DescribeParam, DescribeResult};
pub use self::error::Error;
pub use self::pipeline::{
    PipelineRequest, PipelineResponse, SqlText, StreamRequest, StreamResponse, StreamResult,
};
pub use self::statement::{Col, NamedArg, Stmt, StmtResult};
pub use self::value::Value;

/// The longest body of a request.
pub const REQUEST_BYTES: usize = 8 << 20;
