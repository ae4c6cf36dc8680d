//! The HTTP server of a primary. It knows databases by name and what they answer, nothing of
//! SQLite.

mod connection;
#[cfg(test)]
mod fake;
mod routes;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use self::routes::Shared;
use crate::error::{Error, Result};
use crate::wire::{Head, Request, Response};

/// Connections beyond this wait in the kernel: the host's file descriptors are not ours to use up.
const CONNECTIONS: usize = 512;

/// Connections the kernel holds before they are accepted.
const BACKLOG: u32 = 128;

/// Threads that answer; each may hold a read transaction.
const ANSWERING: usize = 8;

/// How often a server that has nothing to serve yet looks again.
const FIRST_DATABASE: Duration = Duration::from_millis(2);

/// How long a stopping server lets its connections, and then its threads, finish.
const GRACE: Duration = Duration::from_millis(300);

/// A database that is served.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. May block.
    fn answer(&self, request: Request) -> Result<Response>;
    /// The newest durable state. May block.
    fn head(&self) -> Result<Head>;
}

/// A running server. Dropping it stops it.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
    process: u32,
}

impl Server {
    /// Listens on `address`: `127.0.0.1:8080`, `localhost:8080`, `[::1]:0`.
    pub fn start(address: &str) -> Result<Server> {
        let wanted = loopback(address)?;
        let cannot = |error| Error::CannotOpen(format!("cannot serve on {address}: {error}"));
        let runtime = runtime().map_err(cannot)?;
        let listener = listen(&runtime, wanted).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let shared = Arc::new(Shared::new());
        let (stop, stopped) = watch::channel(false);
        let accepting = shared.clone();
        runtime.spawn(async move {
            // Until then connections wait in the kernel: nobody is told that the first database is
            // unknown while it is being looked at.
            while accepting.is_empty() {
                sleep(FIRST_DATABASE).await;
            }
            accept(listener, routes::router(accepting), stopped).await;
        });
        Ok(Server {
            address,
            shared,
            runtime: Some(runtime),
            stop,
            process: process::id(),
        })
    }

    /// The address it listens on, with the port the kernel chose.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Serves a database under a name.
    pub fn add(&self, name: &str, service: Arc<dyn Service>) -> Result<()> {
        if name.is_empty() {
            return Err(Error::Misuse(
                "a database is served under a name".to_owned(),
            ));
        }
        self.shared.add(name, service)
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
        self.stop.send_replace(true);
        if Handle::try_current().is_ok() {
            // Waiting is not allowed on a runtime's own threads.
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

/// Reads an address as [`Server::start`] does: all but loopback is refused.
pub fn loopback(address: &str) -> Result<SocketAddr> {
    let address = address.trim();
    let local = match address.rsplit_once(':') {
        Some((host, port)) if host.eq_ignore_ascii_case("localhost") => port
            .parse()
            .ok()
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        _ => address.parse::<SocketAddr>().ok(),
    };
    match local {
        Some(local) if local.ip().is_loopback() => Ok(local),
        Some(_) => Err(beyond_loopback()),
        None if is_named(address) => Err(beyond_loopback()),
        None => Err(Error::Misuse(format!(
            "'{address}' is not an address (host:port)"
        ))),
    }
}

/// Whether an address names a host, which would have to be looked up.
fn is_named(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let known = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        !host.is_empty()
            && host.chars().all(known)
            && host.contains(|c: char| c.is_ascii_alphabetic())
            && !host.eq_ignore_ascii_case("localhost")
            && port.parse::<u16>().is_ok()
    })
}

fn beyond_loopback() -> Error {
    let sentence = "serving beyond loopback needs tokens, which are not built yet";
    Error::Misuse(sentence.to_owned())
}

async fn accept(listener: TcpListener, router: Router, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            next = next => next,
        };
        let Ok(place) = place else { return };
        match accepted {
            Ok((stream, _)) => {
                let serving = connection::serve(stream, router.clone(), stopped.clone());
                tokio::spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                log::warn!(target: "replica", "accept a connection: {error}");
                // Out of descriptors, mostly: they come back when others close.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
