//! What there is to see: `replica_status`, and three functions that return text.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use sqlite_loadable::api;
use sqlite_loadable::ext::{sqlite3, sqlite3_context, sqlite3_value};
use sqlite_loadable::table::{BestIndexError, IndexInfo, VTab, VTabArguments, VTabCursor};

use super::call::Call;
use crate::database::paths;
use crate::error::{Error, Result};
use crate::ffi::{self, HostConnection};
use crate::last_error as newest_error;
use crate::primary::serve;
use crate::replica::registry;
use crate::vfs::register;

/// `replica_last_error()`
pub fn last_error(_: &Call<'_>) -> Result<Option<String>> {
    Ok(newest_error::get())
}

/// `replica_version()`
pub fn version(_: &Call<'_>) -> Result<Option<String>> {
    Ok(Some(env!("CARGO_PKG_VERSION").to_owned()))
}

/// `replica_help()`
pub fn help(_: &Call<'_>) -> Result<Option<String>> {
    Ok(Some(include_str!("help.txt").to_owned()))
}

const COLUMNS: &str = "CREATE TABLE x(schema TEXT, file TEXT, role TEXT, remote TEXT, state TEXT, \
    position TEXT, remote_position TEXT, lag_transactions INTEGER, lag_seconds REAL, \
    last_sync INTEGER, last_error TEXT, bytes_received INTEGER, bytes_sent INTEGER, \
    page_size INTEGER, database_size INTEGER, wal_bytes INTEGER, \
    sync_interval REAL, live INTEGER, write_mode TEXT, background TEXT)";

/// One value of a row.
enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
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

/// The eponymous table `replica_status`.
#[repr(C)]
pub struct StatusTable {
    base: sqlite_loadable::ext::sqlite3_vtab,
    connection: HostConnection,
}

impl<'vtab> VTab<'vtab> for StatusTable {
    type Aux = ();
    type Cursor = StatusCursor<'vtab>;

    fn connect(
        db: *mut sqlite3,
        _aux: Option<&()>,
        _arguments: VTabArguments,
    ) -> sqlite_loadable::Result<(String, Self)> {
        let table = StatusTable {
            base: ffi::empty_vtab(),
            connection: ffi::connection(db),
        };
        Ok((COLUMNS.to_owned(), table))
    }

    fn best_index(&self, mut info: IndexInfo) -> core::result::Result<(), BestIndexError> {
        info.set_estimated_cost(10.0);
        info.set_estimated_rows(2);
        Ok(())
    }

    fn open(&mut self) -> sqlite_loadable::Result<StatusCursor<'vtab>> {
        Ok(StatusCursor {
            base: ffi::empty_cursor(),
            connection: self.connection,
            rows: Vec::new(),
            at: 0,
            table: PhantomData,
        })
    }
}

/// A read of `replica_status`.
#[repr(C)]
pub struct StatusCursor<'vtab> {
    base: sqlite_loadable::ext::sqlite3_vtab_cursor,
    connection: HostConnection,
    rows: Vec<Vec<Value>>,
    at: usize,
    table: PhantomData<&'vtab StatusTable>,
}

impl VTabCursor for StatusCursor<'_> {
    fn filter(
        &mut self,
        _number: i32,
        _text: Option<&str>,
        _values: &[*mut sqlite3_value],
    ) -> sqlite_loadable::Result<()> {
        let connection = self.connection;
        let rows = catch_unwind(AssertUnwindSafe(|| rows(connection)))
            .unwrap_or_else(|panic| Err(Error::Internal(ffi::panic_text(&*panic))));
        self.rows = rows.map_err(|error| sqlite_loadable::Error::new_message(error.to_string()))?;
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
            Some(Value::Integer(number)) => api::result_int64(context, *number),
            Some(Value::Real(number)) => api::result_double(context, *number),
            Some(Value::Text(text)) => api::result_text(context, text)?,
            Some(Value::Null) | None => api::result_null(context),
        }
        Ok(())
    }

    fn rowid(&self) -> sqlite_loadable::Result<i64> {
        Ok(i64::try_from(self.at).unwrap_or(i64::MAX))
    }
}

/// One row for each replicated schema of the connection.
fn rows(connection: HostConnection) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    for schema in connection.schemas()? {
        if let Some(path) = connection.path(&schema) {
            // What cannot be opened has no row; the first access says why.
            if let Err(error) = connection.prepare(&schema) {
                newest_error::note(&error);
                continue;
            }
            rows.extend(replica_row(&schema, &path)?);
            rows.extend(primary_row(&schema, &path)?);
        }
    }
    Ok(rows)
}

fn replica_row(schema: &str, path: &Path) -> Result<Option<Vec<Value>>> {
    let Some(replica) = registry::find(path) else {
        return Ok(None);
    };
    let state = replica.recorded_state()?;
    let progress = replica.progress();
    let made = replica.is_made()?;
    let settings = replica.settings();
    let position = state.map(|state| state.position);
    let lag = match (progress.remote_position, position) {
        (Some(remote), Some(local)) => Some(remote.lsn.0.saturating_sub(local.lsn.0)),
        _ => None,
    };
    let now = register::host()?.now();
    let since = progress
        .last_sync
        .map(|at| now.saturating_sub(at) as f64 / 1000.0);
    Ok(Some(vec![
        schema.into(),
        path.to_string_lossy().into_owned().into(),
        "replica".into(),
        replica
            .remote()
            .ok()
            .map(|remote| remote.url().to_owned())
            .into(),
        if made {
            progress.condition.word()
        } else {
            "new"
        }
        .into(),
        position.map(|position| position.to_string()).into(),
        progress
            .remote_position
            .map(|position| position.to_string())
            .into(),
        lag.into(),
        since.into(),
        progress.last_sync.map(|at| at / 1000).into(),
        progress.last_error.into(),
        progress.bytes_received.into(),
        progress.bytes_sent.into(),
        state.map(|state| state.page_size.get()).into(),
        state.map(|state| state.database_size).into(),
        log_bytes(path).into(),
        settings.interval().map(|time| time.as_secs_f64()).into(),
        settings.is_live().into(),
        settings.write_mode().word().into(),
        progress.activity.word().into(),
    ]))
}

fn primary_row(schema: &str, path: &Path) -> Result<Option<Vec<Value>>> {
    let Some(served) = serve::find(path) else {
        return Ok(None);
    };
    let state = {
        let mut capture = served.primary.capture();
        capture.run()?;
        *capture.state()
    };
    Ok(Some(vec![
        schema.into(),
        path.to_string_lossy().into_owned().into(),
        "primary".into(),
        served.url.as_str().into(),
        "serving".into(),
        state.position.to_string().into(),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        state.page_size.get().into(),
        state.database_size.into(),
        log_bytes(path).into(),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
    ]))
}

/// Size of the log file; asking for it opens nothing.
fn log_bytes(path: &Path) -> Option<u64> {
    paths::logs(path)
        .iter()
        .find_map(|log| std::fs::metadata(log).ok())
        .map(|metadata| metadata.len())
}
