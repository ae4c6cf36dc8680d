//! The function that runs SQL on the primary.

use serde::{Serialize, Serializer};

use super::call::{Call, json};
use crate::error::{Error, Result};
use crate::replica::registry;
use crate::wire::hrana::{Stmt, Value};

/// What `replica_exec` returns.
#[derive(Serialize)]
struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<Plain>>,
    changes: u64,
    position: Option<String>,
}

/// A value as a user of JSON expects it.
struct Plain(Value);

impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.plain(serializer)
    }
}

/// `replica_exec(sql, …)`
pub fn exec(call: &Call<'_>) -> Result<Option<String>> {
    let sql = call.text(0)?;
    call.refuse_in_transaction("replica_exec")?;
    let (_, path) = call.schema(usize::MAX)?;
    let replica = registry::find(&path).ok_or_else(|| {
        Error::Misuse(format!(
            "{} is not a replica: run the statement itself",
            path.display()
        ))
    })?;
    let args: Result<Vec<Value>> = (1..call.count()).map(|at| call.value(at)).collect();
    let stmt = Stmt {
        sql: Some(sql),
        args: args?,
        ..Stmt::default()
    };
    let executed = replica.execute(&stmt)?;
    let result = executed.result;
    let plain = |row: Vec<Value>| row.into_iter().map(Plain).collect();
    json(&Answer {
        columns: result
            .cols
            .into_iter()
            .map(|col| col.name.unwrap_or_default())
            .collect(),
        rows: result.rows.into_iter().map(plain).collect(),
        changes: result.affected_row_count,
        position: executed.position.map(|position| position.to_string()),
    })
}
