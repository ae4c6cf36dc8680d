//! Time, as the engine sees it. Whoever brings the [`Host`](super::host::Host) brings the clock as
//! well: waiting, and giving up, go by it alone, so that the engine runs under any notion of time.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::fork;

/// A source of time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970.
    fn now(&self) -> u64;
    /// Time since some moment that stays the same; it never goes back.
    fn monotonic(&self) -> Duration;
    /// Lets some time pass, in which others go on.
    fn sleep(&self, time: Duration);
}

/// How long something takes.
#[derive(Clone)]
pub struct Stopwatch {
    clock: Arc<dyn Clock>,
    begun: Duration,
}

impl Stopwatch {
    /// Begins to count.
    pub fn start(clock: Arc<dyn Clock>) -> Self {
        Self {
            begun: clock.monotonic(),
            clock,
        }
    }

    /// The time since it was started.
    pub fn elapsed(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.begun)
    }

    /// Lets some time pass.
    pub fn sleep(&self, time: Duration) {
        self.clock.sleep(time);
    }
}

/// The time of the operating system.
pub struct SystemClock {
    begun: Instant,
}

impl SystemClock {
    /// The clock.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.begun.elapsed()
    }

    fn sleep(&self, time: Duration) {
        fork::aside(|| thread::sleep(time));
    }
}
