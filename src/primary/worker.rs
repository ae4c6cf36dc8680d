//! The thread that captures commits nobody asks for, and keeps the log short.

use std::sync::{Arc, Weak};
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::answer::Primary;
use super::checkpointer::REST;
use crate::database::fork;
use crate::error::{Error, Result};
use crate::last_error;

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
    let _working = fork::working();
    let mut failed = false;
    let mut pause = REST;
    while fork::aside(|| stop.recv_timeout(pause)) == Err(RecvTimeoutError::Timeout) {
        let Some(primary) = primary.upgrade() else {
            return;
        };
        let captured = primary.capture_and_checkpoint();
        if let (Err(error), false) = (&captured, failed) {
            // Said once, not ten times a second.
            last_error::note(error);
        }
        failed = captured.is_err();
        pause = captured.unwrap_or(REST);
    }
}
