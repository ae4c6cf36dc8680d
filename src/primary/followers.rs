//! Those who follow a database.

use std::sync::Arc;

use super::commits::Commits;
use super::newest::Newest;
use super::peers::Peers;
use crate::database::clock::Clock;

/// What the followers of one database have in common.
pub struct Followers {
    /// Tells the capture that somebody waits, and of commits meanwhile.
    pub commits: Arc<Commits>,
    /// What they wait for.
    pub newest: Arc<Newest>,
    /// Who they are.
    pub peers: Arc<Peers>,
}

impl Followers {
    /// Nobody follows yet.
    pub fn new(commits: Arc<Commits>, newest: Arc<Newest>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let peers = Arc::new(Peers::new(clock));
        Arc::new(Self {
            commits,
            newest,
            peers,
        })
    }
}
