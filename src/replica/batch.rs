//! What a remote has beyond a replica's position.

use crate::database::pages::Pages;
use crate::wire::Head;

/// The newest images of pages, complete at `head`.
pub struct Batch {
    /// The state the batch leads to.
    pub head: Head,
    /// The pages, none above the head's database size.
    pub pages: Pages,
}
