//! How long a stream may work on a request, and whether anybody still wants the answer.
//!
//! Statements that run are interrupted from outside: some hosts leave progress handlers out of their
//! SQLite. An interrupt that comes between two statements does nothing, so whoever wants the end repeats
//! it; before each statement the stream looks itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::InterruptHandle;

use super::Outcome;
use crate::wire::hrana;

/// The longest time for one HTTP request's statements, waiting for locks aside.
const WORK: Duration = Duration::from_secs(30);

/// The result code of a statement that was interrupted.
const INTERRUPT: i32 = libsqlite3_sys::SQLITE_INTERRUPT;

/// Shared by a stream's thread and those who may end its work.
pub struct Control {
    cancelled: AtomicBool,
    deadline: Mutex<Instant>,
    /// Of the connection, once it is open.
    interrupt: Mutex<Option<InterruptHandle>>,
}

impl Control {
    pub fn new() -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            deadline: Mutex::new(Instant::now() + WORK),
            interrupt: Mutex::new(None),
        }
    }

    /// The connection is open.
    pub fn opened(&self, interrupt: InterruptHandle) {
        *self.interrupt.lock() = Some(interrupt);
    }

    /// A request begins.
    pub fn begin(&self) {
        *self.deadline.lock() = Instant::now() + WORK;
    }

    /// Ends the work as soon as possible, and the stream with it.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.interrupt_if_due();
    }

    /// Interrupts the statement that runs, where it has to stop. To be called again and again.
    pub fn interrupt_if_due(&self) {
        if self.must_stop()
            && let Some(interrupt) = &*self.interrupt.lock()
        {
            interrupt.interrupt();
        }
    }

    /// Whether the stream has to end.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether a statement that runs has to stop.
    pub fn must_stop(&self) -> bool {
        self.is_cancelled() || Instant::now() >= *self.deadline.lock()
    }

    /// Refuses to begin what would have to stop at once.
    pub fn check(&self) -> Outcome<()> {
        match self.must_stop() {
            true => Err(self.stopped()),
            false => Ok(()),
        }
    }

    /// Why a statement was interrupted.
    pub fn stopped(&self) -> hrana::Error {
        let sentence = match self.is_cancelled() {
            true => "the database is served no longer, or the client is gone".to_owned(),
            false => format!("the request took longer than {} s", WORK.as_secs()),
        };
        hrana::Error::sqlite(INTERRUPT, sentence)
    }
}
