//! What this process serves: databases by path, servers by address.

mod opened;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::opened::Openings;
pub use self::opened::{Opened, is_open};
use super::answer::Primary;
use super::hrana::Streams;
use super::server::tls::Tls;
use super::server::{self, Database, Listening, Server, address, limit};
use super::signals::EndSignals;
use super::tokens::Tokens;
use super::worker::Worker;
use crate::database::host::Host;
use crate::error::{Error, Result};

/// How long whoever stops serving waits for answers under way.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// Options of `replica_serve`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The name in the URL; the file's name without its extension when not given.
    pub name: Option<String>,
    /// The schema to serve; `main` when not given.
    pub schema: Option<String>,
    /// Block until `replica_stop()`, SIGINT or SIGTERM.
    pub wait: bool,
    /// Listen beyond loopback although the database has no token.
    pub insecure: bool,
    /// PEM file of the certificate chain: with it the address is served over TLS.
    pub certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
    /// Connections the address may have open at once.
    pub connections: Option<NonZeroUsize>,
    /// Requests of one token, or without tokens of one address, in a second.
    pub requests_per_second: Option<NonZeroU32>,
}

impl Options {
    fn tls(&self) -> Result<Option<Tls>> {
        match (&self.certificate, &self.key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Tls::read(certificate, key).map(Some),
            _ => Err(Error::Misuse(
                "TLS needs both a certificate and its key".to_owned(),
            )),
        }
    }
}

/// What `replica_serve` returns.
#[derive(Serialize, Clone)]
pub struct Serving {
    /// The URL replicas follow.
    pub url: String,
    /// The name it is served under.
    pub database: String,
    /// The permanent id of the database.
    pub id: String,
    /// Its position.
    pub position: String,
}

/// A database being served.
pub struct Served {
    /// The primary.
    pub primary: Arc<Primary>,
    /// Runs SQL for clients.
    streams: Arc<Streams>,
    /// Its tokens.
    pub tokens: Arc<Tokens>,
    /// Its URL.
    pub url: String,
    /// Its page size in bytes.
    pub page_size: u32,
    name: String,
    address: SocketAddr,
    /// Ends with it.
    _worker: Worker,
    process: u32,
}

#[derive(Default)]
struct Registry {
    databases: HashMap<PathBuf, Arc<Served>>,
    servers: HashMap<SocketAddr, Server>,
    /// The connections of the host that have a database open.
    opened: HashMap<PathBuf, Openings>,
}

static SERVING: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

/// Serves the database at `path`.
pub fn serve(
    host: &Arc<dyn Host>,
    path: &Path,
    address: &str,
    options: &Options,
) -> Result<Serving> {
    let name = name_of(path, options)?;
    if find(path).is_some() {
        return Err(already(path));
    }
    let wanted = address::parse(address)?;
    check_reach(host, path, wanted, options)?;
    // The address first: a refusal leaves nothing behind.
    let listening = SERVING.lock().listen(wanted, options)?;
    let address = listening.address;
    let begun = begin(host, path);
    match begun.and_then(|begun| add(host, name, &listening, begun, options)) {
        Ok(serving) => Ok(serving),
        Err(error) => {
            let server = SERVING.lock().stop_if_idle(address);
            drop(server);
            Err(error)
        }
    }
}

/// Puts a primary that captures on a server that listens.
fn add(
    host: &Arc<dyn Host>,
    name: String,
    listening: &Listening,
    (primary, tokens): Begun,
    options: &Options,
) -> Result<Serving> {
    let head = {
        let capture = primary.capture();
        capture.head(capture.state())
    };
    let address = listening.address;
    let scheme = listening.tls.as_ref().map_or("http", |_| "https");
    let url = format!("{scheme}://{address}/{name}");
    let worker = Worker::start(&primary)?;
    let streams = Arc::new(Streams::new(Arc::clone(host), Arc::clone(&primary)));
    let path = primary.path().to_owned();
    let mut serving = SERVING.lock();
    let database = database(&primary, &streams, &tokens, options);
    serving.add(listening, &name, database)?;
    let served = Served {
        primary,
        streams,
        tokens,
        url: url.clone(),
        page_size: head.page_size.get(),
        name: name.clone(),
        address,
        _worker: worker,
        process: process::id(),
    };
    log::info!(target: "replica", "{}: served at {url}", path.display());
    serving.databases.insert(path, Arc::new(served));
    Ok(Serving {
        url,
        database: name,
        id: head.database.to_string(),
        position: head.position.to_string(),
    })
}

/// A database as its server knows it.
fn database(
    primary: &Arc<Primary>,
    streams: &Arc<Streams>,
    tokens: &Arc<Tokens>,
    options: &Options,
) -> Database {
    let requests = options.requests_per_second;
    Database {
        service: Arc::clone(primary) as _,
        streams: Some(Arc::clone(streams)),
        gate: Arc::clone(tokens) as _,
        requests_per_second: requests.map_or(server::REQUESTS_PER_SECOND, Into::into),
    }
}

fn already(path: &Path) -> Error {
    Error::Misuse(format!("{} is served already", path.display()))
}

