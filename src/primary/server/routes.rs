//! What the server answers at which path.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::task::spawn_blocking;

use super::super::turns::Turn;
use super::admission::{self, Asked};
use super::answers::Held;
use super::arrival::{self, REQUEST_BYTES};
use super::metrics::{self, Connections};
use super::places::Visit;
use super::poll::Waited;
use super::refusal::{Answer, Refusal};
use super::shared::Shared;
use super::{Service, counts, hrana, poll};
use crate::database::fork;
use crate::error::{Error, Result};
use crate::wire::{Head, Lease, PullRequest, PushReader, Request};

/// How long anybody waits for a turn to write.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// What most answers are.
const BINARY: [(header::HeaderName, &str); 1] =
    [(header::CONTENT_TYPE, "application/octet-stream")];

/// Answers up to this size give up their place before they are sent.
pub(super) const SMALL: usize = 64 << 10;

/// All paths the server knows.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/position", get(position))
        .route("/v1/{request}", post(request))
        .route("/{database}/v1/position", get(position))
        .route("/{database}/v1/{request}", post(request))
        .route("/metrics", get(measured))
        .route("/{database}/metrics", get(measured))
        .route("/v2/pipeline", post(hrana::pipeline))
        .route("/v3/pipeline", post(hrana::pipeline))
        .route("/v3/cursor", post(hrana::cursor))
        .route("/{database}/v2/pipeline", post(hrana::pipeline))
        .route("/{database}/v3/pipeline", post(hrana::pipeline))
        .route("/{database}/v3/cursor", post(hrana::cursor))
        .fallback(async || no_such_path())
        .layer(from_fn_with_state(shared.clone(), admission::admit))
        // Behind the layer: everybody may know that something is here.
        .route("/health", get(async || "ok"))
        // And which versions of Hrana are spoken, whatever is served: clients ask without a token.
        .route("/v2", get(async || "ok"))
        .route("/v3", get(async || "ok"))
        .route("/{database}/v2", get(async || "ok"))
        .route("/{database}/v3", get(async || "ok"))
        .with_state(shared)
}

fn no_such_path() -> Refusal {
    Refusal::not_found("there is nothing at this path")
}

/// The service that was asked for.
pub(super) fn service(asked: &Asked) -> Answer<Arc<dyn Service>> {
    match asked.database.upgrade() {
        Some(entry) => Ok(entry.service.clone()),
        None => Err(absent(asked)),
    }
}

/// Why there is no database.
fn absent(asked: &Asked) -> Refusal {
    if asked.may_return {
        return Refusal::gone();
    }
    Refusal::not_found(match asked.named {
        true => "no database of this name is served here",
        false => "the URL must name the database: http://host:port/name",
    })
}

async fn position(
    Extension(asked): Extension<Asked>,
    Extension(visit): Extension<Arc<Visit>>,
) -> Answer<String> {
    let service = service(&asked)?;
    let _busy = visit.busy();
    let head = blocking(move || service.head()).await?;
    Ok(format!("{}\n", head.position))
}

