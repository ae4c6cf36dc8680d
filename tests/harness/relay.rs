//! A TCP relay between replica and primary: counts what really travels, can be slowed, cut and pointed elsewhere.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::process::wait_for;

/// Requests and answers in turn, over all connections.
#[derive(Default)]
struct Turns {
    requests: u64,
    asking: bool,
    /// Answers to requests after this many wait.
    held_after: Option<u64>,
    waiting: bool,
}

struct State {
    target: Mutex<Option<SocketAddr>>,
    received: AtomicU64,
    sent: AtomicU64,
    limit: AtomicU64,
    turns: Mutex<Turns>,
    released: Condvar,
    stopped: AtomicBool,
}

impl State {
    /// Bytes of a request came.
    fn asks(&self) {
        let mut turns = self.turns.lock().expect("not poisoned");
        if !turns.asking {
            turns.asking = true;
            turns.requests += 1;
        }
    }

    /// Bytes of an answer came; returns when they may go on.
    fn answers(&self) {
        let mut turns = self.turns.lock().expect("not poisoned");
        turns.asking = false;
        while turns
            .held_after
            .is_some_and(|requests| turns.requests > requests)
        {
            turns.waiting = true;
            turns = self.released.wait(turns).expect("not poisoned");
        }
        turns.waiting = false;
    }
}

/// The relay; one for each replica whose bytes are counted.
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
}

impl Relay {
    /// A relay to `target` (`host:port`).
    pub fn to(target: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            target: Mutex::new(Some(target.parse().expect("host:port"))),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            turns: Mutex::default(),
            released: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                join(client, &shared);
            }
        });
        Relay { address, state }
    }

    /// The URL of database `name` through this relay.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// New connections go to `target`; `None` refuses them.
    pub fn point(&self, target: Option<&str>) {
        *self.state.target.lock().expect("not poisoned") =
            target.map(|target| target.parse().expect("host:port"));
    }

    /// Bytes per second towards the replica, shared by nothing: each connection has the limit for itself. 0 = none.
    pub fn limit(&self, bytes_per_second: u64) {
        self.state.limit.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Holds back the answer to a later request, after `passing` more that are answered, until `release`.
    pub fn hold_answer(&self, passing: u64) {
        let mut turns = self.state.turns.lock().expect("not poisoned");
        turns.held_after = Some(turns.requests + passing);
    }

    /// Returns when an answer is being held back: it has been made, and the replica does not have it.
    pub fn wait_until_held(&self) {
        wait_for("an answer to be held back", || {
            self.state.turns.lock().expect("not poisoned").waiting
        });
    }

    /// Lets the held answer, and all later ones, go on.
    pub fn release(&self) {
        self.state.turns.lock().expect("not poisoned").held_after = None;
        self.state.released.notify_all();
    }

    /// Bytes that went to the replica since the last call.
    pub fn take_received(&self) -> u64 {
        self.state.received.swap(0, Ordering::SeqCst)
    }

    /// Bytes that came from the replica since the last call.
    pub fn take_sent(&self) -> u64 {
        self.state.sent.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        self.release();
        // Wakes the accepting thread, so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

/// Connects one client with the target, one thread for each direction.
fn join(client: TcpStream, state: &Arc<State>) {
    let target = *state.target.lock().expect("not poisoned");
    let Some(server) =
        target.and_then(|target| TcpStream::connect_timeout(&target, Duration::from_secs(5)).ok())
    else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (Ok(client_reader), Ok(server_reader)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let down = Arc::clone(state);
    std::thread::spawn(move || copy(server_reader, client, &down, true));
    let up = Arc::clone(state);
    std::thread::spawn(move || copy(client_reader, server, &up, false));
}

fn copy(mut from: TcpStream, mut to: TcpStream, state: &State, to_replica: bool) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(size) = from.read(&mut buffer) {
        if size == 0 {
            break;
        }
        // Counted before it is passed on: whoever has received it finds it counted.
        if to_replica {
            state.received.fetch_add(size as u64, Ordering::SeqCst);
            state.answers();
        } else {
            state.sent.fetch_add(size as u64, Ordering::SeqCst);
            state.asks();
        }
        if to.write_all(&buffer[..size]).is_err() {
            break;
        }
        let rate = state.limit.load(Ordering::SeqCst);
        if to_replica && rate > 0 {
            std::thread::sleep(Duration::from_secs_f64(size as f64 / rate as f64));
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
