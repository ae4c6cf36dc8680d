//! The highest numbers that AUTOINCREMENT has given: the higher one counts.

use rusqlite::Connection;

use super::schema::{Kind, Schema};
use super::sql;
use crate::error::Result;

const TABLE: &str = "sqlite_sequence";

/// Raises the numbers in `main` to those given here since the base.
pub fn raise(connection: &Connection, base: &Schema, local: &Schema) -> Result<()> {
    let main = Schema::read(connection, "main")?;
    let has = |schema: &Schema| schema.find(Kind::Internal, TABLE).is_some();
    if !has(local) || !has(&main) {
        return Ok(());
    }
    let given = match has(base) {
        true => {
            "SELECT name, seq FROM local.sqlite_sequence EXCEPT SELECT name, seq FROM base.sqlite_sequence"
        }
        false => "SELECT name, seq FROM local.sqlite_sequence",
    };
    for row in sql::rows(connection, given, [])? {
        if main.find(Kind::Table, &sql::text(&row[0])).is_none() {
            continue;
        }
        let known = "SELECT 1 FROM main.sqlite_sequence WHERE name = ?1";
        match sql::exists(connection, known, [&row[0]])? {
            true => sql::run(
                connection,
                "UPDATE main.sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1",
                [&row[0], &row[1]],
            )?,
            false => sql::run(
                connection,
                "INSERT INTO main.sqlite_sequence(name, seq) VALUES (?1, ?2)",
                [&row[0], &row[1]],
            )?,
        }
    }
    Ok(())
}
