//! The state store as a small SQLite database beside the file, schema in `sql/state.sql`.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

use super::fingerprint::Fingerprint;
use super::offline::OfflineStore as _;
use super::paths;
use super::store::{Intent, Progress, Role, State, Store};
use crate::error::{Error, Result, StoreContext};
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::position::{DatabaseId, HistoryId, Lsn, Position, TransactionDigest};
use crate::wal::anchor::Anchor;
use crate::wire::PeerId;

const SCHEMA: &str = include_str!("../../sql/state.sql");
/// What later versions change, the second first.
const CHANGES: [&str; 4] = [
    include_str!("../../sql/state-2.sql"),
    include_str!("../../sql/state-3.sql"),
    include_str!("../../sql/state-4.sql"),
    include_str!("../../sql/state-5.sql"),
];
const SCHEMA_VERSION: i64 = 5;

/// Changed pages from which the page map is read in its own order.
const MANY_PAGES: u32 = 8192;

/// How long an open waits for others who are opening the store too.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// An open state store.
pub struct SqliteStore {
    connection: Connection,
}

impl SqliteStore {
    /// The state store of `database` through an open connection. Where there is none yet, an empty
    /// one is made.
    pub fn new(mut connection: Connection, database: &Path) -> Result<Self> {
        prepare_patiently(&mut connection).during("open the state store")?;
        let version: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .during("open the state store")?;
        if version != SCHEMA_VERSION {
            return Err(Error::CannotOpen(format!(
                "{} has version {version}, this extension knows version {SCHEMA_VERSION}",
                paths::store(database).display()
            )));
        }
        Ok(Self { connection })
    }

    fn execute(&self, sql: &str) -> Result<()> {
        self.connection
            .execute_batch(sql)
            .during("change the state store")
    }

    /// Whether more than [`MANY_PAGES`] changed after `since`.
    fn many_changed(&self, since: Lsn) -> Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM pages WHERE lsn > ?1 LIMIT 1 OFFSET ?2")
            .and_then(|mut statement| statement.exists(params![since.0, MANY_PAGES]))
            .during("read the page map")
    }

    pub(super) fn change(&self, sql: &str, params: impl rusqlite::Params) -> Result<()> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map(drop)
            .during("change the state store")
    }

    pub(super) fn rows<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(params, read)?.collect())
            .during("read the state store")
    }
}

impl Store for SqliteStore {
    fn begin(&self) -> Result<()> {
        self.execute("BEGIN IMMEDIATE")
    }

    fn commit(&self) -> Result<()> {
        self.execute("COMMIT")
    }

    fn rollback(&self) -> Result<()> {
        self.execute("ROLLBACK")
    }

    fn set_durable(&self, on: bool) -> Result<()> {
        self.execute(match on {
            true => "PRAGMA synchronous = FULL",
            false => "PRAGMA synchronous = NORMAL",
        })
    }

    fn begin_read(&self) -> Result<()> {
        self.execute("BEGIN; SELECT count(*) FROM position")
    }

    fn end_read(&self) -> Result<()> {
        self.execute("COMMIT")
    }

    fn identity(&self) -> Result<Option<(Role, Option<DatabaseId>)>> {
        self.connection
            .query_row("SELECT role, database FROM identity", [], |row| {
                let role: String = row.get(0)?;
                let role = if role == "primary" {
                    Role::Primary
                } else {
                    Role::Replica
                };
                Ok((role, row.get::<_, Option<[u8; 16]>>(1)?.map(DatabaseId)))
            })
            .optional()
            .during("read the state store")
    }

    fn set_identity(&self, role: Role, database: Option<DatabaseId>) -> Result<()> {
        self.change(
            "REPLACE INTO identity (one, role, database) VALUES (1, ?1, ?2)",
            params![role.word(), database.map(|id| id.0)],
        )
    }

    fn state(&self) -> Result<Option<State>> {
        let sql = "SELECT lsn, id, database_size, content, page_size, anchor FROM position";
        let row = self
            .connection
            .query_row(sql, [], |row| {
                let anchor: Option<[u8; 20]> = row.get(5)?;
                Ok((
                    position(row)?,
                    row.get(2)?,
                    content(row)?,
                    row.get(4)?,
                    anchor,
                ))
            })
            .optional()
            .during("read the state store")?;
        row.map(|(position, database_size, content, page_size, anchor)| {
            let page_size = PageSize::new(page_size)?;
            let anchor = anchor.map(Anchor::from_bytes);
            Ok(State {
                position,
                page_size,
                database_size,
                content,
                anchor,
            })
        })
        .transpose()
    }

