//! What the state store of a replica has on record about commits that were made here first.
//!
//! While there are any, the recorded state is that of the local content, at the remote's position it
//! began with: the *base*. Each page that is another one now is *dirty*, with an image of what it was.
//! The first epoch of images leads from the local content back to the base. While a push is under way,
//! a second one leads back to what is being pushed; pages without an image there did not change since.

use std::collections::BTreeSet;

use rusqlite::params;

use super::sqlite_store::{SqliteStore, content, position};
use super::store::{State, Store};
use crate::error::Result;
use crate::merge::Conflict;
use crate::page::{ContentDigest, PageNumber};
use crate::position::{Nonce, Position};

/// The remote's state that local changes began with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base {
    /// Size in pages.
    pub database_size: u32,
    /// Digest of the whole content.
    pub content: ContentDigest,
    /// Transactions made here since.
    pub transactions: u64,
}

/// A push of local changes that was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The random number of this commit.
    pub nonce: Nonce,
    /// The remote's position it is made for.
    pub base: Position,
    /// Size in pages it leads to.
    pub database_size: u32,
    /// Digest of the whole content it leads to.
    pub content: ContentDigest,
    /// Local transactions it holds.
    pub transactions: u64,
}

/// A rebase that is about to enter the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rebased {
    /// The remote's position, which the local content is to be based on.
    pub position: Position,
    /// Size of the remote's state in pages.
    pub database_size: u32,
    /// Digest of the remote's state.
    pub content: ContentDigest,
    /// Digest of the local content it leads to.
    pub local: ContentDigest,
}

/// Since when an image is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Epoch {
    /// Since the base.
    Base = 1,
    /// Since a push was begun.
    Push = 2,
    /// Since the base of a rebase that is about to enter the log.
    Rebase = 3,
}

impl Epoch {
    /// The key of a page's image.
    fn place(self, page: u32) -> i64 {
        ((self as i64) << 32) | i64::from(page)
    }
}

/// What a state store has on record about local changes. All of it changes under WAL_WRITE of the
/// database only.
pub trait OfflineStore {
    /// Whether commits are made here first.
    fn is_offline(&self) -> Result<bool>;
    /// Says whether they are.
    fn set_offline(&self, on: bool) -> Result<()>;
    /// The highest version of a schema that was thrown away here; 0 for none.
    fn retired(&self) -> Result<u32>;
    /// Records it.
    fn set_retired(&self, version: u32) -> Result<()>;
    /// What local changes began with; `None` while there are none.
    fn base(&self) -> Result<Option<Base>>;
    /// Records that.
    fn set_base(&self, base: &Base) -> Result<()>;
    /// Whether there is an image of a page.
    fn is_dirty(&self, epoch: Epoch, page: PageNumber) -> Result<bool>;
    /// The image of a page.
    fn image(&self, epoch: Epoch, page: PageNumber) -> Result<Option<Vec<u8>>>;
    /// Keeps the image of a page that has none.
    fn keep_image(&self, epoch: Epoch, page: PageNumber, image: &[u8]) -> Result<()>;
    /// The pages with images of an epoch.
    fn pages_of(&self, epoch: Epoch) -> Result<BTreeSet<PageNumber>>;
    /// The push that was begun.
    fn outgoing(&self) -> Result<Option<Outgoing>>;
    /// Records one: from here on images of the second epoch are kept.
    fn set_outgoing(&self, outgoing: &Outgoing) -> Result<()>;
    /// The push was accepted, or has nothing to carry: the images of the first epoch have served, those
    /// of the second lead back to the new base.
    fn advance_epoch(&self, base: &Base) -> Result<()>;
    /// The push was refused: images of the second epoch lead back to the base where the first has none.
    fn merge_epochs(&self, base: &Base) -> Result<()>;
    /// The local content is the remote's: forgets base, images, push, rebase and conflicts.
    fn clear_local(&self) -> Result<()>;
    /// The rebase that is about to enter the log.
    fn rebased(&self) -> Result<Option<Rebased>>;
    /// Records one, beside its images.
    fn set_rebased(&self, rebased: &Rebased) -> Result<()>;
    /// It has entered: its images lead back to the new base, all others have served.
    fn advance_rebased(&self, base: &Base) -> Result<()>;
    /// It has not, and will not.
    fn clear_rebased(&self) -> Result<()>;
    /// The rows that were in the way of the newest rebase.
    fn conflicts(&self) -> Result<Vec<Conflict>>;
    /// Records them in place of others.
    fn set_conflicts(&self, conflicts: &[Conflict]) -> Result<()>;
}

