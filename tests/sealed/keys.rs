//! Giving, refusing and changing keys.

use std::path::Path;

use harness::{Host, Shell, directory, side_file, uri};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{CIPHERS, RAW, raw, raw_with};

fn make(path: &Path, parameters: &str) {
    let mut shell = Shell::replica(path, parameters);
    shell.sql(
        "PRAGMA journal_mode = WAL; CREATE TABLE note(text TEXT); INSERT INTO note VALUES ('kept')",
    );
    assert!(shell.close().code().is_some());
}

fn content(shell: &mut Shell) -> String {
    shell.sql("SELECT text FROM note")
}

#[test]
fn a_key_comes_by_uri_file_pragma_or_environment() {
    let directory = directory();
    let path = directory.path().join("app.db");
    let digits = RAW.strip_prefix("hex:").expect("raw");
    make(&path, &raw());
    let key_file = directory.path().join("key");
    std::fs::write(&key_file, format!("{RAW}\n")).expect("key file");
    let mut shell = Shell::replica(&path, &format!("key_file={}", key_file.display()));
    assert_eq!(content(&mut shell), "kept");
    for pragma in [
        format!("PRAGMA key = '{RAW}'"),
        format!("PRAGMA hexkey = '{digits}'"),
    ] {
        let mut shell = Shell::replica(&path, "");
        assert_eq!(shell.sql(&pragma), "ok");
        assert_eq!(content(&mut shell), "kept");
    }
    let mut shell = Shell::in_environment(&[("REPLICA_ENCRYPTION_KEY", RAW)]);
    shell.open(&uri(&path, ""));
    assert_eq!(content(&mut shell), "kept");
    let mut host = Host::python();
    host.sql(
        "memory",
        &format!(
            "SELECT replica_configure('{}', '{{\"encryption_key\": \"{RAW}\"}}')",
            directory.path().join("new.db").display()
        ),
    );
    host.open("main", &uri(&directory.path().join("new.db"), ""));
    host.sql("main", "CREATE TABLE t(x)");
    let bytes = std::fs::read(directory.path().join("new.db")).expect("file");
    assert!(bytes.starts_with(b"replica sealed"));
}

/// A database keeps the cipher it was made with, in all its files; whoever opens it need not say which.
#[test]
fn the_cipher_is_that_of_the_file() {
    let directory = directory();
    for (number, cipher) in [1, 0].into_iter().zip(CIPHERS) {
        let path = directory.path().join(format!("{cipher}.db"));
        make(&path, &raw_with(cipher));
        for parameters in [raw(), raw_with(CIPHERS[0]), raw_with(CIPHERS[1])] {
            let mut shell = Shell::replica(&path, &parameters);
            assert_eq!(content(&mut shell), "kept");
            shell.sql("UPDATE note SET text = 'kept'");
            shell.kill();
        }
        assert_eq!(content(&mut Shell::replica(&path, &raw())), "kept");
        assert_eq!(std::fs::read(&path).expect("database")[19], number);
    }
    let new = directory.path().join("new.db");
    let mut host = Host::python();
    let opened = host.try_open("main", &uri(&new, &raw_with("aes")));
    assert!(opened.is_err() && !new.exists());
}

