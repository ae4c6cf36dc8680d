//! Who opens a file, how, and in what company: attached replicas, openers at the same time, names, remembered addresses.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Instant;

use harness::{Files, Host, Relay, Shell, assert_intact, assert_same, directory, side_files, uri};

/// The file format versions of a database header: 2 and 2 in WAL mode.
fn format_versions(path: &Path) -> [u8; 2] {
    let mut file = std::fs::File::open(path).expect("open");
    let mut versions = [0; 2];
    file.seek(SeekFrom::Start(18)).expect("seek");
    file.read_exact(&mut versions).expect("read");
    versions
}

#[test]
fn pragmas_without_a_schema_do_not_reach_an_attached_replica() {
    let journal = "PRAGMA journal_mode = DELETE";
    let locking = "PRAGMA locking_mode = EXCLUSIVE";
    for ours in [false, true] {
        for pragmas in [
            &[journal][..],
            &[locking],
            &[locking, journal],
            &[journal, locking],
        ] {
            let context = format!("main by our VFS: {ours}, {pragmas:?}");
            let files = Files::new();
            let mut primary = files.primary();
            let local = files.path("local.db");
            let mut shell = Shell::with_extension();
            if ours {
                shell.open(&uri(&local, ""));
            } else {
                shell.open(local.to_str().expect("UTF-8"));
            }
            shell.sql("CREATE TABLE mine(id INTEGER); INSERT INTO mine VALUES (7)");
            let name = uri(&files.copy, &format!("sync_url={}", primary.url()));
            shell.sql(&format!("ATTACH '{name}' AS remote"));
            assert_eq!(shell.sql("SELECT count(*) FROM remote.note"), "1000");
            // Whether they succeed for main is SQLite's business; they are not to wait for what will not come.
            shell.sql(".timeout 100");
            for pragma in pragmas {
                let answer = shell.try_sql(pragma);
                println!("{context}: {pragma}: {answer:?}");
            }
            for round in 0..3 {
                let rows = (1001 + round).to_string();
                primary.sql(&format!(
                    "INSERT INTO note VALUES ({}, 'more', randomblob(5000))",
                    2000 + round
                ));
                let mut other = Shell::replica(&files.copy, "");
                if round == 1 {
                    other.sync();
                } else {
                    shell.sql("SELECT replica_sync('remote')");
                }
                let count = "SELECT count(*) FROM note";
                assert_eq!(
                    shell.sql("SELECT count(*) FROM remote.note"),
                    rows,
                    "{context}"
                );
                assert_eq!(other.sql(count), rows, "{context}");
                assert_eq!(Shell::plain(&files.copy).sql(count), rows, "{context}");
                shell.sql("INSERT INTO mine SELECT id FROM remote.note WHERE id < 3");
                // Whatever the pragmas did, a write is on the primary or nowhere.
                let text = format!("written in round {round}");
                let update = format!("UPDATE remote.note SET text = '{text}' WHERE id = 5");
                if shell.try_sql(&update).is_ok() {
                    assert_eq!(primary.sql("SELECT text FROM note WHERE id = 5"), text);
                }
                shell.sql("BEGIN; SELECT count(*) FROM remote.note; COMMIT");
                assert_same(&files.app, &files.copy, &context);
                assert_eq!(shell.sql("PRAGMA remote.journal_mode"), "wal", "{context}");
                assert_eq!(format_versions(&files.copy), [2, 2], "{context}");
                let beside = side_files(&files.copy);
                assert!(
                    !beside.iter().any(|file| file.ends_with("-journal")),
                    "{context}: {beside:?}"
                );
            }
            shell.close();
            let mut other = Shell::replica(&files.copy, "");
            primary.sql("INSERT INTO note VALUES (3000, 'after the close', NULL)");
            other.sync();
            assert_same(&files.app, &files.copy, &context);
            assert_intact(&files.copy, &context);
        }
    }
}

