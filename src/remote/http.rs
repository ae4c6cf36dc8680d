//! A primary behind `http://` or `https://`.

mod execute;

use std::env;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::http::{HeaderValue, StatusCode, Uri};
use ureq::{Agent, Body as Received, Proxy, SendBody};
use url::{Host, Url};

use super::{Access, Executed, PushFailure, Remote, Traffic, parse, tls};
use crate::database::body::Body;
use crate::database::fork;
use crate::error::{Error, Result};
use crate::wire::hrana::Stmt;
use crate::wire::{PushRequest, PushResponse, Request, Response};

/// The longest sentence of a remote that is repeated, in bytes.
const LONGEST_SENTENCE: u64 = 1024;

/// What is read of a refusal so that its connection can be used again.
const LONGEST_REFUSAL: u64 = 64 << 10;

const AGENT: &str = concat!("sqlite-replica/", env!("CARGO_PKG_VERSION"));

type Answer = ureq::http::Response<Received>;

/// A primary that is asked over HTTP. Connections are kept and used again; any number of threads
/// may ask at once.
pub struct HttpRemote {
    agent: Agent,
    url: String,
    token: Option<Token>,
    timeout: Duration,
    is_shut: AtomicBool,
}

/// A bearer token, and the header that carries it.
struct Token {
    text: String,
    header: HeaderValue,
}

impl HttpRemote {
    /// A remote by its URL, `http://host:port/database`. Nothing is sent yet. The time-out bounds
    /// the connection's set-up and the wait for each next byte.
    pub fn new(url: &str, access: Access) -> Result<HttpRemote> {
        let url = checked(url)?;
        let base = url.as_str().trim_end_matches('/').to_owned();
        Ok(HttpRemote {
            agent: agent(&url, &base, &access)?,
            url: base,
            token: access.token.map(Token::new).transpose()?,
            timeout: access.timeout,
            is_shut: AtomicBool::new(false),
        })
    }

    /// Sends a request and waits for the answer's head.
    ///
    /// A kept connection may turn out dead only when it is used: the primary was restarted, or
    /// gave up on it just now. The requests only read, so the second attempt, on a connection of
    /// its own, is harmless.
    fn post(&self, request: &Request, body: &[u8]) -> Result<Answer> {
        let answer = match self.send(request, body, false) {
            Err(ureq::Error::Io(error)) if broke_off(&error) => self.send(request, body, true),
            answer => answer,
        };
        answer.map_err(|error| self.failed(error))
    }

    fn send(
        &self,
        request: &Request,
        body: &[u8],
        fresh: bool,
    ) -> std::result::Result<Answer, ureq::Error> {
        let url = format!("{}/v1/{}", self.url, request.name());
        let mut call = self
            .agent
            .post(url)
            .content_type("application/octet-stream");
        if let Some(token) = &self.token {
            call = call.header("authorization", token.header.clone());
        }
        let wait = request.wait();
        if !wait.is_zero() {
            // The answer may begin late; from then on it could come faster, but there is one limit for
            // all reads of a request.
            let patience = self.timeout.saturating_add(wait);
            call = call.config().timeout_per_read(Some(patience)).build();
        }
        if fresh {
            // Every kept connection is older than this.
            call = call.config().max_idle_age(Duration::ZERO).build();
        }
        call.send(body)
    }

    fn send_push(&self, body: &Body, most: Duration) -> std::result::Result<Answer, ureq::Error> {
        let mut call = self
            .agent
            .post(format!("{}/v1/push", self.url))
            .header("content-length", body.len());
        if let Some(token) = &self.token {
            call = call.header("authorization", token.header.clone());
        }
        let call = call.config().timeout_recv_response(Some(most)).build();
        call.send(SendBody::from_reader(&mut body.reader()))
    }

