//! Time, size and number: nobody holds up others, or takes up all.

use std::time::{Duration, Instant};

use harness::hrana::{baton, code, execute};
use harness::{Files, Shell, assert_intact, assert_same, wait_for};
use serde_json::json;

use crate::{client, primary_count};

#[test]
fn an_abandoned_transaction_holds_up_nobody_for_long() {
    let files = Files::new();
    let mut primary = files.primary();
    let client = client(&primary);
    let answer = client.pipeline(
        None,
        json!([
            execute(json!({"sql": "BEGIN IMMEDIATE"})),
            execute(json!({"sql": "DELETE FROM note"})),
        ]),
    );
    let abandoned = baton(&answer);
    let begun = Instant::now();
    // The shell waits for 20 s.
    primary.sql("INSERT INTO note VALUES (2000, 'after it', NULL)");
    let waited = begun.elapsed();
    assert!((3..9).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(primary.sql("SELECT count(*) FROM note"), "1001");
    let reply = client.try_pipeline(Some(&abandoned), json!([execute(json!({"sql": "COMMIT"}))]));
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "STREAM_EXPIRED")
    );

    // A client that is gone before its answer: at once.
    let body = json!({"requests": [
        execute(json!({"sql": "BEGIN IMMEDIATE"})),
        execute(json!({"sql": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"})),
    ]});
    let stream = client.send("POST", "v3/pipeline", body.to_string().as_bytes());
    wait_for("the write lock to be taken", || {
        primary
            .shell()
            .try_sql(".timeout 0\nBEGIN IMMEDIATE; ROLLBACK")
            .is_err()
    });
    drop(stream);
    let begun = Instant::now();
    primary.sql(".timeout 20000\nINSERT INTO note VALUES (2001, 'after it', NULL)");
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_statement_without_end_is_interrupted() {
    let files = Files::new();
    let primary = files.primary();
    let client = client(&primary);
    let begun = Instant::now();
    let answer = client.pipeline(None, json!([
        execute(json!({"sql": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"})),
        execute(json!({"sql": "SELECT 1"})),
        {"type": "sequence", "sql": "SELECT 1"},
        {"type": "close"},
    ]));
    for result in &answer["results"].as_array().expect("results")[..3] {
        assert_eq!(code(&result["error"]), "SQLITE_INTERRUPT");
        assert!(
            result["error"]["message"]
                .as_str()
                .expect("text")
                .contains("longer than 30 s")
        );
    }
    assert!(
        (29..40).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn answers_and_requests_are_bounded() {
    let files = Files::new();
    let mut primary = files.primary();
    let client = client(&primary);
    let large = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n, randomblob(1000) FROM c";
    assert_eq!(client.refused(large), "RESPONSE_TOO_LARGE");
    // What was written for a refused answer is taken back.
    client.execute("CREATE TABLE large(a)");
    let insert = "INSERT INTO large SELECT randomblob(100000) FROM note LIMIT 200 RETURNING a";
    assert_eq!(client.refused(insert), "RESPONSE_TOO_LARGE");
    assert_eq!(primary_count(&client, "large"), "0");
    client.execute(&insert.replace("LIMIT 200", "LIMIT 50"));
    let unwanted = json!({"sql": insert, "want_rows": false});
    client.try_execute(unwanted).expect("no rows, no limit");
    assert_eq!(primary_count(&client, "large"), "250");

    let insert = |text: &str| {
        json!({"requests": [execute(json!({"sql": "INSERT INTO large VALUES (?)", "args": [{"type": "text", "value": text}]})), {"type": "close"}]}).to_string()
    };
    let reply = client.ask(
        "POST",
        "v3/pipeline",
        insert(&"x".repeat(7_000_000)).as_bytes(),
    );
    assert_eq!(reply.status, 200, "{}", reply.head);
    let reply = client.ask(
        "POST",
        "v3/pipeline",
        insert(&"x".repeat(9_000_000)).as_bytes(),
    );
    assert_eq!(reply.status, 413, "{}", reply.head);
    let many = vec![json!({"type": "get_autocommit"}); 10_001];
    assert_eq!(client.try_pipeline(None, json!(many)).status, 400);
    let steps = vec![json!({"stmt": {"sql": "SELECT 1"}}); 50_001];
    let answer = client.pipeline(
        None,
        json!([{"type": "batch", "batch": {"steps": steps}}, {"type": "close"}]),
    );
    assert_eq!(code(&answer["results"][0]["error"]), "HRANA_PROTO_ERROR");

    // Streams that are idle make place; those in a transaction do not.
    let idle: Vec<String> = (0..60).map(|_| client.open("SELECT 1")).collect();
    assert_eq!(client.try_pipeline(Some(&idle[0]), json!([])).status, 400);
    client.pipeline(Some(&idle[59]), json!([{"type": "close"}]));
    let busy: Vec<String> = (0..48).map(|_| client.open("BEGIN")).collect();
    let reply = client.try_pipeline(None, json!([]));
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (503, "TOO_MANY_STREAMS")
    );
    for baton in &busy {
        client.pipeline(Some(baton), json!([{"type": "close"}]));
    }
    wait_for("streams to be gone", || {
        client.try_pipeline(None, json!([{"type": "close"}])).status == 200
    });
    primary.sql("DELETE FROM large");
}

#[test]
fn who_waits_for_the_lock_does_not_keep_its_holder_from_committing() {
    let files = Files::new();
    let mut primary = files.primary();
    let client = client(&primary);
    let holder = client.open("BEGIN IMMEDIATE");
    let writers: Vec<_> = (0..30)
        .map(|number| {
            let client = client.clone();
            std::thread::spawn(move || {
                client.execute(&format!(
                    "INSERT INTO note VALUES ({}, 'waits', NULL)",
                    3000 + number
                ))
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    let mut replica = files.replica(primary.url());
    let answer = client.pipeline(Some(&holder), json!([execute(json!({"sql": "DELETE FROM note WHERE id = 1"})), execute(json!({"sql": "COMMIT"})), {"type": "close"}]));
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(answer["results"][1]["type"], "ok", "{answer}");
    for writer in writers {
        writer.join().expect("written");
    }
    assert_eq!(primary.sql("SELECT count(*) FROM note"), "1029");
    replica.sync();
    assert_same(&files.app, &files.copy, "after the writers");
}

#[test]
fn serving_ends_with_streams_open() {
    for close in [false, true] {
        let files = Files::new();
        let mut primary = files.primary();
        let client = client(&primary);
        client.open("BEGIN IMMEDIATE");
        client.open("SELECT 1");
        let body = json!({"requests": [execute(json!({"sql": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"}))]});
        let _running = client.send("POST", "v3/pipeline", body.to_string().as_bytes());
        let _waiting = client.send(
            "POST",
            "v3/pipeline",
            json!({"requests": [execute(json!({"sql": "INSERT INTO note VALUES (2001, 'waits', NULL)"}))]})
                .to_string()
                .as_bytes(),
        );
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        match close {
            true => primary.close(),
            false => {
                primary.sql("SELECT replica_stop()");
                primary.sql("INSERT INTO note VALUES (2000, 'mine alone', NULL)");
            }
        }
        assert!(
            begun.elapsed() < Duration::from_secs(9),
            "{:?}",
            begun.elapsed()
        );
        assert_intact(&files.app, "after serving");
        let mut plain = Shell::plain(&files.app);
        if close {
            // Nobody has it open any more.
            plain.sql("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; ROLLBACK");
        }
        assert!(
            plain
                .sql("SELECT count(*) FROM note")
                .parse::<u32>()
                .expect("a count")
                >= 1000
        );
    }
}
