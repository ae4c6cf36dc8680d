//! The last connection of a process closes a served database: it is served no longer, and what lies on the disk is what
//! any SQLite program leaves there.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::{
    Files, Host, Shell, assert_intact, assert_same, image::value, json, side_file, side_files, uri,
    wait_for,
};

const SERVE: &str = "SELECT replica_serve('127.0.0.1:0')";
const WRITE: &str = "UPDATE note SET text = 'newer', extra = randomblob(1000)";

/// Neither a log nor its index: the last close has copied everything into the file.
#[track_caller]
fn assert_closed(path: &Path, context: &str) {
    let beside = side_files(path);
    let open = |suffix: &str| beside.iter().any(|file| file.ends_with(suffix));
    assert!(
        !open("-wal") && !open("-shm"),
        "{context}: {beside:?} beside a closed database"
    );
}

/// `host:port` of a URL.
fn address(url: &str) -> String {
    let rest = url.strip_prefix("http://").expect("http");
    rest.split('/').next().expect("address").to_string()
}

#[track_caller]
fn assert_not_served(url: &str, context: &str) {
    assert!(
        TcpStream::connect(address(url)).is_err(),
        "{context}: {url} still answers"
    );
}

#[test]
fn a_backup_can_be_put_in_the_place_of_a_database_whose_shell_quit_while_serving() {
    for way in [".quit", "end of input", ".open of another file"] {
        let files = Files::new();
        let backup = files.path("backup.db");
        std::fs::copy(&files.app, &backup).expect("copy");
        let mut primary = files.primary();
        let url = primary.url().to_string();
        drop(files.replica(&url));
        primary.sql(WRITE);
        let log = side_file(&files.app, "-wal");
        assert!(log.exists(), "{way}: nothing to leave behind");
        match way {
            ".quit" => {
                primary.shell().feed(".quit");
                primary.shell().process().wait();
            }
            "end of input" => primary.close(),
            _ => {
                let shell = primary.shell();
                shell.sql(".open :memory:");
                assert_closed(&files.app, way);
                assert_not_served(&url, way);
                assert_eq!(shell.sql("SELECT 1"), "1");
            }
        }
        assert_closed(&files.app, way);
        assert_eq!(value(&files.app, "SELECT text FROM note LIMIT 1"), "newer");
        std::fs::copy(&backup, &files.app).expect("copy");
        assert_intact(&files.app, way);
        assert_eq!(value(&files.app, "SELECT text FROM note LIMIT 1"), "note 1");
        // The replica of the newer state comes back to it.
        let primary = files.primary();
        drop(files.replica(primary.url()));
        assert_same(&files.app, &files.copy, way);
    }
}

/// How a host names database files.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    Uris,
    Files,
}

/// The connection that serves is closed, another is open still, then none, then it all begins again; in the end the
/// process ends without closing.
fn close_in(kind: &str, mut host: Host, names: Names) {
    let files = Files::new();
    let name = match names {
        Names::Uris => uri(&files.app, ""),
        Names::Files => {
            host.sql("memory", "SELECT replica_default_vfs(1)");
            files.app.to_str().expect("UTF-8").to_string()
        }
    };
    host.open("main", &name);
    host.open("other", &name);
    let url = json(&host.sql("main", SERVE), "$.url");
    let mut replica = files.replica(&url);
    host.close_connection("main");
    host.sql("other", WRITE);
    replica.sync();
    assert_same(&files.app, &files.copy, kind);

    host.close_connection("other");
    assert_closed(&files.app, kind);
    assert_not_served(&url, kind);
    replica.refused("SELECT replica_sync()");
    assert!(host.process().is_running(), "{kind}");

    // Opened and closed without being served meanwhile: nothing is left of the first time.
    host.open("main", &name);
    host.sql("main", "INSERT INTO note VALUES (2000, 'between', NULL)");
    host.close_connection("main");
    assert_closed(&files.app, kind);

    host.open("main", &name);
    let url = json(&host.sql("main", SERVE), "$.url");
    drop(replica);
    drop(files.replica(&url));
    assert_same(&files.app, &files.copy, kind);
    host.sql("main", "INSERT INTO note VALUES (2001, 'at last', NULL)");
    host.process().close_input();
    let status = host.process().wait();
    assert_eq!(status.code(), Some(0), "{kind}: {status}");
    assert_closed(&files.app, kind);
    assert_eq!(value(&files.app, "SELECT count(*) FROM note"), "1002");
    assert_intact(&files.app, kind);
}

#[test]
fn python_closes_what_it_serves() {
    close_in("Python", Host::python(), Names::Uris);
}

#[test]
fn better_sqlite3_closes_what_it_serves() {
    close_in("better-sqlite3", Host::node(), Names::Files);
}

