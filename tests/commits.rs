//! Writes on a replica: whatever SQL changes it is committed on the primary, and is there at once.

use harness::{
    Failure, Files, Host, Primary, Shell, assert_intact, assert_same, json, number, uri,
};

const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_BUSY_SNAPSHOT: i32 = 517;

/// A sentence, not just a code.
#[track_caller]
fn assert_sentence(text: &str) {
    assert!(
        text.len() > 20 && text.contains(' '),
        "not a sentence a user can act on: {text:?}"
    );
}

/// Every host that can open a replica by its URI.
fn hosts() -> [Host; 3] {
    [Host::python(), Host::bundled(), Host::apsw()]
}

/// The primary has what the replica has, byte for byte, and both say so.
#[track_caller]
fn assert_equal(files: &Files, primary: &mut Primary, host: &mut Host, context: &str) {
    assert_eq!(
        host.sql("main", "SELECT replica_position()"),
        primary.sql("SELECT replica_position()"),
        "{context}"
    );
    assert_same(&files.app, &files.copy, context);
    assert_eq!(host.sql("main", "SELECT state FROM replica_status"), "ok");
    let verified = host.sql("main", "SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "{context}: {verified}");
    assert_intact(&files.app, context);
}

#[test]
fn every_kind_of_statement_commits_on_the_primary() {
    for mut host in hosts() {
        let files = Files::new();
        let mut primary = files.primary();
        host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
        for (sql, check, expected) in [
            (
                "INSERT INTO note VALUES (5000, 'new', NULL)",
                "SELECT text FROM note WHERE id = 5000",
                "new",
            ),
            (
                "UPDATE note SET text = 'changed' WHERE id <= 500",
                "SELECT count(*) FROM note WHERE text = 'changed'",
                "500",
            ),
            (
                "DELETE FROM note WHERE id > 900 AND id < 5000",
                "SELECT count(*) FROM note",
                "901",
            ),
            (
                "CREATE TABLE parent(id INTEGER PRIMARY KEY, total INTEGER DEFAULT 0)",
                "SELECT count(*) FROM parent",
                "0",
            ),
            (
                "CREATE TABLE child(id INTEGER PRIMARY KEY, parent REFERENCES parent ON DELETE CASCADE, n INTEGER)",
                "SELECT count(*) FROM child",
                "0",
            ),
            (
                "CREATE TRIGGER add_up AFTER INSERT ON child BEGIN UPDATE parent SET total = total + new.n WHERE id = new.parent; END",
                "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'",
                "1",
            ),
            (
                "INSERT INTO parent(id) VALUES (1), (2)",
                "SELECT count(*) FROM parent",
                "2",
            ),
            (
                "INSERT INTO child VALUES (1, 1, 5), (2, 1, 6), (3, 2, 7)",
                "SELECT group_concat(total) FROM parent",
                "11,7",
            ),
            (
                "INSERT INTO parent VALUES (1, 0) ON CONFLICT(id) DO UPDATE SET total = total * 2",
                "SELECT total FROM parent WHERE id = 1",
                "22",
            ),
            ("PRAGMA foreign_keys = ON", "PRAGMA foreign_keys", "1"),
            (
                "DELETE FROM parent WHERE id = 1",
                "SELECT count(*) FROM child",
                "1",
            ),
            (
                "CREATE VIRTUAL TABLE words USING fts5(text)",
                "SELECT count(*) FROM words",
                "0",
            ),
            (
                "INSERT INTO words SELECT text || ' ' || id FROM note",
                "SELECT count(*) FROM words WHERE words MATCH 'changed'",
                "500",
            ),
            (
                "INSERT INTO words(words) VALUES ('optimize')",
                "SELECT count(*) FROM words WHERE words MATCH 'changed'",
                "500",
            ),
            ("PRAGMA user_version = 7", "PRAGMA user_version", "7"),
            ("PRAGMA application_id = 9", "PRAGMA application_id", "9"),
            (
                "ALTER TABLE note ADD COLUMN more DEFAULT 'more'",
                "SELECT count(more) FROM note",
                "901",
            ),
            (
                "CREATE INDEX by_text ON note(text)",
                "SELECT count(*) FROM note INDEXED BY by_text WHERE text = 'changed'",
                "500",
            ),
            ("REINDEX", "SELECT count(*) FROM note", "901"),
            ("ANALYZE", "SELECT count(*) > 0 FROM sqlite_stat1", "1"),
            ("DROP TABLE child", "SELECT count(*) FROM parent", "1"),
            ("VACUUM", "SELECT count(*) FROM note", "901"),
            (
                "UPDATE note SET text = text",
                "SELECT count(*) FROM note",
                "901",
            ),
        ] {
            host.sql("main", sql);
            assert_eq!(host.sql("main", check), expected, "{sql}");
            if !sql.starts_with("PRAGMA foreign_keys") {
                assert_eq!(primary.sql(check), expected, "{sql}");
            }
        }
        let returned = host.sql(
            "main",
            "INSERT INTO parent(total) VALUES (3) RETURNING id, total",
        );
        assert_eq!(returned, "3|3");
        assert_equal(&files, &mut primary, &mut host, "after all statements");
        // And what the primary writes is seen as before.
        primary.sql("INSERT INTO note(id, text) VALUES (6000, 'from the primary')");
        host.sql("main", "SELECT replica_sync()");
        assert_equal(&files, &mut primary, &mut host, "after a sync");
    }
}

#[test]
fn transactions_savepoints_and_spills() {
    for mut host in hosts() {
        let files = Files::new();
        let mut primary = files.primary();
        host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
        host.sql("main", "PRAGMA cache_size = 20");
        host.sql("main", "PRAGMA cache_spill = 20");
        let rows = |from: u32, count: u32| {
            format!(
                "WITH RECURSIVE c(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM c WHERE n < {from} + {count} - 1)
                 INSERT INTO note SELECT n, printf('row %d %.900c', n, 'x'), NULL FROM c"
            )
        };
        let begin = ["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"];
        for (round, begin) in (0..).zip(begin.iter().cycle().take(9)) {
            let from = 10_000 + round * 5_000;
            host.sql("main", begin);
            host.sql("main", &rows(from, 2_000));
            // Spilled pages are overwritten.
            let update = format!("UPDATE note SET text = 'again ' || text WHERE id >= {from}");
            host.sql("main", &update);
            host.sql("main", "SAVEPOINT inner");
            host.sql("main", &rows(from + 2_000, 1_000));
            host.sql("main", "UPDATE note SET text = upper(text)");
            match round % 3 {
                0 => host.sql("main", "RELEASE inner"),
                1 => host.sql("main", "ROLLBACK TO inner"),
                _ => {
                    host.sql("main", "ROLLBACK TO inner");
                    host.sql("main", &rows(from + 3_000, 5))
                }
            };
            host.sql("main", if round == 4 { "ROLLBACK" } else { "COMMIT" });
            let count = "SELECT count(*), sum(length(text)) FROM note";
            assert_eq!(host.sql("main", count), primary.sql(count), "round {round}");
        }
        assert_equal(&files, &mut primary, &mut host, "after spills");
        // The log can be recovered whole: nobody needs the shared index.
        host.process().kill();
        assert_same(&files.app, &files.copy, "after a kill");
    }
}

#[test]
fn a_transaction_larger_than_memory_keeps_for_a_push() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::python();
    host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
    host.sql(
        "main",
        "CREATE TABLE large AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 40)
           SELECT n, randomblob(1000000) AS b FROM c",
    );
    assert_equal(&files, &mut primary, &mut host, "40 MB in one transaction");
    host.sql("main", "DELETE FROM large WHERE n > 5");
    host.sql("main", "VACUUM");
    assert_equal(&files, &mut primary, &mut host, "VACUUM to a smaller file");
}

