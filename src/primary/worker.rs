//! The thread that captures commits nobody asks for, and keeps the log short.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::answer::Primary;
use super::checkpointer::REST;
use super::commits::Commits;
use super::server::Service;
use crate::database::fork;
use crate::error::{Error, Result};
use crate::last_error;

/// How often the shared index is looked at while somebody waits for what is new: nobody tells of the
/// commits of other processes.
const LOOK: Duration = Duration::from_millis(4);

/// The thread that captures between requests. Dropping it ends it, after what it is at: whoever
/// needs the files closed waits for [`Primary::closed`].
pub struct Worker(#[expect(dead_code, reason = "dropped to tell the thread")] Sender<()>);

impl Worker {
    /// Starts it.
    pub fn start(primary: &Arc<Primary>) -> Result<Self> {
        let (stop, stopped) = bounded(0);
        let rounds = Rounds {
            // A weak reference: the worker must not keep a stopped primary's files open.
            primary: Arc::downgrade(primary),
            commits: Arc::clone(&primary.followers().commits),
            due: Instant::now() + REST,
            failed: false,
        };
        thread::Builder::new()
            .name("replica-capture".to_owned())
            .spawn(move || rounds.run(&stopped))
            .map_err(|source| Error::File {
                action: "start",
                path: "the capture thread".to_owned(),
                source,
            })?;
        Ok(Self(stop))
    }
}

/// What the thread does.
struct Rounds {
    primary: Weak<Primary>,
    commits: Arc<Commits>,
    /// When the log is looked after again.
    due: Instant,
    failed: bool,
}

impl Rounds {
    fn run(mut self, stopped: &Receiver<()>) {
        let _working = fork::working();
        while self.rest(stopped) {
            let Some(primary) = self.primary.upgrade() else {
                return;
            };
            self.once(&primary);
        }
    }

    /// Waits until there is something to do; false at the end.
    fn rest(&self, stopped: &Receiver<()>) -> bool {
        let pause = self.pause();
        fork::aside(|| {
            select! {
                recv(stopped) -> _ => false,
                // One message for any number of commits: those that are made while this one is
                // captured bring the next.
                recv(self.commits.told()) -> _ => true,
                default(pause) => true,
            }
        })
    }

    fn pause(&self) -> Duration {
        let left = self.due.saturating_duration_since(Instant::now());
        match self.commits.are_awaited() && !self.failed {
            true => left.min(LOOK),
            false => left,
        }
    }

    fn once(&mut self, primary: &Primary) {
        let done = match Instant::now() < self.due {
            true if self.failed => return,
            true => primary.capture_new(),
            false => {
                let rest = primary.capture_and_checkpoint();
                self.due = Instant::now() + *rest.as_ref().unwrap_or(&REST);
                rest.map(drop)
            }
        };
        if let (Err(error), false) = (&done, self.failed) {
            // Said once, not ten times a second.
            last_error::note(error);
        }
        self.failed = done.is_err();
    }
}
