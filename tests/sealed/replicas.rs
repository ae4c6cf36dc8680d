//! Replicas and primaries of which one, the other or both are encrypted.

use harness::workload::Workload;
use harness::{Shell, directory, json, number, seed};

use crate::raw;

fn keyed(key: &str) -> String {
    match key {
        "" => String::new(),
        key => format!("&encryption_key={key}"),
    }
}

/// Random transactions of every kind, with encryption on one end, the other, and both.
#[test]
fn replicas_follow_whoever_is_encrypted() {
    let other = "hex:ff".to_owned() + &"ee".repeat(31);
    for (which, (primary_key, replica_key)) in [
        (crate::RAW, other.as_str()),
        (crate::RAW, ""),
        ("", crate::RAW),
    ]
    .into_iter()
    .enumerate()
    {
        for page_size in [512, 4096, 65536] {
            let directory = directory();
            let (app, copy) = (
                directory.path().join("app.db"),
                directory.path().join("copy.db"),
            );
            let mut workload = Workload::new(seed("sealed replicas", 20 + which as u64), page_size);
            let mut primary = Shell::replica(&app, keyed(primary_key).trim_start_matches('&'));
            primary.sql(&workload.begin());
            let answer = primary.sql("SELECT replica_serve('127.0.0.1:0')");
            let parameters = format!("sync_url={}{}", json(&answer, "$.url"), keyed(replica_key));
            let mut replica = Shell::replica(&copy, &parameters);
            for step in 0..40 {
                let step_made = workload.step();
                let _ = primary.try_sql(&step_made.sql);
                let context = format!("{which}, {page_size}, step {step} ({})", step_made.kind);
                replica.sync();
                assert_eq!(replica.sha3sum(), primary.sha3sum(), "{context}");
                let verified = replica.sql("SELECT replica_verify()");
                assert_eq!(json(&verified, "$.ok"), "1", "{context}: {verified}");
                if step % 20 == 19 {
                    assert_eq!(replica.sql("PRAGMA integrity_check"), "ok", "{context}");
                    // Closed and killed in turn: what was fetched is there.
                    match step {
                        19 => drop(replica.close()),
                        _ => drop(replica.kill()),
                    }
                    replica = Shell::replica(&copy, keyed(replica_key).trim_start_matches('&'));
                    let answer = replica.sync();
                    let received = number(&answer, "$.bytes_received");
                    assert!(received < 4096, "{context}: {answer}");
                }
            }
            let first = std::fs::read(&copy).expect("replica")[..16].to_vec();
            assert_eq!(first == *b"replica sealed\r\n", !replica_key.is_empty());
        }
    }
}

/// The primary is killed at work; nothing is fetched anew.
#[test]
fn an_encrypted_primary_keeps_its_history() {
    let directory = directory();
    let (app, copy) = (
        directory.path().join("app.db"),
        directory.path().join("copy.db"),
    );
    let port = harness::free_port();
    let serve = format!("SELECT replica_serve('127.0.0.1:{port}')");
    let mut primary = Shell::replica(&app, &raw());
    primary.sql("PRAGMA journal_mode = WAL; CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT, extra BLOB)");
    primary.sql("WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000) INSERT INTO note SELECT n, 'note ' || n, randomblob(500) FROM c");
    primary.sql(&serve);
    let mut replica = Shell::replica(
        &copy,
        &format!("sync_url=http://127.0.0.1:{port}/app&{}", raw()),
    );
    replica.sync();
    for round in 0..15 {
        primary.sql(&format!(
            "UPDATE note SET text = 'round {round}' WHERE id % 100 = {round}"
        ));
        if round % 2 == 0 {
            replica.sync();
        }
        primary.feed("UPDATE note SET extra = randomblob(500) WHERE id % 7 = 0 AND id < 600");
        primary.kill();
        primary = Shell::replica(&app, &raw());
        primary.sql(&serve);
        let answer = replica.sync();
        assert!(
            number(&answer, "$.bytes_received") < 700_000,
            "round {round}: {answer}"
        );
        assert_eq!(replica.sha3sum(), primary.sha3sum(), "round {round}");
    }
    // A key that is not the replica's.
    replica.close();
    let mut wrong = Shell::with_extension();
    wrong.open(&harness::uri(&copy, "encryption_key=wrong"));
    assert!(
        wrong
            .refused("SELECT 1 FROM note")
            .contains("not a database")
    );
    assert!(wrong.refused("SELECT replica_sync()").contains("key"));
}

/// Two processes make one encrypted replica at once.
#[test]
fn two_processes_make_one_replica() {
    let files = harness::Files::new();
    let primary = files.primary();
    for round in 0..10 {
        let copy = files.path(&format!("copy-{round}.db"));
        let parameters = format!("sync_url={}&{}", primary.url(), raw());
        let mut shells = [Shell::with_extension(), Shell::with_extension()];
        for shell in &mut shells {
            shell.open(&harness::uri(&copy, &parameters));
            shell.feed("SELECT count(*) FROM note");
        }
        for shell in &mut shells {
            let answer = shell.settle();
            assert!(answer.contains("1000"), "round {round}: {answer}");
            assert_eq!(shell.sql("PRAGMA integrity_check"), "ok");
        }
    }
}

/// Its key has to be known; what is left is an encrypted database.
#[test]
fn an_encrypted_replica_is_forgotten_with_its_key() {
    let files = harness::Files::new();
    let primary = files.primary();
    let mut replica = Shell::replica(
        &files.copy,
        &format!("sync_url={}&{}", primary.url(), raw()),
    );
    replica.sync();
    replica.close();
    let mut shell = Shell::with_extension();
    let forget = format!("SELECT replica_forget('{}')", files.copy.display());
    let refused = shell.refused(&forget);
    assert!(refused.contains("replica_configure"), "{refused}");
    let settings = format!("{{\"encryption_key\": \"{}\"}}", crate::RAW);
    shell.sql(&format!(
        "SELECT replica_configure('{}', '{settings}')",
        files.copy.display()
    ));
    assert_eq!(json(&shell.sql(&forget), "$.role"), "replica");
    let mut database = Shell::replica(&files.copy, &raw());
    database.sql("CREATE TABLE own(x)");
    assert_eq!(database.sql("SELECT count(*) FROM replica_status"), "0");
}
