//! What a replica tells about itself.

use serde::Serialize;

use crate::position::Position;
use crate::remote::Traffic;

/// What the exchanges of this process with the remote brought.
#[derive(Clone, Default)]
pub struct Progress {
    /// Bytes received since the replica was opened.
    pub bytes_received: u64,
    /// Bytes sent since the replica was opened.
    pub bytes_sent: u64,
    /// The remote's position when it was last asked.
    pub remote_position: Option<Position>,
    /// Milliseconds since 1970 of the last successful sync.
    pub last_sync: Option<u64>,
    /// The sentence of the last failed sync; gone after a successful one.
    pub last_error: Option<String>,
    /// What the last resolution of the position found out.
    pub condition: Condition,
    /// What the thread in the background is at.
    pub activity: Activity,
}

/// What the thread in the background is at.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Activity {
    /// There is none.
    #[default]
    None,
    /// It rests until the next sync is due.
    Resting,
    /// It syncs.
    Syncing,
    /// It waits for the remote to have something new.
    Following,
    /// It rests after a failure.
    Retrying,
}

impl Activity {
    /// The word in `replica_status`.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Activity::None => None,
            Activity::Resting => Some("idle"),
            Activity::Syncing => Some("syncing"),
            Activity::Following => Some("following"),
            Activity::Retrying => Some("retrying"),
        }
    }
}

/// How a replica stands.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Condition {
    /// The position of the content is known.
    Known,
    /// Not looked at since it was opened.
    #[default]
    Unverified,
    /// Pages are being compared with the remote's.
    Healing,
    /// Someone else has written to the file.
    Foreign,
    /// It was written here, and the remote has moved on.
    Diverged,
}

impl Condition {
    /// The word in `replica_status`.
    pub fn word(self) -> &'static str {
        match self {
            Condition::Known => "ok",
            Condition::Unverified => "unverified",
            Condition::Healing => "healing",
            Condition::Foreign => "foreign",
            Condition::Diverged => "diverged",
        }
    }
}

impl Progress {
    /// Notes a conversation that came to a good end.
    pub fn exchanged(&mut self, traffic: &Traffic, remote: Position, now: u64) {
        self.bytes_received += traffic.received;
        self.bytes_sent += traffic.sent;
        self.remote_position = Some(remote);
        self.last_sync = Some(now);
        self.last_error = None;
    }
}

/// What one sync did, as the functions return it.
#[derive(Clone, Default, Serialize)]
pub struct Report {
    /// The position before.
    pub from: String,
    /// The position after.
    pub to: String,
    /// Transactions the replica advanced by.
    pub transactions: u64,
    /// Pages that were written.
    pub pages: usize,
    /// Bytes of bodies received, as they travelled.
    pub bytes_received: u64,
    /// Bytes of bodies sent.
    pub bytes_sent: u64,
    /// How long it took.
    pub milliseconds: f64,
}
