//! What this process serves: databases by path, servers by address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::answer::Primary;
use super::server::{self, Server, Service};
use crate::database::host::Host;
use crate::error::{Error, Result};
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
    let mut serving = SERVING.lock();
    if serving.databases.contains_key(path) {
        return Err(Error::Misuse(format!(
            "{} is served already",
            path.display()
        )));
    }
    // The address first: a refusal leaves nothing behind.
    let address = serving.server(address)?;
    let begun = Primary::begin(Arc::clone(host), path).map(Arc::new);
    let primary =
        match begun.and_then(|primary| serving.add(address, &name, &primary).map(|()| primary)) {
            Ok(primary) => primary,
            Err(error) => {
                serving.stop_if_idle(address);
                return Err(error);
            }
        };
    let url = format!("http://{address}/{name}");
    let head = {
        let capture = primary.capture();
        capture.head(capture.state())
    };
    let served_name = name.clone();
    let worker = start_worker(Arc::clone(&primary))?;
    let served = Served {
        primary,
        url: url.clone(),
        name,
        address,
        _worker: worker,
    };
    serving.databases.insert(path.to_owned(), Arc::new(served));
    Ok(Serving {
        url,
        database: served_name,
        id: head.database.to_string(),
        position: head.position.to_string(),
    })
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
    Some(Some(served.primary.capture().state().page_size.get()))
}

/// Blocks until the database is no longer served, or a signal asks for the end.
pub fn wait(path: &Path) -> Result<()> {
    let signal = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let register = |number| {
        signal_hook::flag::register(number, Arc::clone(&signal)).map_err(|source| Error::File {
            action: "handle a signal for",
            path: path.display().to_string(),
            source,
        })
    };
    let ids = [
        register(signal_hook::consts::SIGINT)?,
        register(signal_hook::consts::SIGTERM)?,
    ];
    while find(path).is_some() && !signal.load(std::sync::atomic::Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
    }
    ids.into_iter().for_each(|id| {
        signal_hook::low_level::unregister(id);
    });
    stop(path);
    Ok(())
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
fn start_worker(primary: Arc<Primary>) -> Result<Sender<()>> {
    let (sender, receiver) = bounded(0);
    // A weak reference: the worker must not keep a stopped primary's files open.
    let primary = Arc::downgrade(&primary);
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
