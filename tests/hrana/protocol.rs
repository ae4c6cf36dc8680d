//! What the protocol says: versions, values, statements, batches, streams.

use harness::hrana::{baton, code, execute, outcome};
use harness::{Files, Hrana, notes, uri};
use serde_json::{Value, json};

use crate::{client, primary_count, step};

#[test]
fn versions_are_told_and_paths_lead_to_databases() {
    let files = Files::new();
    let mut primary = files.primary();
    let root = Hrana::to(&format!("http://{}", primary.address()));
    for path in ["v2", "v3", "app/v2", "app/v3", "nothing/v3"] {
        assert_eq!(root.ask("GET", path, b"").status, 200, "{path}");
    }
    for (method, path) in [
        ("GET", "v3-protobuf"),
        ("GET", "app/v3-protobuf"),
        ("POST", "v3-protobuf/pipeline"),
        ("POST", "app/v3-protobuf/pipeline"),
        ("POST", "v2/cursor"),
        ("POST", "v4/pipeline"),
    ] {
        assert_eq!(root.ask(method, path, b"{}").status, 404, "{path}");
    }
    assert_eq!(root.ask("GET", "v3/pipeline", b"").status, 405);
    let request = br#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT count(*) FROM note"}},{"type":"close"}]}"#;
    for path in [
        "v2/pipeline",
        "v3/pipeline",
        "app/v2/pipeline",
        "app/v3/pipeline",
    ] {
        let reply = root.ask("POST", path, request);
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert!(
            reply.head.contains("content-type: application/json"),
            "{reply:?}"
        );
        let rows = &reply.json()["results"][0]["response"]["result"]["rows"];
        assert_eq!(
            *rows,
            json!([[{"type": "integer", "value": "1000"}]]),
            "{path}"
        );
    }
    let missing = Hrana::to(&format!("http://{}/nothing", primary.address()));
    let reply = missing.ask("POST", "v3/pipeline", request);
    assert_eq!(reply.status, 404);
    assert!(
        reply.json()["message"]
            .as_str()
            .expect("a sentence")
            .contains("no database")
    );
    // With a second one the root is nobody's.
    let second = files.path("second.db");
    notes(&second);
    primary.sql(&format!("ATTACH '{}' AS two", uri(&second, "")));
    primary.sql(&format!(
        "SELECT replica_serve('{}', '{{\"schema\": \"two\"}}')",
        primary.address()
    ));
    assert_eq!(root.ask("POST", "v3/pipeline", request).status, 404);
    let other = Hrana::to(&format!("http://{}/second", primary.address()));
    other.execute("DELETE FROM note");
    assert_eq!(primary.sql("SELECT count(*) FROM two.note"), "0");
    assert_eq!(primary.sql("SELECT count(*) FROM note"), "1000");
}

#[test]
fn values_keep_their_types_and_arguments_find_their_parameters() {
    let files = Files::new();
    let primary = files.primary();
    let client = client(&primary);
    client.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b VARCHAR(7), c)");
    let args = json!([
        {"type": "integer", "value": "-9223372036854775808"},
        {"type": "text", "value": "ü\"\n\u{0}x"},
        {"type": "null"},
        {"type": "blob", "base64": "AP8="},
    ]);
    let result = client
        .try_execute(json!({"sql": "INSERT INTO t VALUES (?, ?, ?, ?)", "args": args}))
        .expect("inserted");
    assert_eq!(result["affected_row_count"], 1);
    assert_eq!(result["last_insert_rowid"], "-9223372036854775808");
    let result = client.execute("SELECT id, a, b, c, id + 0.5 AS sum FROM t");
    assert_eq!(
        result["cols"],
        json!([
            {"name": "id", "decltype": "INTEGER"}, {"name": "a", "decltype": "TEXT"},
            {"name": "b", "decltype": "VARCHAR(7)"}, {"name": "c", "decltype": null},
            {"name": "sum", "decltype": null},
        ])
    );
    let row = result["rows"][0].as_array().expect("a row");
    assert_eq!(row[..4], *args.as_array().expect("four"));
    assert_eq!(
        row[4],
        json!({"type": "float", "value": -9223372036854775808.0})
    );

    let add = |stmt: Value| {
        client
            .try_execute(stmt)
            .map(|result| result["rows"][0].clone())
    };
    let one = json!({"type": "integer", "value": "1"});
    let two = json!({"type": "float", "value": 2});
    for (sql, args, named) in [
        ("SELECT ?1 + ?2", json!([one, two]), json!([])),
        (
            "SELECT :a + :b",
            json!([]),
            json!([{"name": ":a", "value": one}, {"name": "b", "value": two}]),
        ),
        (
            "SELECT $a + @b",
            json!([]),
            json!([{"name": "a", "value": one}, {"name": "b", "value": two}]),
        ),
        (
            "SELECT ? + :b",
            json!([one]),
            json!([{"name": "b", "value": two}]),
        ),
        // By name comes before by position.
        (
            "SELECT :a + :b",
            json!([one, one]),
            json!([{"name": "b", "value": two}]),
        ),
    ] {
        let sum = add(json!({"sql": sql, "args": args, "named_args": named}));
        assert_eq!(
            sum,
            Ok(json!([{"type": "float", "value": 3.0}])),
            "{sql} {args} {named}"
        );
    }
    for (sql, args, named) in [
        ("SELECT ?", json!([]), json!([])),
        ("SELECT ?", json!([one, two]), json!([])),
        ("SELECT :a", json!([]), json!([{"name": "b", "value": one}])),
        (
            "SELECT :a",
            json!([]),
            json!([{"name": "$a", "value": one}]),
        ),
        ("SELECT 1", json!([]), json!([{"name": "a", "value": one}])),
    ] {
        let error = add(json!({"sql": sql, "args": args, "named_args": named})).expect_err(sql);
        assert_eq!(code(&error), "ARGS_INVALID", "{sql}");
    }
    // JSON has no word for infinity; a number that is too large becomes it again.
    let body = br#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT 9e999, -9e999"}},{"type":"close"}]}"#;
    let reply = client.ask("POST", "v3/pipeline", body);
    assert!(
        reply
            .body
            .contains(r#"[{"type":"float","value":1e999},{"type":"float","value":-1e999}]"#),
        "{reply:?}"
    );
    let unwanted = client.try_execute(json!({"sql": "SELECT a FROM t", "want_rows": false}));
    let unwanted = unwanted.expect("it runs");
    assert_eq!(
        (&unwanted["rows"], &unwanted["cols"][0]["name"]),
        (&json!([]), &json!("a"))
    );
    let many = client.execute("INSERT INTO t(a) VALUES (1), (2), (3) RETURNING a");
    assert_eq!(many["affected_row_count"], 3);
    assert_eq!(many["rows"].as_array().expect("rows").len(), 3);
    assert_eq!(client.execute("SELECT 1")["affected_row_count"], 0);
    assert_eq!(client.execute("DROP TABLE t")["affected_row_count"], 0);
}

