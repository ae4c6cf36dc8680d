//! Fetching what the remote has beyond the base, for a rebase.
//!
//! Where others get in first between that and the push, the remote is asked for a lease along with it,
//! as at the start of an online write: nobody else writes there until what was merged is pushed.
//!
//! A remote that knows nothing of the base any more, as after a restore from a backup, has pages all the
//! same: those that differ from the base's are found by their hashes.

use std::sync::Arc;

use super::version;
use super::view::{BaseView, LocalView};
use crate::database::settings::WriteMode;
use crate::database::store::State;
use crate::error::Result;
use crate::page::{PageHash, PageNumber};
use crate::remote::{Remote, Traffic};
use crate::replica::batch::Batch;
use crate::replica::fetch::{Conversation, Fetched};
use crate::replica::follower::Replica;
use crate::replica::heal::{self, Hashes};
use crate::replica::transfer::Kind;
use crate::rows::view::View;
use crate::wire::Lease;

impl Replica {
    /// What the remote has beyond `state`, if anything; somebody `waits` for it, or not. The traffic
    /// counts even where it came to nothing.
    pub(super) fn fetch_beyond(
        &self,
        remote: &dyn Remote,
        state: &State,
        waits: bool,
    ) -> (Result<Option<Batch>>, Traffic) {
        let mut traffic = Traffic::default();
        let fetched = self.fetch_counted(remote, state, waits, &mut traffic);
        (fetched, traffic)
    }

    fn fetch_counted(
        &self,
        remote: &dyn Remote,
        state: &State,
        waits: bool,
        traffic: &mut Traffic,
    ) -> Result<Option<Batch>> {
        let (database, peer) = (self.database_id()?, self.peer()?);
        let lease = self.lease_for_rebase()?;
        let transfer = self.begin_transfer(Kind::Sync, waits);
        let mut conversation = Conversation::new(remote, Some(database))
            .by(peer)
            .watched(&transfer);
        let fetched = match lease {
            None => conversation.changes(state.position, self, Some(self)),
            Some(lease) => self.fetch_leased(&mut conversation, state, lease),
        };
        let batch = fetched.and_then(|fetched| match fetched {
            Fetched::UpToDate(_) => Ok(None),
            Fetched::Batch(batch) => Ok(Some(batch)),
            Fetched::Diverged(_) => {
                let hashes = self.base_hashes(state)?;
                heal::differing(self, &mut conversation, hashes).map(Some)
            }
        });
        *traffic = conversation.traffic;
        batch
    }

    /// The hashes of the base of `state`.
    fn base_hashes(&self, state: &State) -> Result<Hashes> {
        let local = Arc::new(LocalView::of(self)?);
        let store = self.host().open_store(self.path())?;
        // Until it is closed.
        store.begin_read()?;
        let base = store.base()?.unwrap_or(version::base_of(state));
        let view = BaseView::new(local, store, &base)?;
        let page_size = view.page_size();
        let mut page = vec![0; page_size.bytes()];
        let mut of = Vec::with_capacity(base.database_size as usize);
        for number in (1..=base.database_size).filter_map(PageNumber::new) {
            of.push(match number == page_size.lock_page() {
                true => PageHash::NONE,
                false => {
                    view.read_page(number, &mut page)?;
                    PageHash::of(number, &page)
                }
            });
        }
        Ok(Hashes {
            page_size,
            database_size: base.database_size,
            of,
        })
    }

    /// The same with a lease.
    fn fetch_leased(
        &self,
        conversation: &mut Conversation<'_>,
        state: &State,
        lease: Lease,
    ) -> Result<Fetched> {
        let clock = self.host().clock();
        self.writes().ask_for(lease.id);
        let fetched = conversation.begin(state.position, Some(lease), self, Some(self))?;
        let Fetched::Batch(batch) = &fetched else {
            self.writes().leased(&*clock, lease.id, true);
            return Ok(fetched);
        };
        self.writes().leased(&*clock, lease.id, false);
        // What came with newer content is a short one: whoever holds the newest gets a whole one.
        let newest = conversation.begin(batch.head.position, Some(lease), self, None)?;
        if matches!(newest, Fetched::UpToDate(_)) {
            self.writes().leased(&*clock, lease.id, true);
        }
        Ok(fetched)
    }

    /// The lease to ask for, where others were in the way, or are to be kept out of it.
    fn lease_for_rebase(&self) -> Result<Option<Lease>> {
        let wants = match self.settings().write_mode() {
            WriteMode::Exclusive => true,
            WriteMode::Optimistic => false,
            WriteMode::Auto => self.writes().is_contended(&*self.host().clock()),
        };
        wants.then(|| self.wanted_lease()).transpose()
    }
}
