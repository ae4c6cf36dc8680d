//! The thread of a replica that syncs in the background: every so often, or following live.
//!
//! There is one for each replica of a process, from the first access that needs it until the last
//! connection closes the file. Processes need no leader: whoever comes second finds the content moved
//! and fetches nothing twice that has been entered.
//!
//! It asks over a line of its own, which can be cut: whoever closes the file waits for what the
//! thread does on the disk, never for the network.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::follower::Replica;
use super::status::{Activity, Report};
use crate::database::clock::Stopwatch;
use crate::database::fork;
use crate::error::{Error, Result};
use crate::remote::Remote;

/// How long the remote is asked to wait for something new.
const POLL: Duration = Duration::from_secs(20);

/// Before the first new attempt after a failure of following live.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(200);

/// Between two attempts at most, unless the interval is longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// After an answer that came at once and brought nothing: whatever stands between may not let
/// anybody wait.
const QUICK: Duration = Duration::from_millis(50);

/// With nothing to do.
const REST: Duration = Duration::from_secs(3600);

/// How long a close waits for the thread.
const LAST_WORK: Duration = Duration::from_secs(1);

/// The place of the thread, whether it runs or not.
#[derive(Default)]
pub struct Worker {
    running: Mutex<Option<Running>>,
}

/// A thread that was started.
struct Running {
    /// Dropped to end it.
    tell: Sender<Look>,
    /// Disconnected when it has ended.
    ended: Receiver<Infallible>,
    line: Arc<Line>,
}

/// Something has changed.
struct Look;

/// The way to the remote, until it is cut.
#[derive(Default)]
struct Line {
    is_cut: AtomicBool,
    end: Mutex<LineEnd>,
}

/// The thread's end of it.
#[derive(Default)]
struct LineEnd {
    remote: Option<Arc<dyn Remote>>,
    /// Whether the thread waits for news: only that may be broken off for a push.
    is_waiting: bool,
}

impl Worker {
    /// Starts the thread where there is something to do and the host has threads.
    pub fn start(&self, replica: &Arc<Replica>) {
        let mut running = self.running.lock();
        if running.is_some() || !replica.needs_worker() || !replica.host().has_threads() {
            return;
        }
        let (tell, told) = unbounded();
        let (end, ended) = bounded(0);
        let line = Arc::new(Line::default());
        let (own, replica) = (Arc::clone(&line), Arc::downgrade(replica));
        let spawned = thread::Builder::new()
            .name("replica-sync".to_owned())
            .spawn(move || {
                work(&replica, &own, &told);
                if let Some(replica) = replica.upgrade() {
                    replica.set_activity(Activity::None);
                }
                drop::<Sender<Infallible>>(end);
            });
        match spawned {
            Ok(_) => *running = Some(Running { tell, ended, line }),
            Err(error) => {
                log::error!(target: "replica", "the thread that syncs in the background: {error}");
            }
        }
    }

    /// Tells the thread that settings have changed, or that the remote may be back; `reconnects` where
    /// its line is of no use any more.
    pub fn look(&self, reconnects: bool) {
        if let Some(running) = &*self.running.lock() {
            if reconnects {
                running.line.reset();
            }
            let _ = running.tell.send(Look);
        }
    }

    /// Tells the thread that something is to be pushed: it does not wait for news any longer.
    pub fn push(&self) {
        if let Some(running) = &*self.running.lock()
            && running.line.interrupt()
        {
            let _ = running.tell.send(Look);
        }
    }

    /// Ends the thread, at once where it waits, and otherwise after what it is at. One that takes
    /// longer than [`LAST_WORK`] goes on alone and closes what it has open.
    pub fn end(&self) {
        let Some(running) = self.running.lock().take() else {
            return;
        };
        running.line.cut();
        drop(running.tell);
        let _ = running.ended.recv_timeout(LAST_WORK);
    }
}

impl Line {
    /// The remote, to wait for its news or not; connected to where there is none yet.
    fn remote(&self, replica: &Replica, waits: bool) -> Result<Arc<dyn Remote>> {
        let mut end = self.end.lock();
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(Error::Busy("the database is being closed".to_owned()));
        }
        end.is_waiting = waits;
        if let Some(remote) = &end.remote {
            return Ok(Arc::clone(remote));
        }
        Ok(Arc::clone(end.remote.insert(replica.connect()?)))
    }

    /// The thread does not wait any more; whether it did.
    fn stop_waiting(&self) -> bool {
        std::mem::take(&mut self.end.lock().is_waiting)
    }

    /// Breaks off a waiting for news, if there is one.
    fn interrupt(&self) -> bool {
        let mut end = self.end.lock();
        if end.is_waiting
            && let Some(remote) = end.remote.take()
        {
            remote.shut();
        }
        end.is_waiting
    }

    /// Breaks off what is under way.
    fn reset(&self) {
        if let Some(remote) = self.end.lock().remote.take() {
            remote.shut();
        }
    }

    /// The same, for good.
    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.reset();
    }
}

