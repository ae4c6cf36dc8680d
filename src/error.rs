//! The one error type of the crate and its mapping to SQLite result codes.

use std::os::raw::c_int;
use std::path::Path;

use libsqlite3_sys as sqlite;
use thiserror::Error;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What stands for the name of a file where only the caller knows it.
pub const THE_FILE: &str = "the file";

/// Everything that can go wrong, grouped by who has to act on it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A call into the host's VFS failed with this SQLite result code.
    #[error("{action} {path}: SQLite code {code}")]
    Io {
        /// What was tried, as a verb: `read`, `sync`, `lock`.
        action: &'static str,
        /// The file, or its role where the name is not known.
        path: String,
        /// The extended result code the host's VFS returned.
        code: c_int,
    },
    /// A file-system call outside the VFS failed (link, unlink, directory sync).
    #[error("{action} {path}: {source}")]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The path it was tried on.
        path: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The state store, or an internal connection, answered with an error.
    #[error("{action}: {source}")]
    Store {
        /// What was being done.
        action: &'static str,
        /// SQLite's own error.
        source: rusqlite::Error,
    },
    /// An error that does not say which file it is about, and the file.
    #[error("{path}: {error}")]
    About {
        /// The file.
        path: String,
        /// What happened.
        error: Box<Error>,
    },
    /// A lock is held by someone else and stayed so for the busy timeout.
    #[error("{0}")]
    Busy(String),
    /// A file does not hold what its format demands.
    #[error("{0}")]
    Corrupt(String),
    /// The key does not open the file, or there is none.
    #[error("{0}")]
    NotADatabase(String),
    /// Sealed bytes were changed, moved or taken from elsewhere.
    #[error("{0}")]
    Tampered(String),
    /// The bytes a peer sent do not follow the protocol.
    #[error("the peer's message is not valid: {0}")]
    Protocol(String),
    /// The remote cannot be reached, or broke off.
    #[error("remote {url}: {reason}")]
    Unreachable {
        /// The remote, without credentials.
        url: String,
        /// The transport's reason.
        reason: String,
    },
    /// The remote answered, and refused.
    #[error("remote {url} refused: {reason}")]
    Refused {
        /// The remote, without credentials.
        url: String,
        /// Its sentence.
        reason: String,
    },
    /// The remote wants a token, or another one.
    #[error("remote {url} wants a valid token (auth_token): {reason}")]
    Unauthorized {
        /// The remote, without credentials.
        url: String,
        /// Its sentence.
        reason: String,
    },
    /// The token does not allow what was asked for.
    #[error("remote {url} does not allow it: {reason}")]
    Forbidden {
        /// The remote, without credentials.
        url: String,
        /// Its sentence.
        reason: String,
    },
    /// The remote did not prove to be the one its URL names.
    #[error("remote {url} is not trusted: {reason}")]
    Untrusted {
        /// The remote, without credentials.
        url: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// The remote ran a statement, which failed there.
    #[error("remote {url}: {reason}")]
    Statement {
        /// The remote, without credentials.
        url: String,
        /// SQLite's sentence.
        reason: String,
        /// SQLite's result code there.
        code: c_int,
    },
    /// Something was sent that may have changed the remote, and the answer did not come.
    #[error("remote {url}: it is not known whether the statement took effect: {reason}")]
    OutcomeUnknown {
        /// The remote, without credentials.
        url: String,
        /// What became of the answer.
        reason: String,
    },
    /// The remote ran a statement, and the local file could not be brought up to date.
    #[error(
        "the statement took effect on the remote, and is not to be repeated; this file does not hold it yet: {0}"
    )]
    NotYetHere(String),
    /// The file cannot be opened as what it is asked to be.
    #[error("{0}")]
    CannotOpen(String),
    /// A write on a database that takes none here.
    #[error("{0}")]
    ReadOnly(String),
    /// Another transaction came first, or this one could not be sent: it is rolled back and may be run
    /// again.
    #[error("{0}")]
    Conflict(String),
    /// Local changes and those of the remote exclude each other.
    #[error("{0}")]
    Diverged(String),
    /// What both sides wrote breaks a constraint once it is put together.
    #[error("{0}")]
    Constraint(String),
    /// Whether a transaction was committed is not known.
    #[error("{0}")]
    Unknown(String),
    /// What was asked for holds something that the same connection has.
    #[error("{0}")]
    Locked(String),
    /// The call is not possible in the present state; the sentence says why and what to do.
    #[error("{0}")]
    Misuse(String),
    /// A bug of ours: a panic was caught at the border to C.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// The SQLite result code a host sees for this error.
    pub fn code(&self) -> c_int {
        match self {
            Error::Io { code, .. } => *code,
            Error::File { .. } => sqlite::SQLITE_IOERR,
            Error::Store { source, .. } => source
                .sqlite_error()
                .map_or(sqlite::SQLITE_ERROR, |error| error.extended_code),
            Error::About { error, .. } => error.code(),
            Error::Busy(_) | Error::Unreachable { .. } => sqlite::SQLITE_BUSY,
            Error::Conflict(_) => sqlite::SQLITE_BUSY_SNAPSHOT,
            Error::Constraint(_) => sqlite::SQLITE_CONSTRAINT,
            Error::Unknown(_) => sqlite::SQLITE_IOERR,
            Error::Locked(_) => sqlite::SQLITE_LOCKED,
            Error::Statement { code, .. } => *code,
            // Codes that invite nobody to try again.
            Error::OutcomeUnknown { .. } | Error::NotYetHere(_) => sqlite::SQLITE_IOERR,
            Error::Corrupt(_) => sqlite::SQLITE_CORRUPT,
            Error::NotADatabase(_) => sqlite::SQLITE_NOTADB,
            Error::Tampered(_) => sqlite::SQLITE_IOERR_DATA,
            Error::Unauthorized { .. } => sqlite::SQLITE_AUTH,
            Error::CannotOpen(_) | Error::Untrusted { .. } => sqlite::SQLITE_CANTOPEN,
            Error::ReadOnly(_) | Error::Forbidden { .. } => sqlite::SQLITE_READONLY,
            Error::Protocol(_) | Error::Refused { .. } | Error::Diverged(_) | Error::Misuse(_) => {
                sqlite::SQLITE_ERROR
            }
            Error::Internal(_) => sqlite::SQLITE_INTERNAL,
        }
    }
}

impl Error {
    /// The same error about this file: named, where the sentence does not say which it is.
    pub fn about(self, path: &Path) -> Self {
        let path = path.display().to_string();
        let named = |text: String| match text.contains(&path) {
            true => text,
            false => format!("{path}: {text}"),
        };
        match self {
            Error::Corrupt(text) => Error::Corrupt(named(text)),
            Error::NotADatabase(text) => Error::NotADatabase(named(text)),
            Error::Tampered(text) => Error::Tampered(named(text)),
            error @ Error::Store { .. } => Error::About {
                path,
                error: Box::new(error),
            },
            Error::Io {
                action,
                path: role,
                code,
            } if role == THE_FILE => Error::Io { action, path, code },
            other => other,
        }
    }
}

/// Attaches what was being done to an error of an internal connection.
pub trait StoreContext<T> {
    /// Names the action for the error text.
    fn during(self, action: &'static str) -> Result<T>;
}

impl<T> StoreContext<T> for rusqlite::Result<T> {
    fn during(self, action: &'static str) -> Result<T> {
        self.map_err(|source| Error::Store { action, source })
    }
}
