//! A connection that strangers may use.

use std::os::raw::c_int;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

use super::authorizer::authorize;
use super::policy::Policy;
use super::pragma::LONGEST_BUSY;
use crate::database::host::Host;
use crate::error::{Result, StoreContext};
use crate::ffi::AuthorizedConnection;

/// The longest string, blob or row in bytes: nobody makes the host run out of memory with one.
const LONGEST_VALUE: i32 = 64 << 20;

/// Opens the database at `path`.
pub fn open(host: &dyn Host, path: &Path, policy: &Arc<Policy>) -> Result<AuthorizedConnection> {
    let connection = host.connect_for_sql(path)?;
    prepare(&connection, policy).during("open a connection for SQL")?;
    let policy = Arc::clone(policy);
    let authorize = move |action: c_int, first: Option<&str>, second: Option<&str>| {
        authorize(&policy, action, first, second)
    };
    AuthorizedConnection::new(connection, Box::new(authorize))
}

fn prepare(connection: &Connection, policy: &Policy) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_millis(LONGEST_BUSY.into()))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE)?;
    // What is acknowledged is durable, whatever this SQLite was built to do.
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    if policy.may_write().is_err() {
        // BEGIN IMMEDIATE is no write to the authorizer, yet it holds up those who do.
        connection.execute_batch("PRAGMA query_only = 1")?;
    }
    Ok(())
}
