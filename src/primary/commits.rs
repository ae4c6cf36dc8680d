//! The commits of this process to a served database. Whoever commits tells the capture, as long as
//! somebody waits for what is new, and waits for it a moment where it falls behind.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::database::clock::{Clock, Stopwatch};
use crate::wal::frame::Salts;

/// Bytes of the log that may be ahead of the capture before writers wait for it.
const AHEAD: u64 = 16 << 20;

/// Bytes of a log that is being copied into the database file before writers wait for that.
const COPYING: u64 = 32 << 20;

/// How long the start of one transaction waits at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far a log is written, or captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnd {
    /// Which log it is: drawn anew when it begins anew.
    pub salts: Salts,
    /// Its last frame.
    pub mx_frame: u32,
}

/// What is known of the capture while a database is served.
#[derive(Default)]
struct Progress {
    captured: Option<LogEnd>,
    /// Bytes of a frame.
    frame_size: u32,
    /// Whether the log is being copied into the database file.
    copying: bool,
}

impl Progress {
    /// Whether a log that ends there is too far ahead.
    fn is_behind(&self, end: LogEnd) -> bool {
        let captured = match self.captured {
            Some(captured) if captured.salts == end.salts => captured.mx_frame,
            // All of it is new.
            _ => 0,
        };
        let bytes = |frames: u32| u64::from(frames) * u64::from(self.frame_size);
        bytes(end.mx_frame.saturating_sub(captured)) > AHEAD
            || self.copying && bytes(end.mx_frame) > COPYING
    }
}

/// The commits of this process to one database, as they happen.
pub struct Commits {
    /// Whose commits they are.
    process: u32,
    /// How many wait for what is new.
    waiting: AtomicUsize,
    /// At most one message: whoever takes it looks for all commits there are.
    channel: (Sender<()>, Receiver<()>),
    /// Whether the database is served.
    is_captured: AtomicBool,
    /// How far the capture is.
    progress: Mutex<Progress>,
}

impl Commits {
    /// Nobody waits yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            process: process::id(),
            waiting: AtomicUsize::new(0),
            channel: bounded(1),
            is_captured: AtomicBool::new(false),
            progress: Mutex::default(),
        })
    }

    /// Everything up to here has been captured, of a log with frames of so many bytes.
    pub fn captured(&self, end: LogEnd, frame_size: u32) {
        let mut progress = self.progress.lock();
        (progress.captured, progress.frame_size) = (Some(end), frame_size);
        drop(progress);
        self.is_captured.store(true, Ordering::Relaxed);
    }

    /// The log begins, or ends, to be copied into the database file.
    pub fn copy(&self, on: bool) {
        self.progress.lock().copying = on;
    }

    /// The database is served no longer.
    pub fn end_capture(&self) {
        self.is_captured.store(false, Ordering::Relaxed);
        *self.progress.lock() = Progress::default();
    }

    /// Before a transaction is written behind `end`: whether the capture, or a checkpoint, is too far
    /// behind for that.
    pub fn is_behind(&self, end: LogEnd) -> bool {
        // In the child of a fork nobody captures, and locks may be held for ever.
        self.is_captured.load(Ordering::Relaxed)
            && process::id() == self.process
            && self.progress.lock().is_behind(end)
    }

    /// Waits while it is. Without that a program that does not sync its commits fills the log as fast
    /// as memory takes it, while one sync of the capture lasts for seconds. (SQLite's own checkpoint is
    /// done by the writer itself, who waits for its syncs too.) Never for long: a disk that hangs
    /// slows writers down and does not stop them.
    pub fn keep_pace(&self, end: LogEnd, clock: Arc<dyn Clock>) {
        let begun = Stopwatch::start(clock);
        while self.is_behind(end) && begun.elapsed() < PATIENCE {
            let _ = self.channel.0.try_send(());
            begun.sleep(Duration::from_millis(1));
        }
    }

    /// Something was committed. Waits for nothing, and is next to nothing where nobody waits.
    pub fn tell(&self) {
        // Nobody waits in the child of a fork, whose channel may be locked for ever.
        if self.are_awaited() && process::id() == self.process {
            // A full channel has been told already.
            let _ = self.channel.0.try_send(());
        }
    }

    /// Whether anybody waits for what is new.
    pub fn are_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Where it is told.
    pub fn told(&self) -> &Receiver<()> {
        &self.channel.1
    }

    /// Waits for what is new until that is dropped.
    pub fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // What was committed before may not have been told.
        self.tell();
        Waiting(Arc::clone(self))
    }
}

