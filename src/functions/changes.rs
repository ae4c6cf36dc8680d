//! `replica_changes` and `replica_conflicts`: what was written offline, row by row.

use std::sync::Arc;

use super::table::{Row, Rows};
use crate::error::Result;
use crate::ffi::HostConnection;
use crate::last_error;
use crate::replica::follower::Replica;
use crate::replica::registry;

/// The table-valued function `replica_changes([since])`.
pub struct ChangeRows;

/// The table `replica_conflicts`.
pub struct ConflictRows;

impl Rows for ChangeRows {
    const COLUMNS: &'static str = "schema TEXT, tbl_name TEXT, key TEXT, change TEXT, \
        old TEXT, new TEXT, since TEXT HIDDEN";
    const ARGUMENT: Option<i32> = Some(6);

    /// One row for each row that was changed here since what the remote has.
    fn rows(connection: HostConnection, since: Option<&str>) -> Result<Vec<Row>> {
        let since = since.map(str::parse).transpose()?;
        let mut rows = Vec::new();
        for (schema, replica) in replicas(connection)? {
            let changes = replica.changes(since).inspect_err(last_error::note)?;
            rows.extend(changes.into_iter().map(|change| {
                let word = change.word();
                vec![
                    schema.as_str().into(),
                    change.table.into(),
                    change.key.into(),
                    word.into(),
                    change.old.into(),
                    change.new.into(),
                ]
            }));
        }
        Ok(rows)
    }
}

impl Rows for ConflictRows {
    const COLUMNS: &'static str = "schema TEXT, tbl_name TEXT, key TEXT, base TEXT, local TEXT, \
        remote TEXT";

    /// One row for each row that was in the way of the newest rebase.
    fn rows(connection: HostConnection, _: Option<&str>) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (schema, replica) in replicas(connection)? {
            rows.extend(replica.conflicts()?.into_iter().map(|conflict| {
                vec![
                    schema.as_str().into(),
                    conflict.table.into(),
                    conflict.key.into(),
                    conflict.base.into(),
                    conflict.local.into(),
                    conflict.remote.into(),
                ]
            }));
        }
        Ok(rows)
    }
}

/// The replicas of a connection, by the names of their schemas.
fn replicas(connection: HostConnection) -> Result<Vec<(String, Arc<Replica>)>> {
    let mut replicas = Vec::new();
    for schema in connection.schemas()? {
        if let Some(path) = connection.path(&schema)
            && let Some(replica) = registry::find(&path)
        {
            connection.prepare(&schema)?;
            replicas.push((schema, replica));
        }
    }
    Ok(replicas)
}
