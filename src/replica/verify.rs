//! Reading the whole replica against the digest recorded with its position.

use super::fetch::Conversation;
use super::follower::Replica;
use super::heal;
use crate::database::scan::Verification;
use crate::database::store::State;
use crate::error::{Error, Result};

/// Times other processes may move the file while it is read.
const MOST_ROUNDS: usize = 20;

impl Replica {
    /// Verifies the content at its position; where it is wrong and the remote is at the same
    /// position, names the pages: those that were damaged, or changed by somebody else.
    pub fn verify(&self) -> Result<Verification> {
        self.make()?;
        for _ in 0..MOST_ROUNDS {
            let known = self.known()?;
            let state = match known {
                Some(state) => state,
                // What somebody else has changed is compared with what it should be.
                None => self.recorded()?,
            };
            let scanned = heal::scan_local(self)?;
            if known.is_some() && Some(scanned.header.anchor()) != state.anchor {
                continue;
            }
            let mut found = Verification {
                ok: scanned.content == state.content,
                position: state.position.to_string(),
                pages: scanned.hashes.pages(),
                bad_pages: Vec::new(),
            };
            if !found.ok {
                self.name_bad_pages(&state, &scanned, &mut found)?;
            }
            return Ok(found);
        }
        Err(Error::Busy(format!(
            "{} keeps changing while it is verified",
            self.path().display()
        )))
    }

    /// The state as it was recorded last.
    fn recorded(&self) -> Result<State> {
        let recorded = self.local().store()?.state()?;
        recorded.ok_or_else(|| self.foreign())
    }

    fn name_bad_pages(
        &self,
        state: &State,
        scanned: &heal::Local,
        found: &mut Verification,
    ) -> Result<()> {
        let remote = self.remote()?;
        let (database, own) = {
            let local = self.local();
            let store = local.store()?;
            (
                store.identity()?.and_then(|(_, id)| id),
                store.dirty_pages()?,
            )
        };
        Conversation::new(&*remote, database).hashes(|head, number, hash| {
            // Of pages that were written here the remote knows nothing.
            if head.position == state.position
                && !own.contains(&number)
                && !scanned.hashes.has(number, hash)
            {
                found.add_bad(number);
            }
        })?;
        Ok(())
    }
}
