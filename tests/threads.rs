//! Programs with several threads: own connections, and one connection shared in serialized mode.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use harness::{Files, Shell, assert_intact, assert_same, library, uri};
use rusqlite::{Connection, ffi};

/// How long an answer takes beside a writer that never pauses, on a busy machine, is not what is tested here.
fn patient(url: &str) -> String {
    format!("sync_timeout=60&sync_url={url}")
}

const THREADS: usize = 6;
/// The primary writes as long as the threads have not synced so often.
const SYNCS: u64 = 40;
const MOST_ROUNDS: u64 = 20_000;

/// Loads the extension into this process.
fn load() {
    let loader = Connection::open_in_memory().expect("memory");
    // SAFETY: the library under test is an SQLite extension; running its code is the test.
    unsafe {
        loader.load_extension_enable().expect("allowed");
        loader
            .load_extension(library(), None::<&str>)
            .expect("loads");
    }
}

fn open(name: &str) -> Connection {
    let connection = Connection::open(name).expect("opens");
    connection
        .busy_timeout(std::time::Duration::from_secs(20))
        .expect("busy timeout");
    connection
}

/// Each round of the primary replaces every text in one transaction: a reader that sees two texts saw a torn state.
const CHECK: &str = "SELECT count(*), count(DISTINCT text), max(CAST(text AS INTEGER)) FROM note";

/// Tells all to end when a thread fails: the writer would wait for its syncs.
struct EndOnPanic<'a>(&'a AtomicBool);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Writes rounds until the threads have synced often enough, then tells them to end.
fn write_until(primary: &mut Shell, syncs: &AtomicU64, done: &AtomicBool) {
    let mut round = 0;
    while syncs.load(Ordering::SeqCst) < SYNCS
        && round < MOST_ROUNDS
        && !done.load(Ordering::SeqCst)
    {
        round += 1;
        write_round(primary, round);
    }
    done.store(true, Ordering::SeqCst);
    assert!(round < MOST_ROUNDS, "no thread gets to sync");
}

fn write_round(primary: &mut Shell, round: u64) {
    primary.sql(&format!("UPDATE note SET text = '{round}'"));
}

#[test]
fn threads_with_their_own_connections_read_and_sync() {
    load();
    let files = Files::new();
    let mut primary = files.primary();
    write_round(primary.shell(), 0);
    let name = uri(&files.copy, &patient(primary.url()));
    let done = AtomicBool::new(false);
    let (reads, syncs) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (name, done, reads, syncs) = (&name, &done, &reads, &syncs);
            scope.spawn(move || {
                let _end = EndOnPanic(done);
                // All of them open at once: one makes the replica, the others find it.
                let mut connection = open(name);
                let mut last = 0;
                let mut turn = 0u64;
                while !done.load(Ordering::SeqCst) {
                    turn += 1;
                    if index % 2 == 0 {
                        let _: String = connection
                            .query_row("SELECT replica_sync()", [], |row| row.get(0))
                            .expect("syncs");
                        syncs.fetch_add(1, Ordering::SeqCst);
                    }
                    let (count, texts, round): (u64, u64, u64) = connection
                        .query_row(CHECK, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                        .expect("reads");
                    assert_eq!((count, texts), (1000, 1), "thread {index}: a torn state");
                    assert!(round >= last, "thread {index}: from {last} back to {round}");
                    last = round;
                    reads.fetch_add(1, Ordering::SeqCst);
                    if turn.is_multiple_of(10) {
                        let _: String = connection
                            .query_row(
                                "SELECT group_concat(role || state) FROM replica_status",
                                [],
                                |row| row.get(0),
                            )
                            .expect("status");
                        // Opened and closed again while the others are at work.
                        connection = open(name);
                    }
                }
            });
        }
        write_until(primary.shell(), &syncs, &done);
    });
    println!("{reads:?} reads, {syncs:?} syncs");
    assert!(reads.into_inner() > 100, "the readers did not run");
    let last = open(&name);
    let _: String = last
        .query_row("SELECT replica_sync()", [], |row| row.get(0))
        .expect("syncs");
    assert_same(&files.app, &files.copy, "threads");
    drop(last);
    assert_intact(&files.copy, "threads");
}

/// One connection for all threads, which SQLite guards by its own mutex.
struct Shared(*mut ffi::sqlite3);

