//! Running a statement on a primary, once.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use ureq::SendBody;

use super::{Answer, HttpRemote, sentence};
use crate::error::{Error, Result};
use crate::remote::{Executed, Traffic};
use crate::wire::hrana::{self, Stmt, StmtResult};

/// The longest answer that is read, in bytes: several times what a primary sends.
const ANSWER_BYTES: u64 = 64 << 20;

#[derive(Serialize)]
struct Pipeline<'a> {
    requests: (Request<'a>, Request<'a>, Request<'a>),
    want_position: bool,
}

#[derive(Serialize)]
struct Request<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stmt: Option<&'a Stmt>,
}

/// An answer, as far as it is of interest here.
#[derive(Deserialize)]
struct PipelineAnswer {
    results: Vec<RequestAnswer>,
    position: Option<String>,
}

#[derive(Deserialize)]
struct RequestAnswer {
    response: Option<Response>,
    error: Option<hrana::Error>,
}

#[derive(Deserialize)]
struct Response {
    result: Option<StmtResult>,
    is_autocommit: Option<bool>,
}

/// A body on its way: until its last byte is asked for, nothing has been sent that could be run.
struct Sending<'a> {
    rest: &'a [u8],
}

impl Read for Sending<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.rest.read(into)
    }
}

impl HttpRemote {
    /// Runs a statement on a connection of its own: a kept one may turn out dead only when the
    /// statement is on its way, and then nobody knows what became of it.
    pub(super) fn run(&self, stmt: &Stmt) -> Result<Executed> {
        let body = body(stmt)?;
        if body.len() > hrana::REQUEST_BYTES {
            return Err(Error::Misuse(format!(
                "the statement and its values are longer than {} MiB",
                hrana::REQUEST_BYTES >> 20
            )));
        }
        let answer = self.send_once(&body)?;
        let status = answer.status();
        if status != 200 {
            let sentence = hrana_sentence(sentence(answer.into_body()));
            return Err(match status.as_u16() {
                // A primary says so when something broke while it ran; others, when they lost it.
                500 | 502 | 504 => self.unknown(format!("{sentence} (HTTP {})", status.as_u16())),
                _ => self.refusal(status, sentence),
            });
        }
        let mut bytes = Vec::new();
        let read = answer
            .into_body()
            .into_reader()
            .take(ANSWER_BYTES)
            .read_to_end(&mut bytes);
        read.map_err(|error| self.unknown(self.broken(error).to_string()))?;
        let traffic = Traffic {
            sent: body.len() as u64,
            received: bytes.len() as u64,
        };
        self.understood(&bytes, traffic)
    }

    fn send_once(&self, body: &[u8]) -> Result<Answer> {
        let mut call = self
            .agent
            .post(format!("{}/v3/pipeline", self.url))
            .content_type("application/json")
            .header("content-length", body.len().to_string());
        if let Some(token) = &self.token {
            call = call.header("authorization", token.header.clone());
        }
        let call = call
            .config()
            .max_idle_age(std::time::Duration::ZERO)
            .build();
        let mut sending = Sending { rest: body };
        let sent = call.send(SendBody::from_reader(&mut sending));
        sent.map_err(|error| match sending.rest.is_empty() {
            true => self.unknown(self.failed(error).to_string()),
            false => self.failed(error),
        })
    }

    fn understood(&self, bytes: &[u8], traffic: Traffic) -> Result<Executed> {
        let strange = |reason: &str| self.unknown(format!("the answer is not Hrana: {reason}"));
        let answer: PipelineAnswer =
            serde_json::from_slice(bytes).map_err(|error| strange(&error.to_string()))?;
        let mut results = answer.results.into_iter();
        let (ran, afterwards) = (results.next(), results.next());
        let ran = ran.ok_or_else(|| strange("it has no result"))?;
        if let Some(error) = ran.error {
            return Err(self.statement(error));
        }
        let autocommit = afterwards.and_then(|answer| answer.response?.is_autocommit);
        if autocommit != Some(true) {
            return Err(Error::Misuse(
                "replica_exec runs one statement: the transaction that it left open was rolled back"
                    .to_owned(),
            ));
        }
        let result = ran.response.and_then(|response| response.result);
        Ok(Executed {
            result: result.ok_or_else(|| strange("it has no result"))?,
            position: answer.position.and_then(|text| text.parse().ok()),
            traffic,
        })
    }

    fn statement(&self, error: hrana::Error) -> Error {
        let named = error.code.as_deref().and_then(hrana::code);
        Error::Statement {
            url: self.url.clone(),
            reason: error.message,
            code: error
                .extended_code
                .filter(|code| code & 0xff != 0)
                .or(named)
                .unwrap_or(libsqlite3_sys::SQLITE_ERROR),
        }
    }

    fn unknown(&self, reason: String) -> Error {
        Error::OutcomeUnknown {
            url: self.url.clone(),
            reason,
        }
    }
}

/// The requests on one stream: after the statement no transaction may be open, and the stream is
/// closed.
fn body(stmt: &Stmt) -> Result<Vec<u8>> {
    let requests = (
        Request {
            r#type: "execute",
            stmt: Some(stmt),
        },
        Request {
            r#type: "get_autocommit",
            stmt: None,
        },
        Request {
            r#type: "close",
            stmt: None,
        },
    );
    let pipeline = Pipeline {
        requests,
        want_position: true,
    };
    serde_json::to_vec(&pipeline).map_err(|error| Error::Internal(format!("JSON: {error}")))
}

/// The sentence of a refusal: a primary's are JSON, and those of others text.
fn hrana_sentence(text: String) -> String {
    match serde_json::from_str::<hrana::Error>(&text) {
        Ok(error) => error.message,
        Err(_) => text,
    }
}

#[cfg(test)]
mod tests;
