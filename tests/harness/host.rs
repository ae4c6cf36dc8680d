//! Hosts other than the shell, driven over their standard input: Debian's Python, and a bundled current SQLite.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::encryption::{self, End};
use crate::process::Process;
use crate::{hex, library, uri};

/// Debian's Python: the one whose sqlite3 module can load extensions.
pub const PYTHON: &str = "/usr/bin/python3";

/// The user without rights that every Unix has.
const NOBODY: u32 = 65534;

/// What a host reported instead of an answer.
#[derive(Debug)]
pub struct Failure {
    /// SQLite's extended result code; 0 when a watcher saw a broken state.
    pub code: i32,
    /// The message.
    pub message: String,
}

/// A running host.
pub struct Host {
    process: Process,
    looping: bool,
}

impl Host {
    /// Python without the extension, with the database at `path` open as `main` (with it, where that is encrypted).
    #[track_caller]
    pub fn plain_on(path: &Path) -> Host {
        let mut host = match encryption::key(path, End::Primary) {
            Some(_) => Host::python(),
            None => Host::plain_python(),
        };
        host.open("main", &encryption::name(path));
        host
    }

    /// Python without the extension.
    pub fn plain_python() -> Host {
        let mut command = Command::new(PYTHON);
        command.arg(script("host.py"));
        Host::spawn("plain Python", &mut command)
    }

    /// Python with the extension loaded.
    pub fn python() -> Host {
        let mut host = Host::plain_python();
        host.load();
        host
    }

    /// The bundled current SQLite without the extension.
    pub fn plain_bundled() -> Host {
        Host::spawn("plain bundled SQLite", &mut Command::new(bundled_host()))
    }

    /// The bundled current SQLite with the extension loaded.
    pub fn bundled() -> Host {
        let mut host = Host::plain_bundled();
        host.load();
        host
    }

    /// The bundled SQLite on a disk whose syncs can be slow, the extension loaded.
    pub fn faulty() -> Host {
        let mut host = Host::plain_bundled();
        host.done("faulty", &[]);
        host.load();
        host
    }

    /// From now on each sync of a file lasts so many milliseconds longer; only of [`faulty`](Host::faulty).
    pub fn slow_syncs(&mut self, milliseconds: u64) {
        self.done("slow-syncs", &[&milliseconds.to_string()]);
    }

    /// APSW from PyPI, which brings its own SQLite, with the extension loaded.
    pub fn apsw() -> Host {
        let mut command = Command::new(installed("apsw/bin/python3"));
        command.arg(script("host_apsw.py"));
        let mut host = Host::spawn("APSW", &mut command);
        host.load();
        host
    }

    /// better-sqlite3 from npm, which brings its own SQLite, with the extension loaded. It opens no URIs.
    pub fn node() -> Host {
        let mut command = Command::new("node");
        command.arg(script("host.js")).arg(installed("node"));
        let mut host = Host::spawn("better-sqlite3", &mut command);
        host.load();
        host
    }

    /// SQLite built with `SQLITE_THREADSAFE=0`, with the extension loaded.
    pub fn single_threaded() -> Host {
        let mut command = Command::new(env!("SINGLE_THREADED_HOST"));
        let mut host = Host::spawn("single-threaded SQLite", &mut command);
        host.load();
        host
    }

    /// Python with the extension loaded, as a user whom file permissions bind: another one where this is root. What it
    /// needs is copied to `directory`, which must be open to that user.
    pub fn bound_by_permissions(directory: &Path) -> Host {
        let script_copy = directory.join("host.py");
        let library_copy = directory.join("libreplica.so");
        std::fs::copy(script("host.py"), &script_copy).expect("copy");
        std::fs::copy(library(), &library_copy).expect("copy");
        let mut command = Command::new(PYTHON);
        command.arg(script_copy).current_dir("/");
        // SAFETY: only asks.
        if unsafe { libc::geteuid() } == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut host = Host::spawn("Python bound by permissions", &mut command);
        host.done("load", &[library_copy.to_str().expect("UTF-8 path")]);
        host
    }

    fn spawn(name: &str, command: &mut Command) -> Host {
        Host {
            process: Process::spawn(name, command),
            looping: false,
        }
    }

    fn load(&mut self) {
        let library = library();
        self.done("load", &[library.to_str().expect("UTF-8 path")]);
    }

    /// Opens a file name or URI as connection `slot`.
    pub fn try_open(&mut self, slot: &str, name: &str) -> Result<(), Failure> {
        self.ask("open", &[slot, name]).map(drop)
    }

    /// Opens a file name or URI as connection `slot`; must succeed.
    #[track_caller]
    pub fn open(&mut self, slot: &str, name: &str) {
        self.done("open", &[slot, name]);
    }

    /// Opens `file:PATH?vfs=replica&parameters` as connection `main`.
    #[track_caller]
    pub fn open_replica(&mut self, path: &Path, parameters: &str) {
        self.open("main", &uri(path, parameters));
        self.sql("main", "PRAGMA busy_timeout = 20000");
    }

    /// Closes connection `slot`.
    #[track_caller]
    pub fn close_connection(&mut self, slot: &str) {
        self.done("close", &[slot]);
    }

    /// Bundled SQLite only: leaves connection `slot` to an `atexit` handler of the process.
    #[track_caller]
    pub fn close_at_exit(&mut self, slot: &str) {
        self.done("close-at-exit", &[slot]);
    }

    /// Runs one statement; columns joined by `|`, rows by newlines.
    pub fn try_sql(&mut self, slot: &str, sql: &str) -> Result<String, Failure> {
        self.ask("sql", &[slot, sql])
    }

