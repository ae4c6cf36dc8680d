//! Running one statement, or several in a row.

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Batch, Statement};

use super::Outcome;
use super::failure::arguments;
use super::session::Session;
use crate::wire::hrana::{
    self, Col, DescribeCol, DescribeParam, DescribeResult, SqlText, Stmt, StmtResult, Value,
};

/// What a name of a parameter may begin with.
const PREFIXES: [char; 4] = [':', '@', '$', '?'];

impl Session {
    /// Runs a statement.
    pub(super) fn execute(&mut self, stmt: &Stmt) -> Outcome<StmtResult> {
        self.control.check()?;
        let sql = self.text(stmt.sql.as_deref(), stmt.sql_id)?;
        // libSQL's clients begin transactions so that may only read.
        let reading = begins_reading(sql);
        let mut statement = self.prepare(if reading { "BEGIN" } else { sql })?;
        bind(&mut statement, stmt).map_err(|error| self.explained(error))?;
        let before = self.connection.total_changes();
        let rows_wanted = stmt.want_rows.unwrap_or(true);
        let stepped = self
            .policy
            .running(|| self.step(&mut statement, rows_wanted));
        let (cols, rows) = stepped.map_err(|error| self.explained(error))?;
        let changed = self.connection.total_changes() != before;
        drop(statement);
        if reading || self.connection.is_autocommit() {
            self.policy.set_reading(reading);
        }
        Ok(StmtResult {
            cols,
            rows,
            affected_row_count: if changed {
                self.connection.changes()
            } else {
                0
            },
            last_insert_rowid: Some(self.connection.last_insert_rowid().to_string()),
        })
    }

    /// Runs all statements of a text, up to the first that fails.
    pub(super) fn sequence(&mut self, text: &SqlText) -> Outcome<()> {
        let sql = self.text_of(text)?;
        self.policy.take_refusal();
        let mut statements = Batch::new(&self.connection, sql);
        loop {
            self.control.check()?;
            let next = statements.next().map_err(|error| self.failed(error))?;
            let Some(mut statement) = next else {
                return Ok(());
            };
            let ran = self.policy.running(|| {
                let mut rows = statement.raw_query();
                while rows.next()?.is_some() {}
                Ok(())
            });
            ran.map_err(|error| self.failed(error))?;
            if self.connection.is_autocommit() {
                self.policy.set_reading(false);
            }
        }
    }

    /// Says what a statement is.
    pub(super) fn describe(&mut self, text: &SqlText) -> Outcome<DescribeResult> {
        self.control.check()?;
        let statement = self.prepare(self.text_of(text)?)?;
        let param = |index| DescribeParam {
            name: statement.parameter_name(index).map(str::to_owned),
        };
        let col = |col: Col| DescribeCol {
            name: col.name.unwrap_or_default(),
            decltype: col.decltype,
        };
        Ok(DescribeResult {
            params: (1..=statement.parameter_count()).map(param).collect(),
            cols: columns(&statement).into_iter().map(col).collect(),
            is_explain: statement.is_explain() != 0,
            is_readonly: statement.readonly(),
        })
    }

    /// Prepares the one statement of a text.
    fn prepare(&self, sql: &str) -> Outcome<Statement<'_>> {
        // What an earlier statement was refused for, and nobody asked about.
        self.policy.take_refusal();
        let mut statements = Batch::new(&self.connection, sql);
        let first = statements.next().map_err(|error| self.failed(error))?;
        let first = first.ok_or_else(|| {
            let sentence = "SQL string does not contain any statement";
            hrana::Error::new("SQL_NO_STATEMENT", sentence)
        })?;
        match statements.next() {
            Ok(None) => Ok(first),
            // Nothing of it runs: neither what would follow, nor what it was refused for, counts.
            _ => Err(hrana::Error::new(
                "SQL_MANY_STATEMENTS",
                "SQL string contains more than one statement",
            )),
        }
    }

    /// Runs a statement to its end.
    fn step(&self, statement: &mut Statement<'_>, rows_wanted: bool) -> Result<Table, Stopped> {
        // Before it runs: what has run is not refused any more.
        self.budget.take_result(&columns(statement))?;
        let mut kept = Vec::new();
        let writes = !statement.readonly();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            if !rows_wanted {
                continue;
            }
            let count = row.as_ref().column_count();
            let values: rusqlite::Result<Vec<Value>> =
                (0..count).map(|at| row.get_ref(at).map(value)).collect();
            let values = values?;
            if let Err(error) = self.budget.take_row(&values) {
                if writes {
                    // Else what it wrote would be committed with its end. It answers that it was
                    // interrupted.
                    self.connection.get_interrupt_handle().interrupt();
                    let _ = rows.next();
                }
                return Err(error.into());
            }
            kept.push(values);
        }
        drop(rows);
        // The first step may have found a newer schema.
        Ok((columns(statement), kept))
    }

    fn explained(&self, stopped: Stopped) -> hrana::Error {
        match stopped {
            Stopped::Refused(error) => error,
            Stopped::Failed(error) => self.failed(error),
        }
    }
}

