//! States of a database, opened for SQL under names that nobody else knows.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::content::Content;
use super::directory;
use super::overlay::Overlay;
use crate::database::pages::Room;
use crate::database::views::Views;
use crate::error::{Error, Result};
use crate::page::PageNumber;
use crate::rows::view::View;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// The name of a view as a file in memory, until dropped.
pub struct Name(String);

impl Name {
    /// Gives `view` a name.
    pub fn of(view: &Arc<dyn View>, room: Box<dyn Room + Send>) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("replica-view-{}-{number}", process::id());
        let content = Content::Pages(Overlay::new(Arc::clone(view), room));
        match directory::make(&name, content) {
            true => Ok(Self(name)),
            false => Err(Error::Internal(format!("{name} is taken"))),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        directory::remove(&self.0);
    }
}

/// States of a database. The connection closes before the names go.
pub struct OpenViews {
    connection: rusqlite::Connection,
    main: Name,
    _others: Vec<Name>,
}

impl OpenViews {
    /// A connection to states of these names.
    pub fn new(connection: rusqlite::Connection, main: Name, others: Vec<Name>) -> Self {
        Self {
            connection,
            main,
            _others: others,
        }
    }
}

impl Views for OpenViews {
    fn connection(&self) -> &rusqlite::Connection {
        &self.connection
    }

    fn written(&self, visit: &mut dyn FnMut(PageNumber, &[u8]) -> Result<()>) -> Result<u32> {
        let inode = directory::open(self.main.as_str(), false, false)
            .ok_or_else(|| Error::Internal("a view has lost its name".to_owned()))?;
        let state = inode.state.lock();
        match &state.content {
            Content::Pages(overlay) => overlay.written(visit),
            Content::Bytes(_) => Err(Error::Internal("a view without pages".to_owned())),
        }
    }
}
