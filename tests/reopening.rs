//! What a database is known to hold when it is opened again: without reading it, where nobody has written to it since it
//! was closed, and by reading all of it where somebody may have.

use std::fs::{self, FileTimes};
use std::path::Path;

use harness::{Files, Shell, assert_same, image, uri};

const KEY: &str =
    "encryption_key=hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// More than is read of a file that is not read, and much less than it has.
const LITTLE: u64 = 500_000;

/// Bytes a process has read so far, by whatever way.
fn read_bytes(shell: &mut Shell) -> u64 {
    let path = format!("/proc/{}/io", shell.process().pid());
    let text = fs::read_to_string(path).expect("counters of the process");
    let read = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.expect("bytes read").parse().expect("a number")
}

/// What is read by a statement.
#[track_caller]
fn read_by(shell: &mut Shell, sql: &str) -> u64 {
    let before = read_bytes(shell);
    shell.sql(sql);
    read_bytes(shell) - before
}

fn grow(path: &Path) {
    let sql =
        "WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < 4000)
      INSERT INTO note(text, extra) SELECT 'more', randomblob(1000) FROM counter;";
    image::look(path).execute_batch(sql).expect("more notes");
}

#[test]
fn a_replica_that_was_closed_is_not_read_again() {
    for key in ["", KEY] {
        let files = Files::new();
        grow(&files.app);
        let mut primary = files.primary();
        let parameters = format!("sync_url={}&{key}", primary.url());
        let open = || Shell::replica(&files.copy, &parameters);
        let mut replica = open();
        replica.sync();
        replica.sql("UPDATE note SET text = 'written here' WHERE id = 1");
        replica.close();
        for doing in [
            "SELECT replica_sync()",
            "UPDATE note SET text = 'again' WHERE id = 2",
        ] {
            for changed in [false, true] {
                if changed {
                    primary.sql("UPDATE note SET text = 'meanwhile' WHERE id = 3");
                }
                let mut replica = open();
                let read = read_by(&mut replica, doing);
                println!("{doing}: {read} bytes were read");
                assert!(read < LITTLE, "{key}: {doing}: {read} bytes were read");
                replica.close();
            }
        }
        // Looking is not writing, whoever looks.
        if key.is_empty() {
            assert_eq!(
                image::value(&files.copy, "SELECT text FROM note WHERE id = 2"),
                "again"
            );
            assert!(read_by(&mut open(), "SELECT replica_sync()") < LITTLE);
            assert_same(&files.app, &files.copy, "at the end");
        }
    }
}

#[test]
fn a_primary_that_was_closed_is_not_read_again() {
    let files = Files::new();
    grow(&files.app);
    let serve = "SELECT replica_serve('127.0.0.1:0')";
    for round in 0..3 {
        let mut shell = Shell::with_extension();
        shell.open(&uri(&files.app, ""));
        let read = read_by(&mut shell, serve);
        println!("round {round}: {read} bytes were read");
        assert_eq!(
            read > LITTLE,
            round == 0,
            "round {round}: {read} bytes were read"
        );
        shell.sql("UPDATE note SET text = 'newer' WHERE id = 1");
        shell.close();
    }
    // Somebody else is noticed.
    image::look(&files.app)
        .execute_batch("UPDATE note SET text = 'foreign' WHERE id = 1")
        .expect("a write");
    let mut shell = Shell::with_extension();
    shell.open(&uri(&files.app, ""));
    let before = shell.sql("SELECT coalesce(max(position), '') FROM replica_status");
    assert!(read_by(&mut shell, serve) > LITTLE);
    assert_ne!(shell.position(), before);
}

/// Also one who leaves size and times as they were.
#[test]
fn whoever_wrote_in_between_is_noticed() {
    for keeps_time in [false, true] {
        let files = Files::new();
        let primary = files.primary();
        files.replica(primary.url()).close();
        let before = fs::metadata(&files.copy).expect("the replica");
        image::look(&files.copy)
            .execute_batch("UPDATE note SET text = 'note X' WHERE id = 1")
            .expect("a write");
        let after = fs::metadata(&files.copy).expect("the replica");
        assert_eq!(before.len(), after.len());
        if keeps_time {
            let file = fs::File::options()
                .write(true)
                .open(&files.copy)
                .expect("open");
            let times = FileTimes::new().set_modified(before.modified().expect("a time"));
            file.set_times(times).expect("set the time");
        }
        let mut replica = Shell::replica(&files.copy, &format!("sync_url={}", primary.url()));
        let refused = replica.refused("SELECT replica_sync()");
        assert!(
            refused.contains("did not come from its remote"),
            "{keeps_time}: {refused}"
        );
    }
}
