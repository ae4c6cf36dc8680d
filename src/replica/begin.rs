//! The start of a write: whether the local content is what a transaction may be computed from.
//!
//! SQLite holds WAL_WRITE, so that nobody else writes here meanwhile. A replica that was told within
//! the last second that it holds the remote's newest state goes ahead (whether that is still so, the
//! push finds out); others ask. What the answer brings is entered at once: SQLite then finds a newer
//! state than the one it reads, and begins again from that.

use super::enter::{self, Current, Entered};
use super::fetch::{Conversation, Fetched};
use super::follower::Replica;
use super::resolve::{self, Standing};
use crate::database::clock::Stopwatch;
use crate::database::settings::WriteMode;
use crate::database::store::State;
use crate::error::{Error, Result};
use crate::wal::apply::Writer;
use crate::wire::{Lease, LeaseId, ReleaseRequest, Request};

/// What came of the start of a write.
pub enum Begun {
    /// The transaction is to be computed from this state.
    Ready(State),
    /// Newer content was entered, this state: whoever has begun to read has to begin again.
    Newer(State),
}

impl Replica {
    /// What needs the write lock to be free: before SQLite takes it.
    pub(super) fn prepare_write(&self) -> Result<()> {
        if self.writes().take_heal()
            && let Err(error) = self.sync()
        {
            self.writes().heal();
            return Err(error);
        }
        match self.known()? {
            Some(_) => Ok(()),
            None => Err(Error::ReadOnly(self.foreign().to_string())),
        }
    }

    /// Begins a write, under the WAL_WRITE that SQLite has just taken.
    pub(super) fn begin_write(&self) -> Result<Begun> {
        self.settle_pending()?;
        let state = {
            let mut local = self.local();
            let (handle, store) = local.handle(self.host(), self.path())?;
            handle.header()?;
            let mut writer = Writer::under_lock(&*handle.files.index)?;
            match resolve::resolve(handle, store, &mut writer)? {
                Standing::Known(state) => state,
                _ => return Err(self.contended()),
            }
        };
        let clock = self.host().clock();
        let (leased, at_head, exclusive) = {
            let writes = self.writes();
            let exclusive = match self.settings().write_mode() {
                WriteMode::Exclusive => true,
                WriteMode::Optimistic => false,
                WriteMode::Auto => writes.is_contended(&*clock),
            };
            (
                writes.is_leased(&*clock),
                writes.is_at_head(&*clock),
                exclusive,
            )
        };
        match (leased && at_head) || (at_head && !exclusive) {
            true => Ok(Begun::Ready(state)),
            false => self.ask_to_begin(state, exclusive),
        }
    }

    /// Asks the remote; what it has beyond `state` is entered.
    fn ask_to_begin(&self, state: State, exclusive: bool) -> Result<Begun> {
        let clock = self.host().clock();
        if let Some(why) = self.writes().why_unreachable(&*clock) {
            return Err(Error::Busy(why));
        }
        let asked = Stopwatch::start(clock.clone());
        let since = clock.monotonic();
        let lease = match exclusive {
            true => Some(self.lease()?),
            false => None,
        };
        let database = self.database_id()?;
        let remote = self.remote()?;
        let mut conversation = Conversation::new(&*remote, Some(database));
        let fetched = conversation.begin(state.position, lease, self, Some(self));
        self.note_traffic(&conversation.traffic);
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(error @ Error::Unreachable { .. }) => {
                let why = error.to_string();
                self.writes().unreachable(&*clock, asked.elapsed(), why);
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        if let Some(lease) = lease {
            self.writes().leased(lease.id, since);
        }
        match fetched {
            Fetched::UpToDate(head) => {
                self.note_position(head.position);
                self.writes().at_head(&*clock);
                Ok(Begun::Ready(state))
            }
            Fetched::Batch(batch) => {
                let random = self.fresh_salts()?;
                let mut local = self.local();
                let (handle, store) = local.handle(self.host(), self.path())?;
                let writer = Writer::under_lock(&*handle.files.index)?;
                let current = Current {
                    content: state.content,
                    database_size: state.database_size,
                };
                let entered = enter::enter(handle, store, writer, current, &batch, random)?;
                drop(local);
                match entered {
                    Entered::Done(state) => {
                        self.note_position(batch.head.position);
                        self.writes().at_head(&*clock);
                        Ok(Begun::Newer(state))
                    }
                    Entered::Mismatch => Err(self.must_heal()),
                }
            }
            Fetched::Diverged(_) => Err(self.must_heal()),
        }
    }

    fn must_heal(&self) -> Error {
        self.writes().heal();
        Error::Busy(format!(
            "the pages of {} have to be compared with the primary's first",
            self.path().display()
        ))
    }

    /// The lease to ask for, and how long to wait for it: an answer must come within the time-out.
    fn lease(&self) -> Result<Lease> {
        let wait = self.settings().timeout().mul_f64(0.8);
        let held = self.writes().lease();
        Ok(Lease {
            // Not another one: it would wait for the end of the first.
            id: match held {
                Some(id) => id,
                None => LeaseId(self.host().random()?),
            },
            wait_milliseconds: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        })
    }

    /// Gives back a lease that was not used. Where that fails the primary ends it, seconds later.
    pub(super) fn release_lease(&self) {
        let Some(lease) = self.writes().take_lease() else {
            return;
        };
        let released = self.database_id().and_then(|database| {
            let request = ReleaseRequest { database, lease };
            self.remote()?.ask(&Request::Release(request))
        });
        if let Err(error) = released {
            log::warn!(target: "replica", "{}: a lease was not given back: {error}", self.path().display());
        }
    }
}
