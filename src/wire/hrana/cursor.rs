//! A batch whose results come line by line.

use serde::{Deserialize, Serialize};

use super::{Batch, BatchResult, Col, Error, Value};

/// The body of a cursor.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct CursorRequest {
    /// The stream; a new one where there is none.
    #[serde(default)]
    pub baton: Option<String>,
    /// What runs on it.
    pub batch: Batch,
}

/// The first line of the answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CursorResponse {
    /// The stream in the next request.
    pub baton: Option<String>,
    /// Where to send the next request; `None` for the same place.
    pub base_url: Option<String>,
}

/// Every other line.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CursorEntry {
    /// A step ran.
    StepBegin {
        /// Which.
        step: usize,
        /// Its columns.
        cols: Vec<Col>,
    },
    /// A row of it.
    Row {
        /// Its values.
        row: Vec<Value>,
    },
    /// There is no more of it.
    StepEnd {
        /// Rows that it changed.
        affected_row_count: u64,
        /// The rowid of the last row that the stream inserted.
        last_insert_rowid: Option<String>,
    },
    /// A step failed.
    StepError {
        /// Which.
        step: usize,
        /// Why.
        error: Error,
    },
    /// The batch could not run at all.
    Error {
        /// Why.
        error: Error,
    },
}

impl CursorEntry {
    /// The lines of a result.
    pub fn of(result: BatchResult) -> impl Iterator<Item = CursorEntry> {
        let steps = result.step_results.into_iter().zip(result.step_errors);
        steps.enumerate().flat_map(|(step, came_to)| {
            let mut entries = Vec::new();
            if let Some(result) = came_to.0 {
                let cols = result.cols;
                entries.push(CursorEntry::StepBegin { step, cols });
                entries.extend(result.rows.into_iter().map(|row| CursorEntry::Row { row }));
                entries.push(CursorEntry::StepEnd {
                    affected_row_count: result.affected_row_count,
                    last_insert_rowid: result.last_insert_rowid,
                });
            }
            entries.extend(
                came_to
                    .1
                    .map(|error| CursorEntry::StepError { step, error }),
            );
            entries
        })
    }
}