#[test]
fn attaching_a_replica_leaves_the_busy_timeout_as_it_is() {
    let files = Files::new();
    let primary = files.primary();
    let name = uri(&files.copy, &format!("sync_url={}", primary.url()));
    let local = files.path("local.db");
    for main in [local.to_str().expect("UTF-8"), &uri(&local, ""), ":memory:"] {
        for milliseconds in ["0", "1234", "60000"] {
            let mut host = Host::bundled();
            host.open("main", main);
            host.sql("main", &format!("PRAGMA busy_timeout = {milliseconds}"));
            host.sql("main", &format!("ATTACH '{name}' AS remote"));
            assert_eq!(host.sql("main", "SELECT count(*) FROM remote.note"), "1000");
            assert_eq!(
                host.sql("main", "PRAGMA busy_timeout"),
                milliseconds,
                "{main}"
            );
            host.sql("main", "SELECT replica_sync('remote')");
            assert_eq!(
                host.sql("main", "PRAGMA busy_timeout"),
                milliseconds,
                "{main}"
            );
        }
    }
}

#[test]
fn a_changed_address_is_remembered() {
    let files = Files::new();
    let mut primary = files.primary();
    let first = Relay::to(primary.address());
    files.replica(&first.url("app")).close();
    let second = Relay::to(primary.address());
    let mut replica = files.replica(&second.url("app"));
    first.point(None);
    replica.close();
    primary.sql("INSERT INTO note VALUES (2000, 'after the move', NULL)");
    second.take_received();
    replica = Shell::replica(&files.copy, "");
    assert_eq!(
        replica.sql("SELECT remote FROM replica_status"),
        second.url("app")
    );
    replica.sync();
    assert!(second.take_received() > 0);
    assert_same(&files.app, &files.copy, "by the remembered address");
}

#[test]
fn a_second_opener_waits_for_a_slow_bootstrap_that_gets_on() {
    let files = Files::new();
    let primary = files.primary();
    let relay = Relay::to(primary.address());
    relay.limit(250_000);
    let parameters = format!("sync_url={}&sync_timeout=2", relay.url("app"));
    let begun = Instant::now();
    let mut shells: Vec<Shell> = (0..2).map(|_| Shell::with_extension()).collect();
    for shell in &mut shells {
        let name = uri(&files.copy, &parameters);
        shell.feed(&format!(".open \"{name}\"\nSELECT count(*) FROM note"));
    }
    for shell in &mut shells {
        assert_eq!(shell.settle(), "1000\nsettled");
    }
    let taken = begun.elapsed().as_secs_f64();
    println!("sync_timeout 2 s, the bootstrap took {taken:.1} s");
    assert!(taken > 3.0, "too fast to show anything: {taken} s");
    relay.limit(0);
    for shell in &mut shells {
        shell.sync();
        assert_eq!(shell.sql("SELECT state FROM replica_status"), "ok");
    }
    assert_same(&files.app, &files.copy, "bootstrapped slowly");
}

#[test]
fn names_that_leave_no_room_for_ours_beside_them_are_ordinary_databases() {
    for length in 240..=255 {
        let directory = directory();
        let path = |letter: &str| directory.path().join(letter.repeat(length));
        let short = directory.path().join("short.db");
        let mut shell = Shell::plain(&short);
        shell.sql("PRAGMA journal_mode = DELETE; CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)");
        shell.close();
        let statements = [
            "SELECT sum(a) FROM t",
            "PRAGMA journal_mode = MEMORY",
            "INSERT INTO t VALUES (39)",
            "SELECT sum(a) FROM t",
            "PRAGMA journal_mode = DELETE",
            "INSERT INTO t VALUES (100)",
            "SELECT sum(a) FROM t",
            "PRAGMA integrity_check",
        ];
        let answers = [("p", false), ("o", true)].map(|(letter, ours)| {
            let path = path(letter);
            std::fs::copy(&short, &path).expect("copy");
            let mut shell = Shell::with_extension();
            match ours {
                true => shell.open(&uri(&path, "")),
                false => shell.open(path.to_str().expect("UTF-8")),
            }
            statements.map(|sql| {
                shell.try_sql(sql).map_err(|error| {
                    // The shell's message names no file; its first line is the error.
                    error.lines().next().unwrap_or_default().to_string()
                })
            })
        });
        println!("{length}: {:?}", answers[1]);
        assert_eq!(answers[0], answers[1], "a name of {length} bytes");
        assert_eq!(answers[1][3].as_deref(), Ok("42"), "{length}");
    }
}
