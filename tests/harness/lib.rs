//! What the tests of `libreplica.so` share: real hosts as child processes, a byte-counting relay, page-for-page
//! comparison by plain SQLite, and workloads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use rusqlite::Connection;

pub mod bank;
pub mod certificates;
pub mod client;
pub mod encryption;
pub mod faulty;
pub mod files;
pub mod follower;
pub mod full;
pub mod hex;
pub mod host;
pub mod hrana;
pub mod image;
pub mod lists;
pub mod messages;
pub mod primary;
pub mod process;
pub mod relay;
pub mod shell;
pub mod workload;

pub use certificates::Certificates;
pub use client::{Client, Kind, Trouble};
use encryption::End;
pub use files::{Files, notes};
pub use follower::{Follower, News};
pub use host::{Failure, Host};
pub use hrana::Hrana;
pub use image::{Image, assert_intact, assert_same, side_file, side_files};
pub use primary::Primary;
pub use process::wait_for;
pub use relay::Relay;
pub use shell::Shell;

/// The extension under test: `REPLICA_SO`, else the build named by `REPLICA_BUILD` (`release`, the default, or `debug`).
pub fn library() -> PathBuf {
    let path = match std::env::var_os("REPLICA_SO") {
        Some(path) => PathBuf::from(path),
        None => {
            let build = std::env::var("REPLICA_BUILD").unwrap_or_else(|_| "release".to_string());
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../target")
                .join(build)
                .join("libreplica.so")
        }
    };
    path.canonicalize().unwrap_or_else(|error| {
        panic!(
            "{}: {error}. Run scripts/test.sh, which builds the extension first, or set REPLICA_SO",
            path.display()
        )
    })
}

/// An empty directory that is gone when the test ends, or stays where `REPLICA_KEEP` is set.
pub fn directory() -> tempfile::TempDir {
    let mut directory = tempfile::Builder::new()
        .prefix("replica-test-")
        .tempdir()
        .expect("temporary directory");
    if std::env::var_os("REPLICA_KEEP").is_some() {
        directory.disable_cleanup(true);
        println!("kept: {}", directory.path().display());
    }
    directory
}

/// `file:PATH?vfs=replica`, and `parameters` if there are any, and the key where the file is to be encrypted.
pub fn uri(path: &Path, parameters: &str) -> String {
    let end = match parameters.contains("sync_url=") {
        true => End::Replica,
        false => End::Primary,
    };
    let key = match parameters.contains("key") {
        true => None,
        false => encryption::key(path, end),
    };
    let path = path.to_str().expect("UTF-8 path");
    let separator = if parameters.is_empty() { "" } else { "&" };
    let key = key.map_or(String::new(), |key| format!("&encryption_key={key}"));
    format!("file:{path}?vfs=replica{separator}{parameters}{key}")
}

/// The member of a JSON text at `path` (`$.name`), as text; missing members fail the test.
#[track_caller]
pub fn json(text: &str, path: &str) -> String {
    let found: Option<String> = Connection::open_in_memory()
        .and_then(|connection| {
            connection.query_row(
                "SELECT CAST(json_extract(?1, ?2) AS TEXT)",
                [text, path],
                |row| row.get(0),
            )
        })
        .unwrap_or_else(|error| panic!("{path} in {text:?}: {error}"));
    found.unwrap_or_else(|| panic!("no {path} in {text}"))
}

/// A number in a JSON text.
#[track_caller]
pub fn number(text: &str, path: &str) -> u64 {
    let value = json(text, path);
    value
        .parse()
        .unwrap_or_else(|_| panic!("{path} in {text} is no count: {value}"))
}

/// The number of the transaction in a position, `lsn-id`.
#[track_caller]
pub fn lsn_of(position: &str) -> u64 {
    let (lsn, _) = position.split_once('-').expect("lsn-id");
    lsn.parse().expect("a number")
}

/// A port that is free, for servers that must come back on the same one; below the range from which the kernel chooses,
/// so that no other test is given it meanwhile.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 200) as u16 * 100;
    loop {
        let port = 10_000 + start + NEXT.fetch_add(1, Ordering::SeqCst) % 100;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The seed of a test's random choices: `REPLICA_SEED`, else the given one; printed, so that a failure can be repeated.
pub fn seed(test: &str, default: u64) -> u64 {
    let seed = std::env::var("REPLICA_SEED").ok().map_or(default, |text| {
        text.parse().expect("REPLICA_SEED is a number")
    });
    println!("{test}: seed {seed}");
    seed
}