    fn ask_now(&self, request: &Request) -> Result<(Response, Traffic)> {
        let body = request.encode();
        let answer = self.post(request, &body)?;
        if answer.status() != 200 {
            return Err(self.refused(answer));
        }
        let mut source = Counted::new(answer.into_body());
        let response = Response::decode(&mut source, request);
        match (response, source.failure) {
            (Ok(response), _) => {
                let traffic = Traffic {
                    sent: body.len() as u64,
                    received: source.count,
                };
                Ok((response, traffic))
            }
            (Err(_), Some(failure)) => Err(self.broken(failure)),
            (Err(error), None) => Err(error),
        }
    }

    fn push_now(
        &self,
        push: &PushRequest,
        body: &Body,
        most: Duration,
    ) -> std::result::Result<(PushResponse, Traffic), PushFailure> {
        let answer = match self.send_push(body, most) {
            Ok(answer) => answer,
            Err(error) if never_left(&error) => {
                return Err(PushFailure::Unsent(self.failed(error)));
            }
            Err(error) => return Err(PushFailure::Unknown(self.failed(error))),
        };
        match answer.status().as_u16() {
            200 => {}
            // Refused before anything was done with it.
            400 | 401 | 403 | 404 | 413 | 429 | 503 => {
                return Err(PushFailure::Unsent(self.refused(answer)));
            }
            _ => return Err(PushFailure::Unknown(self.refused(answer))),
        }
        let mut source = Counted::new(answer.into_body());
        let response = PushResponse::decode(&mut source, push);
        let traffic = Traffic {
            sent: body.len(),
            received: source.count,
        };
        match (response, source.failure) {
            (Ok(response), _) => Ok((response, traffic)),
            (Err(_), Some(failure)) => Err(PushFailure::Unknown(self.broken(failure))),
            (Err(error), None) => Err(PushFailure::Unknown(error)),
        }
    }

    fn failed(&self, error: ureq::Error) -> Error {
        match error {
            // A proxy, or another server: the primary may be there again later.
            ureq::Error::Protocol(error) => {
                self.unreachable(format!("what answers there speaks no HTTP: {error}"))
            }
            ureq::Error::Timeout(_) => self.unreachable(self.no_answer()),
            ureq::Error::HostNotFound => self.unreachable("the host is not known".to_owned()),
            ureq::Error::Io(error) => self.broken(error),
            ureq::Error::Rustls(error) => tls::failed(&self.url, &error),
            error => self.unreachable(error.to_string()),
        }
    }

    fn broken(&self, error: io::Error) -> Error {
        // Bodies wrap the client's own errors.
        match error.downcast::<ureq::Error>() {
            Ok(error) => self.failed(error),
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(error) => tls::failed(&self.url, error),
                None => self.unreachable(error.to_string()),
            },
        }
    }

    fn no_answer(&self) -> String {
        format!("no answer for {} s", self.timeout.as_secs_f64())
    }

    fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable {
            url: self.url.clone(),
            reason,
        }
    }

    fn refused(&self, answer: Answer) -> Error {
        let status = answer.status();
        self.refusal(status, sentence(answer.into_body()))
    }

    fn refusal(&self, status: StatusCode, mut sentence: String) -> Error {
        if let Some(token) = &self.token {
            // A remote may repeat what it was sent.
            sentence = sentence.replace(&token.text, "…");
        }
        let reason = match sentence.is_empty() {
            true => format!("HTTP {status}"),
            false => format!("{sentence} (HTTP {})", status.as_u16()),
        };
        let url = self.url.clone();
        match status.as_u16() {
            401 => Error::Unauthorized { url, reason },
            403 => Error::Forbidden { url, reason },
            429 | 503 => Error::Busy(format!("remote {url} is busy: {reason}")),
            _ => Error::Refused { url, reason },
        }
    }
}

impl Remote for HttpRemote {
    fn ask(&self, request: &Request) -> Result<(Response, Traffic)> {
        fork::aside(|| self.ask_now(request))
    }

    fn push(
        &self,
        push: &PushRequest,
        body: &Body,
        most: Duration,
    ) -> std::result::Result<(PushResponse, Traffic), PushFailure> {
        fork::aside(|| self.push_now(push, body, most))
    }

