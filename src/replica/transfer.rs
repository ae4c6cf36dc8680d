//! What a long transfer tells while it is under way: in `replica_status`, in the log, and on the
//! terminal of whoever waits for it.

use std::io::{IsTerminal, Write, stderr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::fetch::Watcher;
use super::follower::Replica;
use crate::database::clock::Stopwatch;
use crate::wire::Head;

/// What takes less tells nobody.
const SHORT: Duration = Duration::from_secs(1);

/// Between two lines of the log.
const LOG_APART: Duration = Duration::from_secs(10);

/// Between two states of the line on the terminal.
const LINE_APART: Duration = Duration::from_millis(100);

/// What a transfer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A replica is made.
    Bootstrap,
    /// It is brought up to date, or its pages are compared.
    Sync,
}

impl Kind {
    /// The word in `replica_status`.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Bootstrap => "bootstrap",
            Kind::Sync => "sync",
        }
    }
}

/// How far a transfer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reached {
    /// Which of all transfers of the process it is.
    id: u64,
    /// What it is for.
    pub kind: Kind,
    /// Pages so far, those that an interrupted bootstrap had fetched included.
    pub pages: u64,
    /// Pages there will be, where that is known.
    pub total: Option<u64>,
    /// Bytes received so far.
    pub bytes: u64,
}

/// A transfer that is under way, until dropped.
pub struct Transfer<'a> {
    replica: &'a Replica,
    id: u64,
    /// Pages that were there before.
    before: AtomicU64,
    /// In the background from the first page on: before that it may be waiting for something new.
    begun: OnceLock<Stopwatch>,
    /// Whether a statement waits for it, in front of a terminal.
    has_terminal: bool,
    is_shown: AtomicBool,
    /// When it was last told, since its begin: on the terminal, and in the log.
    told: Mutex<(Duration, Duration)>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Replica {
    /// How far the transfer is that is under way; `None` before it has brought anything.
    pub fn transfer(&self) -> Option<Reached> {
        let reached = *self.transfer.lock();
        reached.filter(|reached| reached.pages > 0 || reached.kind == Kind::Bootstrap)
    }

    /// Begins one; somebody `waits` for it, or it goes on in the background.
    pub(super) fn begin_transfer(&self, kind: Kind, waits: bool) -> Transfer<'_> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        *self.transfer.lock() = Some(Reached {
            id,
            kind,
            pages: 0,
            total: None,
            bytes: 0,
        });
        let transfer = Transfer {
            replica: self,
            id,
            before: AtomicU64::new(0),
            begun: OnceLock::new(),
            has_terminal: waits && self.settings().shows_progress() && stderr().is_terminal(),
            is_shown: AtomicBool::new(false),
            told: Mutex::default(),
        };
        if waits {
            transfer.elapsed();
        }
        transfer
    }
}

impl Transfer<'_> {
    /// So many pages are here already.
    pub fn resume(&self, pages: u32) {
        self.before.store(pages.into(), Ordering::Relaxed);
        self.update(|reached| reached.pages = pages.into());
    }

    /// `None` where another transfer of the same replica has begun since.
    fn update(&self, change: impl FnOnce(&mut Reached)) -> Option<Reached> {
        let mut transfer = self.replica.transfer.lock();
        let reached = transfer.as_mut().filter(|reached| reached.id == self.id)?;
        change(reached);
        Some(*reached)
    }

    fn elapsed(&self) -> Duration {
        let start = || Stopwatch::start(self.replica.host().clock());
        self.begun.get_or_init(start).elapsed()
    }

    fn tell(&self, reached: &Reached) {
        let time = self.elapsed();
        if time < SHORT {
            return;
        }
        let mut told = self.told.lock();
        if self.has_terminal && time >= told.0 + LINE_APART {
            told.0 = time;
            self.is_shown.store(true, Ordering::Relaxed);
            let name = self.replica.path().file_name().unwrap_or_default();
            let line = self.sentence(reached, time);
            // Whoever reads it may be gone.
            let _ = write!(stderr(), "\r{}: {line}\x1b[K", name.to_string_lossy());
        }
        if time >= told.1 + LOG_APART {
            told.1 = time;
            let path = self.replica.path().display();
            log::info!(target: "replica", "{path}: {}", self.sentence(reached, time));
        }
    }

    /// For example: `bootstrap: 1200 of 5000 pages (24 %), 3.1 MB, 1.5 MB/s, 6 s left`.
    fn sentence(&self, reached: &Reached, time: Duration) -> String {
        let seconds = time.as_secs_f64();
        let mut sentence = match reached.total {
            Some(total) => format!(
                "{}: {} of {total} pages ({} %)",
                reached.kind.word(),
                reached.pages,
                reached.pages * 100 / total.max(1)
            ),
            None => format!("{}: {} pages", reached.kind.word(), reached.pages),
        };
        let megabytes = reached.bytes as f64 / 1e6;
        sentence += &format!(", {megabytes:.1} MB, {:.1} MB/s", megabytes / seconds);
        let since = reached.pages - self.before.load(Ordering::Relaxed).min(reached.pages);
        if let (Some(total), 1..) = (reached.total, since) {
            let left = total.saturating_sub(reached.pages) as f64 * seconds / since as f64;
            sentence += &format!(", {left:.0} s left");
        }
        sentence
    }
}

impl Watcher for Transfer<'_> {
    fn received(&self, pages: usize, bytes: u64, whole: Option<&Head>) {
        let reached = self.update(|reached| {
            if let Some(head) = whole {
                let size = head.database_size;
                let lock_page = u32::from(head.page_size.lock_page().get() <= size);
                reached.total = Some(u64::from(size - lock_page));
            }
            reached.bytes = bytes;
            reached.pages += pages as u64;
            // What changed meanwhile travels once more.
            reached.pages = reached.pages.min(reached.total.unwrap_or(u64::MAX));
        });
        if let Some(reached) = reached {
            self.tell(&reached);
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        let mut transfer = self.replica.transfer.lock();
        let reached = transfer.take_if(|reached| reached.id == self.id);
        drop(transfer);
        if self.is_shown.load(Ordering::Relaxed) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
        let time = self.elapsed();
        if let Some(reached) = reached.filter(|reached| reached.pages > 0 && time >= SHORT) {
            let path = self.replica.path().display();
            log::info!(
                target: "replica",
                "{path}: {}: {} pages, {:.1} MB received in {:.1} s",
                reached.kind.word(),
                reached.pages,
                reached.bytes as f64 / 1e6,
                time.as_secs_f64()
            );
        }
    }
}
