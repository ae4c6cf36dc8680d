//! Serving beside a writer that never rests, and what a server does about signals and about others who would take its
//! state away.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use harness::{
    Files, Host, Image, Shell, assert_intact, assert_same, free_port, json, side_file, uri,
    wait_for,
};

/// Autocommits of the writer that never rests, each of a page or more.
const COMMITS: u64 = 40_000;

/// How large a log may become beside it.
const LOG: u64 = 64 << 20;

/// How long it may take; a slow disk syncs a hundred times a second.
const LONGEST: Duration = Duration::from_secs(600);

/// A stock shell serves, and runs a script of autocommits on the same connection.
#[track_caller]
fn write_without_rest(synchronous: &str) {
    let files = Files::new();
    let script = files.path("script.sql");
    let mut text = format!("PRAGMA synchronous = {synchronous};\n");
    for number in 0..COMMITS {
        text += &format!(
            "UPDATE note SET text = 'commit {number}' WHERE id = {};\n",
            number * 7 % 1000 + 1
        );
    }
    std::fs::write(&script, text).expect("write");
    let mut shell = Shell::with_extension();
    // Not `open`, which sets a timeout.
    shell.sql(&format!(".open \"{}\"", uri(&files.app, "")));
    let answer = shell.sql("SELECT replica_serve('127.0.0.1:0')");
    let url = json(&answer, "$.url");
    let begun = Instant::now();
    shell.feed(&format!(".read \"{}\"\n.print finished", script.display()));
    let mut largest = 0;
    let mut finished = false;
    while !finished {
        let errors = shell.fed_errors();
        assert!(errors.is_empty(), "{:?}", &errors[..errors.len().min(5)]);
        assert!(shell.process().is_running(), "the shell is gone");
        assert!(begun.elapsed() < LONGEST, "not done in {LONGEST:?}");
        finished = shell.fed_output().iter().any(|line| line == "finished");
        let log = std::fs::metadata(side_file(&files.app, "-wal")).map_or(0, |file| file.len());
        largest = largest.max(log);
        std::thread::sleep(Duration::from_millis(2));
    }
    println!(
        "synchronous={synchronous}: {COMMITS} commits in {:.1} s, the log had at most {largest} bytes",
        begun.elapsed().as_secs_f64()
    );
    shell.settle();
    assert!(largest < LOG, "the log grew to {largest} bytes");
    let last = (COMMITS - 1) * 7 % 1000 + 1;
    let text = shell.sql(&format!("SELECT text FROM note WHERE id = {last}"));
    assert_eq!(text, format!("commit {}", COMMITS - 1));
    files.replica(&url);
    assert_same(&files.app, &files.copy, synchronous);
    assert_intact(&files.copy, synchronous);
}

#[test]
fn a_sole_writer_without_a_busy_timeout_is_not_locked_out_and_its_log_stays_small() {
    write_without_rest("FULL");
}

/// How long each sync of the disk takes, milliseconds.
const SLOW_SYNC: u64 = 1500;

/// One sync of the capture takes longer than a writer that does not sync needs for what the log may hold.
#[test]
fn the_log_stays_small_beside_a_writer_that_does_not_sync_on_a_slow_disk() {
    let files = Files::new();
    let mut host = Host::faulty();
    host.open("main", &uri(&files.app, ""));
    let sql = "PRAGMA synchronous = NORMAL; CREATE TABLE blob(id INTEGER PRIMARY KEY, bytes)";
    for sql in sql.split(';') {
        host.sql("main", sql);
    }
    let served = host.sql("main", "SELECT replica_serve('127.0.0.1:0')");
    let url = json(&served, "$.url");
    host.slow_syncs(SLOW_SYNC);
    let write = "INSERT INTO blob(bytes) VALUES (randomblob(200000))";
    host.repeat("main", write);
    let (begun, mut largest) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(20) {
        let log = std::fs::metadata(side_file(&files.app, "-wal")).map_or(0, |file| file.len());
        largest = largest.max(log);
        std::thread::sleep(Duration::from_millis(2));
    }
    let counted = host.stop();
    host.slow_syncs(0);
    println!("commits|last answer = {counted}; the log had at most {largest} bytes");
    assert!(largest < LOG, "the log grew to {largest} bytes");
    let mut replica = files.replica(&url);
    let rows = replica.sql("SELECT count(*) FROM blob");
    assert_eq!(Some(rows.as_str()), counted.split('|').next());
}

