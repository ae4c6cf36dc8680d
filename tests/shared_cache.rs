//! A program whose connections share their caches. By itself: the switch is one for the whole process.

use harness::{Files, Host, assert_same, library, uri};
use rusqlite::{Connection, ffi};

fn text(connection: &Connection, sql: &str) -> String {
    connection
        .query_row(sql, [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

#[test]
fn shared_cache_for_the_whole_process() {
    // SAFETY: no connection is open yet.
    assert_eq!(
        unsafe { ffi::sqlite3_enable_shared_cache(1) },
        ffi::SQLITE_OK
    );
    let loader = Connection::open_in_memory().expect("memory");
    // SAFETY: the library under test is an SQLite extension; running its code is the test.
    unsafe {
        loader.load_extension_enable().expect("allowed");
        loader
            .load_extension(library(), None::<&str>)
            .expect("loads");
    }
    let files = Files::new();
    // Primary and replica in one process, two connections on one cache each.
    let open = |name: &str| Connection::open(name).expect("opens");
    let primary = [(); 2].map(|()| open(&uri(&files.app, "")));
    let answer = text(&primary[0], "SELECT replica_serve('127.0.0.1:0')");
    let url = harness::json(&answer, "$.url");
    let replica = [(); 2].map(|()| open(&uri(&files.copy, &format!("sync_url={url}"))));
    for round in 0..30 {
        primary[round % 2]
            .execute("UPDATE note SET text = ?1", [round.to_string()])
            .expect("writes");
        text(&replica[round % 2], "SELECT replica_sync()");
        for reader in &replica {
            let seen = text(reader, "SELECT group_concat(DISTINCT text) FROM note");
            assert_eq!(seen, round.to_string());
        }
    }
    replica[1]
        .execute("DELETE FROM note WHERE id = 1000", [])
        .expect("writes");
    for connection in primary.iter().chain(&replica) {
        assert_eq!(text(connection, "SELECT max(id) || '' FROM note"), "999");
    }
    // A reader in the same cache holds its table: syncing goes on, and it sees its own snapshot.
    replica[0].execute_batch("BEGIN").expect("begins");
    assert_eq!(text(&replica[0], "SELECT max(text) FROM note"), "29");
    primary[0]
        .execute("UPDATE note SET text = 'later'", [])
        .expect("writes");
    text(&replica[1], "SELECT replica_sync()");
    assert_eq!(text(&replica[0], "SELECT max(text) FROM note"), "29");
    replica[0].execute_batch("COMMIT").expect("ends");
    assert_eq!(text(&replica[0], "SELECT max(text) FROM note"), "later");
    assert_same(&files.app, &files.copy, "shared cache");
    drop(replica);
    text(&primary[0], "SELECT replica_stop()");
}

#[test]
fn shared_cache_by_uri() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::python();
    let name = uri(
        &files.copy,
        &format!("cache=shared&sync_url={}", primary.url()),
    );
    host.open("one", &name);
    host.open("two", &name);
    for round in 0..10 {
        primary.sql(&format!("UPDATE note SET text = '{round}'"));
        let slot = ["one", "two"][round % 2];
        host.sql(slot, "SELECT replica_sync()");
        for slot in ["one", "two"] {
            assert_eq!(
                host.sql(slot, "SELECT max(text), min(text) FROM note"),
                format!("{round}|{round}")
            );
        }
    }
    host.sql("one", "DELETE FROM note WHERE id = 1000");
    assert_eq!(host.sql("two", "SELECT max(id) FROM note"), "999");
    assert_eq!(primary.sql("SELECT max(id) FROM note"), "999");
    host.close_connection("one");
    assert_eq!(host.sql("two", "SELECT state FROM replica_status"), "ok");
    assert_same(&files.app, &files.copy, "shared cache by URI");
}
