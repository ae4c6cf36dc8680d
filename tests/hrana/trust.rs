//! Strangers: batons, tokens, statements that reach too far, bodies that are none.

use std::io::Write;
use std::net::TcpStream;

use harness::hrana::{baton, code, execute};
use harness::{Files, assert_intact, assert_same, notes, side_files};
use serde_json::{Value, json};

use crate::{client, primary_count, step, token};

#[test]
fn a_baton_is_good_once_and_for_one_bearer() {
    let files = Files::new();
    let mut primary = files.primary();
    let client = client(&primary);
    let first = client.open("BEGIN IMMEDIATE");
    let answer = client.pipeline(
        Some(&first),
        json!([execute(json!({"sql": "DELETE FROM note"}))]),
    );
    let second = baton(&answer);
    assert_ne!(first, second);
    assert_eq!(second.len(), 64);
    for wrong in [
        first.as_str(),
        "",
        "nonsense",
        &second[..63],
        &second.to_uppercase(),
    ] {
        let reply = client.try_pipeline(Some(wrong), json!([execute(json!({"sql": "COMMIT"}))]));
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "STREAM_EXPIRED"),
            "{wrong}"
        );
    }
    // Several ask with it at once: one is heard.
    let asking = |baton: &str| {
        let (client, baton) = (client.clone(), baton.to_string());
        std::thread::spawn(move || {
            client
                .try_pipeline(Some(&baton), json!([execute(json!({"sql": "SELECT 1"}))]))
                .status
        })
    };
    let threads: Vec<_> = (0..8).map(|_| asking(&second)).collect();
    let heard = threads
        .into_iter()
        .map(|thread| thread.join().expect("answered"));
    assert_eq!(heard.filter(|status| *status == 200).count(), 1);

    let (one, other) = (token(&mut primary, "write"), token(&mut primary, "write"));
    let (one, other) = (client.with_token(&one), client.with_token(&other));
    let stolen = one.open("SELECT 1");
    for stranger in [&other, &client] {
        let reply = stranger.try_pipeline(Some(&stolen), json!([{"type": "get_autocommit"}]));
        assert!([400, 401].contains(&reply.status), "{reply:?}");
    }
    // Nor does the attempt use it up.
    one.pipeline(Some(&stolen), json!([{"type": "close"}]));
    let reply = one.try_pipeline(Some(&stolen), json!([{"type": "close"}]));
    assert_eq!(reply.status, 400);
}

#[test]
fn a_reading_token_only_reads() {
    let files = Files::new();
    let mut primary = files.primary();
    let open = client(&primary);
    let reader = open.with_token(&token(&mut primary, "read"));
    let writer = open.with_token(&token(&mut primary, "write"));
    let reply = open.try_pipeline(None, json!([]));
    assert_eq!(reply.status, 401, "{reply:?}");
    // Which versions are spoken is no secret; clients ask without a token.
    assert_eq!(open.ask("GET", "v3", b"").status, 200);
    assert_eq!(primary_count(&reader, "note"), "1000");
    reader.execute("SELECT * FROM pragma_table_info('note')");
    reader.execute("PRAGMA user_version");
    for sql in [
        "INSERT INTO note VALUES (5000, 'x', NULL)",
        "UPDATE note SET text = 'x'",
        "DELETE FROM note",
        "CREATE TABLE t(a)",
        "CREATE TEMP TABLE t(a)",
        "CREATE VIEW v AS SELECT 1",
        "DROP TABLE note",
        "ALTER TABLE note ADD COLUMN x",
        "CREATE INDEX i ON note(text)",
        "ANALYZE",
        "VACUUM",
        "PRAGMA user_version = 7",
        "BEGIN IMMEDIATE",
        "BEGIN EXCLUSIVE",
        "WITH x AS (SELECT 1) DELETE FROM note",
    ] {
        assert_eq!(reader.refused(sql), "SQLITE_READONLY", "{sql}");
    }
    assert_eq!(reader.refused("PRAGMA query_only = 0"), "SQLITE_AUTH");
    let answer = reader.pipeline(None, json!([
        {"type": "sequence", "sql": "SELECT 1; DELETE FROM note"},
        {"type": "batch", "batch": {"steps": [step("BEGIN", Value::Null), step("DELETE FROM note", Value::Null), step("COMMIT", Value::Null)]}},
        {"type": "close"},
    ]));
    assert_eq!(code(&answer["results"][0]["error"]), "SQLITE_READONLY");
    assert_eq!(
        code(&answer["results"][1]["response"]["result"]["step_errors"][1]),
        "SQLITE_READONLY"
    );
    writer.execute("INSERT INTO note VALUES (5000, 'x', NULL)");
    assert_eq!(primary_count(&reader, "note"), "1001");
}

