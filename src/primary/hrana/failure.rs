//! What is told about a statement that failed.

use libsqlite3_sys as sqlite;
use rusqlite::ErrorCode;

use super::control::Control;
use super::policy::Policy;
use crate::wire::hrana;

/// Why a statement failed.
pub fn failure(error: rusqlite::Error, policy: &Policy, control: &Control) -> hrana::Error {
    if let Some(refused) = policy.take_refusal() {
        return refused;
    }
    match error {
        rusqlite::Error::SqliteFailure(failure, _)
            if failure.code == ErrorCode::OperationInterrupted && control.must_stop() =>
        {
            control.stopped()
        }
        rusqlite::Error::SqliteFailure(failure, message) => hrana::Error::sqlite(
            failure.extended_code,
            message.unwrap_or_else(|| failure.to_string()),
        ),
        error => hrana::Error::sqlite(sqlite::SQLITE_ERROR, error.to_string()),
    }
}

/// Arguments that do not fit the statement.
pub fn arguments(message: String) -> hrana::Error {
    hrana::Error::new(
        "ARGS_INVALID",
        format!("Arguments do not match SQL parameters: {message}"),
    )
}
