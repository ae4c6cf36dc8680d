//! Plain or encrypted, and what that changes for a host and for whoever reads the files back.
use crate::content::{Content, Source, content};
use crate::host::Host;
use rusqlite::Connection;
use std::path::Path;

/// How the databases of a campaign lie on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storage {
    Plain,
    /// Encrypted, at both ends where there are two.
    Sealed,
}

impl Storage {
    /// What the URI of a database says of it.
    pub fn parameter(self) -> &'static str {
        match self {
            Storage::Plain => "",
            Storage::Sealed => {
                "&encryption_key=hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
            }
        }
    }

    /// What the name of a campaign begins with.
    pub fn title(self) -> &'static str {
        match self {
            Storage::Plain => "",
            Storage::Sealed => "sealed ",
        }
    }

    /// How many images to draw where plain files get so many. Their engine is the same: what is sought
    /// in encrypted ones is what their layer adds, and that is in every transaction.
    pub fn images(self, plain: usize) -> usize {
        match self {
            Storage::Plain => plain,
            Storage::Sealed => plain / 4,
        }
    }

    /// A database without our state beside it: the names it has, its log's and its journal's.
    pub fn files(self, database: &str) -> [String; 3] {
        let suffixes = match self {
            Storage::Plain => ["", "-wal", "-journal"],
            Storage::Sealed => ["", "-swal", "-sjournal"],
        };
        suffixes.map(|suffix| format!("{database}{suffix}"))
    }

    /// Reads a database after recovery: a plain one as SQLite without the extension does.
    pub fn read<T>(
        self,
        database: &Path,
        read: impl FnOnce(&mut dyn Source) -> Result<T, String>,
    ) -> Result<T, String> {
        match self {
            Storage::Plain => {
                let opened = Connection::open(database).map_err(|e| format!("open: {e}"));
                read(&mut opened?)
            }
            Storage::Sealed => {
                let mut host = Host::extended(None)?;
                host.open(database, self, None)?;
                read(&mut host)
            }
        }
    }

    /// The content after recovery, which must be sound.
    pub fn recovered(self, database: &Path) -> Result<Content, String> {
        self.read(database, |source| {
            let found = source.lines("PRAGMA integrity_check")?;
            if found != ["ok"] {
                return Err(format!("integrity_check: {}", found.join(" ")));
            }
            if self == Storage::Sealed {
                // Reads every page, free ones too.
                let copy = database.with_extension("copy");
                source.lines(&format!(".backup '{}'", copy.display()))?;
            }
            content(source)
        })
    }
}