    fn execute(&self, stmt: &Stmt) -> Result<Executed> {
        self.run(stmt)
    }

    fn shut(&self) {
        self.is_shut.store(true, Ordering::Relaxed);
        self.agent.clone().shutdown();
    }

    fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Relaxed)
    }

    fn url(&self) -> &str {
        &self.url
    }
}

/// Whether a request failed before any of it was sent.
fn never_left(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::BadUri(_)
        | ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => true,
        ureq::Error::Rustls(error) => is_certificate(error),
        ureq::Error::Io(error) => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            error.kind() == io::ErrorKind::ConnectionRefused || inner.is_some_and(is_certificate)
        }
        _ => false,
    }
}

/// Other errors of TLS may come in the middle of an answer.
fn is_certificate(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(_))
}

impl Token {
    fn new(text: String) -> Result<Token> {
        let wrong = || Error::Misuse("auth_token holds what a header cannot carry".to_owned());
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong());
        }
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| wrong())?;
        header.set_sensitive(true);
        Ok(Token { text, header })
    }
}

/// A body that counts what travelled, and tells a broken connection from broken content.
struct Counted {
    reader: ureq::BodyReader<'static>,
    count: u64,
    failure: Option<io::Error>,
}

impl Counted {
    fn new(body: Received) -> Counted {
        Counted {
            reader: body.into_reader(),
            count: 0,
            failure: None,
        }
    }
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.reader.read(into) {
            Ok(count) => {
                self.count += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// A URL that nothing speaks against.
pub(super) fn checked(url: &str) -> Result<Url> {
    let url = parse(url)?;
    if !url.username().is_empty() || url.password().is_some() {
        // It would not be sent, and the URL is shown and stored.
        let sentence = "sync_url must not hold a user or password: use auth_token";
        return Err(Error::Misuse(sentence.to_owned()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        let sentence = "sync_url must end with the database: it holds a '?' or '#'";
        return Err(Error::Misuse(sentence.to_owned()));
    }
    Ok(url)
}

fn agent(url: &Url, base: &str, access: &Access) -> Result<Agent> {
    let timeout = access.timeout;
    // A look-up with a time-out takes a thread: only where there is something to look up.
    let named = matches!(url.host(), Some(Host::Domain(_)));
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // The token goes to the host it was given for, and nowhere else.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(AGENT)
        .accept("")
        .no_delay(true)
        .proxy(proxy(url, base))
        .timeout_resolve(named.then_some(timeout))
        .timeout_connect(Some(timeout))
        .timeout_per_read(Some(timeout))
        .timeout_per_write(Some(timeout));
    let config = match url.scheme() {
        "https" => config.tls_config(tls::config(access.ca_file.as_deref())?),
        _ => config,
    };
    Ok(config.build().new_agent())
}

/// The proxy the environment names, by the names that curl takes. (`HTTP_PROXY` in upper case is
/// what a CGI client can set.)
fn proxy(url: &Url, base: &str) -> Option<Proxy> {
    let uri: Uri = base.parse().ok()?;
    if is_loopback(url) || Proxy::try_from_env().is_some_and(|any| any.is_no_proxy(&uri)) {
        return None;
    }
    let names: &[&str] = match url.scheme() {
        "https" => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    names
        .iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
        .and_then(|value| Proxy::new(&value).ok())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Whether a connection ended under a request, rather than never came to be.
fn broke_off(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}

/// What a remote says when it refuses, fit for a message.
fn sentence(body: Received) -> String {
    let mut reader = body.into_reader().take(LONGEST_REFUSAL);
    let mut bytes = Vec::new();
    // What came before a failure is still worth showing.
    let _ = reader
        .by_ref()
        .take(LONGEST_SENTENCE)
        .read_to_end(&mut bytes);
    let _ = io::copy(&mut reader, &mut io::sink());
    let text = String::from_utf8_lossy(&bytes).replace(char::is_control, " ");
    text.trim().to_owned()
}

#[cfg(test)]
mod tests;
