//! How large an answer may become.

use std::cell::Cell;

use super::Outcome;
use crate::wire::hrana::{self, Col, Value};

/// The longest answer in bytes, about: what JSON makes of control characters comes on top.
pub const ANSWER_BYTES: usize = 10 << 20;

/// What a result takes beside its columns and rows.
const RESULT_BYTES: usize = 100;

/// What is left of it.
pub struct Budget(Cell<usize>);

impl Budget {
    pub fn new() -> Self {
        Self(Cell::new(ANSWER_BYTES))
    }

    /// Takes one result with these columns.
    pub fn take_result(&self, cols: &[Col]) -> Outcome<()> {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let cols = cols
            .iter()
            .map(|col| 30 + text(&col.name) + text(&col.decltype));
        self.take(RESULT_BYTES + cols.sum::<usize>())
    }

    /// Takes a row.
    pub fn take_row(&self, row: &[Value]) -> Outcome<()> {
        self.take(2 + row.iter().map(Value::bytes).sum::<usize>())
    }

    fn take(&self, bytes: usize) -> Outcome<()> {
        match self.0.get().checked_sub(bytes) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => Err(hrana::Error::new(
                "RESPONSE_TOO_LARGE",
                format!(
                    "the answer would be longer than {} MiB: ask for fewer rows at once",
                    ANSWER_BYTES >> 20
                ),
            )),
        }
    }
}
