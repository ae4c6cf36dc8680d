//! The suites of following a primary on encrypted files: `REPLICA_TEST_ENCRYPTED` is `primary`, `replica` or `both`, and
//! says which of the files that a test makes through this harness are encrypted.

use std::io::Read;
use std::path::Path;

use crate::image::side_file;

/// The key of every encrypted file.
pub const KEY: &str = "hex:5ea1ed0001020304050607080910111213141516171819202122232425262728";

/// What an encrypted file begins with.
const MAGIC: &[u8; 16] = b"replica sealed\r\n";

/// The end of a test file that is or will be encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Written by its own hosts.
    Primary,
    /// Follows another one.
    Replica,
}

/// The key for the file at `path`: of one that is there its first bytes decide, of a new one the environment.
pub fn key(path: &Path, end: End) -> Option<&'static str> {
    let encrypted = std::env::var("REPLICA_TEST_ENCRYPTED").unwrap_or_default();
    if encrypted.is_empty() {
        return None;
    }
    let made = is_encrypted(path).or_else(|| is_encrypted(&side_file(path, "-replica")));
    let wanted = match end {
        End::Primary => encrypted != "replica",
        End::Replica => encrypted != "primary",
    };
    made.unwrap_or(wanted).then_some(KEY)
}

/// Whether a file is encrypted; `None` where there is nothing in it.
fn is_encrypted(path: &Path) -> Option<bool> {
    let mut start = [0; 16];
    let mut file = std::fs::File::open(path).ok()?;
    file.read_exact(&mut start).ok()?;
    Some(start == *MAGIC)
}

/// Whether files at this end are encrypted: what needs SQLite without the extension there is not to be had.
pub fn is_on(end: End) -> bool {
    key(Path::new(""), end).is_some()
}

/// How a host names a database at the primary's end that it opens as any other: by its path, and where it is encrypted
/// with the key.
pub fn name(path: &Path) -> String {
    match key(path, End::Primary) {
        Some(_) => crate::uri(path, ""),
        None => path.to_str().expect("UTF-8 path").to_string(),
    }
}

/// Where a byte of a page lies in the file.
pub fn place(path: &Path, page: u64, byte: u64) -> u64 {
    match is_encrypted(path) {
        Some(true) => 8192 + (page - 1) * 4136 + 40 + byte,
        _ => (page - 1) * 4096 + byte,
    }
}

/// The suffix of the log of the database at `path`.
pub fn log_suffix(path: &Path) -> &'static str {
    match is_encrypted(path) {
        Some(true) => "-swal",
        _ => "-wal",
    }
}
