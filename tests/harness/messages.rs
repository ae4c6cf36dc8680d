//! A relay between a replica and its primary that knows where messages begin and end: it loses, repeats, delays and
//! breaks off chosen ones.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The request never arrives, and nobody says so.
    RequestLost,
    /// The request arrives, its reply does not, and nobody says so.
    ReplyLost,
    /// The request arrives twice; the reply to the second one comes back.
    Duplicated,
    /// The request arrives this much later; the connection stays silent.
    Delayed(Duration),
    /// The reply comes back this much later.
    ReplyDelayed(Duration),
    /// The connection is reset when half of the request has gone through.
    ResetInRequest,
    /// The request arrives; the connection is reset in the middle of the reply.
    ResetInReply,
    /// The connection is reset when the whole request has come, before any of it goes on.
    ResetBefore,
    /// The request arrives; the connection is reset instead of a reply.
    ResetAfter,
}

/// A message as the relay saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The last part of its path: `push`, `begin`, …
    pub name: String,
    /// What was done to it.
    pub fault: Option<Fault>,
}

#[derive(Default)]
struct Plan {
    /// Message, how many of it pass before, how many are hit then, and by what.
    faults: Vec<(String, u64, u64, Fault)>,
    seen: Vec<Seen>,
}

struct State {
    target: Mutex<SocketAddr>,
    plan: Mutex<Plan>,
    /// Nothing passes: connections are accepted, and nobody answers.
    silent: AtomicBool,
    /// Connections are refused (closed at once).
    refusing: AtomicBool,
    stopped: AtomicBool,
    /// Delayed messages that are under way.
    late: Arc<()>,
}

/// The relay.
pub struct Messages {
    address: SocketAddr,
    state: Arc<State>,
}

/// One message of HTTP, with its head.
struct Message {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Messages {
    /// A relay to `target` (`host:port`).
    pub fn to(target: &str) -> Messages {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            target: Mutex::new(target.parse().expect("host:port")),
            plan: Mutex::default(),
            silent: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            late: Arc::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.serve(client));
            }
        });
        Messages { address, state }
    }

    /// The URL of database `name` through this relay.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// The next message of this name meets `fault`.
    pub fn hit(&self, name: &str, fault: Fault) {
        self.hit_later(name, 0, 1, fault);
    }

    /// After `passing` messages of this name, `count` of them meet `fault`.
    pub fn hit_later(&self, name: &str, passing: u64, count: u64, fault: Fault) {
        let mut plan = self.state.plan.lock().expect("not poisoned");
        plan.faults.push((name.to_string(), passing, count, fault));
    }

    /// Ends what was planned and has not come yet.
    pub fn heal(&self) {
        self.state.plan.lock().expect("not poisoned").faults.clear();
        self.state.silent.store(false, Ordering::SeqCst);
        self.state.refusing.store(false, Ordering::SeqCst);
    }

    /// From now on nothing passes, and nobody says so.
    pub fn fall_silent(&self) {
        self.state.silent.store(true, Ordering::SeqCst);
    }

    /// From now on connections break at once.
    pub fn refuse(&self) {
        self.state.refusing.store(true, Ordering::SeqCst);
    }

    /// Messages since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.plan.lock().expect("not poisoned").seen)
    }

    /// Whether a delayed message has still to arrive.
    pub fn is_late(&self) -> bool {
        Arc::strong_count(&self.state.late) > 1
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn target(&self) -> SocketAddr {
        *self.target.lock().expect("not poisoned")
    }

    fn is_cut(&self) -> bool {
        self.silent.load(Ordering::SeqCst) || self.refusing.load(Ordering::SeqCst)
    }

    /// One connection of the replica, message by message.
    fn serve(&self, client: TcpStream) {
        if self.refusing.load(Ordering::SeqCst) {
            return reset(&client);
        }
        let _ = client.set_nodelay(true);
        let Ok(reader) = client.try_clone() else {
            return;
        };
        let mut reader = BufReader::new(reader);
        while let Some(request) = read(&mut reader) {
            if self.silent.load(Ordering::SeqCst) {
                return wait_for_the_end(&mut reader);
            }
            if self.refusing.load(Ordering::SeqCst) {
                return reset(&client);
            }
            let fault = self.fault(&request.name());
            if !self.pass(&client, &mut reader, request, fault) {
                return;
            }
        }
    }

    fn fault(&self, name: &str) -> Option<Fault> {
        let mut plan = self.plan.lock().expect("not poisoned");
        let mut fault = None;
        if let Some(entry) = plan.faults.iter_mut().find(|entry| entry.0 == name) {
            match entry.1 {
                0 => {
                    entry.2 -= 1;
                    fault = Some(entry.3);
                }
                _ => entry.1 -= 1,
            }
        }
        plan.faults.retain(|entry| entry.2 > 0);
        let name = name.to_string();
        plan.seen.push(Seen { name, fault });
        fault
    }

    /// Passes a message on, or not; whether the connection goes on.
    fn pass(
        &self,
        client: &TcpStream,
        reader: &mut BufReader<TcpStream>,
        request: Message,
        fault: Option<Fault>,
    ) -> bool {
        let answer = |request: &Message| exchange(self.target(), request);
        let reply = match fault {
            None => answer(&request),
            Some(Fault::RequestLost) => {
                wait_for_the_end(reader);
                return false;
            }
            Some(Fault::ReplyLost) => {
                answer(&request);
                wait_for_the_end(reader);
                return false;
            }
            Some(Fault::Duplicated) => {
                answer(&request);
                answer(&request)
            }
            Some(Fault::Delayed(time)) => {
                let (target, late) = (self.target(), Arc::clone(&self.late));
                std::thread::spawn(move || {
                    std::thread::sleep(time);
                    exchange(target, &request);
                    drop(late);
                });
                wait_for_the_end(reader);
                return false;
            }
            Some(Fault::ReplyDelayed(time)) => {
                let reply = answer(&request);
                std::thread::sleep(time);
                reply
            }
            Some(Fault::ResetInRequest) => {
                half(self.target(), &request);
                None
            }
            Some(Fault::ResetBefore) => None,
            Some(Fault::ResetAfter) => {
                answer(&request);
                None
            }
            Some(Fault::ResetInReply) => {
                if let Some(reply) = answer(&request) {
                    let mut bytes = reply.head;
                    bytes.extend_from_slice(&reply.body[..reply.body.len() / 2]);
                    let mut client = client;
                    let _ = client.write_all(&bytes);
                    // A reset would overtake the bytes.
                    std::thread::sleep(Duration::from_millis(30));
                }
                None
            }
        };
        let (Some(reply), false) = (reply, self.is_cut()) else {
            reset(client);
            return false;
        };
        let mut client = client;
        let bytes = [reply.head, reply.body].concat();
        client.write_all(&bytes).is_ok()
    }
}

