//! Errors as the protocol carries them.

use std::os::raw::c_int;

use serde::{Deserialize, Serialize};

/// An error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Error {
    /// A sentence.
    pub message: String,
    /// SQLite's name of its primary result code (`SQLITE_CONSTRAINT`), or a word of the protocol
    /// (`STREAM_EXPIRED`).
    #[serde(default)]
    pub code: Option<String>,
    /// SQLite's extended result code. Not of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_code: Option<c_int>,
}

impl Error {
    /// An error with a word of the protocol.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: Some(code.to_owned()),
            extended_code: None,
        }
    }

    /// An error with a result code of SQLite.
    pub fn sqlite(code: c_int, message: impl Into<String>) -> Self {
        Self {
            extended_code: Some(code),
            ..Self::new(super::name(code), message)
        }
    }

    /// A request that the protocol does not allow.
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::new("HRANA_PROTO_ERROR", message)
    }
}
