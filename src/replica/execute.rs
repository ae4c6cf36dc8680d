//! Running a statement on the primary, and then holding what it did.

use super::follower::Replica;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::remote::Executed;
use crate::wire::hrana::Stmt;

impl Replica {
    /// Runs a statement on the primary, once. With `read_your_writes` the file holds what it did when
    /// this returns.
    pub fn execute(&self, stmt: &Stmt) -> Result<Executed> {
        if self.unpushed()?.is_some() {
            return Err(Error::Misuse(format!(
                "{} has transactions that are not on its remote: SELECT replica_push() first",
                self.path().display()
            )));
        }
        let executed = self.remote()?.execute(stmt)?;
        {
            let mut progress = self.progress.lock();
            progress.bytes_sent += executed.traffic.sent;
            progress.bytes_received += executed.traffic.received;
        }
        if self.settings().read_your_writes() {
            let caught_up = self.catch_up(executed.position);
            caught_up.map_err(|error| Error::NotYetHere(error.to_string()))?;
        }
        Ok(executed)
    }

    /// Pulls until the file holds `position`; where it is not known, once.
    fn catch_up(&self, position: Option<Position>) -> Result<()> {
        if self.is_made()? && self.holds(position)? {
            return Ok(());
        }
        // What a primary answers with is never older than what it has told before.
        let report = self.sync()?;
        match position {
            Some(position) if !self.holds(Some(position))? => Err(Error::Protocol(format!(
                "the remote was at {position}, and is at {} now",
                report.to
            ))),
            _ => Ok(()),
        }
    }

    fn holds(&self, position: Option<Position>) -> Result<bool> {
        let state = self.recorded_state()?;
        Ok(match (state, position) {
            (Some(state), Some(position)) => state.position.lsn >= position.lsn,
            _ => false,
        })
    }
}