impl dyn Store + '_ {
    /// What the remote has, where `state`, the local content, holds something that it has not, or may
    /// not have.
    pub fn unpushed(&self, state: &State) -> Result<Option<Base>> {
        let Some(base) = self.base()? else {
            return Ok(None);
        };
        let is_base = (base.content, base.database_size) == (state.content, state.database_size);
        match is_base && self.outgoing()?.is_none() {
            // Kept for a transaction that was rolled back, or taken back by another one.
            true => Ok(None),
            false => Ok(Some(base)),
        }
    }

    /// The pages of the base that may be others now.
    pub fn dirty_pages(&self) -> Result<BTreeSet<PageNumber>> {
        let mut pages = self.pages_of(Epoch::Base)?;
        pages.append(&mut self.pages_of(Epoch::Push)?);
        Ok(pages)
    }

    /// A page of the base, where it may be another one now.
    pub fn base_image(&self, page: PageNumber) -> Result<Option<Vec<u8>>> {
        match self.image(Epoch::Base, page)? {
            // Before the push it had not changed.
            None => self.image(Epoch::Push, page),
            image => Ok(image),
        }
    }
}

impl OfflineStore for SqliteStore {
    fn is_offline(&self) -> Result<bool> {
        let found = self.rows("SELECT offline FROM mode", [], |row| row.get(0))?;
        Ok(found.first().copied().unwrap_or(false))
    }

    fn set_offline(&self, on: bool) -> Result<()> {
        self.change(
            "INSERT INTO mode (one, offline) VALUES (1, ?1)
             ON CONFLICT (one) DO UPDATE SET offline = ?1",
            [on],
        )
    }

    fn retired(&self) -> Result<u32> {
        let found = self.rows("SELECT retired FROM mode", [], |row| row.get(0))?;
        Ok(found.first().copied().unwrap_or(0))
    }

    fn set_retired(&self, version: u32) -> Result<()> {
        self.change(
            "INSERT INTO mode (one, offline, retired) VALUES (1, 1, ?1)
             ON CONFLICT (one) DO UPDATE SET retired = ?1",
            [version],
        )
    }

    fn base(&self) -> Result<Option<Base>> {
        let sql = "SELECT database_size, content, transactions FROM base";
        let found = self.rows(sql, [], |row| {
            Ok(Base {
                database_size: row.get(0)?,
                content: content(row)?,
                transactions: row.get(2)?,
            })
        })?;
        Ok(found.first().copied())
    }

    fn set_base(&self, base: &Base) -> Result<()> {
        self.change(
            "REPLACE INTO base (one, database_size, content, transactions) VALUES (1, ?1, ?2, ?3)",
            params![
                base.database_size,
                base.content.to_bytes(),
                base.transactions
            ],
        )
    }

    fn is_dirty(&self, epoch: Epoch, page: PageNumber) -> Result<bool> {
        let sql = "SELECT 1 FROM dirty WHERE place = ?1";
        let found = self.rows(sql, [epoch.place(page.get())], |_| Ok(()))?;
        Ok(!found.is_empty())
    }

