//! Those who follow a database.

use std::sync::Arc;

use super::commits::Commits;
use super::newest::Newest;

/// What the followers of one database have in common.
pub struct Followers {
    /// Tells the capture that somebody waits, and of commits meanwhile.
    pub commits: Arc<Commits>,
    /// What they wait for.
    pub newest: Arc<Newest>,
}
