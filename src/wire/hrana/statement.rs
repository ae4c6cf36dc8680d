//! Statements and what they result in.

use serde::{Deserialize, Serialize};

use super::Value;

/// A statement. Of `sql` and `sql_id` exactly one is given.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Stmt {
    /// Its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// The id of a text that was stored on the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_id: Option<i32>,
    /// Values of its parameters by position.
    #[serde(default)]
    pub args: Vec<Value>,
    /// Values by name, which come before those by position.
    #[serde(default)]
    pub named_args: Vec<NamedArg>,
    /// Whether the rows are wanted; they are where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub want_rows: Option<bool>,
}

/// A value of a parameter.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NamedArg {
    /// With or without SQLite's prefix (`:`, `@`, `$`).
    pub name: String,
    /// The value.
    pub value: Value,
}

/// What a statement came to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StmtResult {
    /// Its columns.
    pub cols: Vec<Col>,
    /// Its rows, where they were wanted.
    pub rows: Vec<Vec<Value>>,
    /// Rows that an INSERT, UPDATE or DELETE changed; 0 for other statements.
    pub affected_row_count: u64,
    /// The rowid of the last row that the stream inserted, in decimal.
    pub last_insert_rowid: Option<String>,
}

/// A column of a result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Col {
    /// Its name.
    pub name: Option<String>,
    /// The type its table declares; none for expressions.
    #[serde(default)]
    pub decltype: Option<String>,
}