#[test]
fn what_reaches_beyond_the_database_is_refused() {
    let files = Files::new();
    let mut primary = files.primary();
    let client = client(&primary);
    let other = files.path("other.db");
    let into = files.path("into.db");
    notes(&other);
    let before = side_files(&files.app);
    let statements = [
        format!("ATTACH '{}' AS other", other.display()),
        "ATTACH '' AS other".to_string(),
        "ATTACH ':memory:' AS other".to_string(),
        "ATTACH char(47) AS other".to_string(),
        "DETACH main".to_string(),
        format!("VACUUM INTO '{}'", into.display()),
        format!("VACUUM main INTO '{}' || ''", into.display()),
        "SELECT load_extension('/lib/x86_64-linux-gnu/libm.so.6')".to_string(),
        "SELECT replica_stop()".to_string(),
        "SELECT REPLICA_TOKEN('write', 60)".to_string(),
        "SELECT readfile('/etc/passwd')".to_string(),
        "SELECT writefile('x', 'y')".to_string(),
        "SELECT fts3_tokenizer('simple')".to_string(),
        "PRAGMA journal_mode = DELETE".to_string(),
        "PRAGMA main.journal_mode = OFF".to_string(),
        "PRAGMA journal_mode(MEMORY)".to_string(),
        "PRAGMA locking_mode = EXCLUSIVE".to_string(),
        "PRAGMA synchronous = OFF".to_string(),
        "PRAGMA key = 'x'".to_string(),
        "PRAGMA hexkey = '00'".to_string(),
        "PRAGMA rekey = 'x'".to_string(),
        "PRAGMA writable_schema = 1".to_string(),
        "PRAGMA schema_version = 1".to_string(),
        "PRAGMA mmap_size = 1000000000".to_string(),
        "PRAGMA cache_size = -10000000".to_string(),
        "PRAGMA page_size = 512".to_string(),
        "PRAGMA wal_checkpoint(TRUNCATE)".to_string(),
        "PRAGMA wal_autocheckpoint = 0".to_string(),
        "PRAGMA busy_timeout = 1000000".to_string(),
        "PRAGMA trusted_schema = 1".to_string(),
        "PRAGMA hard_heap_limit = 1".to_string(),
        "PRAGMA database_list".to_string(),
        "SELECT * FROM pragma_database_list".to_string(),
    ];
    for sql in &statements {
        let refused = client.refused(sql);
        assert!(
            refused == "SQLITE_AUTH" || (sql.starts_with("SELECT ") && refused == "SQLITE_ERROR"),
            "{sql}: {refused}"
        );
        // Neither in a row with others, nor described.
        let answer = client.pipeline(None, json!([{"type": "sequence", "sql": format!("SELECT 1; {sql}")}, {"type": "describe", "sql": sql}, {"type": "close"}]));
        assert_eq!(answer["results"][0]["type"], "error", "{sql}");
    }
    let extension = "SELECT load_extension('/lib/x86_64-linux-gnu/libm.so.6')";
    assert_eq!(client.refused(extension), "SQLITE_AUTH");
    // Nor from a schema.
    client.execute("CREATE TABLE t(a)");
    client.refused("UPDATE sqlite_schema SET sql = 'x'");
    client.refused("INSERT INTO sqlite_dbpage VALUES (1, x'00', 'main')");
    let _ = client.try_execute(json!({"sql": "CREATE VIEW trap AS SELECT load_extension('x')"}));
    if client
        .try_execute(json!({"sql": "SELECT * FROM trap"}))
        .is_ok()
    {
        panic!("a view loads extensions");
    }
    // What is harmless goes on.
    for sql in [
        "PRAGMA journal_mode",
        "PRAGMA journal_mode = WAL",
        "PRAGMA table_info(note)",
        "PRAGMA foreign_keys = ON",
        "PRAGMA user_version = 7",
        "PRAGMA busy_timeout = 100",
        "PRAGMA integrity_check",
        "PRAGMA optimize",
        "ANALYZE",
        "VACUUM",
        "REINDEX",
        "ALTER TABLE t ADD COLUMN b",
        "ALTER TABLE t RENAME COLUMN a TO c",
        "SAVEPOINT a",
        "CREATE VIRTUAL TABLE words USING fts5(word)",
        "INSERT INTO words VALUES ('a word')",
        "SELECT * FROM words('word')",
        "DROP TABLE words",
    ] {
        client.execute(sql);
    }
    assert!(!into.exists());
    assert_eq!(primary.sql("PRAGMA journal_mode"), "wal");
    assert_eq!(primary.sql("PRAGMA user_version"), "7");
    assert_eq!(primary.sql("SELECT count(*) FROM note"), "1000");
    assert_eq!(side_files(&files.app), before);
    let _replica = files.replica(primary.url());
    assert_same(&files.app, &files.copy, "after all of it");
    assert_intact(&files.app, "after all of it");
}

