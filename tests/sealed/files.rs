//! An encrypted database in use: locally, by several processes, after crashes, beside SQLite without the extension.

use harness::{Host, Shell, directory, side_file, side_files, uri};

use crate::raw;

const FIRST: &[u8] = b"replica sealed\r\n";

#[test]
fn every_journal_mode_and_page_size_works_and_is_encrypted() {
    for page_size in [512, 4096, 65536] {
        for mode in ["delete", "truncate", "persist", "wal", "memory"] {
            let directory = directory();
            let path = directory.path().join("app.db");
            let context = format!("{mode}, {page_size}");
            let mut shell = Shell::replica(&path, &raw());
            shell.sql(&format!(
                "PRAGMA page_size = {page_size}; PRAGMA journal_mode = {mode};
                 CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT, extra BLOB);
                 INSERT INTO note VALUES (1, 'first', zeroblob(200000))"
            ));
            shell.sql("PRAGMA cache_size = 5; BEGIN; UPDATE note SET extra = randomblob(300000)");
            shell.sql("INSERT INTO note SELECT NULL, 'more', randomblob(5000) FROM note, (SELECT 1 UNION SELECT 2)");
            shell.sql("SAVEPOINT one; UPDATE note SET text = 'changed'; ROLLBACK TO one; COMMIT");
            shell.sql("BEGIN; DELETE FROM note; ROLLBACK");
            let sum = shell.sha3sum();
            assert_eq!(shell.sql("PRAGMA integrity_check"), "ok", "{context}");
            shell.sql("VACUUM");
            assert_eq!(shell.sha3sum(), sum, "{context}");
            assert!(shell.close().code().is_some());
            let bytes = std::fs::read(&path).expect("the file");
            assert!(bytes.starts_with(FIRST), "{context}");
            let mut again = Shell::replica(&path, &raw());
            assert_eq!(again.sha3sum(), sum, "{context}");
            assert_eq!(again.sql("PRAGMA page_size"), page_size.to_string());
            assert_eq!(again.sql("PRAGMA integrity_check"), "ok", "{context}");
        }
    }
}

#[test]
fn a_log_left_by_a_crash_is_recovered() {
    let directory = directory();
    let path = directory.path().join("app.db");
    let mut shell = Shell::replica(&path, &raw());
    shell.sql("PRAGMA journal_mode = WAL; CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT)");
    for round in 0..30 {
        shell.sql("INSERT INTO note(text) VALUES ('acknowledged')");
        if round % 3 == 0 {
            shell.sql("PRAGMA cache_size = 3");
            shell.feed("BEGIN; WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000) INSERT INTO note(text) SELECT 'aborted ' || n FROM c");
        }
        shell.kill();
        assert!(side_file(&path, "-swal").exists(), "round {round}");
        assert!(!side_file(&path, "-wal").exists(), "round {round}");
        shell = Shell::replica(&path, &raw());
        let counted = shell.sql("SELECT count(*) FROM note WHERE text = 'acknowledged'");
        assert_eq!(counted, (round + 1).to_string(), "round {round}");
        assert_eq!(
            shell.sql("SELECT count(*) FROM note WHERE text <> 'acknowledged'"),
            "0"
        );
        assert_eq!(shell.sql("PRAGMA integrity_check"), "ok", "round {round}");
    }
    // A torn last frame is no tampering.
    shell.kill();
    let log = side_file(&path, "-swal");
    let bytes = std::fs::read(&log).expect("the log");
    std::fs::write(&log, &bytes[..bytes.len() - 100]).expect("shorter");
    let mut shell = Shell::replica(&path, &raw());
    assert_eq!(shell.sql("PRAGMA integrity_check"), "ok");
    assert_eq!(shell.sql("SELECT count(*) FROM note"), "29");
}

/// A hot rollback journal is played back.
#[test]
fn a_journal_left_by_a_crash_is_played_back() {
    let directory = directory();
    let path = directory.path().join("app.db");
    let mut shell = Shell::replica(&path, &raw());
    shell.sql(
        "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT);
         WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000) INSERT INTO note SELECT n, 'before' || n FROM c",
    );
    let sum = shell.sha3sum();
    for round in 0..10 {
        shell.sql("PRAGMA cache_size = 3; PRAGMA cache_spill = 1");
        shell.sql(&format!(
            "BEGIN; UPDATE note SET text = 'round {round}' || id || text"
        ));
        assert!(side_file(&path, "-sjournal").exists(), "round {round}");
        shell.kill();
        // SQLite without the extension finds no journal that it could take for a stale one.
        let mut plain = Shell::plain(&path);
        assert!(
            plain
                .refused("SELECT * FROM note")
                .contains("not a database")
        );
        plain.close();
        shell = Shell::replica(&path, &raw());
        assert_eq!(shell.sha3sum(), sum, "round {round}");
        assert_eq!(shell.sql("PRAGMA integrity_check"), "ok", "round {round}");
    }
}