/// What the thread remembers from one round to the next.
#[derive(Default)]
struct Rounds {
    /// Failures in a row.
    failures: u32,
    /// The last of them.
    error: Option<String>,
    /// When the last sync ended, by the host's clock.
    last: Option<Duration>,
}

fn work(replica: &Weak<Replica>, line: &Line, told: &Receiver<Look>) {
    let _working = fork::working();
    let mut rounds = Rounds::default();
    loop {
        let rest = match replica.upgrade() {
            Some(replica) => rounds.next(&replica, line),
            None => return,
        };
        match fork::aside(|| told.recv_timeout(rest)) {
            Ok(Look) => {
                // Several at once are one.
                while told.try_recv().is_ok() {}
                rounds.failures = 0;
            }
            Err(error) if error.is_disconnected() => return,
            Err(_) => {}
        }
    }
}

impl Rounds {
    /// Does what is due; returns how long to rest.
    fn next(&mut self, replica: &Arc<Replica>, line: &Line) -> Duration {
        let settings = replica.settings();
        let (live, interval) = (settings.is_live(), settings.interval());
        if !live {
            replica.writes().follow(false);
        }
        let rest = match (live, interval) {
            _ if replica.has_pending() => Duration::ZERO,
            (true, _) => Duration::ZERO,
            (false, None) => REST,
            (false, Some(interval)) => {
                let now = replica.host().clock().monotonic();
                let due = self.last.map_or(now, |last| last + interval);
                due.saturating_sub(now)
            }
        };
        if !rest.is_zero() {
            replica.set_activity(Activity::Resting);
            return rest;
        }
        let took = Stopwatch::start(replica.host().clock());
        let done = self.sync(replica, line, live);
        self.last = Some(replica.host().clock().monotonic());
        match done {
            Ok(report) => {
                if self.failures > 0 {
                    log::info!(target: "replica", "{}: synced again", replica.path().display());
                }
                (self.failures, self.error) = (0, None);
                match report.transactions {
                    0 => QUICK.saturating_sub(took.elapsed()),
                    _ => Duration::ZERO,
                }
            }
            Err(_) if line.is_cut.load(Ordering::SeqCst) => REST,
            // Interrupted, for what is to be pushed.
            Err(_) if line.stop_waiting() && replica.has_unpushed() => Duration::ZERO,
            Err(error) => self.failed(replica, &error, interval.filter(|_| !live)),
        }
    }

    fn sync(&mut self, replica: &Arc<Replica>, line: &Line, live: bool) -> Result<Report> {
        // The first answer tells whether the remote is there at all.
        if live && self.failures == 0 && self.last.is_some() {
            let remote = line.remote(replica, true)?;
            // What is committed from here on breaks the waiting off.
            if !replica.has_unpushed() {
                let done = replica.sync_in_background(&*remote, POLL);
                if done.is_ok() {
                    line.stop_waiting();
                }
                return done;
            }
        }
        let remote = line.remote(replica, false)?;
        replica.sync_in_background(&*remote, Duration::ZERO)
    }

    fn failed(&mut self, replica: &Replica, error: &Error, interval: Option<Duration>) -> Duration {
        let text = error.to_string();
        if self.error.as_ref() != Some(&text) {
            // Said once, not at each attempt.
            log::warn!(target: "replica", "{}: background sync: {text}", replica.path().display());
        }
        replica.failed(text.clone());
        self.error = Some(text);
        let shortest = interval.unwrap_or(SHORTEST_BACKOFF);
        let longest = LONGEST_BACKOFF.max(shortest);
        let backoff = shortest
            .saturating_mul(1 << self.failures.min(16))
            .min(longest);
        self.failures += 1;
        replica.set_activity(Activity::Retrying);
        jittered(replica, backoff)
    }
}

/// Between half of a time and all of it: many replicas of one primary do not come back at once.
fn jittered(replica: &Replica, time: Duration) -> Duration {
    let byte = replica.host().random().map_or(0, |random| random[0]);
    time.mul_f64(0.5 + f64::from(byte) / 512.0)
}
