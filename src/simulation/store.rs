//! The state store in memory, as durable as `Store` promises.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::process::Process;
use super::random::Random;
use crate::database::fingerprint::Fingerprint;
use crate::database::offline::{Base, Outgoing, Rebased};
use crate::database::store::{Intent, Progress, Role, State, Store};
use crate::database::tokens::{Scope, TokenRecord, TokenStore};
use crate::error::{Error, Result};
use crate::merge::Conflict;
use crate::page::{PageHash, PageNumber};
use crate::planted::{self, Bug};
use crate::position::{DatabaseId, HistoryId, Lsn, Position};
use crate::wire::PeerId;

/// How long a writer waits for another one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// What is remembered.
#[derive(Clone, Default)]
pub(super) struct Content {
    identity: Option<(Role, Option<DatabaseId>)>,
    pub(super) state: Option<State>,
    intent: Option<Intent>,
    progress: Option<Progress>,
    settings: BTreeMap<String, String>,
    pages: BTreeMap<u32, (Lsn, PageHash)>,
    history: BTreeMap<u64, HistoryId>,
    gaps: BTreeSet<u64>,
    fingerprint: Option<(Position, Fingerprint)>,
    peer: Option<PeerId>,
    pub(super) offline: bool,
    pub(super) retired: u32,
    pub(super) base: Option<Base>,
    pub(super) dirty: BTreeMap<(u8, u32), Arc<Vec<u8>>>,
    pub(super) outgoing: Option<Outgoing>,
    pub(super) rebased: Option<Rebased>,
    pub(super) conflicts: Arc<Vec<Conflict>>,
}

/// The file: its newest content, and those before it that a power loss may bring back.
#[derive(Default)]
pub(super) struct StoreFile {
    /// The first one is durable; each later one was committed without a sync.
    versions: Vec<Arc<Content>>,
    /// The process that has begun to write.
    writer: Option<u64>,
}

impl StoreFile {
    /// The newest content.
    pub(super) fn newest(&self) -> Arc<Content> {
        self.versions.last().cloned().unwrap_or_default()
    }

    fn commit(&mut self, content: Content, durable: bool) {
        if durable {
            self.versions.clear();
        }
        self.versions.push(Arc::new(content));
    }

    /// A process ends: what it had begun to write is gone.
    pub(super) fn end_process(&mut self, process: u64) {
        self.writer = self.writer.filter(|writer| *writer != process);
    }

    /// Some of the newest commits may be lost.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        if !self.versions.is_empty() {
            let kept = random.below(self.versions.len() as u64) as usize;
            self.versions = vec![Arc::clone(&self.versions[kept])];
        }
    }
}

/// An open store.
pub(super) struct SimulatedStore {
    process: Process,
    path: PathBuf,
    durable: Cell<bool>,
    /// The transaction that is under way.
    writing: RefCell<Option<Content>>,
    /// What a read has fixed.
    reading: RefCell<Option<Arc<Content>>>,
}

impl SimulatedStore {
    /// Opens the store of the database at `path`, or makes it.
    pub(super) fn open(process: &Process, path: &Path) -> Result<Self> {
        process.step("open store")?;
        process.machine(|machine| {
            let store = machine.stores.entry(path.to_owned()).or_default();
            if store.versions.is_empty() {
                store.commit(Content::default(), true);
            }
        });
        Ok(Self {
            process: process.clone(),
            path: path.to_owned(),
            durable: Cell::new(true),
            writing: RefCell::default(),
            reading: RefCell::default(),
        })
    }

    fn file<T>(&self, work: impl FnOnce(&mut StoreFile) -> T) -> T {
        self.process
            .machine(|machine| work(machine.stores.entry(self.path.clone()).or_default()))
    }

    pub(super) fn read<T>(&self, work: impl FnOnce(&Content) -> T) -> Result<T> {
        self.process.step("read store")?;
        if let Some(content) = &*self.writing.borrow() {
            return Ok(work(content));
        }
        if let Some(content) = &*self.reading.borrow() {
            return Ok(work(content));
        }
        Ok(work(&self.file(|file| file.newest())))
    }

