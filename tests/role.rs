//! Roles and refusals: what a primary, a replica and an ordinary database allow, and that a refusal changes nothing.

use std::path::Path;

use harness::{
    Files, Host, Image, Primary, Relay, Shell, assert_intact, assert_same, directory, free_port,
    image, json, notes, number, side_file, side_files, uri, wait_for,
};

/// The primary result code of an extended one.
fn primary_code(code: i32) -> i32 {
    code & 0xff
}

const SQLITE_CANTOPEN: i32 = 14;

/// A sentence, not just a code.
#[track_caller]
fn assert_sentence(text: &str) {
    assert!(
        text.len() > 20 && text.contains(' '),
        "not a sentence a user can act on: {text:?}"
    );
}

#[test]
fn an_existing_file_that_is_no_replica_is_refused_and_untouched() {
    let files = Files::new();
    let primary = files.primary();
    let closed = files.path("closed.db");
    notes(&closed);
    let text = files.path("text.db");
    std::fs::write(
        &text,
        "This is no database, but it is somebody's file. ".repeat(500),
    )
    .expect("write");
    for path in [&closed, &text] {
        let before = std::fs::read(path).expect("read");
        for mut host in [Host::python(), Host::bundled()] {
            let name = uri(path, &format!("sync_url={}", primary.url()));
            let failure = host.refused_at_open_or("main", &name, "SELECT count(*) FROM note");
            if path == &closed {
                assert_eq!(primary_code(failure.code), SQLITE_CANTOPEN, "{failure:?}");
            }
            assert_sentence(&host.sql("memory", "SELECT replica_last_error()"));
        }
        assert!(
            before == std::fs::read(path).expect("read"),
            "{path:?} was changed"
        );
        assert_eq!(side_files(path), Vec::<String>::new());
    }
    // The same beside a log with content that is not checkpointed yet.
    let open = files.path("open.db");
    notes(&open);
    let mut plain = Shell::plain(&open);
    plain.sql("PRAGMA wal_autocheckpoint = 0; INSERT INTO note VALUES (2000, 'in the log', NULL)");
    let before = Image::read(&open);
    let name = uri(&open, &format!("sync_url={}", primary.url()));
    Host::python().refused_at_open_or("main", &name, "SELECT count(*) FROM note");
    assert!(before == Image::read(&open), "the content changed");
    plain.sql("INSERT INTO note VALUES (2001, 'still mine', NULL)");
    assert_eq!(image::value(&open, "SELECT count(*) FROM note"), "1002");
    assert!(!side_file(&open, "-replica").exists());
}

#[test]
fn forbidden_pragmas_are_refused_on_primary_and_replica() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut replica = files.replica(primary.url());
    let before = Image::read(&files.app);
    for shell in [primary.shell(), &mut replica] {
        for sql in [
            "PRAGMA journal_mode = DELETE",
            "PRAGMA main.journal_mode = TRUNCATE",
            "PRAGMA journal_mode = PERSIST",
            "PRAGMA journal_mode = MEMORY",
            "PRAGMA journal_mode(OFF)",
            "PRAGMA locking_mode = EXCLUSIVE",
            "PRAGMA main.locking_mode = exclusive",
            "PRAGMA page_size = 8192",
        ] {
            shell.refused(sql);
            assert_sentence(&shell.sql("SELECT replica_last_error()"));
        }
        assert_eq!(shell.sql("PRAGMA journal_mode"), "wal");
        assert_eq!(shell.sql("PRAGMA main.locking_mode"), "normal");
        assert_eq!(shell.sql("PRAGMA page_size"), "4096");
        assert_eq!(shell.sql("PRAGMA locking_mode = NORMAL"), "normal");
        assert_eq!(shell.sql("SELECT count(*) FROM note"), "1000");
    }
    assert!(
        before == Image::read(&files.app),
        "a refusal changed the primary"
    );
    assert_same(&files.app, &files.copy, "after the refusals");
    // No exclusive lock was left, and VACUUM, which would make a new page size real, keeps the old one.
    Shell::plain(&files.app).sql("INSERT INTO note VALUES (2000, 'by plain SQLite', NULL)");
    primary.sql("VACUUM; PRAGMA journal_mode = WAL; INSERT INTO note VALUES (2001, 'after', NULL)");
    replica.sync();
    assert_eq!(Image::read(&files.copy).page_size(), 4096);
    assert_same(&files.app, &files.copy, "after VACUUM");
    // Plain SQLite cannot take a database that is in use out of WAL mode either.
    for path in [&files.app, &files.copy] {
        let mut plain = Shell::plain(path);
        let _ = plain.try_sql("PRAGMA journal_mode = DELETE");
        assert_eq!(plain.sql("PRAGMA journal_mode"), "wal");
    }
    primary.sql("INSERT INTO note VALUES (2002, 'and on', NULL)");
    replica.sync();
    assert_same(&files.app, &files.copy, "after plain SQLite's attempt");
}

