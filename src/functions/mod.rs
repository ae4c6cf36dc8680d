//! The SQL functions and tables: arguments in, JSON out.

mod call;
mod changes;
mod exec;
mod key;
mod peers;
mod serve;
mod status;
mod sync;
mod table;

use sqlite_loadable::ext::sqlite3;

use crate::error::Result;
use call::Function;

/// Each costs a new connection about a quarter of a microsecond.
static FUNCTIONS: &[Function] = &[
    Function::new(c"replica_sync", 0..=1, sync::sync),
    Function::new(c"replica_pull", 0..=1, sync::pull),
    Function::new(c"replica_push", 0..=1, sync::push),
    // Any number of arguments.
    Function::new(c"replica_exec", 0..=usize::MAX, exec::exec),
    Function::new(c"replica_wait", 2..=3, sync::wait),
    Function::new(c"replica_rebase", 0..=2, sync::rebase),
    Function::new(c"replica_discard", 0..=1, sync::discard),
    Function::new(c"replica_position", 0..=1, sync::position),
    Function::new(c"replica_verify", 0..=1, sync::verify),
    Function::new(c"replica_serve", 1..=2, serve::serve),
    Function::new(c"replica_stop", 0..=1, serve::stop),
    Function::new(c"replica_token", 2..=3, serve::token),
    Function::new(c"replica_revoke", 1..=2, serve::revoke),
    Function::new(c"replica_config", 1..=3, sync::config),
    Function::new(c"replica_configure", 2..=2, sync::configure),
    Function::new(c"replica_forget", 1..=1, sync::forget),
    Function::new(c"replica_rekey", 1..=2, key::rekey),
    Function::new(c"replica_default_vfs", 1..=1, sync::default_vfs),
    Function::new(c"replica_last_error", 0..=0, status::last_error),
    Function::new(c"replica_version", 0..=0, status::version),
    Function::new(c"replica_help", 0..=0, status::help),
];

/// Defines everything on one connection.
pub fn define_all(db: *mut sqlite3) -> Result<()> {
    for function in FUNCTIONS {
        function.define(db)?;
    }
    table::define::<status::StatusRows>(db, "replica_status")?;
    table::define::<peers::PeerRows>(db, "replica_peers")?;
    table::define::<changes::ChangeRows>(db, "replica_changes")?;
    table::define::<changes::ConflictRows>(db, "replica_conflicts")
}