    /// Becomes the writer; waits for another one.
    fn take(&self) -> Result<()> {
        for _ in 0..BUSY_TIMEOUT.as_millis() / 5 {
            let id = self.process.id();
            let taken = self.file(|file| match file.writer {
                None => {
                    file.writer = Some(id);
                    true
                }
                Some(_) => false,
            });
            if taken {
                return Ok(());
            }
            self.process.sleep(Duration::from_millis(5))?;
        }
        Err(Error::Busy("the state store is locked".to_owned()))
    }

    pub(super) fn change(&self, what: &'static str, work: impl FnOnce(&mut Content)) -> Result<()> {
        if let Some(content) = &mut *self.writing.borrow_mut() {
            work(content);
            return Ok(());
        }
        self.process.step(what)?;
        self.take()?;
        let durable = self.durable.get();
        self.file(|file| {
            let mut content = (*file.newest()).clone();
            work(&mut content);
            file.commit(content, durable);
            file.writer = None;
        });
        Ok(())
    }
}

impl Drop for SimulatedStore {
    fn drop(&mut self) {
        if self.writing.borrow().is_some() && !self.process.is_dead() {
            self.file(|file| file.writer = None);
        }
    }
}

impl Store for SimulatedStore {
    fn begin(&self) -> Result<()> {
        self.process.step("begin store")?;
        self.take()?;
        let newest = self.file(|file| file.newest());
        *self.writing.borrow_mut() = Some((*newest).clone());
        Ok(())
    }

    fn commit(&self) -> Result<()> {
        self.process.step("commit store")?;
        let content = self.writing.borrow_mut().take();
        let content = content.ok_or_else(|| Error::Internal("no transaction".to_owned()))?;
        let durable = self.durable.get();
        self.file(|file| {
            file.commit(content, durable);
            file.writer = None;
        });
        Ok(())
    }

    fn rollback(&self) -> Result<()> {
        if self.writing.borrow_mut().take().is_some() && !self.process.is_dead() {
            self.file(|file| file.writer = None);
        }
        Ok(())
    }

    fn set_durable(&self, on: bool) -> Result<()> {
        self.durable.set(on);
        Ok(())
    }

    fn begin_read(&self) -> Result<()> {
        self.process.step("begin read of store")?;
        *self.reading.borrow_mut() = Some(self.file(|file| file.newest()));
        Ok(())
    }

    fn end_read(&self) -> Result<()> {
        self.reading.borrow_mut().take();
        Ok(())
    }

    fn identity(&self) -> Result<Option<(Role, Option<DatabaseId>)>> {
        self.read(|content| content.identity)
    }

    fn set_identity(&self, role: Role, database: Option<DatabaseId>) -> Result<()> {
        self.change("set identity", |content| {
            content.identity = Some((role, database));
        })
    }

    fn state(&self) -> Result<Option<State>> {
        self.read(|content| content.state)
    }

    fn set_state(&self, state: &State) -> Result<()> {
        self.change("set state", |content| content.state = Some(*state))
    }

    fn fingerprint(&self) -> Result<Option<(Position, Fingerprint)>> {
        self.read(|content| content.fingerprint)
    }

    fn set_fingerprint(&self, position: Position, file: &Fingerprint) -> Result<()> {
        self.change("set fingerprint", |content| {
            content.fingerprint = Some((position, *file));
        })
    }

    fn peer(&self) -> Result<Option<PeerId>> {
        self.read(|content| content.peer)
    }

    fn set_peer(&self, peer: PeerId) -> Result<()> {
        self.change("set peer", |content| content.peer = Some(peer))
    }

    fn intent(&self) -> Result<Option<Intent>> {
        self.read(|content| content.intent)
    }

    fn set_intent(&self, intent: &Intent) -> Result<()> {
        if planted::is(Bug::ForgetTheIntent) {
            return Ok(());
        }
        self.change("set intent", |content| {
            content.intent = Some(*intent);
            if planted::is(Bug::RecordBeforePublish) {
                content.state = content.state.map(|state| State {
                    position: intent.position,
                    database_size: intent.database_size,
                    content: intent.content,
                    ..state
                });
            }
        })
    }

    fn clear_intent(&self) -> Result<()> {
        self.change("clear intent", |content| content.intent = None)
    }

