//! What a database holds, page for page, as plain SQLite reads it through the write-ahead log.

use std::path::{Path, PathBuf};
use std::sync::Once;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, LoadExtensionGuard, OpenFlags};

use crate::encryption::{self, End, log_suffix};

/// All pages of a database at one snapshot.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// Reads the committed state by plain SQLite and leaves the log as it is.
    #[track_caller]
    pub fn read(path: &Path) -> Image {
        let connection = look(path);
        let data = connection
            .serialize(rusqlite::MAIN_DB)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        Image {
            bytes: data.to_vec(),
        }
    }

    /// The page size, from the database header.
    pub fn page_size(&self) -> usize {
        match u16::from_be_bytes([self.bytes[16], self.bytes[17]]) {
            1 => 65536,
            size => usize::from(size),
        }
    }

    /// The number of pages.
    pub fn pages(&self) -> usize {
        self.bytes.len() / self.page_size()
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The numbers of pages that are not the same in `other`; pages that only one of them has count.
    pub fn differing_pages(&self, other: &Image) -> Vec<usize> {
        let size = self.page_size();
        let pages = self.pages().max(other.bytes.len() / size);
        let page = |image: &Image, index: usize| -> Option<Vec<u8>> {
            image
                .bytes
                .get(index * size..(index + 1) * size)
                .map(<[u8]>::to_vec)
        };
        (0..pages)
            .filter(|&index| page(self, index) != page(other, index))
            .map(|index| index + 1)
            .collect()
    }
}

/// Opens by plain SQLite for reading; the close leaves the log where it is, even as the last one.
#[track_caller]
pub fn look(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let connection = open(path, flags);
    connection
        .busy_timeout(std::time::Duration::from_secs(20))
        .expect("busy timeout");
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .expect("no checkpoint on close");
    connection
}

/// Makes a database by plain SQLite (where it is to be encrypted, by the extension in this process).
#[track_caller]
pub fn create(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    open(path, flags)
}

#[track_caller]
fn open(path: &Path, flags: OpenFlags) -> Connection {
    let opened = match encryption::key(path, End::Primary) {
        None => Connection::open_with_flags(path, flags),
        Some(_) => {
            load_extension();
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(crate::uri(path, ""), flags)
        }
    };
    opened.unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
}

/// Loads the extension into this process, once: it reads what is encrypted.
fn load_extension() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        let connection = Connection::open_in_memory().expect("memory");
        // SAFETY: the library under test, which stays loaded.
        let loaded = unsafe {
            let _enabled = LoadExtensionGuard::new(&connection).expect("allowed");
            connection.load_extension(crate::library(), None::<&str>)
        };
        loaded.expect("the extension");
    });
}

/// Fails unless both files hold the same pages.
#[track_caller]
pub fn assert_same(primary: &Path, replica: &Path, context: &str) {
    let expected = Image::read(primary);
    let actual = Image::read(replica);
    if expected != actual {
        let pages = expected.differing_pages(&actual);
        panic!(
            "{context}: {} pages of {} bytes on the primary, {} pages on the replica; {} differ: {:?}",
            expected.pages(),
            expected.page_size(),
            actual.pages(),
            pages.len(),
            &pages[..pages.len().min(20)]
        );
    }
}

/// Fails unless `PRAGMA integrity_check` by plain SQLite says ok.
#[track_caller]
pub fn assert_intact(path: &Path, context: &str) {
    let answer: String = look(path)
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{context}: integrity_check: {error}"));
    assert_eq!(answer, "ok", "{context}: {}", path.display());
}

/// One value read by plain SQLite, as text.
#[track_caller]
pub fn value(path: &Path, sql: &str) -> String {
    let value: rusqlite::types::Value = look(path)
        .query_row(sql, [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{}: {sql}: {error}", path.display()));
    match value {
        rusqlite::types::Value::Null => String::new(),
        rusqlite::types::Value::Integer(number) => number.to_string(),
        rusqlite::types::Value::Real(number) => number.to_string(),
        rusqlite::types::Value::Text(text) => text,
        rusqlite::types::Value::Blob(bytes) => format!("{bytes:?}"),
    }
}

/// Copies a database that nobody has open, with its log, so that a look at it leaves the original as the crash left it.
#[track_caller]
pub fn copy_with_log(path: &Path, directory: &Path) -> PathBuf {
    let name = path.file_name().expect("file name");
    let copy = directory.join(name);
    std::fs::copy(path, &copy).expect("copy");
    let log = side_file(path, log_suffix(path));
    let log_copy = side_file(&copy, log_suffix(path));
    let _ = std::fs::remove_file(side_file(&copy, "-shm"));
    if log.exists() {
        std::fs::copy(log, log_copy).expect("copy");
    } else {
        let _ = std::fs::remove_file(log_copy);
    }
    copy
}

/// Copies a closed database with everything beside it.
#[track_caller]
pub fn copy_all(from: &Path, directory: &Path) {
    std::fs::create_dir_all(directory).expect("directory");
    let name = from.file_name().expect("name").to_str().expect("UTF-8");
    for file in side_files(from).into_iter().chain([name.to_string()]) {
        std::fs::copy(from.with_file_name(&file), directory.join(&file)).expect("copy");
    }
}

/// `path` with `suffix` appended to the file name.
pub fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a database and everything whose name begins with its name.
pub fn remove_database(path: &Path) {
    let name = path
        .file_name()
        .expect("file name")
        .to_str()
        .expect("UTF-8");
    for file in side_files(path) {
        std::fs::remove_file(path.with_file_name(file)).expect("remove");
    }
    if path.exists() {
        std::fs::remove_file(path).unwrap_or_else(|error| panic!("remove {name}: {error}"));
    }
}

/// The names of the files beside a database that begin with its name, sorted.
pub fn side_files(path: &Path) -> Vec<String> {
    let name = path
        .file_name()
        .expect("file name")
        .to_str()
        .expect("UTF-8");
    let mut files: Vec<String> = std::fs::read_dir(path.parent().expect("directory"))
        .expect("directory")
        .filter_map(|entry| entry.expect("entry").file_name().into_string().ok())
        .filter(|file| file.starts_with(name) && file != name)
        .collect();
    files.sort();
    files
}