// SAFETY: the connection is opened with SQLITE_OPEN_FULLMUTEX.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn open(name: &str) -> Shared {
        let name = CString::new(name).expect("no NUL");
        let flags = ffi::SQLITE_OPEN_READWRITE
            | ffi::SQLITE_OPEN_CREATE
            | ffi::SQLITE_OPEN_URI
            | ffi::SQLITE_OPEN_FULLMUTEX;
        let mut db = std::ptr::null_mut();
        // SAFETY: name and pointer live across the call.
        let code = unsafe { ffi::sqlite3_open_v2(name.as_ptr(), &mut db, flags, std::ptr::null()) };
        assert_eq!(code, ffi::SQLITE_OK);
        Shared(db)
    }

    /// The one row of a statement, its columns joined by `|`.
    fn row(&self, sql: &str) -> Result<String, c_int> {
        unsafe extern "C" fn collect(
            out: *mut c_void,
            columns: c_int,
            values: *mut *mut c_char,
            _names: *mut *mut c_char,
        ) -> c_int {
            // SAFETY: `out` is the string below; SQLite passes `columns` values, which may be null.
            unsafe {
                let out = &mut *out.cast::<Vec<String>>();
                for index in 0..columns as usize {
                    let value = *values.add(index);
                    out.push(match value.is_null() {
                        true => String::new(),
                        false => CStr::from_ptr(value).to_string_lossy().into_owned(),
                    });
                }
            }
            0
        }
        let sql = CString::new(sql).expect("no NUL");
        let mut out: Vec<String> = Vec::new();
        // SAFETY: the connection is open; the callback's argument lives across the call.
        let code = unsafe {
            ffi::sqlite3_exec(
                self.0,
                sql.as_ptr(),
                Some(collect),
                (&raw mut out).cast(),
                std::ptr::null_mut(),
            )
        };
        match code {
            ffi::SQLITE_OK => Ok(out.join("|")),
            code => Err(code),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once, no statement is left.
        assert_eq!(unsafe { ffi::sqlite3_close(self.0) }, ffi::SQLITE_OK);
    }
}

#[test]
fn threads_with_one_shared_connection() {
    load();
    let files = Files::new();
    let mut primary = files.primary();
    write_round(primary.shell(), 0);
    let shared = Shared::open(&uri(&files.copy, &patient(primary.url())));
    let done = AtomicBool::new(false);
    let syncs = AtomicU64::new(0);
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (shared, done, syncs) = (&shared, &done, &syncs);
            scope.spawn(move || {
                let _end = EndOnPanic(done);
                while !done.load(Ordering::SeqCst) {
                    match index % 3 {
                        0 => {
                            shared.row("SELECT replica_sync()").expect("syncs");
                            syncs.fetch_add(1, Ordering::SeqCst);
                        }
                        1 => {
                            let row = shared.row(CHECK).expect("reads");
                            assert!(row.starts_with("1000|1|"), "a torn state: {row}");
                        }
                        _ => {
                            let code = shared
                                .row("DELETE FROM note WHERE refused()")
                                .expect_err("no such function");
                            assert_eq!(code & 0xff, ffi::SQLITE_ERROR);
                        }
                    }
                }
            });
        }
        write_until(primary.shell(), &syncs, &done);
    });
    shared.row("SELECT replica_sync()").expect("syncs");
    assert_same(&files.app, &files.copy, "one connection");
    assert_eq!(
        shared.row("SELECT state FROM replica_status"),
        Ok("ok".to_string())
    );
}

/// The primary's own program writes on several threads while its server answers on others.
#[test]
fn threads_that_write_to_a_served_database() {
    load();
    let files = Files::new();
    let name = uri(&files.app, "");
    let serving = open(&name);
    let answer: String = serving
        .query_row("SELECT replica_serve('127.0.0.1:0')", [], |row| row.get(0))
        .expect("serves");
    let mut shell = files.replica(&harness::json(&answer, "$.url"));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for index in 0..THREADS as i64 {
            let (name, done) = (&name, &done);
            scope.spawn(move || {
                let _end = EndOnPanic(done);
                let connection = open(name);
                for round in 0..50 {
                    connection
                        .execute(
                            "INSERT INTO note VALUES (?1, 'thread', randomblob(500))",
                            [10_000 * (index + 1) + round],
                        )
                        .expect("writes");
                }
                done.store(true, Ordering::SeqCst);
            });
        }
        while !done.load(Ordering::SeqCst) {
            shell.sync();
            assert_eq!(shell.sql("PRAGMA quick_check"), "ok");
        }
    });
    shell.sync();
    assert_eq!(shell.sql("SELECT count(*) FROM note"), "1300");
    assert_same(&files.app, &files.copy, "written by threads");
    let stopped: String = serving
        .query_row("SELECT replica_stop()", [], |row| row.get(0))
        .expect("stops");
    assert!(stopped.contains("app.db"));
}