impl Message {
    /// The last part of a request's path.
    fn name(&self) -> String {
        let head = String::from_utf8_lossy(&self.head);
        let path = head.split(' ').nth(1).unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().to_string()
    }
}

/// Reads a message with its body; `None` at the end of the connection.
fn read(reader: &mut impl BufRead) -> Option<Message> {
    let mut head = Vec::new();
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        head.extend_from_slice(&line);
        let line = String::from_utf8_lossy(&line).trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
    }
    let mut body = Vec::new();
    if !chunked {
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
        return Some(Message { head, body });
    }
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).ok()?;
        let text = String::from_utf8_lossy(&line).trim().to_string();
        let size = usize::from_str_radix(text.split(';').next()?, 16).ok()?;
        body.extend_from_slice(&line);
        let from = body.len();
        body.resize(from + size + 2, 0);
        reader.read_exact(&mut body[from..]).ok()?;
        if size == 0 {
            return Some(Message { head, body });
        }
    }
}

/// Sends a request on a connection of its own, and reads the reply.
fn exchange(target: SocketAddr, request: &Message) -> Option<Message> {
    let mut server = TcpStream::connect_timeout(&target, Duration::from_secs(5)).ok()?;
    let _ = server.set_nodelay(true);
    server.write_all(&request.head).ok()?;
    server.write_all(&request.body).ok()?;
    read(&mut BufReader::new(&server))
}

/// Sends half of a request, and breaks off.
fn half(target: SocketAddr, request: &Message) {
    let Ok(mut server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else {
        return;
    };
    let _ = server.write_all(&request.head);
    let _ = server.write_all(&request.body[..request.body.len() / 2]);
    // So that it has arrived: a reset throws away what is still under way.
    std::thread::sleep(Duration::from_millis(30));
    reset(&server);
}

/// Says nothing until the other side gives up.
fn wait_for_the_end(reader: &mut BufReader<TcpStream>) {
    let mut rest = [0; 1024];
    while matches!(reader.read(&mut rest), Ok(read) if read > 0) {}
}

/// Ends a connection by a reset.
fn reset(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the descriptor is open, and the option's value has the size that is given.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            std::mem::size_of::<libc::linger>() as libc::socklen_t,
        );
    }
    // The reset goes out when the last descriptor closes; whoever reads here must wake up.
    let _ = stream.shutdown(Shutdown::Read);
}