    fn image(&self, epoch: Epoch, page: PageNumber) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT image FROM dirty WHERE place = ?1";
        let found = self.rows(sql, [epoch.place(page.get())], |row| row.get(0))?;
        Ok(found.into_iter().next())
    }

    fn keep_image(&self, epoch: Epoch, page: PageNumber, image: &[u8]) -> Result<()> {
        self.change(
            "INSERT INTO dirty (place, image) VALUES (?1, ?2)",
            params![epoch.place(page.get()), image],
        )
    }

    fn pages_of(&self, epoch: Epoch) -> Result<BTreeSet<PageNumber>> {
        let sql = "SELECT place & 0xffffffff FROM dirty WHERE place BETWEEN ?1 AND ?2";
        let all = [epoch.place(0), epoch.place(u32::MAX)];
        let found = self.rows(sql, all, |row| row.get(0))?;
        Ok(found.into_iter().filter_map(PageNumber::new).collect())
    }

    fn outgoing(&self) -> Result<Option<Outgoing>> {
        let sql = "SELECT nonce, lsn, id, database_size, content, transactions FROM outgoing";
        let found = self.rows(sql, [], |row| {
            Ok(Outgoing {
                nonce: Nonce(row.get(0)?),
                base: position(row)?,
                database_size: row.get(3)?,
                content: content(row)?,
                transactions: row.get(5)?,
            })
        })?;
        Ok(found.first().copied())
    }

    fn set_outgoing(&self, outgoing: &Outgoing) -> Result<()> {
        self.change(
            "INSERT INTO outgoing (one, nonce, lsn, id, database_size, content, transactions)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                outgoing.nonce.0,
                outgoing.base.lsn.0,
                outgoing.base.id.0,
                outgoing.database_size,
                outgoing.content.to_bytes(),
                outgoing.transactions,
            ],
        )
    }

    fn advance_epoch(&self, base: &Base) -> Result<()> {
        self.clear_rebased()?;
        self.set_base(base)?;
        self.change("DELETE FROM dirty WHERE place < ?1", [Epoch::Push.place(0)])?;
        self.change("UPDATE dirty SET place = place - (1 << 32)", [])?;
        self.end_push()
    }

    fn merge_epochs(&self, base: &Base) -> Result<()> {
        self.change(
            "INSERT OR IGNORE INTO dirty (place, image)
             SELECT place - (1 << 32), image FROM dirty WHERE place BETWEEN ?1 AND ?2",
            [Epoch::Push.place(0), Epoch::Push.place(base.database_size)],
        )?;
        self.change("DELETE FROM dirty WHERE place > ?1", [Epoch::Push.place(0)])?;
        self.change("DELETE FROM rebased", [])?;
        self.end_push()
    }

    fn clear_local(&self) -> Result<()> {
        self.change("DELETE FROM base", [])?;
        self.change("DELETE FROM dirty", [])?;
        self.change("DELETE FROM rebased", [])?;
        self.change("DELETE FROM conflicts", [])?;
        self.end_push()
    }

    fn rebased(&self) -> Result<Option<Rebased>> {
        let sql = "SELECT lsn, id, database_size, content, local FROM rebased";
        let found = self.rows(sql, [], |row| {
            Ok(Rebased {
                position: position(row)?,
                database_size: row.get(2)?,
                content: content(row)?,
                local: row.get(4).map(ContentDigest::from_bytes)?,
            })
        })?;
        Ok(found.first().copied())
    }

    fn set_rebased(&self, rebased: &Rebased) -> Result<()> {
        self.change(
            "REPLACE INTO rebased (one, lsn, id, database_size, content, local)
             VALUES (1, ?1, ?2, ?3, ?4, ?5)",
            params![
                rebased.position.lsn.0,
                rebased.position.id.0,
                rebased.database_size,
                rebased.content.to_bytes(),
                rebased.local.to_bytes(),
            ],
        )
    }

    fn advance_rebased(&self, base: &Base) -> Result<()> {
        self.set_base(base)?;
        let first = Epoch::Rebase.place(0);
        self.change("DELETE FROM dirty WHERE place < ?1", [first])?;
        self.change("UPDATE dirty SET place = place - (2 << 32)", [])?;
        self.change("DELETE FROM rebased", [])?;
        self.change("DELETE FROM conflicts", [])?;
        self.end_push()
    }

    fn clear_rebased(&self) -> Result<()> {
        let first = Epoch::Rebase.place(0);
        self.change("DELETE FROM dirty WHERE place > ?1", [first])?;
        self.change("DELETE FROM rebased", [])
    }

    fn conflicts(&self) -> Result<Vec<Conflict>> {
        let sql = "SELECT tbl_name, key, base, local, remote FROM conflicts ORDER BY number";
        self.rows(sql, [], |row| {
            Ok(Conflict {
                table: row.get(0)?,
                key: row.get(1)?,
                base: row.get(2)?,
                local: row.get(3)?,
                remote: row.get(4)?,
            })
        })
    }

    fn set_conflicts(&self, conflicts: &[Conflict]) -> Result<()> {
        self.change("DELETE FROM conflicts", [])?;
        for conflict in conflicts {
            self.change(
                "INSERT INTO conflicts (tbl_name, key, base, local, remote)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    conflict.table,
                    conflict.key,
                    conflict.base,
                    conflict.local,
                    conflict.remote
                ],
            )?;
        }
        Ok(())
    }
}

impl SqliteStore {
    fn end_push(&self) -> Result<()> {
        self.change("DELETE FROM outgoing", [])
    }
}