#[test]
fn serving_is_refused_where_it_must_be() {
    let files = Files::new();
    let mut shell = Shell::with_extension();
    shell.open(&uri(&files.app, ""));
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "nonsense", ""] {
        shell.refused(&format!("SELECT replica_serve('{address}')"));
        assert_sentence(&shell.sql("SELECT replica_last_error()"));
    }
    let ours = |file: &String| file.contains("-replica");
    assert!(
        !side_files(&files.app).iter().any(ours),
        "nothing is served, yet something was kept: {:?}",
        side_files(&files.app)
    );
    shell.refused("SELECT replica_serve('127.0.0.1:0', '{\"nonsense\": 1')");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let in_use = listener.local_addr().expect("bound");
    shell.refused(&format!("SELECT replica_serve('{in_use}')"));
    let free = format!("127.0.0.1:{}", free_port());
    let answer = shell.sql(&format!("SELECT replica_serve('{free}')"));
    assert_eq!(json(&answer, "$.url"), format!("http://{free}/app"));
    assert_eq!(json(&answer, "$.database"), "app");

    let mut memory = Shell::with_extension();
    memory.refused("SELECT replica_serve('127.0.0.1:0')");
    assert_sentence(&memory.sql("SELECT replica_last_error()"));
}

#[test]
fn a_second_server_for_the_same_file_is_refused_until_the_first_is_gone() {
    let files = Files::new();
    let mut first = files.primary();
    let mut second = Shell::with_extension();
    second.open(&uri(&files.app, ""));
    second.refused("SELECT replica_serve('127.0.0.1:0')");
    assert_sentence(&second.sql("SELECT replica_last_error()"));
    // The first one is not disturbed, and the second may read and write.
    second.sql("INSERT INTO note VALUES (2000, 'by the second', NULL)");
    let mut replica = files.replica(first.url());
    assert_same(&files.app, &files.copy, "served by the first");
    first.sql("SELECT replica_stop()");
    let answer = second.sql("SELECT replica_serve('127.0.0.1:0')");
    first.sql("INSERT INTO note VALUES (2001, 'by the first, which serves no more', NULL)");
    replica.close();
    replica = Shell::replica(&files.copy, &format!("sync_url={}", json(&answer, "$.url")));
    replica.sync();
    assert_same(&files.app, &files.copy, "served by the second");
    second.kill();
    first.sql("SELECT replica_serve('127.0.0.1:0')");
}

#[test]
fn stopping_ends_the_server_and_serving_again_keeps_the_history() {
    let files = Files::new();
    let address = format!("127.0.0.1:{}", free_port());
    let mut primary = Primary::start_at(&files.app, &address);
    let relay = Relay::to(&address);
    let mut replica = files.replica(&relay.url("app"));
    primary.sql("SELECT replica_stop()");
    wait_for("the port to be closed", || {
        std::net::TcpStream::connect(&address).is_err()
    });
    primary.sql("INSERT INTO note VALUES (2000, 'while not served', NULL)");
    replica.refused("SELECT replica_sync()");
    assert_sentence(&replica.sql("SELECT replica_last_error()"));
    assert_sentence(&replica.sql("SELECT last_error FROM replica_status"));
    assert_eq!(
        replica.sql("SELECT count(*) FROM note"),
        "1000",
        "reads need no primary"
    );
    primary.sql(&format!("SELECT replica_serve('{address}')"));
    relay.take_received();
    let answer = replica.sync();
    assert!(number(&answer, "$.transactions") >= 1, "{answer}");
    assert!(relay.take_received() < 200_000, "{answer}");
    assert_same(&files.app, &files.copy, "served again");
    assert_eq!(replica.sql("SELECT state FROM replica_status"), "ok");
}

