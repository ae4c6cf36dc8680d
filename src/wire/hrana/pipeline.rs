//! Requests on a stream, several in one body.

use serde::{Deserialize, Serialize};

use super::{Batch, BatchResult, DescribeResult, Error, Stmt, StmtResult};

/// The body of a pipeline.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct PipelineRequest {
    /// The stream; a new one where there is none.
    #[serde(default)]
    pub baton: Option<String>,
    /// Run in order, whether those before succeed or not.
    pub requests: Vec<StreamRequest>,
    /// Whether the answer is to say the position afterwards.
    #[serde(default)]
    pub want_position: bool,
}

/// A SQL text, or the id under which it was stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SqlText {
    /// The text.
    pub sql: Option<String>,
    /// The id.
    pub sql_id: Option<i32>,
}

/// A request.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(try_from = "Any")]
pub enum StreamRequest {
    /// Closes the stream.
    Close,
    /// Runs one statement.
    Execute(Stmt),
    /// Runs statements on conditions.
    Batch(Batch),
    /// Runs all statements of a text, up to the first that fails.
    Sequence(SqlText),
    /// Says what a statement is.
    Describe(SqlText),
    /// Stores a text under an id.
    StoreSql(i32, String),
    /// Forgets it.
    CloseSql(i32),
    /// Whether no transaction is open.
    GetAutocommit,
}

/// The answer to a pipeline.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PipelineResponse {
    /// The stream in the next request; `None` when it is closed.
    pub baton: Option<String>,
    /// Where to send the next request; `None` for the same place.
    pub base_url: Option<String>,
    /// One for each request.
    pub results: Vec<StreamResult>,
    /// A position that holds what the requests have committed, where it was wanted. Not of the
    /// protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
}

/// What one request came to.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamResult {
    /// It succeeded.
    Ok {
        /// Its answer.
        response: StreamResponse,
    },
    /// It failed.
    Error {
        /// Why.
        error: Error,
    },
}

/// The answer to a request, of the same type.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamResponse {
    /// It is closed.
    Close,
    /// It ran.
    Execute {
        /// What it came to.
        result: StmtResult,
    },
    /// It ran, and its steps say what they came to.
    Batch {
        /// What they came to.
        result: BatchResult,
    },
    /// All ran.
    Sequence,
    /// What it is.
    Describe {
        /// What it is.
        result: DescribeResult,
    },
    /// It is stored.
    StoreSql,
    /// It is forgotten.
    CloseSql,
    /// Whether no transaction is open.
    GetAutocommit {
        /// Whether no transaction is open.
        is_autocommit: bool,
    },
}

/// Any request, as it is written.
#[derive(Deserialize)]
struct Any {
    r#type: String,
    stmt: Option<Stmt>,
    batch: Option<Batch>,
    sql: Option<String>,
    sql_id: Option<i32>,
}

impl TryFrom<Any> for StreamRequest {
    type Error = String;

    fn try_from(any: Any) -> Result<Self, String> {
        let Any {
            r#type,
            stmt,
            batch,
            sql,
            sql_id,
        } = any;
        let missing = |what| format!("the request '{type}' has no {what}");
        let text = |sql, sql_id| SqlText { sql, sql_id };
        Ok(match r#type.as_str() {
            "close" => StreamRequest::Close,
            "execute" => StreamRequest::Execute(stmt.ok_or_else(|| missing("stmt"))?),
            "batch" => StreamRequest::Batch(batch.ok_or_else(|| missing("batch"))?),
            "sequence" => StreamRequest::Sequence(text(sql, sql_id)),
            "describe" => StreamRequest::Describe(text(sql, sql_id)),
            "store_sql" => StreamRequest::StoreSql(
                sql_id.ok_or_else(|| missing("sql_id"))?,
                sql.ok_or_else(|| missing("sql"))?,
            ),
            "close_sql" => StreamRequest::CloseSql(sql_id.ok_or_else(|| missing("sql_id"))?),
            "get_autocommit" => StreamRequest::GetAutocommit,
            other => return Err(format!("'{other}' is no type of a request")),
        })
    }
}