    /// Runs one statement that must succeed.
    #[track_caller]
    pub fn sql(&mut self, slot: &str, sql: &str) -> String {
        self.done("sql", &[slot, sql])
    }

    /// Runs one statement that must fail.
    #[track_caller]
    pub fn refused(&mut self, slot: &str, sql: &str) -> Failure {
        match self.try_sql(slot, sql) {
            Ok(answer) => panic!("{sql} must be refused, but answered: {answer}"),
            Err(failure) => failure,
        }
    }

    /// Opens connection `slot` and reads `sql`: one of the two must fail. When a refusal shows is SQLite's business.
    #[track_caller]
    pub fn refused_at_open_or(&mut self, slot: &str, name: &str, sql: &str) -> Failure {
        match self.try_open(slot, name) {
            Err(failure) => failure,
            Ok(()) => {
                let failure = self.refused(slot, sql);
                self.close_connection(slot);
                failure
            }
        }
    }

    /// Copies connection `from` over connection `to` by the backup API.
    pub fn backup(&mut self, from: &str, to: &str) -> Result<(), Failure> {
        self.ask("backup", &[from, to]).map(drop)
    }

    /// Python only: lets no file that this process writes grow beyond `bytes`, as on a full disk; `None` ends that.
    pub fn limit_files(&mut self, bytes: Option<u64>) {
        let bytes = bytes.map_or("none".to_string(), |bytes| bytes.to_string());
        self.done("limit", &[&bytes]);
    }

    /// The version of the SQLite library in this host.
    pub fn version(&mut self) -> String {
        self.done("version", &[])
    }

    /// Starts to read `query` over and over, each time twice in a transaction: its first column never goes back, its
    /// second is 1 for a whole state. Returns after the first read.
    #[track_caller]
    pub fn watch(&mut self, slot: &str, query: &str) {
        self.start("watch", &[slot, query]);
    }

    /// Starts to run `wal_checkpoint` in every mode in turn.
    #[track_caller]
    pub fn checkpoint(&mut self, slot: &str, pause_milliseconds: u32) {
        self.start("checkpoint", &[slot, &pause_milliseconds.to_string()]);
    }

    /// Starts to run one statement over and over.
    #[track_caller]
    pub fn repeat(&mut self, slot: &str, sql: &str) {
        self.start("repeat", &[slot, sql]);
    }

    /// The same with pauses: SQLite's busy handler polls, and of several writers that never rest one may wait for ever.
    #[track_caller]
    pub fn repeat_with_pauses(&mut self, slot: &str, sql: &str, milliseconds: u32) {
        self.start("repeat", &[slot, sql, &milliseconds.to_string()]);
    }

    /// Ends the running loop; what it counted, as numbers (and the last answer, of `repeat`), joined by `|`.
    #[track_caller]
    pub fn stop(&mut self) -> String {
        assert!(self.looping, "no loop was started");
        self.looping = false;
        self.process.write("stop\n");
        let name = self.process.name().to_string();
        self.answer("a loop")
            .unwrap_or_else(|failure| panic!("{name}: {failure:?}"))
    }

    /// Waits for the running loop to fail by itself.
    #[track_caller]
    pub fn stopped_by_itself(&mut self) -> Failure {
        self.looping = false;
        match self.answer("a loop that must fail") {
            Ok(answer) => panic!("the loop ended without being told: {answer}"),
            Err(failure) => failure,
        }
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn start(&mut self, command: &str, arguments: &[&str]) {
        self.send(command, arguments);
        let line = self.next(command);
        if line != "started" {
            let name = self.process.name().to_string();
            panic!("{name}: {command} {arguments:?}: {:?}", decode(&line));
        }
        self.looping = true;
    }

    #[track_caller]
    fn done(&mut self, command: &str, arguments: &[&str]) -> String {
        let name = self.process.name().to_string();
        self.ask(command, arguments).unwrap_or_else(|failure| {
            let reason = self
                .ask("sql", &["memory", "SELECT replica_last_error()"])
                .unwrap_or_default();
            panic!("{name}: {command} {arguments:?}: {failure:?}\nreplica_last_error: {reason}")
        })
    }

    fn ask(&mut self, command: &str, arguments: &[&str]) -> Result<String, Failure> {
        self.send(command, arguments);
        self.answer(&format!("{command} {arguments:?}"))
    }

    fn send(&mut self, command: &str, arguments: &[&str]) {
        let mut line = command.to_string();
        for argument in arguments {
            line.push(' ');
            line += &hex::encode(argument);
        }
        line.push('\n');
        self.process.write(&line);
    }

    fn answer(&mut self, doing: &str) -> Result<String, Failure> {
        let line = self.next(doing);
        decode(&line)
    }

    fn next(&mut self, doing: &str) -> String {
        self.process
            .read_until(doing, |_| true)
            .pop()
            .expect("one line")
    }
}

pub(crate) fn decode(line: &str) -> Result<String, Failure> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["ok", answer] => Ok(hex::decode(answer)),
        ["err", code, message] => Err(Failure {
            code: code.parse().expect("a number"),
            message: hex::decode(message),
        }),
        _ => panic!("a host said something else: {line}"),
    }
}

/// A script beside this file.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("harness")
        .join(name)
}

/// A host that `scripts/set-up.sh hosts` installs.
pub fn installed(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/hosts")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run scripts/set-up.sh hosts",
        path.display()
    );
    path
}

/// The `bundled-host` program of this crate: cargo builds it next to the directory of the running test.
pub(crate) fn bundled_host() -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let directory = test.parent().and_then(Path::parent).expect("target");
    directory.join("bundled-host")
}