/// Also where there are no URIs: the key comes by a pragma, as other extensions for encryption have it.
#[test]
fn every_host_opens_with_a_pragma() {
    let hosts = [
        ("Python", Host::python()),
        ("APSW", Host::apsw()),
        ("better-sqlite3", Host::node()),
        ("bundled", Host::bundled()),
        ("single-threaded", Host::single_threaded()),
    ];
    let directory = directory();
    let path = directory.path().join("app.db");
    make(&path, &raw());
    for (name, mut host) in hosts {
        host.sql("memory", "SELECT replica_default_vfs(1)");
        let key = format!("PRAGMA hexkey = '{}'", &RAW[4..]);
        host.open("main", path.to_str().expect("UTF-8"));
        assert_eq!(host.sql("main", &key), "ok", "{name}");
        assert_eq!(
            host.sql("main", "SELECT count(*) FROM note WHERE text = 'kept'"),
            "1",
            "{name}"
        );
        host.sql("main", &format!("INSERT INTO note VALUES ('{name}')"));
        host.close_connection("main");
        host.open("wrong", path.to_str().expect("UTF-8"));
        host.sql("wrong", "PRAGMA key = 'another'");
        let failure = host.refused("wrong", "SELECT count(*) FROM note");
        assert_eq!(failure.code & 0xff, 26, "{name}: {failure:?}");
        let made = directory.path().join(format!("{name}.db"));
        host.open("new", made.to_str().expect("UTF-8"));
        host.sql("new", &key);
        host.sql("new", "CREATE TABLE t(x)");
        assert!(
            std::fs::read(made)
                .expect("file")
                .starts_with(b"replica sealed"),
            "{name}"
        );
    }
}

#[test]
fn a_new_database_takes_its_key_from_a_pragma() {
    let directory = directory();
    let path = directory.path().join("app.db");
    let mut shell = Shell::replica(&path, "");
    shell.sql("PRAGMA key = 'correct horse'; CREATE TABLE note(text TEXT); INSERT INTO note VALUES ('kept')");
    assert_eq!(shell.sql("PRAGMA key = 'correct horse'"), "ok");
    let error = shell.refused("PRAGMA key = 'another'");
    assert!(error.contains("another key"), "{error}");
    shell.close();
    let mut shell = Shell::replica(&path, "encryption_key=correct horse");
    assert_eq!(content(&mut shell), "kept");
}

#[test]
fn the_wrong_key_and_none_are_refused_and_change_nothing() {
    for right in [raw(), "encryption_key=a passphrase".to_owned()] {
        let directory = directory();
        let path = directory.path().join("app.db");
        make(&path, &right);
        let before = std::fs::read(&path).expect("file");
        let other = RAW.replace("00", "ff");
        for wrong in [
            "",
            "encryption_key=wrong",
            &format!("encryption_key={other}"),
        ] {
            let mut shell = Shell::with_extension();
            shell.open(&uri(&path, wrong));
            let error = shell.refused("SELECT text FROM note");
            assert!(error.contains("not a database"), "{wrong}: {error}");
            let reason = shell.sql("SELECT replica_last_error()");
            assert!(reason.contains("key"), "{wrong}: {reason}");
            assert!(
                !reason.contains("wrong") && !reason.contains(&other[4..]),
                "{reason}"
            );
            shell.refused("CREATE TABLE other(x)");
            // The right one may still come.
            if wrong.is_empty() && right.contains("hex") {
                assert_eq!(shell.sql(&format!("PRAGMA key = '{RAW}'")), "ok");
                assert_eq!(content(&mut shell), "kept");
            }
        }
        assert!(before == std::fs::read(&path).expect("file"));
    }
}

#[test]
fn a_plain_database_with_a_key_is_refused_and_converted_by_vacuum_into() {
    let directory = directory();
    let path = directory.path().join("plain.db");
    let sealed = directory.path().join("sealed.db");
    let back = directory.path().join("back.db");
    let mut shell = Shell::plain(&path);
    shell.sql("CREATE TABLE note(text TEXT); INSERT INTO note VALUES ('kept')");
    shell.close();
    let before = std::fs::read(&path).expect("file");
    let mut shell = Shell::with_extension();
    shell.open(&uri(&path, &raw()));
    let error = shell.refused("SELECT * FROM note");
    assert!(error.contains("not a database"), "{error}");
    let reason = shell.sql("SELECT replica_last_error()");
    assert!(reason.contains("not encrypted"), "{reason}");
    assert!(before == std::fs::read(&path).expect("file"));
    // One way and the other.
    let mut shell = Shell::replica(&path, "");
    shell.sql(&format!("VACUUM INTO '{}'", uri(&sealed, &raw())));
    let mut other = Shell::replica(&sealed, &raw());
    assert_eq!(content(&mut other), "kept");
    other.sql(&format!("VACUUM INTO '{}'", uri(&back, "")));
    assert_eq!(content(&mut Shell::plain(&back)), "kept");
    let bytes = std::fs::read(&sealed).expect("file");
    assert!(!bytes.windows(4).any(|window| window == b"kept"));
}

