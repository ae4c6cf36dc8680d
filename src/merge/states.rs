//! The states of a database that are compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::page::PageNumber;
use crate::rows::view::View;

/// Two states. Pages outside `changed` are the same in both.
pub struct Two {
    /// The earlier one: schema `base`.
    pub old: Arc<dyn View>,
    /// The later one: schema `main`.
    pub new: Arc<dyn View>,
    /// Pages that may differ.
    pub changed: BTreeSet<PageNumber>,
}

/// What is merged.
pub struct States {
    /// The state that both sides began with: schema `base`.
    pub base: Arc<dyn View>,
    /// The local one: schema `local`.
    pub local: Arc<dyn View>,
    /// The remote's: schema `remote`, and `main`, which is written to.
    pub remote: Arc<dyn View>,
    /// Pages that may differ between base and local.
    pub changed_here: BTreeSet<PageNumber>,
    /// Pages that may differ between base and remote.
    pub changed_there: BTreeSet<PageNumber>,
    /// The highest version of a schema that was thrown away here; 0 for none.
    pub retired: u32,
}
