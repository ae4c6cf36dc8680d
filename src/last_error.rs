//! The newest error of this process, for `replica_last_error()`, and its way into the log.

use parking_lot::Mutex;

use crate::error::Error;

static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Remembers an error that a host will only see as a code, and logs it.
pub fn note(error: &Error) {
    log::error!(target: "replica", "{error}");
    *LAST.lock() = Some(error.to_string());
}

/// The newest error's sentence.
pub fn get() -> Option<String> {
    LAST.lock().clone()
}
