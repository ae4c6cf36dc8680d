//! The start of a write: whether the local content is what a transaction may be computed from.
//!
//! A replica that was told within the last second that it holds the remote's newest state goes ahead:
//! whether that is still so, the push finds out. Others ask, before SQLite takes the write lock, so that
//! nobody here waits for the network behind that. What the answer brings is entered at once: SQLite
//! finds a newer state than the one it reads, and begins again from that.

use super::fetch::{Conversation, Fetched};
use super::follower::Replica;
use super::resolve::{self, Standing};
use super::sync::Round;
use crate::database::clock::Stopwatch;
use crate::database::settings::WriteMode;
use crate::database::store::State;
use crate::error::{Error, Result};
use crate::remote::Remote;
use crate::wal::apply::Writer;
use crate::wire::{Lease, LeaseId, ReleaseRequest, Request};

/// Times another process may get in first.
const MOST_ROUNDS: usize = 10;

impl Replica {
    /// Gets ready for a write, before SQLite takes the write lock. True where newer content was
    /// entered: whoever reads already has to begin again.
    pub(super) fn prepare_write(&self) -> Result<bool> {
        if self.is_offline()? {
            // Nobody is asked.
            return match self.known()? {
                Some(_) => self.raise_version(),
                None => Err(Error::ReadOnly(self.foreign().to_string())),
            };
        }
        if self.writes().take_heal()
            && let Err(error) = self.sync()
        {
            self.writes().heal();
            return Err(error);
        }
        self.settle_pending()?;
        for _ in 0..MOST_ROUNDS {
            let Some(state) = self.known()? else {
                return Err(Error::ReadOnly(self.foreign().to_string()));
            };
            let Some(lease) = self.question()? else {
                return Ok(false);
            };
            match self.ask_to_begin(state, lease)? {
                Round::Current(now, ..) => return Ok(now.position != state.position),
                Round::Moved => {}
                Round::Heal => {
                    self.writes().heal();
                    return Err(Error::Busy(format!(
                        "the pages of {} have to be compared with the primary's first",
                        self.path().display()
                    )));
                }
            }
        }
        Err(self.contended())
    }

    /// The state a transaction is computed from, under the WAL_WRITE that SQLite has just taken, and
    /// whether it is committed here first.
    pub(super) fn begin_write(&self) -> Result<(State, bool)> {
        let mut local = self.local();
        let (handle, store) = local.handle(self.host(), self.path())?;
        handle.header()?;
        let mut writer = Writer::under_lock(&*handle.files.index)?;
        writer.finish_restart()?;
        match resolve::resolve(handle, store, &mut writer)? {
            Standing::Known(state) => match store.is_offline()? {
                // Since then somebody threw local changes away.
                true if Self::has_retired(store)? => Err(self.contended()),
                offline => Ok((state, offline)),
            },
            _ => Err(self.contended()),
        }
    }

    /// Whether the remote has to be asked first: `None` where it has not, else with which lease.
    fn question(&self) -> Result<Option<Option<Lease>>> {
        let clock = self.host().clock();
        let mode = self.settings().write_mode();
        let (at_head, contended, leased) = {
            let writes = self.writes();
            (
                writes.is_at_head(&*clock),
                writes.is_contended(&*clock),
                writes.is_leased(&*clock, mode == WriteMode::Exclusive),
            )
        };
        let exclusive = match mode {
            WriteMode::Exclusive => true,
            WriteMode::Optimistic => false,
            WriteMode::Auto => contended,
        };
        if at_head && (leased || !exclusive) {
            return Ok(None);
        }
        match exclusive {
            true => Ok(Some(Some(self.wanted_lease()?))),
            false => Ok(Some(None)),
        }
    }

    /// The lease that is asked for.
    pub(super) fn wanted_lease(&self) -> Result<Lease> {
        // Not another one than is held: it would wait for the end of the first.
        let held = self.writes().lease();
        // An answer must come within the time-out.
        let wait = self.settings().timeout().mul_f64(0.8);
        Ok(Lease {
            id: match held {
                Some(id) => id,
                None => LeaseId(self.host().random()?),
            },
            wait_milliseconds: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        })
    }

    /// Asks the remote; what it has beyond `state` is entered.
    fn ask_to_begin(&self, state: State, lease: Option<Lease>) -> Result<Round> {
        let clock = self.host().clock();
        if let Some(why) = self.writes().why_unreachable(&*clock) {
            return Err(Error::Busy(why));
        }
        if let Some(lease) = lease {
            // Before it is granted: where the answer is lost, the next question takes it up again.
            self.writes().ask_for(lease.id);
        }
        let asked = Stopwatch::start(clock.clone());
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
            let whole = matches!(fetched, Fetched::UpToDate(_));
            self.writes().leased(&*clock, lease.id, whole);
        }
        let round = match fetched {
            Fetched::UpToDate(head) => Round::Current(state, head, 0),
            Fetched::Batch(batch) => self.enter(state, &batch)?,
            Fetched::Diverged(_) => Round::Heal,
        };
        if let Round::Current(_, head, _) = &round {
            self.note_position(head.position);
            self.writes().at_head(&*clock);
        }
        Ok(round)
    }

    /// Gives back a lease that was not used. Where that fails the primary ends it, seconds later.
    pub(super) fn release_lease(&self) {
        let clock = self.host().clock();
        if self.writes().why_unreachable(&*clock).is_some() {
            // The next question takes it up again.
            return;
        }
        let Some(lease) = self.writes().take_lease() else {
            return;
        };
        let remote = self.remote();
        self.given_back(remote.and_then(|remote| self.give_back(&*remote, lease)));
    }

    /// The same over another line.
    pub(super) fn release_lease_at(&self, remote: &dyn Remote) {
        let Some(lease) = self.writes().take_lease() else {
            return;
        };
        self.given_back(self.give_back(remote, lease));
    }

    fn give_back(&self, remote: &dyn Remote, lease: LeaseId) -> Result<()> {
        let database = self.database_id()?;
        let request = ReleaseRequest { database, lease };
        remote.ask(&Request::Release(request)).map(drop)
    }

    fn given_back(&self, released: Result<()>) {
        if let Err(error) = released {
            log::warn!(target: "replica", "{}: a lease was not given back: {error}", self.path().display());
        }
    }
}
