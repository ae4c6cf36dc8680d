//! `replica_exec`: statements that a replica has run on its primary.

use std::time::{Duration, Instant};

use harness::{
    Files, Host, Relay, Shell, assert_same, directory, free_port, image, json, number, uri,
};

const SQLITE_ERROR: i32 = 1;
const SQLITE_BUSY: i32 = 5;
const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_AUTH: i32 = 23;
const SQLITE_CONSTRAINT_PRIMARYKEY: i32 = 1555;

#[test]
fn statements_run_on_the_primary_and_are_here_at_once() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut shell = files.replica(primary.url());
    let mut python = Host::python();
    python.open_replica(
        &files.path("python.db"),
        &format!("sync_url={}", primary.url()),
    );
    let answer =
        shell.sql("SELECT replica_exec('CREATE TABLE t(a INTEGER PRIMARY KEY, b, c, d, e)')");
    assert_eq!(json(&answer, "$.columns"), "[]");
    assert_eq!(json(&answer, "$.position"), shell.position());
    assert_eq!(shell.sql("SELECT count(*) FROM t"), "0");
    let answer = shell.sql(
        "SELECT replica_exec('INSERT INTO t VALUES (?, ?, ?, ?, ?)', -9223372036854775808, 1.5, 'it''s ü', x'00ff', NULL)",
    );
    assert_eq!(number(&answer, "$.changes"), 1);
    let row = "SELECT a, b, c, hex(d), e IS NULL FROM t";
    assert_eq!(shell.sql(row), "-9223372036854775808|1.5|it's ü|00FF|1");
    assert_eq!(primary.sql(row), "-9223372036854775808|1.5|it's ü|00FF|1");
    // Another replica sees it with its own next statement.
    let answer = python.sql(
        "main",
        "SELECT replica_exec('SELECT *, 9e999 AS f, x'''' AS g FROM t')",
    );
    assert_eq!(
        answer.replace(&json(&answer, "$.position"), "P"),
        r#"{"columns":["a","b","c","d","e","f","g"],"rows":[[-9223372036854775808,1.5,"it's ü",{"base64":"AP8="},null,1e999,{"base64":""}]],"changes":0,"position":"P"}"#
    );
    assert_eq!(
        python.sql("main", row),
        "-9223372036854775808|1.5|it's ü|00FF|1"
    );
    for (sql, changes) in [
        ("INSERT INTO t(b) VALUES (1), (2), (3)", 3),
        ("UPDATE t SET c = ''x'' WHERE b = 1 RETURNING a", 1),
        ("DELETE FROM t WHERE b > 1", 3),
        ("DELETE FROM t WHERE b > 1", 0),
    ] {
        let answer = python.sql("main", &format!("SELECT replica_exec('{sql}')"));
        assert_eq!(number(&answer, "$.changes"), changes, "{sql}: {answer}");
        assert_eq!(
            python.sql("main", "SELECT count(*) FROM t"),
            primary.sql("SELECT count(*) FROM t")
        );
    }
    python.sql(
        "main",
        "SELECT replica_exec('INSERT INTO t(b) VALUES (?)', zeroblob(0))",
    );
    assert_eq!(primary.sql("SELECT count(*) FROM t WHERE b = x''"), "1");
    assert_same(&files.app, &files.path("python.db"), "after the statements");
    let counted = python.sql(
        "main",
        "SELECT bytes_sent > 0, bytes_received > 0 FROM replica_status",
    );
    assert_eq!(counted, "1|1");
}

#[test]
fn without_read_your_writes_nothing_is_waited_for() {
    let files = Files::new();
    let primary = files.primary();
    let mut replica = Shell::replica(
        &files.copy,
        &format!("sync_url={}&read_your_writes=0", primary.url()),
    );
    replica.sync();
    let before = replica.position();
    let answer = replica.sql("SELECT replica_exec('DELETE FROM note WHERE id = 1')");
    assert_ne!(json(&answer, "$.position"), before);
    assert_eq!(replica.position(), before);
    assert_eq!(replica.sql("SELECT count(*) FROM note"), "1000");
    replica.sync();
    assert_eq!(replica.sql("SELECT count(*) FROM note"), "999");
    replica.close();
    // Remembered, until something else is said.
    let mut replica = Shell::replica(&files.copy, "");
    replica.sql("SELECT replica_exec('DELETE FROM note WHERE id = 2')");
    assert_eq!(replica.sql("SELECT count(*) FROM note"), "999");
    replica.close();
    let mut replica = Shell::replica(&files.copy, "read_your_writes=1");
    replica.sql("SELECT replica_exec('DELETE FROM note WHERE id = 3')");
    assert_eq!(replica.sql("SELECT count(*) FROM note"), "997");
    let mut host = Host::python();
    let name = uri(
        &files.path("other.db"),
        &format!("sync_url={}&read_your_writes=2", primary.url()),
    );
    host.refused_at_open_or("main", &name, "SELECT 1 FROM note");
    let configured = files.path("configured.db");
    host.sql("memory", &format!("SELECT replica_configure('{}', '{{\"sync_url\": \"{}\", \"read_your_writes\": false}}')", configured.display(), primary.url()));
    host.open("main", &uri(&configured, ""));
    host.sql("main", "SELECT count(*) FROM note");
    host.sql(
        "main",
        "SELECT replica_exec('DELETE FROM note WHERE id = 4')",
    );
    assert_eq!(host.sql("main", "SELECT count(*) FROM note"), "997");
}