#[test]
fn apsw_closes_what_it_serves() {
    close_in("APSW", Host::apsw(), Names::Uris);
}

#[test]
fn the_bundled_sqlite_closes_what_it_serves() {
    close_in("bundled", Host::bundled(), Names::Uris);
}

#[test]
fn a_database_closed_while_the_process_exits_is_closed_like_any_other() {
    let files = Files::new();
    let mut host = Host::bundled();
    host.open("main", &uri(&files.app, ""));
    let url = json(&host.sql("main", SERVE), "$.url");
    drop(files.replica(&url));
    host.sql("main", WRITE);
    host.close_at_exit("main");
    host.process().close_input();
    let status = host.process().wait();
    assert_eq!(status.code(), Some(0), "{status}");
    let errors = host.process().remaining_errors();
    assert!(errors.is_empty(), "{errors:?}");
    assert_closed(&files.app, "at exit");
    assert_eq!(value(&files.app, "SELECT text FROM note LIMIT 1"), "newer");
}

/// A request whose body does not come is no answer under way: nobody waits for it, nor does it keep files open.
#[test]
fn a_close_does_not_wait_for_a_request_that_does_not_come() {
    let files = Files::new();
    let second = files.path("second.db");
    harness::notes(&second);
    let mut host = Host::python();
    host.open("main", &uri(&files.app, ""));
    host.open("second", &uri(&second, ""));
    let url = json(&host.sql("main", SERVE), "$.url");
    // The address stays in use, and with it the connection.
    let serve = format!("SELECT replica_serve('{}')", address(&url));
    host.sql("second", &serve);
    let mut slow = TcpStream::connect(address(&url)).expect("connect");
    let head = "POST /app/v1/pull HTTP/1.1\r\nHost: app\r\nContent-Length: 1000\r\n\r\n";
    slow.write_all(head.as_bytes()).expect("send");
    // Until the request has surely been read.
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    host.close_connection("main");
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(5), "the close took {taken:?}");
    assert_closed(&files.app, "a slow request");
}

#[test]
fn an_attached_database_is_served_until_it_is_detached() {
    let files = Files::new();
    let mut shell = Shell::with_extension();
    shell.sql(&format!("ATTACH '{}' AS app", uri(&files.app, "")));
    let answer = shell.sql("SELECT replica_serve('127.0.0.1:0', '{\"schema\": \"app\"}')");
    let url = json(&answer, "$.url");
    drop(files.replica(&url));
    shell.sql("DETACH app");
    assert_closed(&files.app, "detached");
    assert_not_served(&url, "detached");
}

#[test]
fn two_databases_of_one_address_are_closed_one_by_one() {
    let files = Files::new();
    let second = files.path("second.db");
    harness::notes(&second);
    let mut host = Host::python();
    host.open("main", &uri(&files.app, ""));
    host.open("second", &uri(&second, ""));
    let url = json(&host.sql("main", SERVE), "$.url");
    let serve = format!("SELECT replica_serve('{}')", address(&url));
    let other_url = json(&host.sql("second", &serve), "$.url");
    host.close_connection("main");
    assert_closed(&files.app, "the first");
    let mut replica = files.replica(&other_url);
    host.sql("second", WRITE);
    replica.sync();
    assert_same(&second, &files.copy, "the second");
    host.close_connection("second");
    assert_closed(&second, "the second");
    assert_not_served(&other_url, "the second");
}

#[test]
fn a_close_in_the_midst_of_answers_leaves_nothing() {
    for round in 0..10 {
        let context = format!("round {round}");
        let files = Files::new();
        let mut host = Host::python();
        host.open("main", &uri(&files.app, ""));
        let url = json(&host.sql("main", SERVE), "$.url");
        let mut syncing = Host::python();
        syncing.open_replica(&files.copy, &format!("sync_url={url}"));
        syncing.repeat("main", "SELECT replica_sync()");
        for _ in 0..=round {
            host.sql("main", WRITE);
        }
        host.close_connection("main");
        assert_closed(&files.app, &context);
        syncing.stopped_by_itself();
        assert_not_served(&url, &context);
        assert_intact(&files.app, &context);
    }
}

#[test]
fn a_killed_primary_leaves_its_log_and_goes_on_from_it() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut replica = files.replica(primary.url());
    primary.sql(WRITE);
    let position = primary.shell().position();
    primary.kill();
    assert!(side_file(&files.app, "-wal").exists());
    let mut primary = files.primary();
    assert_eq!(primary.shell().position(), position);
    wait_for("the new primary", || {
        TcpStream::connect(primary.address()).is_ok()
    });
    replica.open(&uri(&files.copy, &format!("sync_url={}", primary.url())));
    replica.sync();
    assert_same(&files.app, &files.copy, "after the crash");
}