/// Refuses what would be open to a whole network without being meant to.
fn check_reach(
    host: &Arc<dyn Host>,
    path: &Path,
    address: SocketAddr,
    options: &Options,
) -> Result<()> {
    if address.ip().to_canonical().is_loopback() || options.insecure {
        return Ok(());
    }
    // A state store is not made for the question.
    match host.store_exists(path)? && Tokens::open(Arc::clone(host), path)?.has_valid() {
        true => Ok(()),
        false => Err(Error::Misuse(format!(
            "serving on {address}, beyond loopback, needs tokens: make one with replica_token('read', seconds), \
             or say {{\"insecure\": true}}"
        ))),
    }
}

/// A primary, and who may ask it.
type Begun = (Arc<Primary>, Arc<Tokens>);

fn begin(host: &Arc<dyn Host>, path: &Path) -> Result<Begun> {
    let commits = SERVING.lock().commits(path);
    let primary = Primary::begin(Arc::clone(host), path, commits)?;
    let tokens = Tokens::open(Arc::clone(host), path)?;
    Ok((Arc::new(primary), Arc::new(tokens)))
}

impl Registry {
    /// The server that listens on `address`, started where there is none yet.
    fn listen(&mut self, address: SocketAddr, options: &Options) -> Result<Listening> {
        let tls = options.tls()?;
        if let Some(server) = self.servers.get(&address) {
            let listening = server.listening();
            if tls.is_some() && tls != listening.tls {
                return Err(Error::Misuse(format!(
                    "{address} is served already, without this certificate"
                )));
            }
            return Ok(listening.clone());
        }
        let connections = options
            .connections
            .map_or_else(limit::connections, Into::into);
        let server = Server::start(Listening {
            address,
            tls,
            connections,
        })?;
        let listening = server.listening().clone();
        self.servers.insert(listening.address, server);
        Ok(listening)
    }

    /// Adds a database to a server; where that stopped meanwhile, because the last of its
    /// databases was closed, to a new one.
    fn add(&mut self, listening: &Listening, name: &str, database: Database) -> Result<()> {
        let server = match self.servers.entry(listening.address) {
            Entry::Occupied(server) => server.into_mut(),
            Entry::Vacant(place) => place.insert(Server::start(listening.clone())?),
        };
        server.add(name, database)
    }

    /// Takes a database out; the caller ends it.
    fn take_out(&mut self, path: &Path) -> Option<Stopped> {
        let served = self.databases.remove(path)?;
        if let Some(server) = self.servers.get(&served.address) {
            server.remove(&served.name);
        }
        let server = self.stop_if_idle(served.address);
        Some((served, server))
    }

    /// Takes the server out when it serves nothing any more; the caller ends it.
    fn stop_if_idle(&mut self, address: SocketAddr) -> Option<Server> {
        let idle = self.servers.get(&address).is_some_and(Server::is_empty);
        if idle {
            self.servers.remove(&address)
        } else {
            None
        }
    }
}

/// The tokens of the database at `path`, whether it is served yet or not.
pub fn tokens(host: &Arc<dyn Host>, path: &Path) -> Result<Arc<Tokens>> {
    match find(path) {
        Some(served) => Ok(Arc::clone(&served.tokens)),
        None => Tokens::open(Arc::clone(host), path).map(Arc::new),
    }
}

/// Stops serving the database at `path`; false when it was not served. Afterwards none of its
/// files is open here any more, unless an answer takes longer than [`LAST_ANSWERS`].
pub fn stop(path: &Path) -> bool {
    let stopped = SERVING.lock().take_out(path);
    match stopped {
        Some(stopped) => {
            end(stopped);
            true
        }
        None => false,
    }
}

/// A database no longer served, and its server if that served nothing else.
type Stopped = (Arc<Served>, Option<Server>);

/// Never under the lock of the registry: it waits for answers under way.
fn end((served, server): Stopped) {
    if served.process != process::id() {
        // A fork's child has none of the threads, and none of the locks: nothing of it may act as
        // if it had.
        std::mem::forget((served, server));
        return;
    }
    log::info!(target: "replica", "{}: served no longer", served.primary.path().display());
    // Before the server: it waits for answers, and they wait for statements.
    served.streams.end(LAST_ANSWERS);
    drop(server);
    let closed = served.primary.closed();
    drop(served);
    if closed.recv_timeout(LAST_ANSWERS) == Err(RecvTimeoutError::Timeout) {
        log::warn!(target: "replica", "an answer is still under way; it closes the database");
    }
}

/// The database at `path`, if this process serves it.
pub fn find(path: &Path) -> Option<Arc<Served>> {
    SERVING.lock().databases.get(path).cloned()
}

/// The page size in bytes of a database this process serves.
pub fn served_page_size(path: &Path) -> Option<Option<u32>> {
    let served = find(path)?;
    Some(Some(served.page_size))
}

/// Blocks until the database is no longer served, or a signal asks for the end.
pub fn wait(path: &Path, signals: &EndSignals) {
    while find(path).is_some() && !signals.seen() {
        thread::sleep(Duration::from_millis(20));
    }
    stop(path);
}

fn name_of(path: &Path, options: &Options) -> Result<String> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
    if name.is_empty() || !name.chars().all(plain) || name.starts_with('.') {
        return Err(Error::Misuse(format!(
            "'{name}' does not do as a name in a URL: letters, digits, - _ . ~ do; give one with {{\"name\": …}}"
        )));
    }
    Ok(name)
}
