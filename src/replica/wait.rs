//! Waiting until the local file holds a position: reading what another replica has just written.

use std::time::Duration;

use super::follower::Replica;
use crate::database::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::position::Position;

/// Between two pulls.
const APART: Duration = Duration::from_millis(20);

impl Replica {
    /// Pulls until the file holds `position`, or `time` has passed. The position it is at then; whether
    /// it holds the other one.
    pub fn wait(&self, position: Position, time: Duration) -> Result<(Position, bool)> {
        let waited = Stopwatch::start(self.host().clock());
        self.make()?;
        loop {
            let state = self.recorded_state()?;
            let state = state.ok_or_else(|| Error::Busy("there is no state yet".to_owned()))?;
            let reached = state.position == position || state.position.lsn > position.lsn;
            // What was written here on top is no state of the remote.
            if reached && self.unpushed()?.is_none() {
                return Ok((state.position, true));
            }
            if waited.elapsed() >= time {
                return Ok((state.position, false));
            }
            match self.sync() {
                // The primary may come back, or another process let go, in time.
                Ok(_) | Err(Error::Unreachable { .. } | Error::Busy(_)) => {}
                Err(error) => return Err(error),
            }
            let state = self.recorded_state()?.map(|state| state.position);
            if state.is_none_or(|state| state.lsn < position.lsn) {
                waited.sleep(APART.min(time.saturating_sub(waited.elapsed())));
            }
        }
    }
}
