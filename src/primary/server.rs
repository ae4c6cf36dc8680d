//! The HTTP server of a primary. It knows databases by name and what they answer, nothing of
//! SQLite.

pub mod address;
pub mod admission;
mod answers;
mod arrival;
mod connection;
mod counts;
#[cfg(test)]
mod fake;
mod hrana;
pub mod limit;
mod metrics;
mod places;
mod poll;
mod rate;
mod refusal;
mod routes;
mod shared;
#[cfg(test)]
mod tests;
pub mod tls;
mod woken;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::admission::Gate;
use self::places::Places;
pub use self::rate::Key;
use self::shared::Shared;
use self::tls::Tls;
use super::followers::Followers;
use super::turns::{Turn, Turns};
use crate::database::host::Spool;
use crate::error::{Error, Result};
use crate::primary::hrana::Streams;
use crate::wire::{Head, PushResponse, Request, Response};

/// Requests of one bearer or address in a second, unless the options say otherwise.
pub const REQUESTS_PER_SECOND: u32 = 10_000;

/// Connections the kernel holds before they are accepted.
const BACKLOG: u32 = 1024;

/// Threads that answer; each may hold a read transaction.
const ANSWERING: usize = 8;

/// How often a server that has nothing to serve yet looks again.
const FIRST_DATABASE: Duration = Duration::from_millis(2);

/// How long a stopping server lets its connections, and then its threads, finish.
const GRACE: Duration = Duration::from_millis(300);

/// A database that is served.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. May block. A turn comes with requests for a lease.
    fn answer(&self, request: Request, turn: Option<Turn>) -> Result<Response>;
    /// Takes a push in its turn. May block.
    fn push(&self, push: &mut dyn Read, turn: Turn) -> Result<PushResponse>;
    /// Whose turn it is to write.
    fn turns(&self) -> Arc<Turns>;
    /// Who follows.
    fn followers(&self) -> Arc<Followers>;
    /// Room for a push that is too long for memory: a file that is gone when it is dropped.
    fn scratch(&self) -> Result<Box<dyn Spool>>;
    /// Size of the log's file in bytes.
    fn log_bytes(&self) -> u64;
    /// The newest durable state. May block.
    fn head(&self) -> Result<Head>;
}

/// What is served under a name.
pub struct Database {
    /// Answers the requests.
    pub service: Arc<dyn Service>,
    /// Runs SQL, where any is run.
    pub streams: Option<Arc<Streams>>,
    /// Says whose.
    pub gate: Arc<dyn Gate>,
    /// How many of one bearer or address.
    pub requests_per_second: u32,
}

/// How a server listens.
#[derive(Clone)]
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// With which certificate; without one in the clear.
    pub tls: Option<Tls>,
    /// Connections that may be open at once.
    pub connections: usize,
}

/// A running server. Dropping it stops it.
pub struct Server {
    listening: Listening,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
    process: u32,
}

impl Server {
    /// Listens.
    pub fn start(mut listening: Listening) -> Result<Server> {
        let wanted = listening.address;
        let cannot = |error| Error::CannotOpen(format!("cannot serve on {wanted}: {error}"));
        let runtime = runtime().map_err(cannot)?;
        let listener = listen(&runtime, wanted).map_err(cannot)?;
        listening.address = listener.local_addr().map_err(cannot)?;
        let shared = Arc::new(Shared::new());
        let (stop, stopped) = watch::channel(false);
        let (accepting, how) = (shared.clone(), listening.clone());
        runtime.spawn(async move {
            // Until then connections wait in the kernel: nobody is told that the first database is
            // unknown while it is being looked at.
            while accepting.is_empty() {
                sleep(FIRST_DATABASE).await;
            }
            accept(listener, how, routes::router(accepting), stopped).await;
        });
        Ok(Server {
            listening,
            shared,
            runtime: Some(runtime),
            stop,
            process: process::id(),
        })
    }

    /// How it listens, with the port the kernel chose.
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Serves a database under a name.
    pub fn add(&self, name: &str, database: Database) -> Result<()> {
        if name.is_empty() {
            return Err(Error::Misuse(
                "a database is served under a name".to_owned(),
            ));
        }
        self.shared.add(name, database)
    }

    /// Serves a database no more; whether it was served. Answers under way are finished.
    pub fn remove(&self, name: &str) -> bool {
        self.shared.remove(name)
    }

    /// Whether no database is served.
    pub fn is_empty(&self) -> bool {
        self.shared.is_empty()
    }

    /// Closes the port and all connections, within a second.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        if process::id() != self.process {
            // A fork's child has none of the threads, and shares the parent's sockets.
            std::mem::forget(runtime);
            return;
        }
        // Whoever waits for something new is told first: the rest is quick.
        self.shared.clear();
        self.stop.send_replace(true);
        if !may_wait() {
            runtime.shutdown_background();
            return;
        }
        // Closed when the last connection has let go of its receiver.
        runtime.block_on(async {
            let _ = timeout(GRACE, self.stop.closed()).await;
        });
        runtime.shutdown_timeout(GRACE);
    }
}

/// Whether this thread may wait for a runtime: not one of a runtime's own, nor one that is past its
/// thread-local variables, as the handlers of `atexit` are.
fn may_wait() -> bool {
    Handle::try_current().is_err_and(|error| error.is_missing_context())
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(ANSWERING)
        .thread_name("replica-http")
        .enable_io()
        .enable_time()
        .build()
}

fn listen(runtime: &Runtime, address: SocketAddr) -> io::Result<TcpListener> {
    let _guard = runtime.enter();
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of a server that was killed linger in the kernel and would hold the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(
    listener: TcpListener,
    listening: Listening,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Places::new(listening.connections));
    let tls = listening.tls.map(|tls| tls.acceptor);
    loop {
        let accepted = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(place) = places.enter(peer.ip()).await {
                    let (tls, router) = (tls.clone(), router.clone());
                    tokio::spawn(connection::serve(
                        stream,
                        tls,
                        router,
                        place,
                        stopped.clone(),
                    ));
                }
            }
            Err(error) => {
                log::warn!(target: "replica", "accept a connection: {error}");
                // Out of descriptors, mostly: they come back when others close.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