#[test]
fn what_is_rolled_back_reaches_nobody() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::python();
    host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
    host.sql("main", "SELECT count(*) FROM note");
    let before = primary.sql("SELECT replica_position()");
    host.sql("main", "BEGIN");
    host.sql("main", "DELETE FROM note");
    assert_eq!(host.sql("main", "SELECT count(*) FROM note"), "0");
    host.sql("main", "ROLLBACK");
    host.refused("main", "INSERT INTO note VALUES (1, 'twice', NULL)");
    assert_eq!(primary.sql("SELECT replica_position()"), before);
    assert_eq!(host.sql("main", "SELECT count(*) FROM note"), "1000");
    assert_equal(&files, &mut primary, &mut host, "after a rollback");
}

#[test]
fn a_stale_replica_writes_on_what_the_primary_has() {
    for mut host in hosts() {
        let files = Files::new();
        let mut primary = files.primary();
        host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
        host.sql("main", "SELECT count(*) FROM note");
        for round in 0..5 {
            // Longer ago than a replica trusts its knowledge of the newest state.
            wait_a_moment();
            primary.sql("UPDATE note SET text = 'primary' || id WHERE id = 1");
            primary.sql(&format!(
                "INSERT INTO note VALUES ({}, 'p', NULL)",
                2_000 + round
            ));
            host.sql(
                "main",
                "UPDATE note SET text = text || '+replica' WHERE id = 1",
            );
            assert_eq!(
                primary.sql("SELECT text FROM note WHERE id = 1"),
                "primary1+replica"
            );
        }
        assert_equal(&files, &mut primary, &mut host, "after stale writes");
    }
}

