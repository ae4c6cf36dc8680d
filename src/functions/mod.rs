//! The SQL functions and tables: arguments in, JSON out.

mod call;
mod exec;
mod key;
mod serve;
mod status;
mod sync;

use sqlite_loadable::ext::sqlite3;
use sqlite_loadable::table::define_table_function;

use crate::error::{Error, Result};
use call::define;

/// Defines everything on one connection.
pub fn define_all(db: *mut sqlite3) -> Result<()> {
    define(db, "replica_sync", 0..=1, sync::sync)?;
    define(db, "replica_pull", 0..=1, sync::sync)?;
    // Any number of arguments.
    define(db, "replica_exec", -1..=-1, exec::exec)?;
    define(db, "replica_wait", 2..=3, sync::wait)?;
    define(db, "replica_discard", 0..=1, sync::discard)?;
    define(db, "replica_position", 0..=1, sync::position)?;
    define(db, "replica_verify", 0..=1, sync::verify)?;
    define(db, "replica_serve", 1..=2, serve::serve)?;
    define(db, "replica_stop", 0..=1, serve::stop)?;
    define(db, "replica_token", 2..=3, serve::token)?;
    define(db, "replica_revoke", 1..=2, serve::revoke)?;
    define(db, "replica_config", 1..=3, sync::config)?;
    define(db, "replica_configure", 2..=2, sync::configure)?;
    define(db, "replica_forget", 1..=1, sync::forget)?;
    define(db, "replica_rekey", 1..=2, key::rekey)?;
    define(db, "replica_default_vfs", 1..=1, sync::default_vfs)?;
    define(db, "replica_last_error", 0..=0, status::last_error)?;
    define(db, "replica_version", 0..=0, status::version)?;
    define(db, "replica_help", 0..=0, status::help)?;
    define_table_function::<status::StatusTable>(db, "replica_status", None)
        .map_err(|error| Error::Internal(error.result_error_message()))
}
