//! What becomes of a row that both sides changed.

use crate::error::{Error, Result};

/// Which side a conflict is decided for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Neither: nothing is merged.
    Fail,
    /// The local one.
    Local,
    /// The remote's.
    Remote,
}

impl Policy {
    /// Reads the word of a setting or an argument.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "fail" => Ok(Policy::Fail),
            "local" => Ok(Policy::Local),
            "remote" => Ok(Policy::Remote),
            other => Err(Error::Misuse(format!(
                "'{other}' says not what becomes of a row that was changed on both sides: fail, \
                 local or remote"
            ))),
        }
    }

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Policy::Fail => "fail",
            Policy::Local => "local",
            Policy::Remote => "remote",
        }
    }
}