/// Plain SQLite comes and goes beside writers, readers and checkpoints of an encrypted database.
#[test]
fn sqlite_without_the_extension_takes_nothing_away() {
    let directory = directory();
    let path = directory.path().join("app.db");
    let mut writer = Shell::replica(&path, &raw());
    writer.sql("PRAGMA journal_mode = WAL; CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT)");
    let mut reader = Host::python();
    reader.open("main", &uri(&path, &raw()));
    for round in 1..=60 {
        writer.sql("INSERT INTO note(text) VALUES ('a')");
        let mut plain = Shell::plain(&path);
        let error = plain.refused("SELECT count(*) FROM note");
        assert!(error.contains("not a database"), "{error}");
        if round % 2 == 0 {
            writer.sql("INSERT INTO note(text) VALUES ('b')");
        }
        plain.close();
        let wanted = (round + round / 2).to_string();
        assert_eq!(reader.sql("main", "SELECT count(*) FROM note"), wanted);
        match round % 10 {
            3 => drop(writer.sql("PRAGMA wal_checkpoint(RESTART)")),
            6 => {
                // Nobody has it open: only the files remain.
                writer.close();
                reader.close_connection("main");
                let mut plain = Shell::plain(&path);
                assert!(
                    plain
                        .refused("SELECT 1 FROM note")
                        .contains("not a database")
                );
                plain.close();
                writer = Shell::replica(&path, &raw());
                reader.open("main", &uri(&path, &raw()));
            }
            9 => {
                writer.kill();
                let mut plain = Shell::plain(&path);
                plain.refused("SELECT 1 FROM note");
                plain.close();
                writer = Shell::replica(&path, &raw());
            }
            _ => {}
        }
    }
    assert_eq!(writer.sql("PRAGMA integrity_check"), "ok");
    assert_eq!(writer.sql("SELECT count(*) FROM note"), "90");
    println!("files at the end: {:?}", side_files(&path));
}

#[test]
fn several_processes_write_and_read() {
    let directory = directory();
    let path = directory.path().join("app.db");
    let mut hosts = [Host::python(), Host::bundled(), Host::python()];
    hosts[0].open("main", &uri(&path, &raw()));
    hosts[0].sql("main", "PRAGMA journal_mode = WAL");
    hosts[0].sql("main", "CREATE TABLE counter(n INTEGER)");
    hosts[0].sql("main", "INSERT INTO counter VALUES (0)");
    for host in &mut hosts[1..] {
        host.open("main", &uri(&path, &raw()));
    }
    for host in &mut hosts {
        host.sql("main", "PRAGMA busy_timeout = 20000");
        host.repeat_with_pauses("main", "UPDATE counter SET n = n + 1", 1);
    }
    std::thread::sleep(std::time::Duration::from_secs(3));
    let mut counted = 0;
    for host in &mut hosts {
        let answer = host.stop();
        let count: u64 = answer
            .split('|')
            .next()
            .and_then(|count| count.parse().ok())
            .expect("number");
        counted += count;
    }
    assert_eq!(
        hosts[2].sql("main", "SELECT n FROM counter"),
        counted.to_string()
    );
    assert_eq!(hosts[1].sql("main", "PRAGMA integrity_check"), "ok");
    println!("{counted} updates by three processes");
}

/// More than the cache holds in the very first transaction: page 1 is not the first to be written.
#[test]
fn the_first_transaction_may_be_large() {
    for mode in ["OFF", "NORMAL"] {
        let directory = directory();
        let path = directory.path().join("app.db");
        let mut shell = Shell::replica(&path, &raw());
        shell.sql(&format!(
            "PRAGMA synchronous = {mode}; PRAGMA cache_size = 20"
        ));
        shell.sql(
            "BEGIN; CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT, extra BLOB);
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000)
               INSERT INTO note SELECT n, 'note ' || n, randomblob(1000) FROM c;
             COMMIT",
        );
        assert_eq!(shell.sql("PRAGMA integrity_check"), "ok");
        shell.close();
        // Pages that were never synced are known all the same: one that is taken away is an error.
        let mut bytes = std::fs::read(&path).expect("file");
        bytes[8192 + 300 * 4136..8192 + 301 * 4136].fill(0);
        std::fs::write(&path, bytes).expect("write");
        let mut shell = Shell::replica(&path, &raw());
        shell.refused("SELECT sum(length(extra)) FROM note");
    }
}

