//! What there is to see: `replica_status`, and three functions that return text.

use std::path::Path;
use std::sync::Arc;

use super::call::Call;
use super::table::{Row, Rows, Value};
use crate::database::paths;
use crate::error::Result;
use crate::ffi::HostConnection;
use crate::last_error as newest_error;
use crate::primary::serve;
use crate::replica::follower::Replica;
use crate::replica::registry;
use crate::replica::transfer::{Kind, Reached};
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

/// The table `replica_status`.
pub struct StatusRows;

impl Rows for StatusRows {
    const COLUMNS: &'static str = "schema TEXT, file TEXT, role TEXT, remote TEXT, state TEXT, \
    position TEXT, remote_position TEXT, lag_transactions INTEGER, lag_seconds REAL, \
    last_sync INTEGER, last_error TEXT, bytes_received INTEGER, bytes_sent INTEGER, \
    page_size INTEGER, database_size INTEGER, wal_bytes INTEGER, \
    sync_interval REAL, live INTEGER, write_mode TEXT, background TEXT, \
    transfer TEXT, transfer_pages INTEGER, transfer_total INTEGER, transfer_bytes INTEGER, \
    offline INTEGER, pending_transactions INTEGER, pending_pages INTEGER, pending_bytes INTEGER, pending_rows INTEGER";

    /// One row for each replicated schema of the connection, and for each other replica of the process
    /// that is being made: whoever has that attached waits until it is.
    fn rows(connection: HostConnection, _: Option<&str>) -> Result<Vec<Row>> {
        let (mut rows, mut paths) = (Vec::new(), Vec::new());
        for schema in connection.schemas()? {
            if let Some(path) = connection.path(&schema) {
                // What cannot be opened has no row; the first access says why.
                if let Err(error) = connection.prepare(&schema) {
                    newest_error::note(&error);
                    continue;
                }
                if let Some(replica) = registry::find(&path) {
                    rows.push(replica_row(schema.as_str().into(), &replica)?);
                }
                rows.extend(primary_row(&schema, &path)?);
                paths.push(path);
            }
        }
        for replica in registry::all() {
            let is_bootstrap = |reached: Reached| reached.kind == Kind::Bootstrap;
            let is_other = !paths.iter().any(|path| path == replica.path());
            if is_other && replica.transfer().is_some_and(is_bootstrap) {
                rows.push(replica_row(Value::Null, &replica)?);
            }
        }
        Ok(rows)
    }
}

fn replica_row(schema: Value, replica: &Arc<Replica>) -> Result<Row> {
    let path = replica.path();
    let transfer = replica.transfer();
    let state = replica.recorded_state()?;
    let progress = replica.progress();
    let made = replica.is_made()?;
    let settings = replica.settings();
    let unpushed = replica.unpushed()?.unwrap_or_default();
    let page_size = state.map_or(0, |state| state.page_size.get());
    let position = state.map(|state| state.position);
    let lag = match (progress.remote_position, position) {
        (Some(remote), Some(local)) => Some(remote.lsn.0.saturating_sub(local.lsn.0)),
        _ => None,
    };
    let now = register::host()?.now();
    let since = progress
        .last_sync
        .map(|at| now.saturating_sub(at) as f64 / 1000.0);
    Ok(vec![
        schema,
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
        replica.host().log_bytes(path).into(),
        settings.interval().map(|time| time.as_secs_f64()).into(),
        settings.is_live().into(),
        settings.write_mode().word().into(),
        progress.activity.word().into(),
        transfer.map(|reached| reached.kind.word()).into(),
        transfer.map(|reached| reached.pages).into(),
        transfer.and_then(|reached| reached.total).into(),
        transfer.map(|reached| reached.bytes).into(),
        replica.is_offline()?.into(),
        unpushed.transactions.into(),
        unpushed.pages.into(),
        (unpushed.pages * u64::from(page_size)).into(),
        pending_rows(replica),
    ])
}

fn primary_row(schema: &str, path: &Path) -> Result<Option<Row>> {
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
        paths::log_bytes(path).into(),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
    ]))
}

/// Counted only where somebody asks: they may be many. NULL where they cannot be told apart: the reason
/// is what `replica_changes` says.
fn pending_rows(replica: &Arc<Replica>) -> Value {
    let replica = Arc::downgrade(replica);
    Value::Computed(Box::new(move || {
        let counted = replica.upgrade().and_then(|replica| {
            let counted = replica.pending_rows();
            if let Err(error) = &counted {
                log::debug!(target: "replica", "{}: {error}", replica.path().display());
            }
            counted.ok()
        });
        counted.into()
    }))
}
