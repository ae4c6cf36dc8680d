//! What the state store in memory keeps of local changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::store::{Content, SimulatedStore};
use crate::database::offline::{Base, Epoch, OfflineStore, Outgoing, Rebased};
use crate::error::Result;
use crate::merge::Conflict;
use crate::page::PageNumber;
use crate::planted::{self, Bug};

impl OfflineStore for SimulatedStore {
    fn is_offline(&self) -> Result<bool> {
        self.read(|content| content.offline)
    }

    fn set_offline(&self, on: bool) -> Result<()> {
        self.change("set offline", |content| content.offline = on)
    }

    fn retired(&self) -> Result<u32> {
        self.read(|content| content.retired)
    }

    fn set_retired(&self, version: u32) -> Result<()> {
        self.change("set retired", |content| content.retired = version)
    }

    fn base(&self) -> Result<Option<Base>> {
        self.read(|content| content.base)
    }

    fn set_base(&self, base: &Base) -> Result<()> {
        self.change("set base", |content| content.base = Some(*base))
    }

    fn is_dirty(&self, epoch: Epoch, page: PageNumber) -> Result<bool> {
        self.read(|content| content.dirty.contains_key(&(epoch as u8, page.get())))
    }

    fn image(&self, epoch: Epoch, page: PageNumber) -> Result<Option<Vec<u8>>> {
        self.read(|content| {
            let image = content.dirty.get(&(epoch as u8, page.get()));
            image.map(|image| image.to_vec())
        })
    }

    fn keep_image(&self, epoch: Epoch, page: PageNumber, image: &[u8]) -> Result<()> {
        self.change("keep image", |content| {
            let image = Arc::new(image.to_vec());
            let before = content.dirty.insert((epoch as u8, page.get()), image);
            assert!(before.is_none(), "page {page} has an image already");
        })
    }

    fn pages_of(&self, epoch: Epoch) -> Result<BTreeSet<PageNumber>> {
        self.read(|content| {
            let of_epoch = content.dirty.keys().filter(|(at, _)| *at == epoch as u8);
            of_epoch
                .filter_map(|(_, page)| PageNumber::new(*page))
                .collect()
        })
    }

    fn outgoing(&self) -> Result<Option<Outgoing>> {
        self.read(|content| content.outgoing)
    }

    fn set_outgoing(&self, outgoing: &Outgoing) -> Result<()> {
        self.change("set outgoing", |content| {
            assert!(content.outgoing.is_none(), "a push is under way already");
            content.outgoing = Some(*outgoing);
        })
    }

    fn advance_epoch(&self, base: &Base) -> Result<()> {
        self.change("advance epoch", |content| {
            content.begin_with(base, Epoch::Push);
        })
    }

    fn merge_epochs(&self, base: &Base) -> Result<()> {
        self.change("merge epochs", |content| {
            content.clear_rebased();
            for ((epoch, page), image) in std::mem::take(&mut content.dirty) {
                if epoch == Epoch::Base as u8 || page <= base.database_size {
                    content
                        .dirty
                        .entry((Epoch::Base as u8, page))
                        .or_insert(image);
                }
            }
            content.end_push();
        })
    }

    fn clear_local(&self) -> Result<()> {
        self.change("clear local changes", Content::clear_local)
    }

    fn rebased(&self) -> Result<Option<Rebased>> {
        self.read(|content| content.rebased)
    }

    fn set_rebased(&self, rebased: &Rebased) -> Result<()> {
        if planted::is(Bug::ForgetTheNewBase) {
            return Ok(());
        }
        self.change("set rebased", |content| content.rebased = Some(*rebased))
    }

    fn advance_rebased(&self, base: &Base) -> Result<()> {
        self.change("advance rebased", |content| {
            content.begin_with(base, Epoch::Rebase);
            content.conflicts = Arc::default();
        })
    }

    fn clear_rebased(&self) -> Result<()> {
        self.change("clear rebased", Content::clear_rebased)
    }

    fn conflicts(&self) -> Result<Vec<Conflict>> {
        self.read(|content| content.conflicts.to_vec())
    }

    fn set_conflicts(&self, conflicts: &[Conflict]) -> Result<()> {
        self.change("set conflicts", |content| {
            content.conflicts = Arc::new(conflicts.to_vec());
        })
    }
}

impl Content {
    /// Images of one epoch lead back to a new base; all others have served.
    fn begin_with(&mut self, base: &Base, epoch: Epoch) {
        self.base = Some(*base);
        let dirty = std::mem::take(&mut self.dirty).into_iter();
        let kept = dirty.filter(|((of, _), _)| *of == epoch as u8);
        self.dirty = kept
            .map(|((_, page), image)| ((Epoch::Base as u8, page), image))
            .collect();
        self.rebased = None;
        self.end_push();
    }

    fn clear_rebased(&mut self) {
        self.dirty
            .retain(|(epoch, _), _| *epoch != Epoch::Rebase as u8);
        self.rebased = None;
    }

    /// The content is the remote's.
    pub(super) fn clear_local(&mut self) {
        self.base = None;
        self.dirty.clear();
        self.rebased = None;
        self.conflicts = Arc::default();
        self.end_push();
    }

    fn end_push(&mut self) {
        self.outgoing = None;
    }
}