/// Nothing is synced, and no lock is given back: pages are known to be there all the same.
#[test]
fn a_page_that_was_never_synced_cannot_be_taken_away() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        let directory = directory();
        let path = directory.path().join("app.db");
        let mut shell = Shell::replica(&path, &raw());
        shell.sql(&format!(
            "PRAGMA journal_mode = {mode}; PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF"
        ));
        shell.sql("CREATE TABLE note(extra BLOB); INSERT INTO note VALUES (randomblob(100000))");
        shell.kill();
        let mut bytes = std::fs::read(&path).expect("file");
        let last = bytes.len() - 4136;
        bytes[last..].fill(0);
        std::fs::write(&path, bytes).expect("write");
        Shell::replica(&path, &raw()).refused("SELECT hex(extra) FROM note");
    }
}

/// Two processes open a file that is not there with one passphrase; whoever writes first makes it.
#[test]
fn who_comes_second_to_a_new_database_uses_it() {
    let directory = directory();
    let path = directory.path().join("app.db");
    let mut hosts = [Host::python(), Host::python()];
    for host in &mut hosts {
        host.open("main", &uri(&path, "encryption_key=one passphrase"));
        assert_eq!(host.sql("main", "SELECT count(*) FROM sqlite_schema"), "0");
    }
    hosts[1].sql("main", "CREATE TABLE t(x)");
    hosts[0].sql("main", "INSERT INTO t VALUES (1)");
    assert_eq!(hosts[1].sql("main", "SELECT count(*) FROM t"), "1");
}

#[test]
fn what_cannot_be_encrypted_safely_is_refused() {
    let directory = directory();
    let path = directory.path().join("app.db");
    let mut host = Host::python();
    let parameters = format!("nolock=1&{}", raw());
    let refused = host.refused_at_open_or("new", &uri(&path, &parameters), "CREATE TABLE t(x)");
    println!("{refused:?}");
    assert!(!path.exists() || std::fs::read(&path).expect("file").is_empty());
    host.open("main", &uri(&path, &raw()));
    host.sql("main", "CREATE TABLE t(x)");
    host.close_connection("main");
    let before = std::fs::read(&path).expect("file");
    host.refused_at_open_or("main", &uri(&path, &parameters), "CREATE TABLE u(x)");
    host.refused_at_open_or("main", &uri(&path, "nolock=1"), "CREATE TABLE u(x)");
    assert!(before == std::fs::read(&path).expect("file"));
    // Another page size has no room in the file.
    let mut shell = Shell::replica(&path, &raw());
    shell.sql("PRAGMA page_size = 8192");
    shell.refused("VACUUM");
    assert_eq!(shell.sql("PRAGMA integrity_check"), "ok");
    shell.sql("PRAGMA journal_mode = WAL; INSERT INTO t VALUES (1)");
}

/// One transaction over two databases that was interrupted is rolled back in both, whichever is opened first.
#[test]
fn an_interrupted_transaction_of_two_databases_is_rolled_back_in_both() {
    let directory = directory();
    let paths = ["a.db", "b.db"].map(|name| directory.path().join(name));
    for round in 0..40_u64 {
        for path in &paths {
            harness::image::remove_database(path);
            let mut shell = Shell::replica(path, &raw());
            shell.sql("CREATE TABLE t(x, y); INSERT INTO t SELECT 1, randomblob(3000) FROM (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200) SELECT n FROM c)");
            shell.close();
        }
        let mut shell = Shell::replica(&paths[0], &raw());
        shell.sql(&format!("ATTACH '{}' AS b", uri(&paths[1], &raw())));
        shell.feed("BEGIN; UPDATE main.t SET x = 2; UPDATE b.t SET x = 2; COMMIT");
        std::thread::sleep(std::time::Duration::from_micros(3000 + round * 400));
        shell.kill();
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let seen = order.map(|which| {
            let mut shell = Shell::replica(&paths[which], &raw());
            assert_eq!(shell.sql("PRAGMA integrity_check"), "ok");
            shell.sql("SELECT min(x) || max(x) FROM t")
        });
        assert!(
            seen == ["11", "11"] || seen == ["22", "22"],
            "round {round}: {seen:?}"
        );
        let left: Vec<_> = std::fs::read_dir(directory.path())
            .expect("folder")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        println!("round {round}: {seen:?} {left:?}");
    }
}
