//! Whoever commits tells the capture, as long as somebody waits for what is new.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

/// The commits of this process to one database, as they happen.
pub struct Commits {
    /// Whose commits they are.
    process: u32,
    /// How many wait for what is new.
    waiting: AtomicUsize,
    /// At most one message: whoever takes it looks for all commits there are.
    channel: (Sender<()>, Receiver<()>),
}

impl Commits {
    /// Nobody waits yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            process: process::id(),
            waiting: AtomicUsize::new(0),
            channel: bounded(1),
        })
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
}