#[test]
fn errors_have_sqlites_names() {
    let files = Files::new();
    let primary = files.primary();
    let client = client(&primary);
    client.execute("CREATE TABLE t(a UNIQUE, b NOT NULL)");
    client.execute("INSERT INTO t VALUES (1, 1)");
    for (sql, expected) in [
        ("INSERT INTO t VALUES (1, 1)", "SQLITE_CONSTRAINT"),
        ("SELEC 1", "SQLITE_ERROR"),
        ("SELECT * FROM missing", "SQLITE_ERROR"),
        ("COMMIT", "SQLITE_ERROR"),
        ("SELECT zeroblob(1000000000)", "SQLITE_TOOBIG"),
        ("", "SQL_NO_STATEMENT"),
        (" -- nothing", "SQL_NO_STATEMENT"),
        ("SELECT 1; SELECT 2", "SQL_MANY_STATEMENTS"),
        ("SELECT 1; DELETE FROM t", "SQL_MANY_STATEMENTS"),
        ("SELECT 1\u{0}", "SQL_PARSE_ERROR"),
    ] {
        assert_eq!(client.refused(sql), expected, "{sql}");
    }
    client.execute("SELECT 1; -- and a comment");
    let error = client.try_execute(json!({"sql": "INSERT INTO t VALUES (1, 1)"}));
    let error = error.expect_err("not unique");
    assert_eq!(error["message"], "UNIQUE constraint failed: t.a");
    assert_eq!(error["extended_code"], 2067);
    assert_eq!(primary_count(&client, "t"), "1");
}