/// Lets go what a replica was told: within a second it goes by it.
fn wait_a_moment() {
    std::thread::sleep(std::time::Duration::from_millis(1100));
}

#[test]
fn the_second_of_two_commits_on_one_state_is_busy() {
    for mode in ["auto", "optimistic"] {
        let files = Files::new();
        let mut primary = files.primary();
        let other = files.path("other.db");
        let parameters = format!("sync_url={}&write_mode={mode}", primary.url());
        let mut first = Host::python();
        let mut second = Host::bundled();
        first.open_replica(&files.copy, &parameters);
        second.open_replica(&other, &parameters);
        for host in [&mut first, &mut second] {
            host.sql("main", "SELECT count(*) FROM note");
        }
        first.sql("main", "BEGIN IMMEDIATE");
        second.sql("main", "BEGIN IMMEDIATE");
        first.sql("main", "UPDATE note SET text = 'first' WHERE id = 1");
        second.sql("main", "UPDATE note SET text = 'second' WHERE id = 1");
        second.sql("main", "COMMIT");
        let failure = first.refused("main", "COMMIT");
        assert_eq!(failure.code, SQLITE_BUSY_SNAPSHOT, "{failure:?}");
        assert_sentence(&first.sql("memory", "SELECT replica_last_error()"));
        assert_eq!(
            first.sql("main", "SELECT text FROM note WHERE id = 1"),
            "note 1",
            "{mode}"
        );
        // Run again it is on top of the other.
        first.sql(
            "main",
            "UPDATE note SET text = text || ' first' WHERE id = 1",
        );
        assert_eq!(
            primary.sql("SELECT text FROM note WHERE id = 1"),
            "second first"
        );
        second.sql("main", "SELECT replica_sync()");
        assert_same(&files.app, &files.copy, mode);
        assert_same(&files.app, &other, mode);
    }
}

#[test]
fn exclusive_writes_wait_for_each_other() {
    let files = Files::new();
    let mut primary = files.primary();
    let other = files.path("other.db");
    let parameters = format!("sync_url={}&write_mode=exclusive", primary.url());
    let mut first = Host::python();
    first.open_replica(&files.copy, &parameters);
    let mut second = Shell::replica(&other, &parameters);
    second.sync();
    first.sql("main", "BEGIN IMMEDIATE");
    second.feed("UPDATE note SET text = text || '2' WHERE id = 1");
    first.sql("main", "UPDATE note SET text = 'first' WHERE id = 1");
    first.sql("main", "COMMIT");
    second.settle();
    assert!(second.fed_errors().is_empty());
    assert_eq!(primary.sql("SELECT text FROM note WHERE id = 1"), "first2");
    // A lease that is rolled back is free at once.
    for round in 0..20 {
        first.sql("main", "BEGIN IMMEDIATE");
        first.sql("main", "ROLLBACK");
        second.sql("UPDATE note SET text = text || '2' WHERE id = 2");
        first.sql("main", "UPDATE note SET text = text || '1' WHERE id = 2");
        let length = format!("{}", 6 + 2 * (round + 1));
        assert_eq!(
            primary.sql("SELECT length(text) FROM note WHERE id = 2"),
            length
        );
    }
    second.sync();
    first.sql("main", "SELECT replica_sync()");
    assert_same(&files.app, &files.copy, "exclusive");
    assert_same(&files.app, &other, "exclusive");
}

