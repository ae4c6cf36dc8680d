//! Whether a replica is written offline: a property of the file, whoever has it open.

use crate::database::handle::Handle;
use crate::database::offline::Base;
use crate::database::store::{State, Store};
use crate::error::{Error, Result};
use crate::replica::follower::Replica;
use crate::replica::resolve::{self, Standing};
use crate::wal::apply::Writer;

/// Times another process may get in first.
const MOST_ROUNDS: usize = 100;

/// What was written here and is not on the remote.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Unpushed {
    /// Transactions.
    pub transactions: u64,
    /// Pages they changed.
    pub pages: u64,
}

impl Replica {
    /// Whether commits are made here first.
    pub fn is_offline(&self) -> Result<bool> {
        let local = self.local();
        match local.has_store() {
            true => local.store()?.is_offline(),
            false => Ok(false),
        }
    }

    /// Goes by what the connection wants that was opened last.
    pub(in crate::replica) fn follow_wish(&self) -> Result<()> {
        let wish = self.wish.lock().take();
        wish.map_or(Ok(()), |on| self.set_offline(on))
    }

    /// Says whether they are. Not while something is written here that is not on the remote.
    pub fn set_offline(&self, on: bool) -> Result<()> {
        if self.is_offline()? == on {
            return Ok(());
        }
        if on && self.settings().in_memory() {
            return Err(Error::Misuse(format!(
                "{}: what is written offline would be lost with the memory of this process: \
                 storage=memory and offline=1 exclude each other",
                self.path().display()
            )));
        }
        // What is not known of an earlier transaction would not be asked for any more.
        self.settle_pending()?;
        if !on && self.is_made()? {
            self.raise_version()?;
        }
        if !self.is_made()? {
            // There is no content yet, nor a lock for it.
            return self.local().store()?.set_offline(on);
        }
        self.with_state(|_, store, _, state| match store.unpushed(&state)? {
            // Another process may have said so before, and written since.
            Some(base) if !on => Err(self.not_pushed(&base)),
            Some(_) => store.set_offline(on),
            None => store.transaction(|store| {
                store.clear_local()?;
                store.set_offline(on)
            }),
        })
    }

    /// What was written here and is not on the remote; `None` where nothing is.
    pub fn unpushed(&self) -> Result<Option<Unpushed>> {
        let local = self.local();
        if !local.has_store() {
            return Ok(None);
        }
        let store = local.store()?;
        let Some(state) = store.state()? else {
            return Ok(None);
        };
        let Some(base) = store.unpushed(&state)? else {
            return Ok(None);
        };
        let of_base = |number: &u32| *number <= base.database_size;
        let changed = store.dirty_pages()?;
        let changed = changed.iter().map(|number| number.get()).filter(of_base);
        let new = state.database_size.saturating_sub(base.database_size);
        Ok(Some(Unpushed {
            transactions: base.transactions,
            pages: changed.count() as u64 + u64::from(new),
        }))
    }

    /// Whether anything was; where that cannot be found out, there may be.
    pub(in crate::replica) fn has_unpushed(&self) -> bool {
        !matches!(self.unpushed(), Ok(None))
    }

    /// Why a replica with local changes does not go online.
    fn not_pushed(&self, base: &Base) -> Error {
        Error::Misuse(format!(
            "{} has {} transactions that are not on its remote: SELECT replica_push(), or \
             replica_discard() to throw them away, and then offline=0",
            self.path().display(),
            base.transactions
        ))
    }

    /// Runs `work` under WAL_WRITE, on the state the content is at.
    pub(super) fn with_state<T>(
        &self,
        mut work: impl FnMut(&Handle, &dyn Store, Writer<'_>, State) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..MOST_ROUNDS {
            self.understood()?;
            let done = self.under_write_lock(|local| {
                let (handle, store) = local.handle(self.host(), self.path())?;
                let Some(mut writer) = handle.try_writer()? else {
                    return Ok(None);
                };
                match resolve::resolve(handle, store, &mut writer)? {
                    Standing::Known(state) => {
                        work(handle, store, writer, state).map(|t| Some(Some(t)))
                    }
                    // Since then somebody wrote to it.
                    _ => Ok(Some(None)),
                }
            })?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
        Err(self.contended())
    }
}