#[test]
fn hostile_bodies_are_refused_and_nothing_else_happens() {
    let files = Files::new();
    let mut primary = files.primary();
    let client = client(&primary);
    let deep = format!("{{\"requests\":{}", "[".repeat(200_000));
    let nested = format!(
        r#"{{"requests":[{{"type":"batch","batch":{{"steps":[{{"stmt":{{"sql":"SELECT 1"}},"condition":{}"#,
        r#"{"type":"not","cond":"#.repeat(100_000)
    );
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "1",
        "\"x\"",
        "{\"requests\":null}",
        "{\"requests\":{}}",
        "{\"requests\":[null]}",
        "{\"requests\":[{}]}",
        "{\"requests\":[{\"type\":1}]}",
        "{\"requests\":[{\"type\":\"execute\",\"stmt\":7}]}",
        "{\"requests\":[{\"type\":\"open_stream\"}]}",
        "{\"baton\":7,\"requests\":[]}",
        "{\"requests\":[{\"type\":\"execute\",\"stmt\":{\"sql\":\"SELECT ?\",\"args\":[{\"type\":\"integer\",\"value\":1}]}}]}",
        "{\"requests\":[{\"type\":\"execute\",\"stmt\":{\"sql\":\"SELECT 1\",\"sql_id\":99999999999}}]}",
        "{\"requests\":[]",
        "{\"requests\":[]} x",
        "\u{1}\u{2}",
        &deep,
        &nested,
    ] {
        for path in ["v2/pipeline", "v3/pipeline"] {
            let reply = client.ask("POST", path, body.as_bytes());
            let shown: String = body.chars().take(80).collect();
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (400, "HRANA_PROTO_ERROR"),
                "{shown}"
            );
        }
        assert_eq!(client.ask("POST", "v3/cursor", body.as_bytes()).status, 400);
    }
    assert_eq!(
        client
            .ask("POST", "v3/pipeline", b"{\"requests\":[\xff\xfe]}")
            .status,
        400
    );
    // A body that never comes, and one that says it is too long.
    let mut stream = TcpStream::connect(primary.address()).expect("connect");
    stream
        .write_all(
            b"POST /app/v3/pipeline HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        )
        .expect("send");
    drop(stream);
    client.execute("SELECT 1");
    assert_eq!(primary.sql("SELECT count(*) FROM note"), "1000");
}
