//! Keeping the log of a primary short, beside writers that never rest and replicas that always ask.
//!
//! Lock order: the write lock (WAL_WRITE), then the capture. A writer may hold the write lock for as
//! long as it likes, and replicas wait for the capture. So the checkpointer takes the write lock
//! first, through files of its own, and lets the capture go on wherever it waits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::capture::Capture;
use super::commits::Commits;
use crate::database::clock::Stopwatch;
use crate::database::handle::Handle;
use crate::database::host::Host;
use crate::error::Result;
use crate::wal::apply::Writer;
use crate::wal::frame::Salts;

/// Log size in bytes from which it is copied into the database file. Tests have small ones.
const CHECKPOINT_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };

/// Log size in bytes from which writers are held back for a moment, so that it can begin anew.
const RESTART_BYTES: u64 = 4 * CHECKPOINT_BYTES;

/// Times it lets go of the log beside a busy writer before that is held back; from twice
/// [`RESTART_BYTES`] on it does not try.
const COPIES: usize = 3;

/// How long it tries to take the write lock before the next capture.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long writers are held back at most: once for the capture, and once for readers.
const HELD_BACK: Duration = Duration::from_millis(250);

/// How long to rest between captures that nobody asks for, where the log is short.
pub const REST: Duration = Duration::from_millis(100);

/// Rest where it is not, and nobody was held back.
const SHORT_REST: Duration = Duration::from_millis(1);

/// An own way into a database that is captured.
pub struct Checkpointer {
    host: Arc<dyn Host>,
    handle: Handle,
    commits: Arc<Commits>,
}

impl Checkpointer {
    /// Opens the database at `path`, whose connections here commit.
    pub fn open(host: Arc<dyn Host>, path: &Path, commits: Arc<Commits>) -> Result<Self> {
        let handle = Handle::open(&*host, path)?;
        Ok(Self {
            host,
            handle,
            commits,
        })
    }

    /// Copies what may be copied. Meanwhile writers here do not fill the log without end.
    fn copy(&self) -> Result<()> {
        self.commits.copy(true);
        let copied = self.handle.checkpoint();
        self.commits.copy(false);
        copied
    }

    /// Captures, and copies and begins the log anew where it has grown. Returns how long to rest.
    pub fn run(&self, capture: &Mutex<Capture>) -> Result<Duration> {
        let bytes = with(capture, |capture| {
            capture.run()?;
            capture.log_bytes()
        })?;
        if bytes <= CHECKPOINT_BYTES {
            return Ok(REST);
        }
        // Without the capture: it never copies more than has been captured.
        self.copy()?;
        if bytes > 2 * RESTART_BYTES {
            // Letting go was not enough: a replica was reading whenever a writer came.
            return self.begin_anew(capture);
        }
        for _ in 0..COPIES {
            if with(capture, Capture::let_go_of_log)? || bytes <= RESTART_BYTES {
                return Ok(REST);
            }
            with(capture, Capture::run)?;
            self.copy()?;
        }
        self.begin_anew(capture)
    }

    /// With writers held back, captures and copies what little is left, and begins the log anew.
    fn begin_anew(&self, capture: &Mutex<Capture>) -> Result<Duration> {
        let Some(mut writer) = self.hold_writers()? else {
            return Ok(SHORT_REST);
        };
        let held = Stopwatch::start(self.host.clock());
        // For a while only: it could be waiting for recovery, which needs the write lock.
        let Some(mut capture) = capture.try_lock_for(HELD_BACK) else {
            return Ok(held.elapsed());
        };
        let begun = capture
            .run_under(&mut writer)
            .and_then(|()| self.restart(&mut capture, &mut writer));
        drop(writer);
        MutexGuard::unlock_fair(capture);
        Ok(match begun? {
            true => REST,
            // A reader is in the way: writers have half of the time for as long as it reads.
            false => held.elapsed(),
        })
    }

    /// A writer that never rests lets go of the write lock for moments only.
    fn hold_writers(&self) -> Result<Option<Writer<'_>>> {
        let begun = Stopwatch::start(self.host.clock());
        loop {
            let writer = self.handle.try_writer()?;
            if writer.is_some() || begun.elapsed() > PATIENCE {
                return Ok(writer);
            }
            begun.sleep(Duration::from_micros(20));
        }
    }

    /// Copies the rest and writes the log anew itself: the next writer would miss its chance
    /// whenever a replica is reading just then. Waits a little for readers of the log, and for a
    /// checkpoint of somebody else; false where they did not end.
    fn restart(&self, capture: &mut Capture, writer: &mut Writer<'_>) -> Result<bool> {
        let begun = Stopwatch::start(self.host.clock());
        let mut salts = [0; 8];
        salts.copy_from_slice(&self.host.random()?[..8]);
        while begun.elapsed() < HELD_BACK {
            self.copy()?;
            if capture.let_go_of_log()? {
                writer.restart(Salts(salts))?;
                if writer.header().mx_frame == 0 {
                    return Ok(true);
                }
            }
            begun.sleep(Duration::from_micros(500));
        }
        Ok(false)
    }
}

/// Replicas that wait for the capture come before the next call.
fn with<T>(capture: &Mutex<Capture>, work: impl FnOnce(&mut Capture) -> Result<T>) -> Result<T> {
    let mut capture = capture.lock();
    let result = work(&mut capture);
    MutexGuard::unlock_fair(capture);
    result
}