#[test]
fn status_tells_what_happens() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut replica = files.replica(primary.url());
    let columns = "schema, file, role, remote, state, position, remote_position, lag_transactions, lag_seconds, \
                   last_sync, last_error, bytes_received, bytes_sent, wal_bytes";
    let position = primary.shell().position();
    let (lsn, id) = position.split_once('-').expect("lsn-id");
    assert!(lsn.parse::<u64>().is_ok(), "{position}");
    assert!(
        id.len() == 32
            && id
                .chars()
                .all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()),
        "{position}"
    );

    replica.sql(".mode json");
    let row = replica.sql(&format!("SELECT {columns} FROM replica_status"));
    replica.sql(".mode list");
    let get = |name: &str| json(&row, &format!("$[0].{name}"));
    assert_eq!(get("schema"), "main");
    assert!(get("file").ends_with("replica.db"), "{row}");
    assert_eq!(get("role"), "replica");
    assert_eq!(get("remote"), primary.url());
    assert_eq!(get("state"), "ok");
    assert_eq!(get("position"), position);
    assert_eq!(get("remote_position"), position);
    assert_eq!(get("lag_transactions"), "0");
    assert!(number(&row, "$[0].bytes_received") > 500_000, "{row}");
    assert!(number(&row, "$[0].bytes_sent") > 0, "{row}");
    assert!(!get("last_sync").is_empty(), "{row}");
    assert_eq!(replica.sql("SELECT count(*) FROM replica_status"), "1");

    let role = primary.sql("SELECT schema, role, position FROM replica_status");
    assert_eq!(role, format!("main|primary|{position}"));
    primary.sql("ATTACH ':memory:' AS other; INSERT INTO note VALUES (2000, 'one more', NULL)");
    assert_eq!(primary.sql("SELECT count(*) FROM replica_status"), "1");
    assert!(
        primary
            .sql("SELECT wal_bytes FROM replica_status")
            .parse::<u64>()
            .expect("number")
            > 0
    );
    let mut ordinary = Shell::replica(&files.path("ordinary.db"), "");
    ordinary.sql("CREATE TABLE t(a)");
    assert_eq!(ordinary.sql("SELECT count(*) FROM replica_status"), "0");
    assert!(!ordinary.sql("SELECT replica_version()").is_empty());
    for sql in [
        "SELECT replica_sync()",
        "SELECT replica_verify()",
        "SELECT replica_discard()",
        "SELECT replica_sync('nothing')",
    ] {
        ordinary.refused(sql);
        assert_sentence(&ordinary.sql("SELECT replica_last_error()"));
    }
    // Direct only: a schema from outside must not be able to call them.
    primary.sql("CREATE VIEW trap AS SELECT replica_sync()");
    replica.sync();
    replica.refused("SELECT * FROM trap");
}

#[test]
fn settings_are_remembered_beside_the_replica() {
    let files = Files::new();
    let mut primary = files.primary();
    files.replica(primary.url()).close();
    primary.sql("INSERT INTO note VALUES (2000, 'later', NULL)");
    let mut replica = Shell::replica(&files.copy, "");
    assert_eq!(replica.sql("SELECT count(*) FROM note"), "1000");
    replica.sync();
    assert_same(&files.app, &files.copy, "opened without sync_url");
    assert_eq!(
        replica.sql("SELECT remote FROM replica_status"),
        primary.url()
    );
}

#[test]
fn hosts_without_uri_names_configure_and_make_the_vfs_the_default() {
    for mut host in [Host::python(), Host::bundled()] {
        let files = Files::new();
        let mut primary = files.primary();
        let name = files.copy.to_str().expect("UTF-8").to_string();
        host.sql(
            "memory",
            &format!(
                "SELECT replica_configure('{name}', '{{\"sync_url\": \"{}\"}}')",
                primary.url()
            ),
        );
        assert!(
            !files.copy.exists(),
            "nothing is made before the first page access"
        );
        host.sql("memory", "SELECT replica_default_vfs(1)");
        host.open("main", &name);
        assert_eq!(host.sql("main", "SELECT count(*) FROM note"), "1000");
        primary.sql("INSERT INTO note VALUES (2000, 'later', NULL)");
        host.sql("main", "SELECT replica_sync()");
        assert_same(&files.app, &files.copy, "configured");
        host.sql("main", "DELETE FROM note WHERE id = 2000");
        assert_eq!(primary.sql("SELECT count(*) FROM note"), "1000");
        host.sql("memory", "SELECT replica_default_vfs(0)");
        let other = files.path("other.db");
        host.open("other", other.to_str().expect("UTF-8"));
        host.sql("other", "CREATE TABLE t(a)");
        host.sql("other", "PRAGMA journal_mode = DELETE");
        let failure = host.refused(
            "memory",
            "SELECT replica_configure('x.db', '{\"nonsense\": 1}')",
        );
        assert!(failure.message.contains("nonsense"), "{failure:?}");
    }
}

