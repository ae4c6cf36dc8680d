//! What the server answers at which path.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::super::turns::Turn;
use super::admission::{self, Asked, Gate};
use super::answers::{Answers, Held};
use super::arrival::{self, REQUEST_BYTES};
use super::places::Visit;
use super::rate::{Key, Rate};
use super::{Database, REQUESTS_PER_SECOND, Service};
use super::{hrana, poll};
use crate::database::fork;
use crate::error::{Error, Result};
use crate::primary::hrana::Streams;
use crate::wire::{Lease, PushReader, Request};

/// How long anybody waits for a turn to write.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// Answers up to this size give up their place before they are sent.
pub(super) const SMALL: usize = 64 << 10;

/// What all connections share.
pub(super) struct Shared {
    databases: RwLock<BTreeMap<String, Arc<Entry>>>,
    added: AtomicU64,
    answers: Answers,
    /// For those who are not let in, and for what is not there.
    pub(super) strangers: Rate,
}

/// A database by its name.
pub(super) struct Entry {
    /// Tells it from all others there ever were: two databases may number their tokens alike.
    pub(super) number: u64,
    pub(super) service: Arc<dyn Service>,
    pub(super) streams: Option<Arc<Streams>>,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) rate: Rate,
    /// Whether it is served no longer.
    pub(super) ended: watch::Sender<bool>,
}

impl Entry {
    /// Whoever waits for something new is told that there will be nothing.
    fn end(&self) {
        self.ended.send_replace(true);
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            databases: RwLock::default(),
            added: AtomicU64::new(0),
            answers: Answers::new(),
            strangers: Rate::new(REQUESTS_PER_SECOND),
        }
    }

    pub(super) fn add(&self, name: &str, database: Database) -> Result<()> {
        match self.databases.write().entry(name.to_owned()) {
            Slot::Occupied(_) => Err(Error::Misuse(format!(
                "a database is served here as '{name}' already"
            ))),
            Slot::Vacant(place) => {
                place.insert(Arc::new(Entry {
                    number: self.added.fetch_add(1, Ordering::Relaxed),
                    service: database.service,
                    streams: database.streams,
                    gate: database.gate,
                    rate: Rate::new(database.requests_per_second),
                    ended: watch::Sender::new(false),
                }));
                Ok(())
            }
        }
    }

    pub(super) fn remove(&self, name: &str) -> bool {
        let removed = self.databases.write().remove(name);
        removed.inspect(|entry| entry.end()).is_some()
    }

    /// Nothing is served any more.
    pub(super) fn clear(&self) {
        let removed = std::mem::take(&mut *self.databases.write());
        removed.values().for_each(|entry| entry.end());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.databases.read().is_empty()
    }

    pub(super) fn named(&self, name: &str) -> Option<Arc<Entry>> {
        self.databases.read().get(name).cloned()
    }

    /// The database at the root, where there is no other.
    pub(super) fn only(&self) -> Option<Arc<Entry>> {
        let databases = self.databases.read();
        let only = databases.values().next().filter(|_| databases.len() == 1);
        only.cloned()
    }

    /// Waits for a place for an answer.
    pub(super) async fn place(&self, key: Option<Key>) -> Answer<Held> {
        self.answers.wait(key).await.ok_or_else(Refusal::busy)
    }

    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.databases.read().values().cloned().collect()
    }
}

/// A status, and a sentence for whoever reads it.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

pub(super) type Answer<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub(super) fn not_found(sentence: &str) -> Self {
        Self(StatusCode::NOT_FOUND, sentence.to_owned())
    }

    pub(super) fn unauthorized(sentence: &str) -> Self {
        Self(StatusCode::UNAUTHORIZED, sentence.to_owned())
    }

    pub(super) fn too_many() -> Self {
        Self(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests: try again in a second".to_owned(),
        )
    }

    /// The database was here, or may be in a moment.
    pub(super) fn gone() -> Self {
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            "nothing is served here at the moment: try again".to_owned(),
        )
    }

    fn busy() -> Self {
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            "the primary is busy: try again".to_owned(),
        )
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Protocol(reason) => Self(
                StatusCode::BAD_REQUEST,
                format!("the request is not valid: {reason}"),
            ),
            Error::Misuse(sentence) => Self(StatusCode::BAD_REQUEST, sentence),
            Error::Busy(sentence) => Self(StatusCode::SERVICE_UNAVAILABLE, sentence),
            error => Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.1).into_response();
        let header = match self.0 {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::TOO_MANY_REQUESTS => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        if let Some((name, value)) = header {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// All paths the server knows.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/position", get(position))
        .route("/v1/{request}", post(request))
        .route("/{database}/v1/position", get(position))
        .route("/{database}/v1/{request}", post(request))
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
        None if asked.may_return => Err(Refusal::gone()),
        None if asked.named => Err(Refusal::not_found(
            "no database of this name is served here",
        )),
        None => Err(Refusal::not_found(
            "the URL must name the database: http://host:port/name",
        )),
    }
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
    if let Request::Pull(pull) = &request
        && poll::wait(&asked, &visit, pull).await?
    {
        admission::again(&asked, &headers).await?;
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
    let answer = move || Ok(service.push(&mut body.reader(), turn)?.encode());
    // Without a type: a commit is a few hundred bytes, and each head is a part of that.
    Ok(Response::new(
        sending(blocking(answer).await?, place).into(),
    ))
}

fn answered(bytes: Vec<u8>, place: Held) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    (kind, sending(bytes, place)).into_response()
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
