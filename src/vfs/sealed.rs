//! The engine's own files of an encrypted database: what it reads and writes is in the clear, what
//! lies on disk is not.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::base::BaseVfs;
use super::files::OwnFile;
use crate::crypt::blocks::SealedBlocks;
use crate::crypt::database::SealedDatabase;
use crate::crypt::header::{Found, Header};
use crate::crypt::key::Keys;
use crate::crypt::log::{Damage, SealedLog};
use crate::database::host::Spool;
use crate::error::{Error, Result};
use crate::wal::LogFile;
use crate::wal::frame::LOG_HEADER_BYTES;

/// Bytes of a block of a file that nobody opens again.
pub const SCRATCH_BLOCK: usize = 4096;

/// Why a file beside an encrypted database is refused.
fn foreign(path: &str) -> Error {
    Error::NotADatabase(format!(
        "{path} is not encrypted with the key of its database"
    ))
}

/// The database file, or one that is to become it.
pub struct SealedContent {
    file: Arc<OwnFile>,
    sealed: Mutex<SealedDatabase>,
}

impl SealedContent {
    /// The content of an open file that has a header.
    pub fn of(file: Arc<OwnFile>, keys: Arc<Keys>) -> Result<Self> {
        match Header::find(file.raw())? {
            Found::Sealed(header) if keys.own(&header) => Ok(Self {
                file,
                sealed: Mutex::new(SealedDatabase::new(keys, *header)),
            }),
            _ => Err(foreign(file.path())),
        }
    }

    /// A spool; an empty one, or one that an earlier attempt under other keys has left, begins
    /// with a new header.
    pub fn spool(vfs: BaseVfs, path: &Path, keys: Arc<Keys>) -> Result<Self> {
        let file = Arc::new(OwnFile::create(vfs, path)?);
        let own = match Header::find(file.raw()) {
            Ok(Found::Sealed(header)) => keys.own(&header),
            Ok(_) | Err(Error::Tampered(_)) => false,
            Err(error) => return Err(error),
        };
        if !own {
            file.truncate(0)?;
            keys.new_header(None)?.create(file.raw())?;
        }
        Self::of(file, keys)
    }

    /// Has an error say which file it is about.
    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.about(Path::new(self.file.path())))
    }

    /// Id of the file and size of its pages, for its log.
    fn log(&self, keys: Arc<Keys>) -> Result<SealedLog> {
        let sealed = self.sealed.lock();
        let size = sealed
            .page_size()
            .ok_or_else(|| Error::Corrupt(format!("{} is empty", self.file.path())))?;
        let header = sealed.header();
        Ok(SealedLog::new(keys, header.id(), size, header.backfill()))
    }
}

impl LogFile for SealedContent {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let read = self.sealed.lock().read(self.file.raw(), buffer, offset);
        self.named(read)
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let written = self.sealed.lock().write(self.file.raw(), data, offset);
        self.named(written)
    }

    fn sync(&self) -> Result<()> {
        let mut sealed = self.sealed.lock();
        sealed.before_sync(self.file.raw())?;
        LogFile::sync(&*self.file)?;
        sealed.after_sync(self.file.raw())
    }

    fn size(&self) -> Result<u64> {
        let size = self.sealed.lock().size(self.file.raw());
        self.named(size)
    }
}

impl Spool for SealedContent {
    fn truncate(&self, size: u64) -> Result<()> {
        self.sealed.lock().truncate(self.file.raw(), size)
    }
}

/// The log of an encrypted database. Others write to it between any two calls.
pub struct SealedOwnLog {
    file: OwnFile,
    sealed: Mutex<SealedLog>,
}

impl SealedOwnLog {
    /// The log of `content`.
    pub fn open(
        vfs: BaseVfs,
        path: &Path,
        content: &SealedContent,
        keys: Arc<Keys>,
    ) -> Result<Self> {
        Ok(Self {
            file: OwnFile::open_log(vfs, path, true)?,
            sealed: Mutex::new(content.log(keys)?),
        })
    }
}

impl LogFile for SealedOwnLog {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut sealed = self.sealed.lock();
        sealed.forget();
        // A header that was torn when power failed is none. No frame opens behind it.
        let damage = match offset + buffer.len() as u64 <= LOG_HEADER_BYTES as u64 {
            true => Damage::EndsTheLog,
            false => Damage::IsAnError,
        };
        let read = sealed.read(self.file.raw(), buffer, offset, damage);
        read.map_err(|error| error.about(Path::new(self.file.path())))
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut sealed = self.sealed.lock();
        sealed.forget();
        sealed.end_transaction();
        sealed.write(self.file.raw(), data, offset)?;
        sealed.flush(self.file.raw())
    }

    fn sync(&self) -> Result<()> {
        LogFile::sync(&self.file)
    }

    fn size(&self) -> Result<u64> {
        self.sealed.lock().size(self.file.raw(), Damage::IsAnError)
    }
}

/// A file that nobody opens again.
pub struct SealedScratch {
    file: OwnFile,
    sealed: Mutex<SealedBlocks>,
}

impl SealedScratch {
    /// Over a new file.
    pub fn new(file: OwnFile, keys: Arc<Keys>, id: [u8; 16]) -> Self {
        Self {
            file,
            sealed: Mutex::new(SealedBlocks::new(keys, id, SCRATCH_BLOCK)),
        }
    }
}

impl LogFile for SealedScratch {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.sealed.lock().read(self.file.raw(), buffer, offset)
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        self.sealed.lock().write(self.file.raw(), data, offset)
    }

    fn sync(&self) -> Result<()> {
        LogFile::sync(&self.file)
    }

    fn size(&self) -> Result<u64> {
        self.sealed.lock().size(self.file.raw())
    }
}

impl Spool for SealedScratch {
    fn truncate(&self, size: u64) -> Result<()> {
        self.sealed.lock().truncate(self.file.raw(), size)
    }
}
