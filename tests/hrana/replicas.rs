//! What is written over HTTP reaches replicas, from encrypted primaries and by libSQL's own client too.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::encryption::{End, is_on};
use harness::hrana::execute;
use harness::{
    Files, Host, Hrana, Shell, assert_intact, assert_same, directory, host, json as member, uri,
};
use serde_json::{Value, json};

use crate::{client, token};

#[test]
fn an_encrypted_primary_runs_sql_as_well() {
    let directory = directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    let mut shell = Shell::with_extension();
    shell.open(&uri(&app, "encryption_key=secret"));
    shell.sql("CREATE TABLE note(id INTEGER PRIMARY KEY, text)");
    let url = member(&shell.sql("SELECT replica_serve('127.0.0.1:0')"), "$.url");
    let client = Hrana::to(&url);
    client.execute("INSERT INTO note VALUES (1, 'needle in the log')");
    client.execute("CREATE INDEX i ON note(text)");
    client.execute("VACUUM");
    let open = client.open("BEGIN IMMEDIATE");
    client.pipeline(Some(&open), json!([execute(json!({"sql": "INSERT INTO note VALUES (2, 'two')"})), execute(json!({"sql": "COMMIT"})), {"type": "close"}]));
    assert_eq!(shell.sql("SELECT count(*), max(text) FROM note"), "2|two");
    let mut replica = Shell::replica(&copy, &format!("sync_url={url}"));
    replica.sync();
    assert_eq!(replica.sql("SELECT count(*), max(text) FROM note"), "2|two");
    for file in std::fs::read_dir(directory.path()).expect("directory") {
        let path = file.expect("entry").path();
        let name = path
            .file_name()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        if name.starts_with("app.db") {
            let bytes = std::fs::read(&path).expect("read");
            assert!(
                !bytes.windows(6).any(|part| part == b"needle"),
                "{path:?} is in the clear"
            );
        }
    }
}

#[test]
fn a_position_holds_what_was_committed_before_it_was_told() {
    let files = Files::new();
    let mut primary = files.primary();
    let client = client(&primary);
    let mut before = 0;
    for round in 0..20 {
        let body = json!({"want_position": true, "requests": [execute(json!({"sql": format!("UPDATE note SET text = 'round {round}'")})), {"type": "close"}]});
        let answer = client
            .ask("POST", "v3/pipeline", body.to_string().as_bytes())
            .json();
        let position = answer["position"].as_str().expect("a position").to_string();
        let lsn: u64 = position
            .split('-')
            .next()
            .expect("lsn")
            .parse()
            .expect("a number");
        assert!(lsn > before, "round {round}: {position}");
        before = lsn;
        assert_eq!(primary.shell().position(), position);
    }
    let quiet = client.pipeline(None, json!([{"type": "close"}]));
    assert_eq!(quiet.get("position"), None);
}

#[test]
fn libsqls_client_works_and_a_replica_sees_what_it_wrote() {
    let files = Files::new();
    let mut primary = files.primary();
    let token = token(&mut primary, "write");
    let output = Command::new("node")
        .arg(host::script("libsql_client.js"))
        .arg(host::installed("node"))
        // The slash makes the path a folder, below which the client finds its own.
        .arg(format!("{}/", primary.url()))
        .arg(&token)
        .output()
        .expect("node");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let seen: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        seen,
        json!({
            "batch": [1, 1, 0], "count": 2, "rowid": "4611686018427387904",
            "failed": "SQLITE_CONSTRAINT", "syntax": "SQLITE_ERROR", "inside": 3, "reading": 3, "readonly": "SQLITE_READONLY",
            "read_batch": 3,
            "rows": [
                ["1", "bigint", "one", 1.5, [0, 255, 1]], ["5", "bigint", "five", 5, []],
                ["4611686018427387904", "bigint", "ü\"\u{0}", null, null],
            ],
            "types": ["INTEGER", "TEXT", "REAL", "BLOB"],
        })
    );
    let mut replica = Shell::replica(
        &files.copy,
        &format!("sync_url={}&auth_token={token}", primary.url()),
    );
    replica.sync();
    assert_eq!(
        replica.sql("SELECT id, word, number, hex(data) FROM item WHERE id < 10"),
        "1|one|1.5|00FF01\n5|five|5.0|"
    );
    assert_eq!(replica.sql("SELECT count(*) FROM other"), "2");
    assert_same(&files.app, &files.copy, "written by libSQL's client");
}

/// Hosts bring their own SQLite, and leave out what they do not need.
#[test]
fn every_host_runs_sql_for_others() {
    if is_on(End::Primary) {
        // better-sqlite3 opens no URIs, in which the key is.
        return;
    }
    for (name, mut host) in [
        ("Python", Host::python()),
        ("bundled SQLite", Host::bundled()),
        ("APSW", Host::apsw()),
        ("better-sqlite3", Host::node()),
    ] {
        let files = Files::new();
        host.sql("memory", "SELECT replica_default_vfs(1)");
        host.open("main", files.app.to_str().expect("UTF-8"));
        let answer = host.sql("main", "SELECT replica_serve('127.0.0.1:0')");
        let client = Hrana::to(&member(&answer, "$.url"));
        client.execute("INSERT INTO note VALUES (2000, 'over HTTP', NULL)");
        assert_eq!(client.refused("ATTACH 'x' AS y"), "SQLITE_AUTH", "{name}");
        assert_eq!(
            host.sql("main", "SELECT text FROM note WHERE id = 2000"),
            "over HTTP",
            "{name}"
        );
        // A statement without end, whose client is gone.
        let body = json!({"requests": [
            execute(json!({"sql": "BEGIN IMMEDIATE"})),
            execute(json!({"sql": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"})),
        ]});
        let stream = client.send("POST", "v3/pipeline", body.to_string().as_bytes());
        sleep(Duration::from_millis(300));
        drop(stream);
        let begun = Instant::now();
        host.sql("main", "INSERT INTO note VALUES (2001, 'after it', NULL)");
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{name}: {:?}",
            begun.elapsed()
        );
        client.open("BEGIN IMMEDIATE");
        host.close_connection("main");
        assert_intact(&files.app, name);
    }
}
