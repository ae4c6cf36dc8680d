//! One call of a function: its connection, arguments and result.

use std::ffi::{CStr, c_int};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use libsqlite3_sys as sqlite;
use serde::Serialize;
use sqlite_loadable::api;
use sqlite_loadable::api::ValueType;
use sqlite_loadable::ext::{sqlite3, sqlite3_context, sqlite3_value};

use crate::error::{Error, Result};
use crate::ffi::{self, Callable, HostConnection};
use crate::last_error;
use crate::wire::hrana::Value;

/// A call as a function sees it.
pub struct Call<'a> {
    /// The calling connection.
    pub connection: HostConnection,
    arguments: &'a [*mut sqlite3_value],
}

impl Call<'_> {
    /// A text argument; an error where it is missing or NULL.
    pub fn text(&self, at: usize) -> Result<String> {
        self.optional_text(at)?
            .ok_or_else(|| Error::Misuse(format!("argument {} is missing", at + 1)))
    }

    /// A text argument that may be missing or NULL.
    pub fn optional_text(&self, at: usize) -> Result<Option<String>> {
        match self.arguments.get(at) {
            Some(value) if !api::value_is_null(value) => api::value_text(value)
                .map(|text| Some(text.to_owned()))
                .map_err(|_| Error::Misuse(format!("argument {} is not UTF-8", at + 1))),
            _ => Ok(None),
        }
    }

    /// An integer argument.
    pub fn integer(&self, at: usize) -> i64 {
        self.arguments.get(at).map_or(0, api::value_int64)
    }

    /// A number.
    pub fn real(&self, at: usize) -> Result<f64> {
        match self.arguments.get(at) {
            Some(value) if !api::value_is_null(value) => Ok(api::value_double(value)),
            _ => Err(Error::Misuse(format!("argument {} is missing", at + 1))),
        }
    }

    /// How many arguments there are.
    pub fn count(&self) -> usize {
        self.arguments.len()
    }

    /// An argument of any type, as it travels to a primary.
    pub fn value(&self, at: usize) -> Result<Value> {
        let missing = || Error::Misuse(format!("argument {} is missing", at + 1));
        let value = self.arguments.get(at).ok_or_else(missing)?;
        Ok(match api::value_type(value) {
            ValueType::Null => Value::Null,
            ValueType::Integer => Value::Integer(api::value_int64(value)),
            ValueType::Float => Value::Float(api::value_double(value)),
            ValueType::Text => Value::Text(self.text(at)?),
            // Of an empty one SQLite gives no address.
            ValueType::Blob if api::value_bytes(value) == 0 => Value::Blob(Vec::new()),
            ValueType::Blob => Value::Blob(api::value_blob(value).to_owned()),
        })
    }

    /// The file of the schema that argument `at` names, `main` without one, and the name.
    pub fn schema(&self, at: usize) -> Result<(String, PathBuf)> {
        let schema = self.optional_text(at)?.unwrap_or_else(|| "main".to_owned());
        match self.connection.path(&schema) {
            Some(path) => {
                self.connection.prepare(&schema)?;
                Ok((schema, path))
            }
            None => Err(Error::Misuse(format!("schema '{schema}' has no file"))),
        }
    }

    /// Refuses to go on inside a write transaction, which holds locks that the work needs.
    pub fn refuse_in_write(&self, name: &str) -> Result<()> {
        match self.connection.is_writing() {
            true => Err(Error::Misuse(format!(
                "{name} is refused inside a write transaction: commit first"
            ))),
            false => Ok(()),
        }
    }

    /// Refuses to go on inside any transaction: it would go on seeing what was before.
    pub fn refuse_in_transaction(&self, name: &str) -> Result<()> {
        match self.connection.in_transaction() {
            true => Err(Error::Misuse(format!(
                "{name} is refused inside a transaction, and in a statement that reads the \
                 database: commit first"
            ))),
            false => Ok(()),
        }
    }
}

/// Turns a value into the JSON text a function returns.
pub fn json(value: &impl Serialize) -> Result<Option<String>> {
    serde_json::to_string(value)
        .map(Some)
        .map_err(|error| Error::Internal(format!("JSON: {error}")))
}

/// A function that returns text or NULL.
pub struct Function {
    name: &'static CStr,
    counts: RangeInclusive<usize>,
    work: fn(&Call<'_>) -> Result<Option<String>>,
}

impl Function {
    /// A function of as many arguments.
    pub const fn new(
        name: &'static CStr,
        counts: RangeInclusive<usize>,
        work: fn(&Call<'_>) -> Result<Option<String>>,
    ) -> Self {
        Self { name, counts, work }
    }

    /// Defines it on one connection: once for all numbers of arguments, as each costs time and memory.
    pub fn define(&'static self, db: *mut sqlite3) -> Result<()> {
        let (least, most) = (*self.counts.start(), *self.counts.end());
        let count = match least == most {
            true => c_int::try_from(least).unwrap_or(-1),
            false => -1,
        };
        ffi::define(db, self.name, count, self)
    }

    fn run(&self, call: &Call<'_>) -> Result<Option<String>> {
        if !self.counts.contains(&call.count()) {
            // As SQLite says it.
            let name = self.name.to_string_lossy();
            return Err(Error::Misuse(format!(
                "wrong number of arguments to function {name}()"
            )));
        }
        (self.work)(call)
    }
}

impl Callable for Function {
    fn call(&self, context: *mut sqlite3_context, arguments: &[*mut sqlite3_value]) {
        let call = Call {
            connection: ffi::calling_connection(context),
            arguments,
        };
        let result = catch_unwind(AssertUnwindSafe(|| self.run(&call)))
            .unwrap_or_else(|panic| Err(Error::Internal(ffi::panic_text(&*panic))));
        match result {
            Ok(Some(text)) => {
                if api::result_text(context, text).is_err() {
                    api::result_error_code(context, sqlite::SQLITE_TOOBIG);
                }
            }
            Ok(None) => api::result_null(context),
            Err(error) => {
                last_error::note(&error);
                // Where the sentence holds a NUL byte, SQLite has one for the code.
                let _ = api::result_error(context, &error.to_string());
                // The code after the message: the other way round SQLite forgets it.
                api::result_error_code(context, error.code());
            }
        }
    }
}
