//! The thread that captures commits nobody asks for, and keeps the log short.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::MutexGuard;

use super::answer::Primary;
use crate::error::{Error, Result};
use crate::last_error;

/// How often commits are captured when nobody asks for them.
const CAPTURE_INTERVAL: Duration = Duration::from_millis(100);

/// The thread that captures between requests. Dropping it ends it, after what it is at: whoever
/// needs the files closed waits for [`Primary::closed`].
pub struct Worker(#[expect(dead_code, reason = "dropped to tell the thread")] Sender<()>);

impl Worker {
    /// Starts it.
    pub fn start(primary: &Arc<Primary>) -> Result<Self> {
        let (stop, stopped) = bounded(0);
        // A weak reference: the worker must not keep a stopped primary's files open.
        let primary = Arc::downgrade(primary);
        thread::Builder::new()
            .name("replica-capture".to_owned())
            .spawn(move || work(&stopped, &primary))
            .map_err(|source| Error::File {
                action: "start",
                path: "the capture thread".to_owned(),
                source,
            })?;
        Ok(Self(stop))
    }
}

fn work(stop: &Receiver<()>, primary: &Weak<Primary>) {
    let mut failed = false;
    let mut pause = CAPTURE_INTERVAL;
    while stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let Some(primary) = primary.upgrade() else {
            return;
        };
        let mut capture = primary.capture();
        pause = CAPTURE_INTERVAL;
        let looked = capture.run().and_then(|()| capture.checkpoint_if_grown());
        // Replicas that wait come first.
        MutexGuard::unlock_fair(capture);
        match looked {
            Ok(short) => {
                failed = false;
                if !short {
                    pause = Duration::from_millis(1);
                }
            }
            // Said once, not ten times a second.
            Err(error) if !failed => {
                last_error::note(&error);
                failed = true;
            }
            Err(_) => {}
        }
    }
}