#[test]
fn an_unreachable_primary_is_busy_and_nothing_is_lost() {
    let files = Files::new();
    let address = format!("127.0.0.1:{}", harness::free_port());
    let primary = Primary::start_at(&files.app, &address);
    let mut host = Host::python();
    let parameters = format!("sync_url={}&sync_timeout=2", primary.url());
    host.open_replica(&files.copy, &parameters);
    host.sql("main", "PRAGMA busy_timeout = 300");
    host.sql("main", "INSERT INTO note VALUES (5000, 'here', NULL)");
    // Gone at COMMIT.
    host.sql("main", "BEGIN IMMEDIATE");
    host.sql("main", "INSERT INTO note VALUES (5001, 'not here', NULL)");
    primary.close();
    let failure = host.refused("main", "COMMIT");
    assert_eq!(failure.code, SQLITE_BUSY_SNAPSHOT, "{failure:?}");
    assert_sentence(&host.sql("memory", "SELECT replica_last_error()"));
    // Gone at the start.
    let failure = host.refused("main", "INSERT INTO note VALUES (5001, 'not here', NULL)");
    assert_eq!(failure.code, SQLITE_BUSY, "{failure:?}");
    assert_sentence(&host.sql("memory", "SELECT replica_last_error()"));
    assert_eq!(host.sql("main", "SELECT max(id) FROM note"), "5000");
    let mut primary = Primary::start_at(&files.app, &address);
    assert_eq!(primary.sql("SELECT max(id) FROM note"), "5000");
    wait_a_moment();
    host.sql("main", "INSERT INTO note VALUES (5001, 'again', NULL)");
    assert_equal(
        &files,
        &mut primary,
        &mut host,
        "after the primary came back",
    );
}

#[test]
fn two_replicas_in_one_transaction_are_refused_before_anything_is_sent() {
    for mut host in hosts() {
        let files = Files::new();
        let mut primary = files.primary();
        let other = files.path("other.db");
        let mut second = Primary::start(&{
            let path = files.path("second.db");
            harness::notes(&path);
            path
        });
        host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
        let attached = uri(&other, &format!("sync_url={}", second.url()));
        host.sql("main", &format!("ATTACH '{attached}' AS other"));
        // One after the other, and reading the one while writing the other.
        host.sql("main", "UPDATE main.note SET text = 'a' WHERE id = 1");
        host.sql("main", "UPDATE other.note SET text = 'b' WHERE id = 1");
        host.sql(
            "main",
            "INSERT INTO other.note SELECT id + 5000, text, NULL FROM main.note WHERE id = 1",
        );
        assert_eq!(second.sql("SELECT text FROM note WHERE id = 5001"), "a");
        let before = primary.sql("SELECT replica_position()");
        host.sql("main", "BEGIN");
        host.sql("main", "UPDATE main.note SET text = 'c' WHERE id = 1");
        let failure = host.refused("main", "UPDATE other.note SET text = 'd' WHERE id = 1");
        assert_eq!(failure.code & 0xff, SQLITE_LOCKED, "{failure:?}");
        assert_sentence(&host.sql("memory", "SELECT replica_last_error()"));
        host.sql("main", "ROLLBACK");
        assert_eq!(primary.sql("SELECT replica_position()"), before);
        host.sql("main", "UPDATE other.note SET text = 'e' WHERE id = 1");
        assert_eq!(second.sql("SELECT text FROM note WHERE id = 1"), "e");
        // Pragmas that speak of all schemas do not take an attached replica out of WAL mode.
        for sql in [
            "PRAGMA journal_mode = DELETE",
            "PRAGMA other.journal_mode = DELETE",
        ] {
            let _: Result<String, Failure> = host.try_sql("main", sql);
            assert_eq!(host.sql("main", "PRAGMA other.journal_mode"), "wal");
        }
        host.sql(
            "main",
            "INSERT INTO other.note VALUES (7000, 'and on', NULL)",
        );
        assert_same(&files.app, &files.copy, "the first");
        assert_same(second.path(), &other, "the second");
    }
}

#[test]
fn a_host_without_uris_writes_as_well() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::node();
    let path = files.copy.to_str().expect("UTF-8");
    let settings = format!(r#"{{"sync_url": "{}"}}"#, primary.url());
    host.sql(
        "memory",
        &format!("SELECT replica_configure('{path}', '{settings}')"),
    );
    host.sql("memory", "SELECT replica_default_vfs(1)");
    host.open("main", path);
    host.sql("main", "INSERT INTO note VALUES (5000, 'from Node', NULL)");
    host.sql("main", "BEGIN");
    host.sql("main", "UPDATE note SET text = 'x' WHERE id < 100");
    host.sql("main", "COMMIT");
    assert_equal(&files, &mut primary, &mut host, "Node");
}

