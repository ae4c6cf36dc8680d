//! The host matrix: every kind of program that uses SQLite goes through one small scenario, as replica and, where it
//! can, as primary.

use harness::{Files, Host, Shell, assert_intact, assert_same, json, notes, number, uri};

/// How a host opens a replicated database.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    /// With a URI.
    Uris,
    /// With a file name only: `replica_configure` and `replica_default_vfs`.
    Files,
}

/// A refusal says what to do, in words.
#[track_caller]
fn assert_sentence(text: &str) {
    assert!(
        text.len() > 20 && text.contains(' '),
        "not a sentence a user can act on: {text:?}"
    );
}

/// Makes and reads a replica of a shell's database, follows a change, and writes.
#[track_caller]
fn replicate(name: &str, host: &mut Host, names: Names) {
    let files = Files::new();
    let mut primary = files.primary();
    println!("{name}: SQLite {}", host.version());
    match names {
        Names::Uris => host.open(
            "main",
            &uri(&files.copy, &format!("sync_url={}", primary.url())),
        ),
        Names::Files => {
            let path = files.copy.to_str().expect("UTF-8");
            let settings = format!(r#"{{"sync_url": "{}"}}"#, primary.url());
            host.sql(
                "memory",
                &format!("SELECT replica_configure('{path}', '{settings}')"),
            );
            host.sql("memory", "SELECT replica_default_vfs(1)");
            host.open("main", path);
        }
    }
    assert_eq!(
        host.sql("main", "SELECT count(*) FROM note"),
        "1000",
        "{name}"
    );
    assert_same(&files.app, &files.copy, &format!("{name}: made"));

    primary.sql("UPDATE note SET text = 'changed' WHERE id % 10 = 0");
    primary.sql("INSERT INTO note VALUES (2000, 'new', randomblob(9000))");
    let answer = host.sql("main", "SELECT replica_sync()");
    assert_eq!(number(&answer, "$.transactions"), 2, "{name}: {answer}");
    assert_eq!(
        host.sql(
            "main",
            "SELECT count(*), sum(text = 'changed'), max(id) FROM note"
        ),
        "1001|100|2000",
        "{name}"
    );
    let verified = host.sql("main", "SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "{name}: {verified}");
    assert_eq!(
        json(&verified, "$.position"),
        primary.sql("SELECT replica_position()"),
        "{name}"
    );

    // A write is on the primary when it is done.
    host.sql("main", "INSERT INTO note VALUES (1500, 'mine', NULL)");
    assert_eq!(
        primary.sql("SELECT text FROM note WHERE id = 1500"),
        "mine",
        "{name}"
    );
    host.sql("main", "DELETE FROM note WHERE id = 1500");
    assert_eq!(
        host.sql(
            "main",
            "SELECT schema, role, state, lag_transactions FROM replica_status"
        ),
        "main|replica|ok|0",
        "{name}"
    );
    assert_eq!(host.sql("main", "PRAGMA integrity_check"), "ok", "{name}");
    assert_same(&files.app, &files.copy, name);

    // The settings are remembered: a second connection, and the next one after both are closed, need none.
    let again = match names {
        Names::Uris => uri(&files.copy, ""),
        Names::Files => files.copy.to_str().expect("UTF-8").to_string(),
    };
    host.open("second", &again);
    primary.sql("DELETE FROM note WHERE id < 100");
    host.sql("second", "SELECT replica_sync()");
    assert_eq!(
        host.sql("main", "SELECT count(*) FROM note"),
        "902",
        "{name}"
    );
    host.close_connection("second");
    host.close_connection("main");
    primary.sql("DELETE FROM note WHERE id < 200");
    host.open("main", &again);
    host.sql("main", "SELECT replica_sync()");
    assert_eq!(
        host.sql("main", "SELECT count(*) FROM note"),
        "802",
        "{name}"
    );
    host.close_connection("main");
    assert_same(&files.app, &files.copy, name);
    assert_intact(&files.copy, name);
}

/// Serves a database to a shell and a bundled host.
#[track_caller]
fn serve(name: &str, host: &mut Host, names: Names) {
    let files = Files::new();
    match names {
        Names::Uris => host.open("served", &uri(&files.app, "")),
        Names::Files => {
            host.sql("memory", "SELECT replica_default_vfs(1)");
            host.open("served", files.app.to_str().expect("UTF-8"));
        }
    }
    let answer = host.sql("served", "SELECT replica_serve('127.0.0.1:0')");
    let url = json(&answer, "$.url");
    let mut shell = files.replica(&url);
    let other = files.path("other.db");
    let mut bundled = Host::bundled();
    bundled.open_replica(&other, &format!("sync_url={url}"));
    for round in 0..10 {
        host.sql(
            "served",
            &format!(
                "INSERT INTO note VALUES ({}, 'served', randomblob(5000))",
                2000 + round
            ),
        );
        let answer = shell.sync();
        assert_eq!(number(&answer, "$.transactions"), 1, "{name}: {answer}");
        bundled.sql("main", "SELECT replica_sync()");
        assert_eq!(
            bundled.sql("main", "SELECT max(id) FROM note"),
            (2000 + round).to_string(),
            "{name}"
        );
    }
    assert_same(&files.app, &files.copy, &format!("{name} serves the shell"));
    assert_same(
        &files.app,
        &other,
        &format!("{name} serves the bundled host"),
    );
    assert_eq!(
        host.sql("served", "SELECT role, state FROM replica_status"),
        "primary|serving",
        "{name}"
    );
    let verified = host.sql("served", "SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "{name}: {verified}");
    host.sql("served", "SELECT replica_stop()");
    shell.refused("SELECT replica_sync()");
    assert_eq!(shell.sql("SELECT count(*) FROM note"), "1010", "{name}");
    host.close_connection("served");
    assert_intact(&files.app, name);
}

#[test]
fn debian_python() {
    replicate("Python", &mut Host::python(), Names::Uris);
    serve("Python", &mut Host::python(), Names::Uris);
}

#[test]
fn a_current_sqlite() {
    replicate("bundled", &mut Host::bundled(), Names::Uris);
    serve("bundled", &mut Host::bundled(), Names::Uris);
}

#[test]
fn apsw() {
    replicate("APSW", &mut Host::apsw(), Names::Uris);
    serve("APSW", &mut Host::apsw(), Names::Uris);
}

#[test]
fn better_sqlite3() {
    replicate("better-sqlite3", &mut Host::node(), Names::Files);
    serve("better-sqlite3", &mut Host::node(), Names::Files);
    // One process, both roles, no URIs.
    let mut host = Host::node();
    serve("better-sqlite3, first", &mut host, Names::Files);
    replicate("better-sqlite3, then", &mut host, Names::Files);
}

#[test]
fn a_host_whose_default_vfs_is_ours_still_opens_ordinary_files() {
    let files = Files::new();
    let mut host = Host::node();
    host.sql("memory", "SELECT replica_default_vfs(1)");
    let plain = files.path("plain.db");
    host.open("plain", plain.to_str().expect("UTF-8"));
    host.sql("plain", "CREATE TABLE t(a)");
    host.sql("plain", "INSERT INTO t VALUES (1)");
    assert_eq!(host.sql("plain", "PRAGMA journal_mode"), "delete");
    host.refused("plain", "SELECT replica_sync()");
    host.close_connection("plain");
    assert_eq!(Shell::plain(&plain).sql("SELECT a FROM t"), "1");
    assert_eq!(harness::side_files(&plain), Vec::<String>::new());
}

/// Nothing of ours may use this SQLite on a second thread: it follows, on the caller's thread, and serving is refused.
#[test]
fn a_single_threaded_sqlite() {
    let mut host = Host::single_threaded();
    replicate("single-threaded", &mut host, Names::Uris);
    let files = Files::new();
    let before = std::fs::read(&files.app).expect("read");
    host.open("served", &uri(&files.app, ""));
    let failure = host.refused("served", "SELECT replica_serve('127.0.0.1:0')");
    assert!(failure.message.contains("thread"), "{failure:?}");
    assert_sentence(&failure.message);
    assert_eq!(
        host.sql("served", "SELECT count(*) FROM replica_status"),
        "0"
    );
    assert_eq!(host.sql("served", "SELECT count(*) FROM note"), "1000");
    host.close_connection("served");
    assert!(
        before == std::fs::read(&files.app).expect("read"),
        "a refusal changed the file"
    );
    assert_eq!(harness::side_files(&files.app), Vec::<String>::new());
}

#[test]
fn several_replicas_and_ordinary_databases_in_one_connection() {
    for (name, start) in [
        ("Python", Host::python as fn() -> Host),
        ("bundled", Host::bundled),
        ("APSW", Host::apsw),
        ("single-threaded", Host::single_threaded),
    ] {
        println!("{name}");
        let one = Files::new();
        let two = Files::new();
        let mut first = one.primary();
        let mut second = two.primary();
        let plain = one.path("plain.db");
        notes(&plain);
        let mut host = start();
        host.open(
            "main",
            &uri(&one.copy, &format!("sync_url={}", first.url())),
        );
        host.sql(
            "main",
            &format!(
                "ATTACH '{}' AS two",
                uri(&two.copy, &format!("sync_url={}", second.url()))
            ),
        );
        host.sql("main", &format!("ATTACH '{}' AS plain", plain.display()));
        host.sql("main", "ATTACH ':memory:' AS memory");
        host.sql(
            "main",
            "CREATE TABLE memory.seen(id INTEGER PRIMARY KEY, text TEXT)",
        );
        for round in 0..5 {
            let id = 3000 + round;
            first.sql(&format!(
                "INSERT INTO note VALUES ({id}, 'one {round}', NULL)"
            ));
            second.sql(&format!(
                "INSERT INTO note VALUES ({id}, 'two {round}', NULL)"
            ));
            host.sql("main", "SELECT replica_sync('main')");
            host.sql("main", "SELECT replica_sync('two')");
            // Both replicas and both ordinary databases in one transaction: reads there, writes here.
            host.sql("main", "BEGIN");
            host.sql(
                "main",
                &format!("INSERT INTO memory.seen SELECT id, text FROM main.note WHERE id = {id}"),
            );
            host.sql("main", &format!("UPDATE plain.note SET text = (SELECT text FROM two.note WHERE id = {id}) WHERE id = 1"));
            host.sql("main", "COMMIT");
            assert_eq!(
                host.sql("main", "SELECT text FROM plain.note WHERE id = 1"),
                format!("two {round}"),
                "{name}"
            );
        }
        host.refused("main", "SELECT replica_sync('plain')");
        host.refused("main", "SELECT replica_sync('memory')");
        host.refused("main", "SELECT replica_sync('nothing')");
        host.refused("main", "INSERT INTO two.note VALUES (1, 'no', NULL)");
        // A failed write of one transaction leaves the others as they were.
        host.sql("main", "BEGIN");
        host.sql("main", "UPDATE plain.note SET text = 'kept' WHERE id = 2");
        host.refused("main", "UPDATE main.note SET id = 1 WHERE id = 2");
        host.sql("main", "COMMIT");
        assert_eq!(
            host.sql("main", "SELECT text FROM plain.note WHERE id = 2"),
            "kept",
            "{name}"
        );
        assert_eq!(
            host.sql("main", "SELECT count(*) FROM memory.seen"),
            "5",
            "{name}"
        );
        // And a further process-wide view: the same replicas opened by themselves.
        host.open("other", &uri(&two.copy, ""));
        assert_eq!(
            host.sql("other", "SELECT count(*) FROM note"),
            "1005",
            "{name}"
        );
        host.sql("main", "DETACH two");
        second.sql("DELETE FROM note WHERE id = 1");
        host.sql("other", "SELECT replica_sync()");
        assert_eq!(
            host.sql("main", "SELECT schema FROM replica_status"),
            "main",
            "{name}"
        );
        assert_same(&one.app, &one.copy, name);
        assert_same(&two.app, &two.copy, name);
        assert_intact(&plain, name);
    }
}
