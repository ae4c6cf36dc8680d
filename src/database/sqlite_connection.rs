//! An internal connection through rusqlite.

use super::connection::Connection;
use crate::error::{Result, StoreContext};

/// A connection of the SQLite this extension is loaded into.
pub struct SqliteConnection(rusqlite::Connection);

impl SqliteConnection {
    /// Uses an open connection.
    pub fn new(connection: rusqlite::Connection) -> Self {
        Self(connection)
    }

    fn text(&self, sql: &str, action: &'static str) -> Result<String> {
        self.0.query_row(sql, [], |row| row.get(0)).during(action)
    }
}

impl Connection for SqliteConnection {
    fn journal_mode(&self) -> Result<String> {
        self.text("PRAGMA journal_mode", "read the journal mode")
    }

    fn enter_wal_mode(&self) -> Result<String> {
        self.text("PRAGMA journal_mode = WAL", "enter WAL mode")
    }

    fn initialise_index(&self) -> Result<()> {
        self.0
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
                row.get::<_, i64>(0)
            })
            .map(drop)
            .during("read the database")
    }

    fn checkpoint(&self) -> Result<()> {
        self.0
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .during("checkpoint")
    }

    fn hold_writers(&self) -> Result<()> {
        self.0
            .execute_batch("BEGIN IMMEDIATE")
            .during("begin a transaction")
    }

    fn release_writers(&self) -> Result<()> {
        self.0.execute_batch("ROLLBACK").during("end a transaction")
    }
}
