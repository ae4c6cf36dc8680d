//! A super-journal of a transaction in which encrypted databases take part: SQLite writes and reads a
//! list of journals, what lies on disk is described in `crypt/super_journal.rs`.

use std::path::{Path, PathBuf};

use super::base::{BaseFile, BaseVfs};
use super::unlock;
use crate::crypt::{RawFile, raw, super_journal};
use crate::database::{keys, paths};
use crate::error::{Error, Result};

/// What SQLite appends to the name of a database for its rollback journal.
pub const JOURNAL: &str = "-journal";

/// No super-journal is longer: SQLite attaches 125 databases at most.
const MOST_BYTES: u64 = 1 << 26;

/// An open super-journal.
pub struct SuperFile {
    vfs: BaseVfs,
    path: String,
    /// As SQLite sees them, each with a zero byte behind it.
    names: Vec<u8>,
}

impl SuperFile {
    /// A new one. It lies in the clear as long as no encrypted database takes part.
    pub fn new(vfs: BaseVfs, path: String) -> Self {
        Self {
            vfs,
            path,
            names: Vec::new(),
        }
    }

    /// One that a crash has left; `None` where it is to be read as it is.
    pub fn left(vfs: BaseVfs, path: String, file: &BaseFile) -> Result<Option<Self>> {
        let size = file.size()?;
        if size > MOST_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; size as usize];
        let read = raw::read_all(file, &mut bytes, 0)?;
        let Some(names) = super_journal::decode(&path, &bytes[..read], &keys::all()) else {
            return Ok(None);
        };
        let file = Self { vfs, path, names };
        for database in file.databases() {
            if is_unopened(vfs, &database)? {
                return Ok(None);
            }
        }
        Ok(Some(file))
    }

    /// The databases whose journals are named.
    fn databases(&self) -> impl Iterator<Item = PathBuf> {
        self.names.split(|byte| *byte == 0).filter_map(|name| {
            Some(PathBuf::from(
                str::from_utf8(name).ok()?.strip_suffix(JOURNAL)?,
            ))
        })
    }

    /// Takes the next name.
    pub fn write(&mut self, file: &BaseFile, data: &[u8], offset: u64) -> Result<()> {
        if offset != self.names.len() as u64 {
            return Err(Error::Misuse("a super-journal is written in order".into()));
        }
        self.names.extend_from_slice(data);
        let mut sealed = Vec::new();
        for database in self.databases() {
            if let Some(keys) = keys::find(&database)
                && let Some(id) = unlock::file_id(self.vfs, &database)?
            {
                sealed.push((keys, id));
            }
        }
        if sealed.is_empty() {
            return RawFile::write(file, data, offset);
        }
        let sealed: Vec<_> = sealed.iter().map(|(keys, id)| (&**keys, *id)).collect();
        let bytes = super_journal::encode(&self.path, &self.names, &sealed)?;
        raw::write_all(file, &bytes, 0)
    }

    /// Reads from the names.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let there = usize::try_from(offset)
            .ok()
            .and_then(|at| self.names.get(at..));
        let there = there.unwrap_or_default();
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        count
    }

    /// Bytes of the names.
    pub fn size(&self) -> u64 {
        self.names.len() as u64
    }
}

/// Whether an encrypted database has a journal that this process cannot read, because it has not
/// opened the database yet.
fn is_unopened(vfs: BaseVfs, database: &Path) -> Result<bool> {
    Ok(paths::sealed_journal(database).exists()
        && keys::find(database).is_none()
        && unlock::file_id(vfs, database)?.is_some())
}