#[test]
fn forgetting_makes_an_ordinary_database_with_the_content_kept() {
    let files = Files::new();
    let primary = files.primary();
    let replica = files.replica(primary.url());
    let content = Image::read(&files.copy);
    let mut other = Shell::with_extension();
    let forget = format!("SELECT replica_forget('{}')", files.copy.display());
    replica.close();
    other.sql(&forget);
    assert!(content == Image::read(&files.copy), "the content changed");
    let left = side_files(&files.copy);
    assert!(
        left.iter().all(|file| !file.contains("-replica")),
        "settings and state are gone: {left:?}"
    );
    other.open(&uri(&files.copy, ""));
    other.sql("INSERT INTO note VALUES (3000, 'mine now', NULL); PRAGMA journal_mode = DELETE");
    assert_eq!(
        image::value(&files.copy, "SELECT count(*) FROM note"),
        "1001"
    );
    other.refused(&format!(
        "SELECT replica_forget('{}')",
        files.path("missing.db").display()
    ));
}

/// The same statements through the default VFS and through ours leave the same files, byte for byte.
#[test]
fn a_database_that_is_neither_served_nor_followed_is_left_alone() {
    let statements = |mode: &str| {
        format!(
            "PRAGMA page_size = 1024; PRAGMA journal_mode = {mode}; PRAGMA locking_mode = EXCLUSIVE;
             CREATE TABLE t(a INTEGER PRIMARY KEY, b); BEGIN;
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000)
               INSERT INTO t SELECT n, printf('%.*c', n % 300, 'z') FROM c;
             COMMIT; DELETE FROM t WHERE a % 3 = 0; CREATE INDEX i ON t(b);
             BEGIN; DELETE FROM t; ROLLBACK; UPDATE t SET b = b || 'x' WHERE a < 500;
             PRAGMA locking_mode = NORMAL; SELECT count(*), sum(length(b)) FROM t;
             PRAGMA integrity_check; PRAGMA journal_mode; PRAGMA page_count"
        )
    };
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL"] {
        let directory = directory();
        let plain = directory.path().join("plain.db");
        let ours = directory.path().join("ours.db");
        let expected = Shell::plain(&plain).sql(&statements(mode));
        let mut shell = Shell::replica(&ours, "");
        assert_eq!(shell.sql(&statements(mode)), expected, "{mode}");
        shell.close();
        // Closed by the end of the process: the plain one first, so that both files are complete.
        assert!(
            Image::read(&plain) == Image::read(&ours),
            "{mode}: the content differs"
        );
        if mode != "WAL" {
            let bytes = |path: &Path| std::fs::read(path).expect("read");
            assert!(bytes(&plain) == bytes(&ours), "{mode}: the files differ");
        }
        let suffixes = |path: &Path| -> Vec<String> {
            let name = path.file_name().expect("name").to_str().expect("UTF-8");
            side_files(path)
                .iter()
                .map(|file| file[name.len()..].to_string())
                .filter(|suffix| suffix != "-wal" && suffix != "-shm")
                .collect()
        };
        assert_eq!(suffixes(&ours), suffixes(&plain), "{mode}");
    }
}

#[test]
fn several_databases_are_served_on_one_address() {
    let files = Files::new();
    let second = files.path("second.db");
    notes(&second);
    Shell::plain(&second).sql("DELETE FROM note WHERE id % 2");
    let mut primary = files.primary();
    let address = primary.address().to_string();
    primary.sql(&format!("ATTACH '{}' AS two", uri(&second, "")));
    let answer = primary.sql(&format!(
        "SELECT replica_serve('{address}', '{{\"schema\": \"two\", \"name\": \"shop\"}}')"
    ));
    assert_eq!(json(&answer, "$.url"), format!("http://{address}/shop"));
    let mut replica = files.replica(primary.url());
    let second_copy = files.path("second-replica.db");
    replica.sql(&format!(
        "ATTACH '{}' AS two",
        uri(&second_copy, &format!("sync_url=http://{address}/shop"))
    ));
    assert_eq!(replica.sql("SELECT count(*) FROM two.note"), "500");
    primary.sql("INSERT INTO note VALUES (2000, 'in one', NULL)");
    primary.sql("INSERT INTO two.note VALUES (2000, 'in two', NULL)");
    replica.sql("SELECT replica_sync()");
    assert_same(&files.app, &files.copy, "the first");
    assert_eq!(replica.sql("SELECT count(*) FROM two.note"), "500");
    replica.sql("SELECT replica_sync('two')");
    assert_same(&second, &second_copy, "the second");
    assert_eq!(
        replica.sql("SELECT schema, role FROM replica_status ORDER BY schema"),
        "main|replica\ntwo|replica"
    );
    assert_ne!(
        replica.sql("SELECT replica_position('main')"),
        replica.sql("SELECT replica_position('two')")
    );
    let missing = files.path("missing.db");
    let mut other = Host::python();
    let name = uri(&missing, &format!("sync_url=http://{address}/missing"));
    other.refused_at_open_or("main", &name, "SELECT count(*) FROM note");
    assert_sentence(&other.sql("memory", "SELECT replica_last_error()"));
    assert!(!missing.exists());
}

