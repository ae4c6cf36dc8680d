//! The rows that were changed here and are not on the remote.

use std::sync::Arc;

use super::view::{BaseView, LocalView};
use crate::database::views::Views;
use crate::error::{Error, Result};
use crate::merge::{self, Change, Conflict, Two};
use crate::page::ContentDigest;
use crate::position::Position;
use crate::replica::follower::Replica;

/// How many rows were changed, in a local content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    content: ContentDigest,
    base: Position,
    rows: u64,
}

impl Replica {
    /// The rows that were changed here since the base, which is at `since`, where that is given.
    pub fn changes(&self, since: Option<Position>) -> Result<Vec<Change>> {
        let now = self.recorded_state()?.map(|state| state.position);
        if since.is_some() && since != now {
            return Err(Error::Misuse(format!(
                "{}: rows are compared with the state that local changes began with, {}, and no other is \
                 kept",
                self.path().display(),
                now.map_or("none".to_owned(), |position| position.to_string())
            )));
        }
        match self.views()? {
            Some((views, two)) => merge::changes(views.connection(), &two),
            None => Ok(Vec::new()),
        }
    }

    /// How many these are. Counted once for each content.
    pub fn pending_rows(&self) -> Result<u64> {
        if self.unpushed()?.is_none() {
            return Ok(0);
        }
        let Some(state) = self.recorded_state()? else {
            return Ok(0);
        };
        let is_this =
            |counted: &Counted| (counted.content, counted.base) == (state.content, state.position);
        if let Some(counted) = self.counted.lock().filter(is_this) {
            return Ok(counted.rows);
        }
        let rows = match self.views()? {
            Some((views, two)) => merge::count_changes(views.connection(), &two)?,
            None => 0,
        };
        *self.counted.lock() = Some(Counted {
            content: state.content,
            base: state.position,
            rows,
        });
        Ok(rows)
    }

    /// The rows that were in the way of the newest rebase.
    pub fn conflicts(&self) -> Result<Vec<Conflict>> {
        let local = self.local();
        match local.has_store() {
            true => local.store()?.conflicts(),
            false => Ok(Vec::new()),
        }
    }

    /// The base and the local content, for SQL; `None` where nothing is unpushed.
    fn views(&self) -> Result<Option<(Box<dyn Views>, Two)>> {
        if self.unpushed()?.is_none() {
            return Ok(None);
        }
        let local = Arc::new(LocalView::of(self)?);
        let store = self.host().open_store(self.path())?;
        // Until it is closed.
        store.begin_read()?;
        let Some(base) = store.base()? else {
            return Ok(None);
        };
        let base = Arc::new(BaseView::new(Arc::clone(&local), store, &base)?);
        let two = Two {
            changed: base.changed(),
            old: base,
            new: local,
        };
        let others = [("base", Arc::clone(&two.old))];
        let views = self.host().open_views(self.path(), &two.new, &others)?;
        Ok(Some((views, two)))
    }
}