/// One that waits.
pub struct Waiting(Arc<Commits>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_told_while_somebody_waits_and_together() {
        let commits = Commits::new();
        commits.tell();
        assert!(commits.told().try_recv().is_err() && !commits.are_awaited());
        let waiting = [commits.wait(), commits.wait()];
        assert_eq!(commits.waiting(), 2);
        // Of before.
        assert!(commits.told().try_recv().is_ok());
        for _ in 0..10 {
            commits.tell();
        }
        assert!(commits.told().try_recv().is_ok());
        assert!(commits.told().try_recv().is_err());
        drop(waiting);
        commits.tell();
        assert!(commits.told().try_recv().is_err());
    }

    /// A clock that moves only when somebody sleeps, and what happens then.
    struct Moving<F>(Mutex<Duration>, F);

    impl<F: Fn(Duration) + Send + Sync> Clock for Moving<F> {
        fn now(&self) -> u64 {
            0
        }
        fn monotonic(&self) -> Duration {
            *self.0.lock()
        }
        fn sleep(&self, time: Duration) {
            *self.0.lock() += time;
            (self.1)(*self.0.lock());
        }
    }

    fn end(salt: u8, mx_frame: u32) -> LogEnd {
        LogEnd {
            salts: Salts([salt; 8]),
            mx_frame,
        }
    }

    /// How long a writer waits that writes behind `at`.
    fn waits(commits: &Arc<Commits>, at: LogEnd, happens: fn(&Commits, Duration)) -> Duration {
        let told = Arc::clone(commits);
        let clock = Moving(Mutex::default(), move |time| happens(&told, time));
        let clock = Arc::new(clock);
        commits.keep_pace(at, Arc::clone(&clock) as _);
        *Arc::clone(&clock).0.lock()
    }

    #[test]
    fn writers_keep_pace_with_the_capture() {
        let nothing: fn(&Commits, Duration) = |_, _| {};
        let far = end(1, 1 << 20);
        let commits = Commits::new();
        assert_eq!(waits(&commits, far, nothing), Duration::ZERO, "not served");
        commits.captured(end(1, 10_000), 1 << 10);
        assert_eq!(waits(&commits, end(1, 26_384), nothing), Duration::ZERO);
        assert_eq!(waits(&commits, end(1, 26_385), nothing), PATIENCE);
        // It has been told that it is waited for.
        assert!(commits.told().try_recv().is_ok());
        // Of a log begun anew nothing is captured yet.
        assert_eq!(waits(&commits, end(2, 16_384), nothing), Duration::ZERO);
        assert_eq!(waits(&commits, end(2, 16_385), nothing), PATIENCE);
        let catches_up: fn(&Commits, Duration) = |commits, time| {
            if time == Duration::from_millis(300) {
                commits.captured(end(1, 1 << 20), 1 << 10);
            }
        };
        let waited = waits(&commits, far, catches_up);
        assert_eq!(waited, Duration::from_millis(300));
        assert_eq!(waits(&commits, far, nothing), Duration::ZERO);
        // All is captured: only a checkpoint at work holds back, and only in a large log.
        commits.copy(true);
        assert_eq!(waits(&commits, far, nothing), PATIENCE);
        assert_eq!(waits(&commits, end(1, 32 << 10), nothing), Duration::ZERO);
        commits.copy(false);
        assert_eq!(waits(&commits, far, nothing), Duration::ZERO);
        commits.copy(true);
        commits.end_capture();
        assert_eq!(waits(&commits, far, nothing), Duration::ZERO);
    }
}