#[test]
fn failures_have_the_code_of_the_primary() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::python();
    host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
    host.sql("main", "SELECT count(*) FROM note");
    let position = primary.shell().position();
    for (call, code, sentence) in [
        (
            "'INSERT INTO note VALUES (1, ''twice'', NULL)'",
            SQLITE_CONSTRAINT_PRIMARYKEY,
            "UNIQUE constraint failed",
        ),
        ("'SELEC'", SQLITE_ERROR, "syntax error"),
        ("'SELECT ?'", SQLITE_ERROR, "has no value"),
        ("'SELECT 1', 2", SQLITE_ERROR, "values for 0 parameters"),
        (
            "'SELECT 1; SELECT 2'",
            SQLITE_ERROR,
            "more than one statement",
        ),
        ("''", SQLITE_ERROR, "any statement"),
        ("'ATTACH ''x'' AS y'", SQLITE_AUTH, "not allowed"),
        ("'SELECT replica_stop()'", SQLITE_ERROR, "no such function"),
        ("'BEGIN'", SQLITE_ERROR, "rolled back"),
        ("'SAVEPOINT a'", SQLITE_ERROR, "rolled back"),
        ("", SQLITE_ERROR, "argument 1 is missing"),
        ("NULL", SQLITE_ERROR, "argument 1 is missing"),
    ] {
        let failure = host.refused("main", &format!("SELECT replica_exec({call})"));
        assert_eq!(failure.code, code, "{call}: {failure:?}");
        assert!(failure.message.contains(sentence), "{call}: {failure:?}");
    }
    assert_eq!(primary.shell().position(), position);
    // Tokens: none, one that reads, one that writes.
    let tokens: Vec<String> = ["read", "write"]
        .iter()
        .map(|scope| {
            json(
                &primary.sql(&format!("SELECT replica_token('{scope}', 60)")),
                "$.token",
            )
        })
        .collect();
    let delete = "SELECT replica_exec('DELETE FROM note WHERE id = 1')";
    assert_eq!(host.refused("main", delete).code, SQLITE_AUTH);
    host.close_connection("main");
    host.open_replica(&files.copy, &format!("auth_token={}", tokens[0]));
    let failure = host.refused("main", delete);
    assert_eq!(failure.code, SQLITE_READONLY, "{failure:?}");
    assert!(failure.message.contains("may only read"), "{failure:?}");
    host.sql("main", "SELECT replica_exec('SELECT 1')");
    host.close_connection("main");
    host.open_replica(&files.copy, &format!("auth_token={}", tokens[1]));
    host.sql("main", delete);
    assert_eq!(host.sql("main", "SELECT count(*) FROM note"), "999");
    for token in &tokens {
        let last = host.sql("memory", "SELECT replica_last_error()");
        assert!(!last.contains(token.as_str()), "{last}");
    }
}

#[test]
fn it_is_refused_where_it_makes_no_sense() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::bundled();
    host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
    host.sql("main", "SELECT count(*) FROM note");
    let call = "SELECT replica_exec('DELETE FROM note')";
    host.sql("main", "BEGIN");
    assert!(
        host.refused("main", call)
            .message
            .contains("inside a transaction")
    );
    host.sql("main", "SELECT count(*) FROM note");
    host.refused("main", call);
    host.sql("main", "COMMIT");
    host.sql("main", "CREATE TEMP TABLE mine(a)");
    if host.try_sql("main", "BEGIN IMMEDIATE").is_ok() {
        host.refused("main", call);
        host.sql("main", "ROLLBACK");
    }
    // A statement that reads the file would go on seeing what was before.
    host.refused(
        "main",
        "SELECT replica_exec('DELETE FROM note WHERE id = ?', id) FROM note",
    );
    assert_eq!(primary.sql("SELECT count(*) FROM note"), "1000");
    host.sql("main", "INSERT INTO mine VALUES (1), (2)");
    host.sql(
        "main",
        "SELECT replica_exec('DELETE FROM note WHERE id = ?', a) FROM temp.mine",
    );
    assert_eq!(host.sql("main", "SELECT count(*) FROM note"), "998");
    // On a primary, an ordinary database, one without a file; and main is what counts.
    let failure = primary.shell().refused(call);
    assert!(failure.contains("is not a replica"), "{failure}");
    let directory = directory();
    let mut ordinary = Shell::replica(&directory.path().join("ordinary.db"), "");
    ordinary.sql("CREATE TABLE t(a)");
    ordinary.sql(&format!("ATTACH '{}' AS copy", uri(&files.copy, "")));
    let failure = ordinary.refused(call);
    assert!(failure.contains("is not a replica"), "{failure}");
    assert!(Shell::with_extension().refused(call).contains("no file"));
    assert_eq!(primary.sql("SELECT count(*) FROM note"), "998");
}

