//! The state of a stream: its connection, and the texts stored on it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::budget::Budget;
use super::control::Control;
use super::policy::Policy;
use super::{Outcome, connection, failure};
use crate::database::host::Host;
use crate::database::tokens::Scope;
use crate::error::Result;
use crate::ffi::AuthorizedConnection;
use crate::wire::hrana::{self, SqlText};

/// Texts that may be stored on a stream.
const TEXTS: usize = 150;

/// Bytes of all of them together.
const TEXT_BYTES: usize = 1 << 20;

/// A stream's own.
pub struct Session {
    pub(super) connection: AuthorizedConnection,
    pub(super) policy: Arc<Policy>,
    pub(super) control: Arc<Control>,
    pub(super) budget: Budget,
    texts: HashMap<i32, String>,
    /// Whether the client has closed the stream.
    pub(super) closed: bool,
}

impl Session {
    /// Opens the database at `path`.
    pub fn open(
        host: &dyn Host,
        path: &Path,
        scope: Scope,
        control: &Arc<Control>,
    ) -> Result<Self> {
        let policy = Arc::new(Policy::new(scope));
        let connection = connection::open(host, path, &policy)?;
        control.opened(connection.get_interrupt_handle());
        Ok(Self {
            connection,
            policy,
            control: Arc::clone(control),
            budget: Budget::new(),
            texts: HashMap::new(),
            closed: false,
        })
    }

    /// A request begins.
    pub fn begin(&mut self) {
        self.control.begin();
        self.budget = Budget::new();
    }

    /// Closes the stream: a transaction that is open is rolled back before that is answered.
    pub(super) fn close(&mut self) {
        self.closed = true;
        if self.in_transaction() {
            // Where it fails, closing the connection does it.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Whether the client has closed the stream.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// Stores a text.
    pub(super) fn store(&mut self, id: i32, text: String) -> Outcome<()> {
        if self.texts.contains_key(&id) {
            return Err(hrana::Error::protocol(format!(
                "a text is stored under {id} already"
            )));
        }
        let stored: usize = self.texts.values().map(String::len).sum();
        if self.texts.len() >= TEXTS || stored + text.len() > TEXT_BYTES {
            return Err(hrana::Error::new(
                "SQL_STORE_TOO_MANY",
                format!("a stream stores {TEXTS} texts of {TEXT_BYTES} bytes together"),
            ));
        }
        self.texts.insert(id, text);
        Ok(())
    }

    /// Forgets a text, whether it was stored or not.
    pub(super) fn forget(&mut self, id: i32) {
        self.texts.remove(&id);
    }

    /// The SQL that a request means.
    pub(super) fn text<'a>(&'a self, sql: Option<&'a str>, id: Option<i32>) -> Outcome<&'a str> {
        let text = match (sql, id) {
            (Some(sql), None) => sql,
            (None, Some(id)) => self
                .texts
                .get(&id)
                .ok_or_else(|| hrana::Error::protocol(format!("no text is stored under {id}")))?,
            _ => {
                let sentence = "of sql and sql_id exactly one must be given";
                return Err(hrana::Error::protocol(sentence));
            }
        };
        match text.contains('\0') {
            // SQLite would take it for the end.
            true => Err(hrana::Error::new(
                "SQL_PARSE_ERROR",
                "the SQL text holds a NUL character",
            )),
            false => Ok(text),
        }
    }

    /// The same, where a request names nothing else.
    pub(super) fn text_of<'a>(&'a self, text: &'a SqlText) -> Outcome<&'a str> {
        self.text(text.sql.as_deref(), text.sql_id)
    }

    /// Why a statement failed.
    pub(super) fn failed(&self, error: rusqlite::Error) -> hrana::Error {
        failure::failure(error, &self.policy, &self.control)
    }
}