#[test]
fn a_batch_runs_its_steps_on_their_conditions() {
    let files = Files::new();
    let primary = files.primary();
    let client = client(&primary);
    client.execute("CREATE TABLE t(a UNIQUE)");
    let ok = |step: u32| json!({"type": "ok", "step": step});
    let failed = |step: u32| json!({"type": "error", "step": step});
    let not = |cond: Value| json!({"type": "not", "cond": cond});
    let autocommit = json!({"type": "is_autocommit"});
    let steps = json!([
        step("BEGIN IMMEDIATE", Value::Null),
        step("INSERT INTO t VALUES (1)", ok(0)),
        step("INSERT INTO t VALUES (1)", ok(1)),
        step("SELECT 'not reached'", ok(2)),
        step(
            "SELECT 'and'",
            json!({"type": "and", "conds": [ok(0), failed(2), not(autocommit.clone())]})
        ),
        step(
            "SELECT 'or'",
            json!({"type": "or", "conds": [ok(3), failed(3)]})
        ),
        step("COMMIT", ok(2)),
        step("ROLLBACK", not(ok(6))),
        step("SELECT 'closed'", autocommit),
        step("SELECT 'all'", json!({"type": "and", "conds": []})),
        step("SELECT 'none'", json!({"type": "or", "conds": []})),
    ]);
    let answer = client.pipeline(
        None,
        json!([{"type": "batch", "batch": {"steps": steps}}, {"type": "close"}]),
    );
    let result = outcome(&answer["results"][0]).expect("a result");
    let ran: Vec<bool> = result["step_results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|step| !step.is_null())
        .collect();
    assert_eq!(
        ran,
        [
            true, true, false, false, true, false, false, true, true, true, false
        ],
        "{result}"
    );
    let errors = result["step_errors"].as_array().expect("errors");
    assert_eq!(code(&errors[2]), "SQLITE_CONSTRAINT");
    assert_eq!(
        errors.iter().filter(|error| !error.is_null()).count(),
        1,
        "{result}"
    );
    assert_eq!(primary_count(&client, "t"), "0");

    // The same as a cursor, line by line.
    let body = json!({"batch": {"steps": [step("SELECT 1 AS one UNION SELECT 2", Value::Null), step("SELEC", Value::Null), step("SELECT 3", failed(1))]}});
    let reply = client.ask("POST", "v3/cursor", body.to_string().as_bytes());
    let lines: Vec<Value> = reply
        .body
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let types: Vec<&str> = lines[1..]
        .iter()
        .map(|line| line["type"].as_str().expect("a type"))
        .collect();
    assert_eq!(
        types,
        [
            "step_begin",
            "row",
            "row",
            "step_end",
            "step_error",
            "step_begin",
            "row",
            "step_end"
        ],
        "{lines:?}"
    );
    assert_eq!(
        (&lines[1]["step"], &lines[5]["step"], &lines[6]["step"]),
        (&json!(0), &json!(1), &json!(2))
    );
    assert_eq!(lines[2]["row"], json!([{"type": "integer", "value": "1"}]));
    client.pipeline(Some(&baton(&lines[0])), json!([{"type": "close"}]));

    // A condition on what comes later: nothing runs.
    for wrong in [ok(1), ok(7), not(failed(4294967295))] {
        let steps = json!([
            step("DELETE FROM note", Value::Null),
            step("SELECT 1", wrong)
        ]);
        let answer = client.pipeline(
            None,
            json!([{"type": "batch", "batch": {"steps": steps}}, {"type": "close"}]),
        );
        let error = outcome(&answer["results"][0]).expect_err("a wrong condition");
        assert_eq!(code(&error), "HRANA_PROTO_ERROR");
    }
    assert_eq!(primary_count(&client, "note"), "1000");
}

#[test]
fn a_stream_keeps_its_state_between_requests() {
    let files = Files::new();
    let primary = files.primary();
    let client = client(&primary);
    let answer = client.pipeline(
        None,
        json!([
            {"type": "store_sql", "sql_id": 1, "sql": "SELECT id AS n, text FROM note WHERE id = ?2 AND :x IS NULL"},
            {"type": "store_sql", "sql_id": 1, "sql": "SELECT 1"},
            {"type": "describe", "sql_id": 1},
            {"type": "describe", "sql": "EXPLAIN DELETE FROM note"},
            {"type": "describe", "sql": "DELETE FROM note"},
            {"type": "sequence", "sql": "CREATE TEMP TABLE mine(a); INSERT INTO mine VALUES (1); INSERT INTO missing VALUES (1); INSERT INTO mine VALUES (2)"},
            {"type": "get_autocommit"},
            execute(json!({"sql": "BEGIN"})),
            {"type": "get_autocommit"},
        ]),
    );
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results[0]["response"], json!({"type": "store_sql"}));
    assert_eq!(code(&results[1]["error"]), "HRANA_PROTO_ERROR");
    assert_eq!(
        results[2]["response"]["result"],
        json!({
            "params": [{"name": null}, {"name": "?2"}, {"name": ":x"}],
            "cols": [{"name": "n", "decltype": "INTEGER"}, {"name": "text", "decltype": "TEXT"}],
            "is_explain": false, "is_readonly": true,
        })
    );
    assert_eq!(results[3]["response"]["result"]["is_explain"], true);
    assert_eq!(results[4]["response"]["result"]["is_readonly"], false);
    assert_eq!(code(&results[5]["error"]), "SQLITE_ERROR");
    assert_eq!(results[6]["response"]["is_autocommit"], true);
    assert_eq!(results[8]["response"]["is_autocommit"], false);
    let answer = client.pipeline(
        Some(&baton(&answer)),
        json!([
            execute(json!({"sql": "SELECT count(*) FROM mine"})),
            {"type": "close_sql", "sql_id": 1},
            {"type": "close_sql", "sql_id": 77},
            {"type": "describe", "sql_id": 1},
            {"type": "describe"},
            {"type": "describe", "sql": "SELECT 1", "sql_id": 1},
            {"type": "close"},
            {"type": "get_autocommit"},
        ]),
    );
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results[0]["response"]["result"]["rows"][0][0]["value"], "1");
    assert_eq!(results[2]["response"], json!({"type": "close_sql"}));
    for wrong in &results[3..6] {
        assert_eq!(code(&wrong["error"]), "HRANA_PROTO_ERROR");
    }
    assert_eq!(code(&results[7]["error"]), "STREAM_CLOSED");
    assert_eq!(
        (&answer["baton"], &answer["base_url"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(primary_count(&client, "note"), "1000");
}
