//! The two files most tests are about, in a directory of their own.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::primary::Primary;
use crate::shell::Shell;

/// A primary's file with notes in it, and the place of a replica.
pub struct Files {
    /// Where both lie.
    pub directory: TempDir,
    /// The primary's file, `app.db`.
    pub app: PathBuf,
    /// The replica's file, `replica.db`; not there yet.
    pub copy: PathBuf,
}

impl Files {
    /// A new directory with `app.db` of about 1.2 MB.
    pub fn new() -> Files {
        let directory = crate::directory();
        let app = directory.path().join("app.db");
        let copy = directory.path().join("replica.db");
        notes(&app);
        Files {
            directory,
            app,
            copy,
        }
    }

    /// A file in the same directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A primary that serves `app.db`.
    #[track_caller]
    pub fn primary(&self) -> Primary {
        Primary::start(&self.app)
    }

    /// A shell that follows `url` in `replica.db`, synced once.
    #[track_caller]
    pub fn replica(&self, url: &str) -> Shell {
        let mut shell = Shell::replica(&self.copy, &format!("sync_url={url}"));
        shell.sync();
        shell
    }
}

impl Default for Files {
    fn default() -> Files {
        Files::new()
    }
}

/// A database in WAL mode with 1,000 notes that cannot be compressed, made by plain SQLite.
pub fn notes(path: &Path) {
    crate::image::create(path)
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT NOT NULL, extra BLOB);
             WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < 1000)
               INSERT INTO note SELECT n, 'note ' || n, randomblob(1000) FROM counter;",
        )
        .expect("notes");
}