    fn set_state(&self, state: &State) -> Result<()> {
        self.change(
            "REPLACE INTO position (one, lsn, id, page_size, database_size, content, anchor)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                state.position.lsn.0,
                state.position.id.0,
                state.page_size.get(),
                state.database_size,
                state.content.to_bytes(),
                state.anchor.map(|anchor| anchor.to_bytes()),
            ],
        )
    }

    fn fingerprint(&self) -> Result<Option<(Position, Fingerprint)>> {
        self.connection
            .query_row("SELECT lsn, id, file FROM fingerprint", [], |row| {
                Ok((position(row)?, Fingerprint(row.get(2)?)))
            })
            .optional()
            .during("read the state store")
    }

    fn set_fingerprint(&self, position: Position, file: &Fingerprint) -> Result<()> {
        self.change(
            "REPLACE INTO fingerprint (one, lsn, id, file) VALUES (1, ?1, ?2, ?3)",
            params![position.lsn.0, position.id.0, file.0],
        )
    }

    fn peer(&self) -> Result<Option<PeerId>> {
        self.connection
            .query_row("SELECT id FROM peer", [], |row| row.get(0).map(PeerId))
            .optional()
            .during("read the state store")
    }

    fn set_peer(&self, peer: PeerId) -> Result<()> {
        self.change("REPLACE INTO peer (one, id) VALUES (1, ?1)", [peer.0])
    }

    fn intent(&self) -> Result<Option<Intent>> {
        self.connection
            .query_row(
                "SELECT lsn, id, database_size, content, digest FROM intent",
                [],
                |row| {
                    Ok(Intent {
                        position: position(row)?,
                        database_size: row.get(2)?,
                        content: content(row)?,
                        digest: TransactionDigest(row.get(4)?),
                    })
                },
            )
            .optional()
            .during("read the state store")
    }

    fn set_intent(&self, intent: &Intent) -> Result<()> {
        self.change(
            "REPLACE INTO intent (one, lsn, id, database_size, content, digest)
             VALUES (1, ?1, ?2, ?3, ?4, ?5)",
            params![
                intent.position.lsn.0,
                intent.position.id.0,
                intent.database_size,
                intent.content.to_bytes(),
                intent.digest.0,
            ],
        )
    }

    fn clear_intent(&self) -> Result<()> {
        self.change("DELETE FROM intent", [])
    }

    fn progress(&self) -> Result<Option<Progress>> {
        let row = self
            .connection
            .query_row(
                "SELECT lsn, id, page_size, after FROM bootstrap",
                [],
                |row| Ok((position(row)?, row.get(2)?, row.get(3)?)),
            )
            .optional()
            .during("read the state store")?;
        row.map(|(first, page_size, after)| {
            Ok(Progress {
                first,
                page_size: PageSize::new(page_size)?,
                after,
            })
        })
        .transpose()
    }

    fn set_progress(&self, progress: &Progress) -> Result<()> {
        self.change(
            "REPLACE INTO bootstrap (one, lsn, id, page_size, after) VALUES (1, ?1, ?2, ?3, ?4)",
            params![
                progress.first.lsn.0,
                progress.first.id.0,
                progress.page_size.get(),
                progress.after
            ],
        )
    }

    fn clear_content(&self) -> Result<()> {
        self.execute("DELETE FROM position; DELETE FROM intent; DELETE FROM bootstrap;")?;
        self.clear_local()
    }

    fn clear_progress(&self) -> Result<()> {
        self.change("DELETE FROM bootstrap", [])
    }

    fn settings(&self) -> Result<Vec<(String, String)>> {
        self.rows("SELECT name, value FROM settings", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    fn set_setting(&self, name: &str, value: &str) -> Result<()> {
        self.change(
            "REPLACE INTO settings (name, value) VALUES (?1, ?2)",
            [name, value],
        )
    }

    fn clear_history(&self) -> Result<()> {
        self.execute(
            "DELETE FROM pages; DELETE FROM history; DELETE FROM gaps; DELETE FROM position;",
        )
    }

    fn page_hash(&self, page: PageNumber) -> Result<Option<PageHash>> {
        self.connection
            .prepare_cached("SELECT hash FROM pages WHERE page = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([page.get()], |row| row.get(0))
                    .optional()
            })
            .map(|hash| hash.map(PageHash::from_bytes))
            .during("read the page map")
    }

    fn page_version(&self, page: PageNumber) -> Result<Option<(Lsn, PageHash)>> {
        self.connection
            .prepare_cached("SELECT lsn, hash FROM pages WHERE page = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([page.get()], |row| {
                        Ok((Lsn(row.get(0)?), PageHash::from_bytes(row.get(1)?)))
                    })
                    .optional()
            })
            .during("read the page map")
    }

    fn set_page(&self, page: PageNumber, lsn: Lsn, hash: PageHash) -> Result<()> {
        self.change(
            "REPLACE INTO pages (page, lsn, hash) VALUES (?1, ?2, ?3)",
            params![page.get(), lsn.0, hash.as_bytes()],
        )
    }

    fn cut_pages(&self, size: u32) -> Result<Vec<PageHash>> {
        let hashes = self.hashes_above(size)?;
        self.change("DELETE FROM pages WHERE page > ?1", [size])?;
        Ok(hashes)
    }

    fn pages_changed(
        &self,
        since: Option<Lsn>,
        after: u32,
        limit: usize,
    ) -> Result<Vec<PageNumber>> {
        let number = |row: &Row<'_>| row.get(0);
        let numbers: Vec<u32> = match since {
            // Sorting them for every part would take longer than looking at all pages once.
            Some(lsn) if self.many_changed(lsn)? => self.rows(
                "SELECT page FROM pages NOT INDEXED WHERE lsn > ?1 AND page > ?2
                 ORDER BY page LIMIT ?3",
                params![lsn.0, after, limit],
                number,
            )?,
            Some(lsn) => self.rows(
                "SELECT page FROM pages INDEXED BY pages_by_lsn WHERE lsn > ?1 AND page > ?2
                 ORDER BY page LIMIT ?3",
                params![lsn.0, after, limit],
                number,
            )?,
            None => self.rows(
                "SELECT page FROM pages WHERE page > ?1 ORDER BY page LIMIT ?2",
                params![after, limit],
                number,
            )?,
        };
        Ok(numbers.into_iter().filter_map(PageNumber::new).collect())
    }

    fn hashes_above(&self, size: u32) -> Result<Vec<PageHash>> {
        self.rows("SELECT hash FROM pages WHERE page > ?1", [size], |row| {
            row.get(0).map(PageHash::from_bytes)
        })
    }

    fn page_hashes(&self, after: u32, limit: usize) -> Result<Vec<(PageNumber, PageHash)>> {
        let rows: Vec<(u32, [u8; 16])> = self.rows(
            "SELECT page, hash FROM pages WHERE page > ?1 ORDER BY page LIMIT ?2",
            params![after, limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let hash = |(page, hash)| Some((PageNumber::new(page)?, PageHash::from_bytes(hash)));
        Ok(rows.into_iter().filter_map(hash).collect())
    }

    fn add_history(&self, position: Position) -> Result<()> {
        self.change(
            "INSERT INTO history (lsn, id) VALUES (?1, ?2)",
            params![position.lsn.0, position.id.0],
        )
    }

    fn in_history(&self, position: Position) -> Result<bool> {
        let id: Option<[u8; 16]> = self
            .connection
            .prepare_cached("SELECT id FROM history WHERE lsn = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([position.lsn.0], |row| row.get(0))
                    .optional()
            })
            .during("read the history")?;
        Ok(id == Some(position.id.0))
    }

    fn add_gap(&self, lsn: Lsn) -> Result<()> {
        self.change("REPLACE INTO gaps (lsn) VALUES (?1)", [lsn.0])
    }

    fn is_gap(&self, lsn: Lsn) -> Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM gaps WHERE lsn = ?1")
            .and_then(|mut statement| statement.exists([lsn.0]))
            .during("read the history")
    }
}

pub(super) fn position(row: &Row<'_>) -> rusqlite::Result<Position> {
    Ok(Position {
        lsn: Lsn(row.get("lsn")?),
        id: HistoryId(row.get("id")?),
    })
}

pub(super) fn content(row: &Row<'_>) -> rusqlite::Result<ContentDigest> {
    row.get("content").map(ContentDigest::from_bytes)
}

/// As [`prepare`]; where two processes enter WAL mode at once SQLite refuses one of them without
/// asking the busy handler.
fn prepare_patiently(connection: &mut Connection) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        match prepare(connection) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begun.elapsed() < BUSY_TIMEOUT =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// Sets the connection up and creates the schema in an empty file, or completes an older one, whoever
/// comes first.
fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
    let version = |connection: &Connection| {
        connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
    };
    if version(connection)? < SCHEMA_VERSION {
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        if version(&transaction)? == 0 {
            transaction.execute_batch(SCHEMA)?;
        }
        for (change, before) in CHANGES.iter().zip(1..) {
            if version(&transaction)? == before {
                transaction.execute_batch(change)?;
            }
        }
        transaction.commit()?;
    }
    Ok(())
}