#[test]
fn attaching_to_a_connection_with_temporary_files_in_the_clear_is_refused() {
    let directory = directory();
    let path = directory.path().join("app.db");
    make(&path, &raw());
    let mut host = Host::python();
    let attach = format!("ATTACH '{}' AS sealed", uri(&path, &raw()));
    host.refused("memory", &attach);
    let reason = host.sql("memory", "SELECT replica_last_error()");
    assert!(reason.contains("temporary files"), "{reason}");
    host.open("main", "file::memory:?vfs=replica");
    host.sql("main", &attach);
    assert_eq!(host.sql("main", "SELECT * FROM sealed.note"), "kept");
}

#[test]
fn a_changed_key_counts_at_once_and_others_go_on() {
    let directory = directory();
    let path = directory.path().join("app.db");
    make(&path, "encryption_key=old");
    let mut writer = Host::python();
    writer.open("main", &uri(&path, "encryption_key=old"));
    writer.sql("main", "PRAGMA busy_timeout = 20000");
    writer.repeat("main", "INSERT INTO note VALUES ('more')");
    let mut shell = Shell::replica(&path, "encryption_key=old");
    for (from, to) in [("old", "new"), ("new", RAW), (RAW, "last")] {
        shell.sql(&format!("SELECT replica_rekey('{to}')"));
        let mut other = Shell::with_extension();
        other.open(&uri(&path, &format!("encryption_key={from}")));
        assert!(
            other
                .refused("SELECT 1 FROM note")
                .contains("not a database")
        );
        let mut other = Shell::replica(&path, &format!("encryption_key={to}"));
        assert_eq!(other.sql("PRAGMA integrity_check"), "ok");
    }
    let counted = writer.stop();
    println!("updates|last answer = {counted}");
    let mut again = Shell::replica(&path, "encryption_key=last");
    assert_eq!(again.sql("PRAGMA integrity_check"), "ok");
}

/// `kill -9` while the key is being changed: the database opens with exactly one of the two.
#[test]
fn an_interrupted_change_of_the_key_leaves_exactly_one() {
    for (mode, rounds) in [("WAL", 100), ("DELETE", 40)] {
        interrupt(mode, rounds);
    }
}

fn interrupt(mode: &str, rounds: u32) {
    let directory = directory();
    let path = directory.path().join("app.db");
    let keys = ["11", "22"].map(|byte| format!("hex:{}", byte.repeat(32)));
    make(&path, &format!("encryption_key={}", keys[0]));
    let mut shell = Shell::replica(&path, &format!("encryption_key={}", keys[0]));
    shell.sql(&format!("PRAGMA journal_mode = {mode}"));
    shell.close();
    let mut random = StdRng::seed_from_u64(harness::seed("rekey", 7));
    let (mut now, mut changed) = (0, 0);
    for round in 0..rounds {
        let mut shell = Shell::replica(&path, &format!("encryption_key={}", keys[now]));
        shell.sql("INSERT INTO note VALUES ('again')");
        shell.feed(&format!("SELECT replica_rekey('{}')", keys[1 - now]));
        std::thread::sleep(std::time::Duration::from_micros(
            random.random_range(0..6000),
        ));
        shell.kill();
        let opens = [0, 1].map(|which| {
            let mut shell = Shell::with_extension();
            shell.open(&uri(&path, &format!("encryption_key={}", keys[which])));
            shell.try_sql("SELECT count(*) FROM note").is_ok()
        });
        assert!(opens[0] != opens[1], "{mode}, round {round}: {opens:?}");
        if opens[1 - now] {
            changed += 1;
            now = 1 - now;
        }
    }
    println!("{mode}: of {rounds} interrupted changes {changed} had happened");
    assert_eq!(side_file(&path, "-swal").exists(), mode == "WAL");
}
