//! What the server answers at which path.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{self, Body, Bytes, HttpBody};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Service;
use crate::error::{Error, Result};
use crate::wire::Request;

/// The longest request body.
const REQUEST_BYTES: usize = 1 << 20;

/// How long a request's body may take to arrive.
const ARRIVING: Duration = Duration::from_secs(30);

/// Answers that may be in memory at once, from their request to their last byte sent.
const ANSWERS: usize = 16;

/// How long a request waits for a place among them.
const QUEUEING: Duration = Duration::from_secs(10);

/// Answers up to this size give up their place before they are sent.
const SMALL: usize = 64 << 10;

/// What all connections share.
pub(super) struct Shared {
    databases: RwLock<BTreeMap<String, Arc<dyn Service>>>,
    answers: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            databases: RwLock::default(),
            answers: Arc::new(Semaphore::new(ANSWERS)),
        }
    }

    pub(super) fn add(&self, name: &str, service: Arc<dyn Service>) -> Result<()> {
        match self.databases.write().entry(name.to_owned()) {
            Entry::Occupied(_) => Err(Error::Misuse(format!(
                "a database is served here as '{name}' already"
            ))),
            Entry::Vacant(place) => {
                place.insert(service);
                Ok(())
            }
        }
    }

    pub(super) fn remove(&self, name: &str) -> bool {
        self.databases.write().remove(name).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.databases.read().is_empty()
    }

    fn named(&self, name: &str) -> Answer<Arc<dyn Service>> {
        let service = self.databases.read().get(name).cloned();
        service.ok_or_else(|| Refusal::not_found("no database of this name is served here"))
    }

    /// The database at the root, where there is no other.
    fn only(&self) -> Answer<Arc<dyn Service>> {
        let databases = self.databases.read();
        match (databases.values().next(), databases.len()) {
            (Some(service), 1) => Ok(service.clone()),
            _ => Err(Refusal::not_found(
                "the URL must name the database: http://host:port/name",
            )),
        }
    }
}

/// A status, and a sentence for whoever reads it.
struct Refusal(StatusCode, String);

type Answer<T> = std::result::Result<T, Refusal>;

impl Refusal {
    fn not_found(sentence: &str) -> Self {
        Self(StatusCode::NOT_FOUND, sentence.to_owned())
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
        (self.0, self.1).into_response()
    }
}

/// All paths the server knows.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/health", get(async || "ok"))
        .route("/v1/position", get(root_position))
        .route("/v1/{request}", post(root_request))
        .route("/{database}/v1/position", get(position))
        .route("/{database}/v1/{request}", post(request))
        .fallback(async || no_such_path())
        .with_state(shared)
}

fn no_such_path() -> Refusal {
    Refusal::not_found("there is nothing at this path")
}

async fn root_position(State(shared): State<Arc<Shared>>) -> Answer<String> {
    position_of(shared.only()?).await
}

async fn position(
    State(shared): State<Arc<Shared>>,
    Path(database): Path<String>,
) -> Answer<String> {
    position_of(shared.named(&database)?).await
}

async fn root_request(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<Response> {
    let service = shared.only()?;
    answer(&shared, service, name, body).await
}

async fn request(
    State(shared): State<Arc<Shared>>,
    Path((database, name)): Path<(String, String)>,
    body: Body,
) -> Answer<Response> {
    let service = shared.named(&database)?;
    answer(&shared, service, name, body).await
}

async fn position_of(service: Arc<dyn Service>) -> Answer<String> {
    let head = blocking(move || service.head()).await?;
    Ok(format!("{}\n", head.position))
}

async fn answer(
    shared: &Shared,
    service: Arc<dyn Service>,
    name: String,
    body: Body,
) -> Answer<Response> {
    if !["pull", "hashes", "pages"].contains(&name.as_str()) {
        return Err(no_such_path());
    }
    let body = arrived(body).await?;
    let place = place(shared).await?;
    let bytes = blocking(move || {
        let request = Request::decode(&mut &body[..])?;
        if request.name() != name {
            return Err(Error::Protocol(format!(
                "a '{}' request at '{name}'",
                request.name()
            )));
        }
        service.answer(request)?.encode()
    })
    .await?;
    Ok((
        [(header::CONTENT_TYPE, "application/octet-stream")],
        sending(bytes, place),
    )
        .into_response())
}

async fn arrived(body: Body) -> Answer<Bytes> {
    let too_long = || {
        let sentence = format!("the request is cut off, or longer than {REQUEST_BYTES} bytes");
        Refusal(StatusCode::PAYLOAD_TOO_LARGE, sentence)
    };
    if body.size_hint().lower() > REQUEST_BYTES as u64 {
        return Err(too_long());
    }
    match timeout(ARRIVING, body::to_bytes(body, REQUEST_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(too_long()),
        Err(_) => {
            let sentence = "the request took too long to arrive".to_owned();
            Err(Refusal(StatusCode::REQUEST_TIMEOUT, sentence))
        }
    }
}

async fn place(shared: &Shared) -> Answer<OwnedSemaphorePermit> {
    match timeout(QUEUEING, shared.answers.clone().acquire_owned()).await {
        Ok(Ok(place)) => Ok(place),
        _ => Err(Refusal::busy()),
    }
}

/// Runs what may block where that is allowed. A panic there is an error here.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::Internal("the answer could not be made".to_owned())))
}

/// An answer that keeps its place until its last byte is sent.
struct Sending {
    bytes: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn sending(bytes: Vec<u8>, place: OwnedSemaphorePermit) -> Bytes {
    match bytes.len() > SMALL {
        true => Bytes::from_owner(Sending {
            bytes,
            _place: place,
        }),
        false => bytes.into(),
    }
}