    fn progress(&self) -> Result<Option<Progress>> {
        self.read(|content| content.progress)
    }

    fn set_progress(&self, progress: &Progress) -> Result<()> {
        self.change("set progress", |content| content.progress = Some(*progress))
    }

    fn clear_content(&self) -> Result<()> {
        self.change("clear content", |content| {
            content.state = None;
            content.intent = None;
            content.progress = None;
            content.clear_local();
        })
    }

    fn clear_progress(&self) -> Result<()> {
        self.change("clear progress", |content| content.progress = None)
    }

    fn settings(&self) -> Result<Vec<(String, String)>> {
        self.read(|content| content.settings.clone().into_iter().collect())
    }

    fn set_setting(&self, name: &str, value: &str) -> Result<()> {
        self.change("set setting", |content| {
            content.settings.insert(name.to_owned(), value.to_owned());
        })
    }

    fn clear_history(&self) -> Result<()> {
        self.change("clear history", |content| {
            content.pages.clear();
            content.history.clear();
            content.gaps.clear();
        })
    }

    fn page_hash(&self, page: PageNumber) -> Result<Option<PageHash>> {
        Ok(self.page_version(page)?.map(|(_, hash)| hash))
    }

    fn page_version(&self, page: PageNumber) -> Result<Option<(Lsn, PageHash)>> {
        self.read(|content| content.pages.get(&page.get()).copied())
    }

    fn set_page(&self, page: PageNumber, lsn: Lsn, hash: PageHash) -> Result<()> {
        self.change("set page", |content| {
            content.pages.insert(page.get(), (lsn, hash));
        })
    }

    fn cut_pages(&self, size: u32) -> Result<Vec<PageHash>> {
        let mut cut = BTreeMap::new();
        self.change("cut pages", |content| {
            cut = content.pages.split_off(&(size + 1));
        })?;
        Ok(cut.into_values().map(|(_, hash)| hash).collect())
    }

    fn pages_changed(
        &self,
        since: Option<Lsn>,
        after: u32,
        limit: usize,
    ) -> Result<Vec<PageNumber>> {
        self.read(|content| {
            let pages = content.pages.range(after + 1..);
            pages
                .filter(|(_, (lsn, _))| since.is_none_or(|since| *lsn > since))
                .filter_map(|(page, _)| PageNumber::new(*page))
                .take(limit)
                .collect()
        })
    }

    fn hashes_above(&self, size: u32) -> Result<Vec<PageHash>> {
        self.read(|content| {
            let pages = content.pages.range(size + 1..);
            pages.map(|(_, (_, hash))| *hash).collect()
        })
    }

    fn page_hashes(&self, after: u32, limit: usize) -> Result<Vec<(PageNumber, PageHash)>> {
        self.read(|content| {
            let pages = content.pages.range(after + 1..);
            pages
                .filter_map(|(page, (_, hash))| Some((PageNumber::new(*page)?, *hash)))
                .take(limit)
                .collect()
        })
    }

    fn add_history(&self, position: Position) -> Result<()> {
        self.change("add history", |content| {
            content.history.insert(position.lsn.0, position.id);
        })
    }

    fn in_history(&self, position: Position) -> Result<bool> {
        self.read(|content| content.history.get(&position.lsn.0) == Some(&position.id))
    }

    fn add_gap(&self, lsn: Lsn) -> Result<()> {
        self.change("add gap", |content| {
            content.gaps.insert(lsn.0);
        })?;
        let actor = self.process.actor();
        self.process.with(|state| {
            state.note(actor, || {
                format!("position {} stands for what nobody captured", lsn.0)
            });
            state.ledger.begin_history();
        });
        Ok(())
    }

    fn is_gap(&self, lsn: Lsn) -> Result<bool> {
        self.read(|content| content.gaps.contains(&lsn.0))
    }
}

impl TokenStore for SimulatedStore {
    fn add_token(&self, _: Scope, _: u64, _: u64, _: &dyn Fn(u64) -> blake3::Hash) -> Result<u64> {
        Err(Error::Misuse("there are no tokens here".to_owned()))
    }

    fn revoke_token(&self, _: u64) -> Result<bool> {
        Ok(false)
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>> {
        Ok(Vec::new())
    }
}