#[test]
fn plain_sqlite_on_the_primary_and_replicas_lose_nothing_of_each_other() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut plain = Host::plain_on(&files.app);
    plain.sql("main", "PRAGMA busy_timeout = 20000");
    let mut host = Host::bundled();
    host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
    primary.sql("CREATE TABLE counter(n INTEGER); INSERT INTO counter VALUES (0)");
    host.sql("main", "SELECT replica_sync()");
    plain.repeat_with_pauses("main", "UPDATE counter SET n = n + 1", 3);
    let mut done = 0;
    while done < 50 {
        match host.try_sql("main", "UPDATE counter SET n = n + 1") {
            Ok(_) => done += 1,
            Err(failure) => assert_eq!(failure.code & 0xff, SQLITE_BUSY, "{failure:?}"),
        }
    }
    let counted = plain.stop();
    let by_plain = counted.split('|').next().expect("a count");
    let by_plain: u64 = by_plain.parse().expect("a number");
    assert!(by_plain > 0);
    assert_eq!(
        primary.sql("SELECT n FROM counter"),
        (by_plain + 50).to_string()
    );
    host.sql("main", "SELECT replica_sync()");
    assert_equal(&files, &mut primary, &mut host, "after both");
}

#[test]
fn a_second_process_on_the_same_replica_sees_the_write_at_once() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::python();
    let parameters = format!("sync_url={}", primary.url());
    host.open_replica(&files.copy, &parameters);
    let mut shell = Shell::replica(&files.copy, &parameters);
    for round in 0..20 {
        let id = 5_000 + round;
        let writer_is_host = round % 2 == 0;
        let sql = format!("INSERT INTO note VALUES ({id}, 'x', NULL)");
        match writer_is_host {
            true => host.sql("main", &sql),
            false => shell.sql(&sql),
        };
        assert_eq!(shell.sql("SELECT max(id) FROM note"), id.to_string());
        assert_eq!(host.sql("main", "SELECT max(id) FROM note"), id.to_string());
    }
    let report = shell.sync();
    assert_eq!(number(&report, "$.pages"), 0, "{report}");
    assert_equal(&files, &mut primary, &mut host, "two processes");
}

#[test]
fn a_position_is_waited_for_on_another_replica() {
    let files = Files::new();
    let primary = files.primary();
    let other = files.path("other.db");
    let parameters = format!("sync_url={}", primary.url());
    let mut writer = Host::python();
    writer.open_replica(&files.copy, &parameters);
    let mut reader = Shell::replica(&other, &parameters);
    reader.sync();
    for round in 0..5 {
        writer.sql("main", "UPDATE note SET text = text || '+' WHERE id = 1");
        let position = writer.sql("main", "SELECT replica_position()");
        let answer = reader.sql(&format!("SELECT replica_wait('{position}', 20)"));
        assert_eq!(json(&answer, "$.reached"), "1", "{answer}");
        assert_eq!(json(&answer, "$.position"), position);
        let length = (7 + round).to_string();
        assert_eq!(
            reader.sql("SELECT length(text) FROM note WHERE id = 1"),
            length
        );
        // What is there already needs no wait, and no primary.
        let again = reader.sql(&format!("SELECT replica_wait('{position}', 0)"));
        assert_eq!(json(&again, "$.reached"), "1", "{again}");
    }
    let never = format!("999999-{:032x}", 7);
    let answer = reader.sql(&format!("SELECT replica_wait('{never}', 0.2)"));
    assert_eq!(json(&answer, "$.reached"), "0", "{answer}");
    reader.refused("SELECT replica_wait('nonsense', 1)");
    reader.refused("SELECT replica_wait('1-00000000000000000000000000000000', -1)");
    reader.sql("BEGIN; SELECT count(*) FROM note");
    reader.refused(&format!("SELECT replica_wait('{never}', 0)"));
    reader.sql("COMMIT");
    primary.close();
    let answer = reader.sql(&format!("SELECT replica_wait('{never}', 0.3)"));
    assert_eq!(json(&answer, "$.reached"), "0", "{answer}");
}
