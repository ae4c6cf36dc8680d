//! Statements on a connection to states of a database.

use rusqlite::{Connection, Params};

use crate::error::{Error, Result};
use crate::rows::record::Value;

/// A name in double quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table of a schema, quoted.
pub fn place(schema: &str, table: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(table))
}

/// `a = ?1 AND b = ?2 …`, from that parameter on.
pub fn equals(columns: &[String], first: usize) -> String {
    equals_of("", columns, first)
}

/// The same of a table's alias, with its dot.
pub fn equals_of(alias: &str, columns: &[String], first: usize) -> String {
    let equal =
        |(n, column): (usize, &String)| format!("{alias}{} = ?{}", quoted(column), first + n);
    let all: Vec<_> = columns.iter().enumerate().map(equal).collect();
    all.join(" AND ")
}

/// Columns, quoted, with commas between.
pub fn list(columns: &[String]) -> String {
    let all: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
    all.join(", ")
}

/// `?1, ?2, …`
pub fn parameters(count: usize) -> String {
    let all: Vec<_> = (1..=count).map(|n| format!("?{n}")).collect();
    all.join(", ")
}

/// All rows of a statement.
pub fn rows(connection: &Connection, sql: &str, params: impl Params) -> Result<Vec<Vec<Value>>> {
    let read = |error| failed(sql, error);
    let mut statement = connection.prepare_cached(sql).map_err(read)?;
    let count = statement.column_count();
    let mut found = statement.query(params).map_err(read)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next().map_err(read)? {
        let mut values = Vec::with_capacity(count);
        for n in 0..count {
            values.push(Value::from(row.get_ref(n).map_err(read)?));
        }
        rows.push(values);
    }
    Ok(rows)
}

/// The first row of a statement.
pub fn first(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> Result<Option<Vec<Value>>> {
    Ok(rows(connection, sql, params)?.into_iter().next())
}

/// Whether a statement has a row.
pub fn exists(connection: &Connection, sql: &str, params: impl Params) -> Result<bool> {
    Ok(first(connection, sql, params)?.is_some())
}

/// The integer a statement answers with; 0 where there is none.
pub fn integer(connection: &Connection, sql: &str) -> Result<i64> {
    match first(connection, sql, [])?.and_then(|row| row.into_iter().next()) {
        Some(Value::Integer(integer)) => Ok(integer),
        _ => Ok(0),
    }
}

/// Runs a statement.
pub fn run(connection: &Connection, sql: &str, params: impl Params) -> Result<()> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            let mut rows = statement.query(params)?;
            while rows.next()?.is_some() {}
            Ok(())
        })
        .map_err(|error| failed(sql, error))
}

/// A text of a row.
pub fn text(value: &Value) -> String {
    match value {
        Value::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

fn failed(sql: &str, error: rusqlite::Error) -> Error {
    let is_constraint = error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation);
    match is_constraint {
        true => Error::Constraint(error.to_string()),
        false => Error::Misuse(format!("{error} (in: {sql})")),
    }
}