#[test]
fn a_primary_that_is_not_there_is_unreachable_and_nothing_ran() {
    let files = Files::new();
    let address = format!("127.0.0.1:{}", free_port());
    let mut primary = harness::Primary::start_at(&files.app, &address);
    let mut host = Host::python();
    host.open_replica(
        &files.copy,
        &format!("sync_url={}&sync_timeout=2", primary.url()),
    );
    host.sql("main", "SELECT count(*) FROM note");
    // Its connection is kept, and dead without being known to be.
    host.sql("main", "SELECT replica_exec('SELECT 1')");
    primary.sql("SELECT replica_stop()");
    let failure = host.refused("main", "SELECT replica_exec('DELETE FROM note')");
    assert_eq!(failure.code, SQLITE_BUSY, "{failure:?}");
    assert!(!failure.message.contains("not known"), "{failure:?}");
    primary.sql(&format!("SELECT replica_serve('{address}')"));
    // And the next one is not lost on it.
    host.sql(
        "main",
        "SELECT replica_exec('DELETE FROM note WHERE id = 1')",
    );
    assert_eq!(host.sql("main", "SELECT count(*) FROM note"), "999");
}

#[test]
fn a_lost_answer_leaves_the_outcome_unknown_and_nothing_is_repeated() {
    let files = Files::new();
    let mut primary = files.primary();
    let relay = Relay::to(primary.address());
    let mut host = Host::python();
    host.open_replica(
        &files.copy,
        &format!("sync_url={}&sync_timeout=2", relay.url("app")),
    );
    host.sql("main", "SELECT count(*) FROM note");
    primary.sql("CREATE TABLE counter(n); INSERT INTO counter VALUES (0)");
    let add = "SELECT replica_exec('UPDATE counter SET n = n + 1')";
    relay.hold_answer(0);
    let failure = host.refused("main", add);
    assert_eq!(failure.code, SQLITE_IOERR, "{failure:?}");
    assert!(
        failure.message.contains("it is not known whether"),
        "{failure:?}"
    );
    relay.release();
    assert_eq!(primary.sql("SELECT n FROM counter"), "1");
    // The primary dies with the statement on its way.
    relay.hold_answer(0);
    let address = primary.address().to_owned();
    let killer = {
        std::thread::spawn(move || {
            relay.wait_until_held();
            primary.kill();
            relay.release();
            relay
        })
    };
    let failure = host.refused("main", add);
    let relay = killer.join().expect("killed");
    // The answer was on its way, or it was not; what it did cannot be fetched in any case.
    assert_eq!(failure.code, SQLITE_IOERR, "{failure:?}");
    assert!(
        failure.message.contains("it is not known whether")
            || failure.message.contains("is not to be repeated"),
        "{failure:?}"
    );
    let mut primary = harness::Primary::start_at(&files.app, &address);
    let count = primary.sql("SELECT n FROM counter");
    // Answered, so that the relay counts from here.
    host.sql("main", "SELECT replica_sync()");
    // The statement runs, and after it what it did is here: the answer to the pull is lost.
    relay.hold_answer(1);
    let failure = host.refused("main", add);
    assert_eq!(failure.code, SQLITE_IOERR, "{failure:?}");
    assert!(
        failure.message.contains("is not to be repeated"),
        "{failure:?}"
    );
    relay.release();
    let after: u32 = count.parse::<u32>().expect("a count") + 1;
    assert_eq!(primary.sql("SELECT n FROM counter"), after.to_string());
    host.sql("main", "SELECT replica_sync()");
    assert_eq!(host.sql("main", "SELECT n FROM counter"), after.to_string());
    host.sql("main", add);
    assert_eq!(
        image::value(&files.copy, "SELECT n FROM counter"),
        (after + 1).to_string()
    );
    assert_same(&files.app, &files.copy, "after the lost answers");
}

#[test]
fn a_refusal_says_that_nothing_ran() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::python();
    host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
    host.sql("main", "SELECT count(*) FROM note");
    // Longer than a primary takes.
    let failure = host.refused(
        "main",
        "SELECT replica_exec('INSERT INTO note VALUES (2000, hex(?), NULL)', zeroblob(9000000))",
    );
    assert_eq!(failure.code, SQLITE_ERROR, "{failure:?}");
    assert!(failure.message.contains("longer than"), "{failure:?}");
    // It waits for a writer, for a while.
    primary.sql("BEGIN IMMEDIATE");
    let begun = Instant::now();
    let failure = host.refused("main", "SELECT replica_exec('DELETE FROM note')");
    assert_eq!(failure.code, SQLITE_BUSY, "{failure:?}");
    assert!(
        begun.elapsed() > Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    primary.sql("COMMIT");
    assert_eq!(primary.sql("SELECT count(*) FROM note"), "1000");
}
