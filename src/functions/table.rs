//! Tables that are always there and only read: rows in, SQLite's callbacks out.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sqlite_loadable::api;
use sqlite_loadable::ext::{sqlite3, sqlite3_context, sqlite3_value};
use sqlite_loadable::table::{
    BestIndexError, Constraint, ConstraintOperator, IndexInfo, VTab, VTabArguments, VTabCursor,
    define_table_function,
};

use crate::error::{Error, Result};
use crate::ffi::{self, HostConnection};

/// One value of a row.
pub enum Value {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// A text.
    Text(String),
    /// What is computed only where the column is read.
    Computed(Box<dyn Fn() -> Value>),
}

/// The values of one row, in the order of the columns.
pub type Row = Vec<Value>;

/// What is in a table.
pub trait Rows {
    /// Its columns as SQL: `name TYPE, …`.
    const COLUMNS: &'static str;

    /// The number of the column by which it takes an argument, hidden and behind all others.
    const ARGUMENT: Option<i32> = None;

    /// All rows, as they are seen by a connection; with the argument as text, where one is given.
    fn rows(connection: HostConnection, argument: Option<&str>) -> Result<Vec<Row>>;
}

/// Defines a table on a connection.
pub fn define<R: Rows + 'static>(db: *mut sqlite3, name: &str) -> Result<()> {
    define_table_function::<Table<R>>(db, name, None)
        .map_err(|error| Error::Internal(error.result_error_message()))
}

/// An eponymous table.
#[repr(C)]
struct Table<R> {
    base: sqlite_loadable::ext::sqlite3_vtab,
    connection: HostConnection,
    rows: PhantomData<R>,
}

impl<'vtab, R: Rows + 'static> VTab<'vtab> for Table<R> {
    type Aux = ();
    type Cursor = Cursor<'vtab, R>;

    fn connect(
        db: *mut sqlite3,
        _aux: Option<&()>,
        _arguments: VTabArguments,
    ) -> sqlite_loadable::Result<(String, Self)> {
        let table = Table {
            base: ffi::empty_vtab(),
            connection: ffi::connection(db),
            rows: PhantomData,
        };
        Ok((format!("CREATE TABLE x({})", R::COLUMNS), table))
    }

    fn best_index(&self, mut info: IndexInfo) -> core::result::Result<(), BestIndexError> {
        let mut cost = 10.0;
        if let Some(column) = R::ARGUMENT {
            let is_argument = |constraint: &Constraint| {
                constraint.column_idx() == column
                    && matches!(constraint.op(), Some(ConstraintOperator::EQ))
            };
            for mut constraint in info.constraints() {
                match is_argument(&constraint) {
                    true if constraint.usable() => {
                        constraint.set_argv_index(1);
                        constraint.set_omit(true);
                    }
                    // It comes from a table that is not read yet.
                    true => return Err(BestIndexError::Constraint),
                    false => {}
                }
            }
            cost = 1000.0;
        }
        info.set_estimated_cost(cost);
        info.set_estimated_rows(2);
        Ok(())
    }

    fn open(&mut self) -> sqlite_loadable::Result<Cursor<'vtab, R>> {
        Ok(Cursor {
            base: ffi::empty_cursor(),
            connection: self.connection,
            rows: Vec::new(),
            at: 0,
            table: PhantomData,
        })
    }
}

/// A read of a table.
#[repr(C)]
struct Cursor<'vtab, R> {
    base: sqlite_loadable::ext::sqlite3_vtab_cursor,
    connection: HostConnection,
    rows: Vec<Row>,
    at: usize,
    table: PhantomData<&'vtab Table<R>>,
}

impl<R: Rows> VTabCursor for Cursor<'_, R> {
    fn filter(
        &mut self,
        _number: i32,
        _text: Option<&str>,
        values: &[*mut sqlite3_value],
    ) -> sqlite_loadable::Result<()> {
        let connection = self.connection;
        let argument = match values.first() {
            Some(value) if !api::value_is_null(value) => Some(api::value_text(value)?),
            _ => None,
        };
        let rows = catch_unwind(AssertUnwindSafe(|| R::rows(connection, argument)))
            .unwrap_or_else(|panic| Err(Error::Internal(ffi::panic_text(&*panic))));
        self.rows = rows.map_err(told)?;
        self.at = 0;
        Ok(())
    }

    fn next(&mut self) -> sqlite_loadable::Result<()> {
        self.at += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.at >= self.rows.len()
    }

    fn column(&self, context: *mut sqlite3_context, column: i32) -> sqlite_loadable::Result<()> {
        let value = self
            .rows
            .get(self.at)
            .and_then(|row| row.get(usize::try_from(column).ok()?));
        match value {
            Some(Value::Computed(compute)) => {
                let value = catch_unwind(AssertUnwindSafe(compute))
                    .map_err(|panic| told(Error::Internal(ffi::panic_text(&*panic))))?;
                answer(context, &value)
            }
            value => answer(context, value.unwrap_or(&Value::Null)),
        }
    }

    fn rowid(&self) -> sqlite_loadable::Result<i64> {
        Ok(i64::try_from(self.at).unwrap_or(i64::MAX))
    }
}

fn told(error: Error) -> sqlite_loadable::Error {
    sqlite_loadable::Error::new_message(error.to_string())
}

fn answer(context: *mut sqlite3_context, value: &Value) -> sqlite_loadable::Result<()> {
    match value {
        Value::Integer(number) => api::result_int64(context, *number),
        Value::Real(number) => api::result_double(context, *number),
        Value::Text(text) => api::result_text(context, text)?,
        // Nothing that is computed is computed twice.
        Value::Null | Value::Computed(_) => api::result_null(context),
    }
    Ok(())
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Value::Integer(number.into())
    }
}

impl From<bool> for Value {
    fn from(on: bool) -> Self {
        Value::Integer(on.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Real(number)
    }
}
