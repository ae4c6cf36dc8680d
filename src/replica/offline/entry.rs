//! A merge that is about to enter the log, and what makes it certain which base it has.

use std::collections::BTreeSet;

use super::version;
use crate::database::handle::Handle;
use crate::database::offline::{Epoch, Rebased};
use crate::database::pages::Pages;
use crate::database::store::{State, Store};
use crate::error::{Error, Result};
use crate::merge::States;
use crate::page::{PageHash, PageNumber};
use crate::replica::batch::Batch;
use crate::replica::enter::{self, Current, Entered};
use crate::replica::follower::Replica;
use crate::wal::apply::Writer;
use crate::wal::frame::Salts;
use crate::wire::Head;

/// A merge that is about to enter the log.
pub(super) struct Entry {
    /// The base from then on.
    base: Rebased,
    /// Pages of the base that are others in the merged content, as they are in the base.
    images: Pages,
    /// What leads from the local content to the merged one.
    batch: Batch,
}

impl Entry {
    /// What `top`, pages over those of the remote up to `size`, makes of the local content.
    pub(super) fn new(
        replica: &Replica,
        states: &States,
        head: Head,
        top: &Pages,
        size: u32,
    ) -> Result<Self> {
        let (local, remote) = (&*states.local, &*states.remote);
        let lock_page = head.page_size.lock_page();
        let page = || vec![0; head.page_size.bytes()];
        let (mut images, mut content) = (Pages::new(head.page_size), head.content);
        let (mut before, mut after) = (page(), page());
        let cut = (size + 1..=head.database_size).filter_map(PageNumber::new);
        let changed: BTreeSet<_> = top.numbers().chain(cut).collect();
        for number in changed.into_iter().filter(|number| *number != lock_page) {
            let written = top.get(number).transpose()?;
            let written = written.filter(|_| number.get() <= size);
            if number.get() <= head.database_size {
                remote.read_page(number, &mut before)?;
                if written.as_deref() == Some(&before[..]) {
                    continue;
                }
                images.put(replica, number, &before)?;
                content.remove(PageHash::of(number, &before));
            }
            if let Some(written) = written {
                content.add(PageHash::of(number, &written));
            }
        }
        let mut pages = Pages::new(head.page_size);
        for number in differing(states, top, size) {
            match top.get(number) {
                Some(written) => after.copy_from_slice(&written?),
                None => remote.read_page(number, &mut after)?,
            }
            let is_new = number.get() > local.database_size();
            if !is_new {
                local.read_page(number, &mut before)?;
            }
            if is_new || before != after {
                pages.put(replica, number, &after)?;
            }
        }
        Ok(Self {
            base: Rebased {
                position: head.position,
                database_size: head.database_size,
                content: head.content,
                local: content,
            },
            images,
            batch: Batch {
                head: Head {
                    database_size: size,
                    content,
                    ..head
                },
                pages,
            },
        })
    }

    /// Records it, and enters it over `now`.
    pub(super) fn enter(
        &self,
        handle: &Handle,
        store: &dyn Store,
        writer: Writer<'_>,
        now: &State,
        random: Salts,
    ) -> Result<()> {
        store.transaction(|store| {
            store.clear_rebased()?;
            for page in self.images.iter() {
                let (number, image) = page?;
                store.keep_image(Epoch::Rebase, number, &image)?;
            }
            if store.base()?.is_none() {
                store.set_base(&version::base_of(now))?;
            }
            store.set_rebased(&self.base)
        })?;
        let current = Current {
            content: now.content,
            database_size: now.database_size,
        };
        match enter::enter(handle, store, writer, current, &self.batch, random)? {
            Entered::Done(_) => Ok(()),
            Entered::Mismatch => Err(Error::Corrupt(
                "what was merged is not what both sides lead to: nothing was changed".to_owned(),
            )),
        }
    }
}

/// The pages of the merged content that may be others than the local ones.
fn differing(states: &States, top: &Pages, size: u32) -> BTreeSet<PageNumber> {
    let mut numbers: BTreeSet<_> = top.numbers().collect();
    numbers.extend(&states.changed_here);
    numbers.extend(&states.changed_there);
    let new = states.local.database_size() + 1..=size;
    numbers.extend(new.filter_map(PageNumber::new));
    numbers.remove(&states.local.page_size().lock_page());
    numbers.retain(|number| number.get() <= size);
    numbers
}
