//! The streams of a database: who has which, and how many there are.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Outcome;
use super::control::Control;
use super::question::{Asker, Pending, Question};
use super::stream::{Job, Stream};
use crate::database::host::Host;
use crate::primary::answer::Primary;
use crate::primary::server::Key;
use crate::wire::hrana;

/// Streams a database may have open.
pub const STREAMS: usize = 64;

/// How many of them may be one bearer's, or one address's: nobody takes up all.
const SHARE: usize = 48;

/// A thread's stack: SQLite may need as much as it has in a host's own.
const STACK_BYTES: usize = 8 << 20;

/// How often is looked whether streams have ended.
const TICK: Duration = Duration::from_millis(2);

/// The streams of a database. Dropping this ends them.
pub struct Streams(Arc<Shared>);

/// What all streams share.
pub struct Shared {
    pub(super) host: Arc<dyn Host>,
    /// Dropped after the last connection: whoever waits for its end waits for theirs.
    pub(super) primary: Arc<Primary>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    ended: bool,
    /// Streams that wait for a request, by their baton.
    idle: HashMap<String, Idle>,
    /// All streams, by number.
    all: HashMap<u64, Place>,
    numbers: u64,
}

struct Place {
    control: Arc<Control>,
    key: Option<Key>,
}

/// A stream that waits for a request.
pub struct Idle {
    number: u64,
    key: Option<Key>,
    control: Arc<Control>,
    jobs: Sender<Job>,
    since: Instant,
    in_transaction: bool,
}

impl Idle {
    pub(super) fn new(stream: &Stream, jobs: Sender<Job>, in_transaction: bool) -> Self {
        Self {
            number: stream.number,
            key: stream.asker.key,
            control: Arc::clone(&stream.control),
            jobs,
            since: Instant::now(),
            in_transaction,
        }
    }
}

impl Streams {
    /// No streams yet.
    pub fn new(host: Arc<dyn Host>, primary: Arc<Primary>) -> Self {
        Self(Arc::new(Shared {
            host,
            primary,
            open: Mutex::default(),
        }))
    }

    /// Hands a question to its stream, or to a new one. Waits for nobody.
    pub fn ask(&self, question: Question, asker: Asker) -> Outcome<Pending> {
        let (answer, receiver) = oneshot::channel();
        let control = match question.baton() {
            Some(baton) => {
                let idle = self.0.take(baton, asker.key)?;
                let control = Arc::clone(&idle.control);
                let sent = idle.jobs.send(Job { question, answer });
                sent.map_err(|_| expired())?;
                control
            }
            None => self.open(asker, Job { question, answer })?,
        };
        Ok(Pending::new(receiver, control))
    }

    fn open(&self, asker: Asker, job: Job) -> Outcome<Arc<Control>> {
        let control = Arc::new(Control::new());
        let stream = Stream {
            number: self.0.enter(asker.key, &control)?,
            asker,
            control: Arc::clone(&control),
            shared: Arc::clone(&self.0),
        };
        let number = stream.number;
        let started = thread::Builder::new()
            .name("replica-stream".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || stream.run(job));
        match started {
            Ok(_) => Ok(control),
            Err(error) => {
                self.0.leave(number);
                log::warn!(target: "replica", "start a stream: {error}");
                Err(too_many())
            }
        }
    }

    /// Ends all streams; transactions that are open are rolled back. Waits until they have ended, for
    /// `patience` at most: one that waits for a lock cannot be interrupted.
    pub fn end(&self, patience: Duration) {
        let begun = Instant::now();
        while !self.0.try_end() && begun.elapsed() < patience {
            thread::sleep(TICK);
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.try_end();
    }
}

impl Shared {
    /// A place for one more stream. Where there is none the one idle for longest has to go that has
    /// no transaction open: of the same asker, where he has too many.
    fn enter(&self, key: Option<Key>, control: &Arc<Control>) -> Outcome<u64> {
        let mut open = self.open.lock();
        if open.ended {
            return Err(expired());
        }
        let own = open.all.values().filter(|place| place.key == key).count();
        let evicted = match () {
            () if key.is_some() && own >= SHARE => Some(open.evict(|idle| idle.key == key)?),
            () if open.all.len() >= STREAMS => Some(open.evict(|_| true)?),
            () => None,
        };
        open.numbers += 1;
        let number = open.numbers;
        let control = Arc::clone(control);
        open.all.insert(number, Place { control, key });
        drop(open);
        drop(evicted);
        Ok(number)
    }

    /// Has all streams end, and admits no others; whether all have ended.
    fn try_end(&self) -> bool {
        let (idle, ended) = {
            let mut open = self.open.lock();
            open.ended = true;
            open.all.values().for_each(|place| place.control.cancel());
            (std::mem::take(&mut open.idle), open.all.is_empty())
        };
        // Their threads wake.
        drop(idle);
        ended
    }

    /// A stream has ended.
    pub(super) fn leave(&self, number: u64) {
        self.open.lock().all.remove(&number);
    }

    /// A stream waits for its next request.
    pub(super) fn put(&self, baton: &str, idle: Idle) {
        let mut open = self.open.lock();
        if !open.ended {
            open.idle.insert(baton.to_owned(), idle);
        }
    }

    /// A stream does not wait any more; false where its baton was taken meanwhile.
    pub(super) fn take_back(&self, baton: &str) -> bool {
        let mut open = self.open.lock();
        open.idle.remove(baton).is_some() || open.ended
    }

    /// The stream of a baton, for the one whose it is: once.
    fn take(&self, baton: &str, key: Option<Key>) -> Outcome<Idle> {
        let mut open = self.open.lock();
        match open.idle.get(baton) {
            Some(idle) if idle.key == key => open.idle.remove(baton).ok_or_else(expired),
            _ => Err(expired()),
        }
    }

    /// A baton that nobody can guess; `None` where the system has no randomness, which ends the
    /// stream.
    pub(super) fn new_baton(&self) -> Option<String> {
        let mut digits = String::with_capacity(64);
        for byte in [self.host.random().ok()?, self.host.random().ok()?].as_flattened() {
            // Writing to a string does not fail.
            let _ = write!(digits, "{byte:02x}");
        }
        Some(digits)
    }
}

impl Open {
    /// Ends the stream that is idle for longest.
    fn evict(&mut self, may_go: impl Fn(&Idle) -> bool) -> Outcome<Idle> {
        let idle = self.idle.iter();
        let oldest = idle
            .filter(|(_, idle)| !idle.in_transaction && may_go(idle))
            .min_by_key(|(_, idle)| idle.since)
            .map(|(baton, _)| baton.clone());
        let evicted = oldest.and_then(|baton| self.idle.remove(&baton));
        let evicted = evicted.ok_or_else(too_many)?;
        self.all.remove(&evicted.number);
        Ok(evicted)
    }
}

fn expired() -> hrana::Error {
    hrana::Error::new(
        "STREAM_EXPIRED",
        "The stream has expired due to inactivity, or its baton was used before",
    )
}

fn too_many() -> hrana::Error {
    hrana::Error::new("TOO_MANY_STREAMS", "too many streams are open: try again")
}
