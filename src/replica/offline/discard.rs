//! Back to what the remote had when the first local commit was made, without asking anybody.

use super::version;
use crate::database::offline::Base;
use crate::database::pages::Pages;
use crate::database::store::{State, Store};
use crate::error::{Error, Result};
use crate::page::PageNumber;
use crate::replica::batch::Batch;
use crate::replica::enter::{self, Current, Entered};
use crate::replica::follower::Replica;
use crate::replica::status::Report;
use crate::wire::Head;

impl Replica {
    /// Throws away what was written here; `None` where nothing was.
    pub(in crate::replica) fn discard_local(&self) -> Result<Option<Report>> {
        let database = self.database_id()?;
        let random = self.fresh_salts()?;
        self.with_state(|handle, store, writer, state| {
            let Some(base) = store.base()? else {
                return Ok(None);
            };
            // First: of a push that is under way nobody could tell any more what it holds.
            store.transaction(|store| store.merge_epochs(&base))?;
            let batch = self.back(store, &base, &state, database)?;
            version::retire(handle, store, &batch.pages)?;
            let current = Current {
                content: state.content,
                database_size: state.database_size,
            };
            // With the state the images go, in one transaction of the store.
            match enter::enter(handle, store, writer, current, &batch, random)? {
                Entered::Done(_) => Ok(Some(Report {
                    from: state.position.to_string(),
                    to: state.position.to_string(),
                    transactions: base.transactions,
                    pages: batch.pages.len(),
                    ..Report::default()
                })),
                Entered::Mismatch => Err(Error::Corrupt(format!(
                    "{}: the images of changed pages do not lead back to what the remote had",
                    self.path().display()
                ))),
            }
        })
    }

    /// What leads from the local content back to the base.
    fn back(
        &self,
        store: &dyn Store,
        base: &Base,
        state: &State,
        database: crate::position::DatabaseId,
    ) -> Result<Batch> {
        let mut pages = Pages::new(state.page_size);
        let dirty = store.dirty_pages()?;
        let of_base = |number: &&PageNumber| number.get() <= base.database_size;
        for number in dirty.iter().filter(of_base) {
            if let Some(image) = store.base_image(*number)? {
                pages.put(self, *number, &image)?;
            }
        }
        let head = Head {
            database,
            position: state.position,
            page_size: state.page_size,
            database_size: base.database_size,
            content: base.content,
        };
        Ok(Batch { head, pages })
    }
}
