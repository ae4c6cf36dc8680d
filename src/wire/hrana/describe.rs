//! What a statement is, without running it.

use serde::Serialize;

/// The answer to `describe`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DescribeResult {
    /// Its parameters, the first one first.
    pub params: Vec<DescribeParam>,
    /// Its columns.
    pub cols: Vec<DescribeCol>,
    /// Whether it is an EXPLAIN.
    pub is_explain: bool,
    /// Whether it changes nothing.
    pub is_readonly: bool,
}

/// A parameter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DescribeParam {
    /// With SQLite's prefix; none where it has none.
    pub name: Option<String>,
}

/// A column.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DescribeCol {
    /// Its name.
    pub name: String,
    /// The type its table declares.
    pub decltype: Option<String>,
}