/// A log too long to be left alone, which an old reader keeps, and a writer in whose transaction it cannot be begun anew.
#[test]
fn replicas_do_not_wait_for_a_writer_that_keeps_its_transaction_open() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut replica = files.replica(primary.url());
    let mut reader = Host::plain_python();
    reader.open("main", files.app.to_str().expect("UTF-8"));
    reader.sql("main", "BEGIN");
    reader.sql("main", "SELECT count(*) FROM note");
    let mut writer = Host::plain_python();
    writer.open("main", files.app.to_str().expect("UTF-8"));
    // 40 MiB in one transaction.
    writer.sql("main", "UPDATE note SET extra = randomblob(40000)");
    writer.sql("main", "BEGIN IMMEDIATE");
    replica.sync();
    // The server has noticed by then that the log is long.
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    let mut syncs = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        replica.sync();
        syncs += 1;
    }
    println!("{syncs} syncs in three seconds");
    // Thirty, where each waits for a tenth of a second; some thousand where none does.
    assert!(syncs > 100, "{syncs} syncs in three seconds");
    writer.sql("main", "COMMIT");
    reader.sql("main", "COMMIT");
    primary.sql("UPDATE note SET text = 'newer'");
    replica.sync();
    assert_same(&files.app, &files.copy, "in the end");
}

/// Who sees the port may send the signal, however early: it ends the wait and not the process.
#[test]
fn a_signal_as_soon_as_the_port_is_there_ends_the_wait_only() {
    let files = Files::new();
    let port = free_port();
    let mut shell = Shell::replica(&files.app, "");
    for wait in 0..25 {
        shell.feed(&format!(
            "SELECT replica_serve('127.0.0.1:{port}', '{{\"wait\": true}}')"
        ));
        // Without a pause: what is looked for is the moment right after.
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < LONGEST, "wait {wait}: no port");
        }
        shell.process().signal(libc::SIGTERM);
        let answer = shell.settle();
        assert!(answer.contains("http://"), "wait {wait}: {answer}");
    }
    assert_eq!(shell.sql("SELECT count(*) FROM note"), "1000");
}

#[test]
fn after_a_wait_that_a_signal_ended_the_next_signal_ends_the_process() {
    for round in 0..3 {
        let files = Files::new();
        let port = free_port();
        let mut shell = Shell::replica(&files.app, "");
        // Twice in one process: the second wait is ended by a signal, too.
        for wait in 0..2 {
            let context = format!("round {round}, wait {wait}");
            shell.feed(&format!(
                "SELECT replica_serve('127.0.0.1:{port}', '{{\"wait\": true}}')"
            ));
            wait_for("the port", || {
                std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            let copy = files.path(&format!("replica-{wait}.db"));
            let url = format!("sync_url=http://127.0.0.1:{port}/app");
            let mut replica = Shell::replica(&copy, &url);
            assert_eq!(
                replica.sql("SELECT count(*) FROM note"),
                "1000",
                "{context}"
            );
            shell.process().signal(libc::SIGTERM);
            let answer = shell.settle();
            assert!(answer.contains("http://"), "{context}: {answer}");
            assert_eq!(shell.sql("SELECT count(*) FROM note"), "1000", "{context}");
        }
        shell.process().signal(libc::SIGTERM);
        let status = shell.process().wait();
        println!("round {round}: the shell ended with {status}");
        assert_eq!(status.signal(), Some(libc::SIGTERM), "{status}");
        assert_intact(&files.app, "after the signals");
    }
}

#[test]
fn a_database_that_another_process_serves_is_not_forgotten() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut replica = files.replica(primary.url());
    let position = primary.shell().position();
    let forget = format!("SELECT replica_forget('{}')", files.app.display());
    let content = Image::read(&files.app);
    let mut host = Host::python();
    host.refused("memory", &forget);
    let reason = host.sql("memory", "SELECT replica_last_error()");
    assert!(reason.contains("another process"), "{reason}");
    for suffix in ["-replica", "-replica-lock"] {
        assert!(side_file(&files.app, suffix).exists(), "{suffix} is gone");
    }
    assert!(content == Image::read(&files.app), "the content changed");
    assert_eq!(primary.shell().position(), position);
    primary.sql("INSERT INTO note VALUES (2000, 'not forgotten', NULL)");
    replica.sync();
    assert_same(&files.app, &files.copy, "after the refusal");
    // Nobody serves it any more: it can be forgotten.
    primary.close();
    host.sql("memory", &forget);
    assert!(!side_file(&files.app, "-replica").exists());
}
