//! Who is let in: decided on a request's head, before anything of its body is read.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::counts::Asking;
use super::places::Visit;
use super::rate::Key;
use super::refusal::{Answer, Refusal};
use super::routes::blocking;
use super::shared::{Entry, Shared};
use crate::database::tokens::Scope;
use crate::error::Result;

/// What a stranger is told, whatever was asked for.
pub const NOT_KNOWN: &str = "the token is not known here";

/// What a stranger without a token is told.
const NEEDED: &str = "a token is needed";

/// What is read of a refused request's body. Without it the connection would be reset, and the
/// refusal lost on its way.
const REFUSED_BYTES: usize = 64 << 10;

/// How long that may take.
const REFUSED_TIME: Duration = Duration::from_secs(1);

/// What a request's token, or the lack of one, comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Everybody may ask.
    Anyone,
    /// A bearer of this token.
    Bearer {
        /// The number of the token.
        id: u64,
        /// What it allows.
        scope: Scope,
    },
    /// Refused, and why.
    Refused(&'static str),
}

/// Who may ask for a database.
pub trait Gate: Send + Sync + 'static {
    /// Whether what is in memory is new enough to answer by.
    fn is_current(&self) -> bool;
    /// Makes it so. May block.
    fn refresh(&self) -> Result<()>;
    /// Whether there is nothing without a token.
    fn needs_token(&self) -> bool;
    /// What the bearer of a token may do.
    fn admit(&self, token: &str) -> Admission;
}

/// What a request asks for, once it is let in.
#[derive(Clone)]
pub(super) struct Asked {
    /// The database, for as long as it is served; of none where there is none of this name. A
    /// request that is slow to arrive must not keep it open.
    pub(super) database: Weak<Entry>,
    /// Whether it was named, rather than meant as the only one.
    pub(super) named: bool,
    /// Whether the database may be back in a moment where it is not there: it was served when the
    /// request came, or nothing is. The program that serves is ending, or starting.
    pub(super) may_return: bool,
    /// The request's name, the last part of the path.
    pub(super) request: Option<String>,
    /// Who asks.
    pub(super) key: Option<Key>,
    /// What that allows.
    pub(super) scope: Scope,
}

/// Lets requests in, or answers in their place.
pub(super) async fn admit(
    State(shared): State<Arc<Shared>>,
    path: std::result::Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut asked = asked(&shared, path.ok());
    let visit = request.extensions().get::<Arc<Visit>>().cloned();
    let (asking, database) = (Asking::of(&request), asked.database.clone());
    let mut response = match decide(&shared, &asked, visit.as_deref(), request.headers()).await {
        Ok((key, scope)) => {
            (asked.key, asked.scope) = (key, scope);
            if let Some(visit) = &visit {
                visit.admitted();
            }
            request.extensions_mut().insert(asked);
            next.run(request).await
        }
        Err(refusal) => {
            pass_over(request.into_body()).await;
            refusal.into_response()
        }
    };
    asking.answered(&database, visit.as_ref(), &response);
    if visit.is_some_and(|visit| visit.is_closing()) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// What a path asks for; nothing where the path is not known, or not UTF-8. Names are looked up
/// among those that are served and used for nothing else.
fn asked(shared: &Shared, path: Option<RawPathParams>) -> Asked {
    let part = |name: &str| {
        let mut parts = path.iter().flatten();
        let found = parts.find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_owned())
    };
    let name = part("database");
    let database = match (&path, &name) {
        (None, _) => None,
        (Some(_), Some(name)) => shared.named(name),
        (Some(_), None) => shared.only(),
    };
    Asked {
        database: database.as_ref().map(Arc::downgrade).unwrap_or_default(),
        named: name.is_some(),
        may_return: database.is_some() || shared.is_empty(),
        request: part("request"),
        key: None,
        scope: Scope::Read,
    }
}