#[test]
fn a_replica_can_be_attached_to_an_ordinary_database() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut shell = Shell::with_extension();
    shell.open(files.path("local.db").to_str().expect("UTF-8"));
    shell.sql("CREATE TABLE mine(id INTEGER, word TEXT); INSERT INTO mine VALUES (7, 'seven'), (2000, 'new')");
    shell.sql(&format!(
        "ATTACH '{}' AS remote",
        uri(&files.copy, &format!("sync_url={}", primary.url()))
    ));
    let join = "SELECT word, text FROM mine JOIN remote.note USING (id)";
    assert_eq!(shell.sql(join), "seven|note 7");
    primary.sql("INSERT INTO note VALUES (2000, 'attached', NULL)");
    shell.refused("SELECT replica_sync()");
    shell.sql("SELECT replica_sync('remote')");
    assert_eq!(shell.sql(join), "seven|note 7\nnew|attached");
    shell.refused("INSERT INTO remote.note VALUES (1, 'no', NULL)");
    shell.sql("BEGIN; INSERT INTO mine SELECT id, text FROM remote.note WHERE id < 10; COMMIT");
    assert_eq!(shell.sql("SELECT count(*) FROM mine"), "11");
    shell.sql("DETACH remote");
    assert_eq!(shell.sql("SELECT count(*) FROM replica_status"), "0");
    assert_same(&files.app, &files.copy, "attached");
}

#[test]
fn two_processes_bootstrap_the_same_file_at_once() {
    for round in 0..10 {
        let files = Files::new();
        let primary = files.primary();
        let relay = Relay::to(primary.address());
        relay.limit(10_000_000);
        let parameters = format!("sync_url={}", relay.url("app"));
        let mut shells: Vec<Shell> = (0..3).map(|_| Shell::with_extension()).collect();
        for shell in &mut shells {
            shell.feed(&format!(
                ".open \"{}\"\n.timeout 20000",
                uri(&files.copy, &parameters)
            ));
            shell.feed("SELECT count(*) FROM note");
        }
        for shell in &mut shells {
            assert_eq!(shell.settle(), "1000\nsettled", "round {round}");
            shell.sync();
            assert_eq!(shell.sql("SELECT state FROM replica_status"), "ok");
        }
        assert_same(&files.app, &files.copy, "bootstrapped at once");
        assert_intact(&files.copy, "bootstrapped at once");
    }
}

#[test]
fn stray_files_of_an_earlier_database_do_not_reach_a_new_replica() {
    let files = Files::new();
    let primary = files.primary();
    // A valid log of another database under the replica's name: SQLite would replay it into the new file.
    let other = files.path("other.db");
    notes(&other);
    let mut writer = Shell::plain(&other);
    writer.sql("PRAGMA wal_autocheckpoint = 0; UPDATE note SET text = 'from the stray log'");
    for suffix in ["-wal", "-shm"] {
        std::fs::copy(side_file(&other, suffix), side_file(&files.copy, suffix)).expect("copy");
    }
    std::fs::write(side_file(&files.copy, "-journal"), [0xd9; 5000]).expect("write");
    writer.kill();
    let mut replica = files.replica(primary.url());
    assert_eq!(
        replica.sql("SELECT count(*) FROM note WHERE text LIKE '%stray%'"),
        "0"
    );
    assert_same(&files.app, &files.copy, "beside stray files");
    assert_intact(&files.copy, "beside stray files");
    replica.close();
    assert_same(&files.app, &files.copy, "after the close");
}

