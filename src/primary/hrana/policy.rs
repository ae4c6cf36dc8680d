//! What a stream may do now, and why it was refused something.

use std::sync::atomic::{AtomicBool, Ordering};

use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

use crate::database::tokens::Scope;
use crate::wire::hrana;

/// Shared by a stream's thread and the callbacks of its connection.
pub struct Policy {
    scope: Scope,
    /// In a transaction that may only read.
    reading: AtomicBool,
    /// While a statement runs: what is prepared then is SQLite's own.
    running: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
}

/// Why SQLite was told to refuse a statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It would write.
    ReadOnly(&'static str),
    /// Nobody may do it here.
    Forbidden(String),
}

impl Policy {
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            reading: AtomicBool::new(false),
            running: AtomicBool::new(false),
            refusal: Mutex::new(None),
        }
    }

    /// Refuses what writes.
    pub fn may_write(&self) -> Result<(), Refusal> {
        match self.scope {
            Scope::Read => Err(Refusal::ReadOnly("the token may only read")),
            Scope::Write if self.reading.load(Ordering::Relaxed) => {
                Err(Refusal::ReadOnly("the transaction may only read"))
            }
            Scope::Write => Ok(()),
        }
    }

    /// A transaction that may only read begins, or has ended.
    pub fn set_reading(&self, reading: bool) {
        self.reading.store(reading, Ordering::Relaxed);
    }

    /// Whether SQLite is running a statement.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Runs a statement.
    pub fn running<T>(&self, run: impl FnOnce() -> T) -> T {
        self.running.store(true, Ordering::Relaxed);
        let result = run();
        self.running.store(false, Ordering::Relaxed);
        result
    }

    /// Remembers why a statement is refused: SQLite's own sentence does not tell.
    pub fn refuse(&self, refusal: Refusal) {
        self.refusal.lock().get_or_insert(refusal);
    }

    /// Why a statement was refused since the last call.
    pub fn take_refusal(&self) -> Option<hrana::Error> {
        self.refusal.lock().take().map(|refusal| match refusal {
            Refusal::ReadOnly(sentence) => hrana::Error::sqlite(sqlite::SQLITE_READONLY, sentence),
            Refusal::Forbidden(sentence) => hrana::Error::sqlite(sqlite::SQLITE_AUTH, sentence),
        })
    }
}