/// Who asks and what that allows, if it is allowed to ask.
async fn decide(
    shared: &Shared,
    asked: &Asked,
    visit: Option<&Visit>,
    headers: &HeaderMap,
) -> Answer<(Option<Key>, Scope)> {
    let database = asked.database.upgrade();
    let admission = admission(shared, database.as_ref(), bearer(headers)).await?;
    let address = visit.map(|visit| Key::address(visit.address()));
    let now = Instant::now();
    if let Admission::Refused(reason) = admission {
        // By a measure of its own: by that of a database it would tell which there are.
        return match shared.strangers.take(address, now) {
            true => Err(Refusal::unauthorized(reason)),
            false => Err(Refusal::too_many()),
        };
    }
    let (rate, key) = match (&database, admission) {
        (Some(entry), Admission::Bearer { id, .. }) => {
            (&entry.rate, Some(Key::Token(entry.number, id)))
        }
        (Some(entry), _) => (&entry.rate, address),
        (None, _) => (&shared.strangers, address),
    };
    if !rate.take(key, now) {
        return Err(Refusal::too_many());
    }
    match admission {
        Admission::Bearer { scope, .. } if scope < needed(asked) => Err(Refusal(
            StatusCode::FORBIDDEN,
            "the token may only read".to_owned(),
        )),
        Admission::Bearer { scope, .. } => Ok((key, scope)),
        _ => Ok((key, Scope::Write)),
    }
}

/// Whether a request is still let in that has waited: its token may have been withdrawn meanwhile.
pub(super) async fn again(asked: &Asked, headers: &HeaderMap) -> Answer<()> {
    let Some(entry) = asked.database.upgrade() else {
        return Err(Refusal::gone());
    };
    match admission_to(&entry, bearer(headers)).await? {
        Admission::Refused(reason) => Err(Refusal::unauthorized(reason)),
        _ => Ok(()),
    }
}

/// The scope a request needs.
fn needed(asked: &Asked) -> Scope {
    match asked.request.as_deref() {
        Some("begin" | "push" | "release") => Scope::Write,
        _ => Scope::Read,
    }
}

async fn admission(
    shared: &Shared,
    database: Option<&Arc<Entry>>,
    token: Option<&str>,
) -> Result<Admission> {
    let Some(entry) = database else {
        // Where one database wants a token, nobody is told which others there are.
        let databases = shared.all();
        current(databases.clone()).await?;
        let needs_token = |entry: &Arc<Entry>| entry.gate.needs_token();
        return Ok(match databases.iter().any(needs_token) {
            true => Admission::Refused(refusal(token)),
            false => Admission::Anyone,
        });
    };
    admission_to(entry, token).await
}

async fn admission_to(entry: &Arc<Entry>, token: Option<&str>) -> Result<Admission> {
    current(vec![entry.clone()]).await?;
    Ok(match token {
        _ if !entry.gate.needs_token() => Admission::Anyone,
        Some(token) => entry.gate.admit(token),
        None => Admission::Refused(NEEDED),
    })
}

fn refusal(token: Option<&str>) -> &'static str {
    token.map_or(NEEDED, |_| NOT_KNOWN)
}

/// Sees to it that the gates answer by what is on record now.
async fn current(databases: Vec<Arc<Entry>>) -> Result<()> {
    if databases.iter().all(|entry| entry.gate.is_current()) {
        return Ok(());
    }
    blocking(move || databases.iter().try_for_each(|entry| entry.gate.refresh())).await
}

/// The token of an `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}

/// Takes what comes of a body that nobody wants, within limits.
pub(super) async fn pass_over(mut body: Body) {
    let mut left = REFUSED_BYTES;
    let pass = async {
        while left > 0 && !body.is_end_stream() {
            let next =
                std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context));
            let Some(Ok(frame)) = next.await else { return };
            left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
        }
    };
    // Whatever is left makes the connection end.
    let _ = timeout(REFUSED_TIME, pass).await;
}
