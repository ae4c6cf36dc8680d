//! SQLite's own connection to a database, beside the files the engine has open: for what only
//! SQLite does there. A trait, so that nothing above it depends on which SQLite that is.

use crate::error::Result;

/// An internal connection, private and unseen by our own hooks.
pub trait Connection: Send {
    /// The journal mode.
    fn journal_mode(&self) -> Result<String>;
    /// Asks for WAL mode. Returns the mode in force afterwards.
    fn enter_wal_mode(&self) -> Result<String>;
    /// Reads the database once, which recovers its shared index where that is needed.
    fn initialise_index(&self) -> Result<()>;
    /// Copies what the readers allow from the log to the database, waiting for nobody.
    fn checkpoint(&self) -> Result<()>;
    /// Begins a transaction that keeps other writers away.
    fn hold_writers(&self) -> Result<()>;
    /// Ends that transaction.
    fn release_writers(&self) -> Result<()>;
}
