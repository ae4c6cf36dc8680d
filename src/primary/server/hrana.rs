//! Hrana over HTTP: bodies in, bodies out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::task::spawn_blocking;

use super::admission::Asked;
use super::arrival;
use super::places::Visit;
use super::refusal::Refusal;
use super::routes::{SMALL, sending, service};
use super::shared::Shared;
use crate::primary::hrana::{Asker, Pending, Question};
use crate::wire::hrana;

/// An answer, or an error in the form of the protocol.
type Answer = Result<Response, Failure>;

/// A status, and an error of the protocol.
pub(super) struct Failure(StatusCode, hrana::Error);

impl From<Refusal> for Failure {
    fn from(Refusal(status, sentence): Refusal) -> Self {
        Self(status, hrana::Error::new("HTTP_ERROR", sentence))
    }
}

/// Nothing has run where a question is refused, but for an internal error.
impl From<hrana::Error> for Failure {
    fn from(error: hrana::Error) -> Self {
        let status = match error.code.as_deref() {
            Some("INTERNAL_ERROR") => StatusCode::INTERNAL_SERVER_ERROR,
            Some("TOO_MANY_STREAMS") => StatusCode::SERVICE_UNAVAILABLE,
            Some(code) if code.starts_with("SQLITE_") => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self(status, error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.1).unwrap_or_default();
        (self.0, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

/// `POST …/v2/pipeline`, `POST …/v3/pipeline`
pub(super) async fn pipeline(
    State(shared): State<Arc<Shared>>,
    Extension(asked): Extension<Asked>,
    Extension(visit): Extension<Arc<Visit>>,
    body: Body,
) -> Answer {
    answer(
        (&shared, &asked, &visit),
        body,
        Question::pipeline,
        "application/json",
    )
    .await
}

/// `POST …/v3/cursor`
pub(super) async fn cursor(
    State(shared): State<Arc<Shared>>,
    Extension(asked): Extension<Asked>,
    Extension(visit): Extension<Arc<Visit>>,
    body: Body,
) -> Answer {
    answer(
        (&shared, &asked, &visit),
        body,
        Question::cursor,
        "text/plain",
    )
    .await
}

type Read = fn(&[u8]) -> Result<Question, hrana::Error>;

async fn answer(
    (shared, asked, visit): (&Shared, &Asked, &Visit),
    body: Body,
    read: Read,
    content_type: &'static str,
) -> Answer {
    // Asked again when all is there: meanwhile it may be served no longer.
    service(asked)?;
    let body = arrival::short(body, hrana::REQUEST_BYTES).await?;
    let question = match body.len() > SMALL {
        // Reading it takes a while, and others wait for this thread.
        true => spawn_blocking(move || read(&body))
            .await
            .map_err(|_| broken())?,
        false => read(&body),
    }?;
    let _busy = visit.busy();
    let bytes = ask(asked, question)?.answer().await.ok_or_else(broken)??;
    let place = match bytes.len() > SMALL {
        // Only now: who waits for a lock must not keep places that its holder needs. And what has
        // run is not answered with a refusal.
        true => shared.place(asked.key).await.ok(),
        false => None,
    };
    let bytes = match place {
        Some(place) => sending(bytes, place),
        None => bytes.into(),
    };
    Ok(([(header::CONTENT_TYPE, content_type)], bytes).into_response())
}

/// Hands a question to the streams of the database.
fn ask(asked: &Asked, question: Question) -> Result<Pending, Failure> {
    let entry = asked.database.upgrade();
    let streams = entry.as_ref().and_then(|entry| entry.streams.as_ref());
    let asker = Asker {
        key: asked.key,
        scope: asked.scope,
    };
    match streams {
        Some(streams) => Ok(streams.ask(question, asker)?),
        None if entry.is_none() && asked.may_return => Err(Refusal::gone().into()),
        None => Err(Refusal::not_found("no SQL is run here").into()),
    }
}

/// Whether anything has run is not known.
fn broken() -> Failure {
    let error = hrana::Error::new("INTERNAL_ERROR", "the answer could not be made");
    Failure(StatusCode::INTERNAL_SERVER_ERROR, error)
}
