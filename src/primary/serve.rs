//! What this process serves: databases by path, servers by address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Once};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag};

use super::answer::Primary;
use super::server::{self, Server, Service};
use crate::database::host::Host;
use crate::error::{Error, Result};
use crate::ffi;
use crate::last_error;

/// How often commits are captured when nobody asks for them.
const CAPTURE_INTERVAL: Duration = Duration::from_millis(100);

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
    /// Its URL.
    pub url: String,
    /// Its page size in bytes.
    pub page_size: u32,
    name: String,
    address: SocketAddr,
    /// Dropped to end the worker.
    _worker: Sender<()>,
}

#[derive(Default)]
struct Registry {
    databases: HashMap<PathBuf, Arc<Served>>,
    servers: HashMap<SocketAddr, Server>,
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
    // The address first: a refusal leaves nothing behind.
    let address = SERVING.lock().server(address)?;
    let begun = Primary::begin(Arc::clone(host), path).map(Arc::new);
    match begun.and_then(|primary| add(path, name, address, primary)) {
        Ok(serving) => Ok(serving),
        Err(error) => {
            let server = SERVING.lock().stop_if_idle(address);
            drop(server);
            Err(error)
        }
    }
}

/// Puts a primary that captures on a server that listens.
fn add(path: &Path, name: String, address: SocketAddr, primary: Arc<Primary>) -> Result<Serving> {
    let head = {
        let capture = primary.capture();
        capture.head(capture.state())
    };
    let url = format!("http://{address}/{name}");
    let worker = start_worker(&primary)?;
    let mut serving = SERVING.lock();
    serving.add(address, &name, &primary)?;
    let served = Served {
        primary,
        url: url.clone(),
        page_size: head.page_size.get(),
        name: name.clone(),
        address,
        _worker: worker,
    };
    serving.databases.insert(path.to_owned(), Arc::new(served));
    Ok(Serving {
        url,
        database: name,
        id: head.database.to_string(),
        position: head.position.to_string(),
    })
}

fn already(path: &Path) -> Error {
    Error::Misuse(format!("{} is served already", path.display()))
}

impl Registry {
    /// The server that listens on `address`, started where there is none yet.
    fn server(&mut self, address: &str) -> Result<SocketAddr> {
        let wanted = server::loopback(address)?;
        if self.servers.contains_key(&wanted) {
            return Ok(wanted);
        }
        let server = Server::start(address)?;
        let address = server.local_address();
        self.servers.insert(address, server);
        Ok(address)
    }

    fn add(&self, address: SocketAddr, name: &str, primary: &Arc<Primary>) -> Result<()> {
        match self.servers.get(&address) {
            Some(server) => server.add(name, Arc::clone(primary) as Arc<dyn Service>),
            None => Ok(()),
        }
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

/// Stops serving the database at `path`; false when it was not served.
pub fn stop(path: &Path) -> bool {
    let (served, server) = {
        let mut serving = SERVING.lock();
        let Some(served) = serving.databases.remove(path) else {
            return false;
        };
        if let Some(server) = serving.servers.get(&served.address) {
            server.remove(&served.name);
        }
        let server = serving.stop_if_idle(served.address);
        (served, server)
    };
    if let Some(server) = server {
        server.stop();
    }
    drop(served);
    true
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
pub fn wait(path: &Path) -> Result<()> {
    let signals = EndSignals::catch().map_err(|source| Error::File {
        action: "handle signals for",
        path: path.display().to_string(),
        source,
    })?;
    while find(path).is_some() && !signals.seen.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
    }
    stop(path);
    Ok(())
}

/// SIGINT and SIGTERM, caught until dropped.
struct EndSignals {
    seen: Arc<AtomicBool>,
    ids: Vec<SigId>,
}

/// Whether nobody waits: then a signal ends the process again, as if it had never been caught. (A
/// handler, once there, cannot be taken away safely.)
static NOBODY_WAITS: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

impl EndSignals {
    fn catch() -> std::io::Result<Self> {
        static DEFAULTS: Once = Once::new();
        let mut signals = Self {
            seen: Arc::default(),
            ids: Vec::new(),
        };
        NOBODY_WAITS.store(false, Ordering::SeqCst);
        let mut result = Ok(());
        DEFAULTS.call_once(|| {
            result = [SIGINT, SIGTERM]
                .into_iter()
                .filter(|signal| ffi::has_default_action(*signal))
                .try_for_each(|signal| {
                    flag::register_conditional_default(signal, Arc::clone(&NOBODY_WAITS)).map(drop)
                });
        });
        result?;
        for signal in [SIGINT, SIGTERM] {
            signals
                .ids
                .push(flag::register(signal, Arc::clone(&signals.seen))?);
        }
        Ok(signals)
    }
}

impl Drop for EndSignals {
    fn drop(&mut self) {
        NOBODY_WAITS.store(true, Ordering::SeqCst);
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
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

/// Starts the thread that captures between requests; it ends when the sender is dropped.
fn start_worker(primary: &Arc<Primary>) -> Result<Sender<()>> {
    let (sender, receiver) = bounded(0);
    // A weak reference: the worker must not keep a stopped primary's files open.
    let primary = Arc::downgrade(primary);
    thread::Builder::new()
        .name("replica-capture".to_owned())
        .spawn(move || work(&receiver, &primary))
        .map_err(|source| Error::File {
            action: "start",
            path: "the capture thread".to_owned(),
            source,
        })?;
    Ok(sender)
}

fn work(stop: &Receiver<()>, primary: &std::sync::Weak<Primary>) {
    let mut failed = false;
    while stop.recv_timeout(CAPTURE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let Some(primary) = primary.upgrade() else {
            return;
        };
        let mut capture = primary.capture();
        match capture.run().and_then(|()| capture.checkpoint_if_grown()) {
            Ok(()) => failed = false,
            // Said once, not ten times a second.
            Err(error) if !failed => {
                last_error::note(&error);
                failed = true;
            }
            Err(_) => {}
        }
    }
}