#[test]
fn a_bootstrap_that_cannot_be_leaves_no_file() {
    let files = Files::new();
    let nowhere = format!("http://127.0.0.1:{}/app", free_port());
    for url in [
        nowhere.as_str(),
        "s3://bucket/prefix",
        "gopher://127.0.0.1/app",
        "not a url",
    ] {
        let mut host = Host::python();
        let name = uri(
            &files.copy,
            &format!("sync_url={}", url.replace(' ', "%20")),
        );
        host.refused_at_open_or("main", &name, "SELECT count(*) FROM note");
        assert_sentence(&host.sql("memory", "SELECT replica_last_error()"));
        assert!(!files.copy.exists(), "{url}: a file was left");
    }
    // Cut off in the middle: nothing to open, and the next attempt completes it.
    let primary = files.primary();
    let relay = Relay::to(primary.address());
    relay.limit(1_000_000);
    let mut replica = Shell::with_extension();
    replica.feed(&format!(
        ".open \"{}\"\nSELECT count(*) FROM note",
        uri(&files.copy, &format!("sync_url={}", relay.url("app")))
    ));
    let mut received = 0;
    wait_for("some of the bootstrap", || {
        received += relay.take_received();
        received > 300_000
    });
    assert!(!files.copy.exists(), "half a file is there to be opened");
    replica.kill();
    assert!(!files.copy.exists(), "half a file is there to be opened");
    relay.limit(0);
    let mut replica = files.replica(&relay.url("app"));
    assert_eq!(replica.sql("SELECT count(*) FROM note"), "1000");
    assert_same(&files.app, &files.copy, "completed");
}

#[test]
fn a_database_in_rollback_mode_can_be_served() {
    let directory = directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    Shell::plain(&app)
        .sql("PRAGMA journal_mode = DELETE; CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let mut primary = Primary::start(&app);
    assert_eq!(primary.sql("PRAGMA journal_mode"), "wal");
    let mut replica = Shell::replica(&copy, &format!("sync_url={}", primary.url()));
    assert_eq!(replica.sql("SELECT a FROM t"), "1");
    primary.sql("INSERT INTO t VALUES (2)");
    replica.sync();
    assert_same(&app, &copy, "once in rollback mode");

    // A file that does not exist yet can be served, too, and gets its schema later.
    let new = directory.path().join("new.db");
    let new_copy = directory.path().join("new-replica.db");
    let mut primary = Primary::start(&new);
    primary.sql("CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let mut replica = Shell::replica(&new_copy, &format!("sync_url={}", primary.url()));
    assert_eq!(replica.sql("SELECT a FROM t"), "1");
    primary.sql("INSERT INTO t VALUES (2)");
    replica.sync();
    assert_same(&new, &new_copy, "served before it had content");
}

#[test]
fn an_open_write_transaction_on_the_primary_is_not_served() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut replica = files.replica(primary.url());
    let before = Image::read(&files.app);
    primary.sql("PRAGMA cache_size = 5; BEGIN; UPDATE note SET text = text || ' uncommitted'");
    let answer = replica.sync();
    assert_eq!(number(&answer, "$.transactions"), 0, "{answer}");
    assert!(
        before == Image::read(&files.copy),
        "uncommitted content travelled"
    );
    primary.sql("ROLLBACK");
    replica.sync();
    assert!(before == Image::read(&files.copy));
    primary.sql("BEGIN; UPDATE note SET text = text || ' committed'; COMMIT");
    replica.sync();
    assert_same(&files.app, &files.copy, "after the commit");
}

/// A write to a closed socket raises SIGPIPE, which ends a host that does not ignore it, as the shell.
#[test]
fn replicas_that_vanish_in_the_middle_of_an_answer_do_not_end_the_primary() {
    let files = Files::new();
    Shell::plain(&files.app).sql(
        "CREATE TABLE ballast AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20)
           SELECT n, randomblob(1000000) AS b FROM c",
    );
    let mut primary = files.primary();
    for round in 0..250 {
        let copy = files.path(&format!("replica-{round}.db"));
        let mut replica = Shell::with_extension();
        let name = uri(&copy, &format!("sync_url={}", primary.url()));
        replica.feed(&format!(".open \"{name}\"\nSELECT count(*) FROM note"));
        wait_for("the bootstrap to begin", || {
            side_file(&copy, "-replica-part").exists() || copy.exists()
        });
        // Another moment of the answer each time.
        std::thread::sleep(std::time::Duration::from_micros(round % 30 * 1000));
        replica.kill();
        assert!(
            primary.shell().process().is_running(),
            "round {round}: the primary's shell is gone"
        );
        image::remove_database(&copy);
    }
    assert_eq!(primary.sql("SELECT count(*) FROM note"), "1000");
}