/// `BEGIN TRANSACTION READONLY` is libSQL's own.
fn begins_reading(sql: &str) -> bool {
    let words = sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    let words: Vec<&str> = words.split_whitespace().take(4).collect();
    let is = |at: usize, word: &str| {
        words
            .get(at)
            .is_some_and(|is| is.eq_ignore_ascii_case(word))
    };
    match words.len() {
        2 => is(0, "BEGIN") && is(1, "READONLY"),
        3 => is(0, "BEGIN") && is(1, "TRANSACTION") && is(2, "READONLY"),
        _ => false,
    }
}

/// Why a statement did not come to its end.
enum Stopped {
    /// By us.
    Refused(hrana::Error),
    /// By SQLite.
    Failed(rusqlite::Error),
}

impl From<hrana::Error> for Stopped {
    fn from(error: hrana::Error) -> Self {
        Stopped::Refused(error)
    }
}

impl From<rusqlite::Error> for Stopped {
    fn from(error: rusqlite::Error) -> Self {
        Stopped::Failed(error)
    }
}

/// Columns and rows.
type Table = (Vec<Col>, Vec<Vec<Value>>);

/// Binds values by position, then by name; each parameter needs one.
fn bind(statement: &mut Statement<'_>, stmt: &Stmt) -> Result<(), Stopped> {
    let refused = |message| Stopped::Refused(arguments(message));
    let count = statement.parameter_count();
    if stmt.args.len() > count {
        return Err(refused(format!(
            "{} values for {count} parameters",
            stmt.args.len()
        )));
    }
    let mut values: Vec<Option<&Value>> = stmt.args.iter().map(Some).collect();
    values.resize(count, None);
    for arg in &stmt.named_args {
        let index = index(statement, &arg.name)?;
        let place = index.and_then(|index| values.get_mut(index.checked_sub(1)?));
        let place =
            place.ok_or_else(|| refused(format!("no parameter is named '{}'", arg.name)))?;
        *place = Some(&arg.value);
    }
    for (index, value) in (1..).zip(values) {
        let Some(value) = value else {
            let name = statement.parameter_name(index).unwrap_or("?");
            return Err(refused(format!("parameter {index} ({name}) has no value")));
        };
        statement.raw_bind_parameter(index, Bound(value))?;
    }
    Ok(())
}

/// The parameter of a name; its prefix may be left out.
fn index(statement: &Statement<'_>, name: &str) -> rusqlite::Result<Option<usize>> {
    if name.starts_with(PREFIXES) {
        return statement.parameter_index(name);
    }
    for prefix in PREFIXES {
        if let Some(index) = statement.parameter_index(&format!("{prefix}{name}"))? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// A value as it is bound.
struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Float(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn columns(statement: &Statement<'_>) -> Vec<Col> {
    let col = |column: rusqlite::Column<'_>| Col {
        name: Some(column.name().to_owned()),
        decltype: column.decl_type().map(str::to_owned),
    };
    statement.columns().into_iter().map(col).collect()
}

/// A value of a row. JSON is UTF-8: what is not in a text is replaced.
fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Float(number),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libsqls_own_begin_is_taken_for_it() {
        for sql in [
            "BEGIN TRANSACTION READONLY",
            " begin\n readonly ; ",
            "Begin Transaction ReadOnly;",
        ] {
            assert!(begins_reading(sql), "{sql}");
        }
        for sql in [
            "BEGIN",
            "BEGIN IMMEDIATE",
            "BEGIN TRANSACTION READONLY; DELETE FROM t",
            "READONLY",
            "",
        ] {
            assert!(!begins_reading(sql), "{sql}");
        }
    }
}