async fn measured(
    State(shared): State<Arc<Shared>>,
    Extension(asked): Extension<Asked>,
    Extension(visit): Extension<Arc<Visit>>,
) -> Answer<Response> {
    let databases = match asked.database.upgrade() {
        Some(entry) => vec![entry],
        None if asked.named => return Err(absent(&asked)),
        // None of them needs a token, or the request would not have come this far.
        None => shared.all(),
    };
    let _busy = visit.busy();
    let (open, most) = visit.connections();
    let text = blocking(move || Ok(metrics::text(&databases, Connections { open, most }))).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn request(
    State(shared): State<Arc<Shared>>,
    Extension(asked): Extension<Asked>,
    Extension(visit): Extension<Arc<Visit>>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    // Asked again when all is there: meanwhile it may be served no longer.
    service(&asked)?;
    let Some(name) = asked.request.clone().filter(|name| is_known(name)) else {
        return Err(no_such_path());
    };
    if name == "push" {
        return push(shared, asked, visit, body).await;
    }
    let body = arrival::short(body, REQUEST_BYTES).await?;
    let request = Request::decode(&mut &body[..])?;
    if request.name() != name {
        let sentence = format!("a '{}' request at '{name}'", request.name());
        return Err(Error::Protocol(sentence).into());
    }
    drop(body);
    if let Request::Pull(pull) = &request {
        poll::note(&asked, &visit, pull);
        let waited = poll::wait(&asked, &visit, pull).await?;
        if !matches!(waited, Waited::NotAtAll) {
            admission::again(&asked, &headers).await?;
        }
        if let Waited::Until(head) = waited
            && let Some(bytes) = woken(&shared, &asked, pull, &head).await?
        {
            return Ok((BINARY, bytes).into_response());
        }
    }
    let _busy = visit.busy();
    let turn = match &request {
        Request::Begin(begin) => {
            let mut turn = turn(&asked, begin.lease).await?;
            if let Some(turn) = &mut turn {
                turn.until_gone(stays(&headers).then(|| visit.gone()));
            }
            turn
        }
        _ => None,
    };
    let place = shared.place(asked.key).await?;
    let service = service(&asked)?;
    let answer = move || service.answer(request, turn)?.encode();
    Ok(answered(blocking(answer).await?, place))
}

/// The answer for all who were woken as this one was, where there is one.
async fn woken(
    shared: &Shared,
    asked: &Asked,
    pull: &PullRequest,
    head: &Head,
) -> Answer<Option<Bytes>> {
    let woken = match asked.database.upgrade() {
        Some(entry) => Arc::clone(&entry.woken),
        None => return Err(absent(asked)),
    };
    let make = async || {
        let _place = shared.place(asked.key).await?;
        let (service, request) = (service(asked)?, Request::Pull(*pull));
        Ok(blocking(move || service.answer(request, None)?.encode()).await?)
    };
    woken.answer(pull, head, make).await
}

fn is_known(name: &str) -> bool {
    ["pull", "hashes", "pages", "begin", "push", "release"].contains(&name)
}

/// Whether the connection is meant to stay: one that a proxy opens for each request says nothing of
/// whoever stands behind it.
fn stays(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONNECTION);
    !value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// The turn of whoever asks for a lease.
async fn turn(asked: &Asked, lease: Option<Lease>) -> Answer<Option<Turn>> {
    let Some(lease) = lease else { return Ok(None) };
    let most = Duration::from_millis(lease.wait_milliseconds.into()).min(LONGEST_TURN);
    let turns = service(asked)?.turns();
    match turns.wait(Some(lease.id), most).await {
        Some(turn) => Ok(Some(turn)),
        None => Err(Refusal::busy()),
    }
}

async fn push(
    shared: Arc<Shared>,
    asked: Asked,
    visit: Arc<Visit>,
    body: Body,
) -> Answer<Response> {
    let room = service(&asked)?;
    let body = arrival::long(body, move || room.scratch()).await?;
    let _busy = visit.busy();
    let lease = PushReader::start(&mut body.reader())?.request().lease;
    let turns = service(&asked)?.turns();
    let turn = turns.wait(lease, LONGEST_TURN).await;
    let turn = turn.ok_or_else(Refusal::busy)?;
    let place = shared.place(asked.key).await?;
    let service = service(&asked)?;
    let answer = move || {
        let response = service.push(&mut body.reader(), turn)?;
        Ok((counts::outcome(&response), response.encode()))
    };
    let (outcome, bytes) = blocking(answer).await?;
    if let Some(entry) = asked.database.upgrade() {
        entry.counts.pushed(outcome);
    }
    // Without a type: a commit is a few hundred bytes, and each head is a part of that.
    Ok(Response::new(sending(bytes, place).into()))
}

fn answered(bytes: Vec<u8>, place: Held) -> Response {
    (BINARY, sending(bytes, place)).into_response()
}

/// Runs what may block where that is allowed. A panic there is an error here.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let work = move || {
        let _working = fork::working();
        work()
    };
    spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::Internal("the answer could not be made".to_owned())))
}

/// An answer that keeps its place until its last byte is sent.
struct Sending {
    bytes: Vec<u8>,
    _place: Held,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub(super) fn sending(bytes: Vec<u8>, place: Held) -> Bytes {
    match bytes.len() > SMALL {
        true => Bytes::from_owner(Sending {
            bytes,
            _place: place,
        }),
        false => bytes.into(),
    }
}
