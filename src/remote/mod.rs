//! Where a replica gets its content from.

mod http;
mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

pub use self::http::HttpRemote;
use crate::database::body::Body;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::wire::hrana::{Stmt, StmtResult};
use crate::wire::{PushRequest, PushResponse, Request, Response};

/// What one exchange moved over the network.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Bytes of request bodies sent.
    pub sent: u64,
    /// Bytes of response bodies received, as they travelled (compressed).
    pub received: u64,
}

/// A primary, as a replica sees it.
pub trait Remote: Send + Sync {
    /// Asks and waits for the answer, at most the configured time-out for each byte, and what a
    /// pull says that it waits besides.
    fn ask(&self, request: &Request) -> Result<(Response, Traffic)>;
    /// Sends a push and waits for the answer, at most `most` once it is sent.
    fn push(
        &self,
        push: &PushRequest,
        body: &Body,
        most: Duration,
    ) -> std::result::Result<(PushResponse, Traffic), PushFailure>;
    /// Runs one statement there: once, whatever happens. Errors that leave it open whether it took
    /// effect are [`Error::OutcomeUnknown`].
    fn execute(&self, _stmt: &Stmt) -> Result<Executed> {
        Err(Error::Misuse(format!("{} runs no SQL", self.url())))
    }
    /// Breaks off whatever is under way; from here on nothing is sent any more.
    fn shut(&self) {}
    /// Whether that was done.
    fn is_shut(&self) -> bool {
        false
    }
    /// The remote's URL without credentials, for messages.
    fn url(&self) -> &str;
}

/// Why a push has no answer.
#[derive(Debug)]
pub enum PushFailure {
    /// It was not sent, or was refused unread: it is not applied, and will not be.
    Unsent(Error),
    /// It may have been sent: whether it is applied, or will be, is not known.
    Unknown(Error),
}

/// What a statement came to that a remote ran.
#[derive(Clone, Debug)]
pub struct Executed {
    /// Its result.
    pub result: StmtResult,
    /// A position of the remote that holds it; `None` where the remote could not tell.
    pub position: Option<Position>,
    /// What the exchange moved.
    pub traffic: Traffic,
}

/// How to reach a remote.
#[derive(Clone)]
pub struct Access {
    /// The bearer token to send.
    pub token: Option<String>,
    /// To connect, and to wait for the next byte.
    pub timeout: Duration,
    /// PEM file of the authority to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// The remote a URL names. Nothing is sent yet.
pub fn connect(url: &str, access: Access) -> Result<Box<dyn Remote>> {
    match parse(url)?.scheme() {
        "http" | "https" => Ok(Box::new(HttpRemote::new(url, access)?)),
        scheme => Err(not_built(scheme)),
    }
}

/// Refuses what [`connect`] could never follow.
pub fn check(url: &str, ca_file: Option<&Path>) -> Result<()> {
    match parse(url)?.scheme() {
        "http" | "https" => http::checked(url)?,
        scheme => return Err(not_built(scheme)),
    };
    ca_file.map(tls::authorities).transpose().map(drop)
}

/// A URL. The error does not repeat it: it may hold a password.
fn parse(url: &str) -> Result<Url> {
    Url::parse(url).map_err(|reason| Error::Misuse(format!("sync_url is not a URL: {reason}")))
}

/// Why a scheme leads nowhere. What is not known is not repeated: it may be part of a password.
fn not_built(scheme: &str) -> Error {
    Error::Misuse(match scheme {
        "s3" | "file" => {
            format!("{scheme} is not built yet: sync_url takes http:// and https://")
        }
        _ => "sync_url starts with a scheme that is not known: it takes http:// and https://"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_that_are_not_built_say_so() {
        for (url, sentence) in [
            ("s3://bucket/prefix", "s3 is not built yet"),
            ("file:///dir", "file is not built yet"),
            ("ftp://host/app", "not known"),
            ("localhost:8080/app", "not known"),
            ("secret:word@host/app", "not known"),
            ("/app", "not a URL"),
            ("", "not a URL"),
            ("http://secret:word@host:99999/app", "not a URL"),
            ("http://secret:word@host/app", "auth_token"),
            ("https://secret:word@host/app", "auth_token"),
            ("http://host/app?secret=word", "must end with the database"),
        ] {
            let error = check(url, None).err().unwrap();
            assert!(matches!(error, Error::Misuse(_)), "{url}: {error:?}");
            let text = error.to_string();
            assert!(text.contains(sentence), "{url}: {text}");
            assert!(
                !text.contains("secret") && !text.contains("word@"),
                "{url}: {text}"
            );
        }
    }
}
