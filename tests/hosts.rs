//! The same file in different hosts: Debian's shell and Python, and a current bundled SQLite; and the walkthroughs in
//! `sql/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::process::Process;
use harness::shell::SQLITE3;
use harness::{
    Files, Host, Primary, Shell, assert_intact, assert_same, free_port, json, library, uri,
    wait_for,
};

type Spawn = fn() -> Host;

const HOSTS: [(&str, Spawn); 2] = [("Python", Host::python), ("bundled", Host::bundled)];

#[test]
fn every_host_serves_every_host() {
    for (server, start) in HOSTS {
        let files = Files::new();
        let mut primary = start();
        println!("{server}: SQLite {}", primary.version());
        primary.open("main", &uri(&files.app, ""));
        let answer = primary.sql("main", "SELECT replica_serve('127.0.0.1:0')");
        let url = json(&answer, "$.url");
        let mut shell = Shell::replica(&files.path("shell.db"), &format!("sync_url={url}"));
        shell.sync();
        let mut followers = Vec::new();
        for (name, start) in HOSTS {
            let mut host = start();
            host.open_replica(
                &files.path(&format!("{name}.db")),
                &format!("sync_url={url}"),
            );
            followers.push((name, host));
        }
        for round in 0..20 {
            primary.sql("main", "BEGIN IMMEDIATE");
            primary.sql(
                "main",
                &format!("UPDATE note SET text = 'round {round}' WHERE id % 50 = {round}"),
            );
            primary.sql(
                "main",
                &format!(
                    "INSERT INTO note VALUES ({}, 'new', randomblob(9000))",
                    2000 + round
                ),
            );
            primary.sql("main", "COMMIT");
            shell.sync();
            assert_same(
                &files.app,
                &files.path("shell.db"),
                &format!("{server} to the shell"),
            );
            for (name, host) in &mut followers {
                host.sql("main", "SELECT replica_sync()");
                let path = files.path(&format!("{name}.db"));
                assert_same(&files.app, &path, &format!("{server} to {name}"));
                assert_eq!(
                    host.sql("main", "SELECT count(*), max(id) FROM note"),
                    format!("{}|{}", 1001 + round, 2000 + round)
                );
            }
        }
    }
}

#[test]
fn every_host_follows_the_shell_in_one_file() {
    let files = Files::new();
    let mut primary = files.primary();
    let parameters = format!("sync_url={}", primary.url());
    let mut shell = Shell::replica(&files.copy, &parameters);
    let mut hosts: Vec<(&str, Host)> = HOSTS.map(|(name, start)| (name, start())).into();
    for (_, host) in &mut hosts {
        host.open_replica(&files.copy, &parameters);
    }
    for round in 0..30 {
        primary.sql(&format!(
            "INSERT INTO note VALUES ({}, 'for all', randomblob(5000))",
            2000 + round
        ));
        // One of them syncs; all see it.
        match round % 3 {
            0 => drop(shell.sync()),
            index => drop(hosts[index - 1].1.sql("main", "SELECT replica_sync()")),
        }
        let expected = (1001 + round).to_string();
        assert_eq!(shell.sql("SELECT count(*) FROM note"), expected);
        for (name, host) in &mut hosts {
            assert_eq!(
                host.sql("main", "SELECT count(*) FROM note"),
                expected,
                "{name}"
            );
        }
    }
    assert_same(&files.app, &files.copy, "at the end");
    assert_intact(&files.copy, "at the end");
}

#[test]
fn two_connections_of_one_process() {
    for (name, start) in HOSTS {
        let files = Files::new();
        let mut primary = files.primary();
        let mut host = start();
        let address = uri(&files.copy, &format!("sync_url={}", primary.url()));
        host.open("one", &address);
        host.open("two", &address);
        assert_eq!(host.sql("one", "SELECT count(*) FROM note"), "1000");
        // Not before: an open by plain SQLite makes an empty file, which nobody may take for a replica's place.
        host.open("plain", files.copy.to_str().expect("UTF-8"));
        host.sql("two", "BEGIN");
        assert_eq!(host.sql("two", "SELECT count(*) FROM note"), "1000");
        for round in 0..20 {
            primary.sql(&format!(
                "INSERT INTO note VALUES ({}, 'x', randomblob(3000))",
                2000 + round
            ));
            host.sql("one", "SELECT replica_sync()");
        }
        assert_eq!(
            host.sql("one", "SELECT count(*) FROM note"),
            "1020",
            "{name}"
        );
        assert_eq!(
            host.sql("plain", "SELECT count(*) FROM note"),
            "1020",
            "{name}"
        );
        assert_eq!(
            host.sql("two", "SELECT count(*) FROM note"),
            "1000",
            "{name}: a snapshot"
        );
        host.sql("two", "COMMIT");
        assert_eq!(
            host.sql("two", "SELECT count(*) FROM note"),
            "1020",
            "{name}"
        );
        host.close_connection("one");
        primary.sql("DELETE FROM note WHERE id <= 10");
        host.sql("two", "SELECT replica_sync()");
        host.close_connection("two");
        assert_eq!(
            host.sql("plain", "SELECT count(*) FROM note"),
            "1010",
            "{name}"
        );
        host.close_connection("plain");
        host.open("again", &uri(&files.copy, ""));
        primary.sql("DELETE FROM note WHERE id <= 20");
        host.sql("again", "SELECT replica_sync()");
        assert_same(&files.app, &files.copy, name);
    }
}

/// Primary and replica in one process, this one.
#[test]
fn both_roles_inside_one_rust_program() {
    let files = Files::new();
    let loader = rusqlite::Connection::open_in_memory().expect("memory");
    // SAFETY: the library under test is an SQLite extension; running its code is the test.
    unsafe {
        loader.load_extension_enable().expect("allowed");
        loader
            .load_extension(library(), None::<&str>)
            .expect("loads");
    }
    drop(loader);
    let primary = rusqlite::Connection::open(uri(&files.app, "")).expect("opens");
    let answer: String = primary
        .query_row("SELECT replica_serve('127.0.0.1:0')", [], |row| row.get(0))
        .expect("serves");
    let url = json(&answer, "$.url");
    let replica =
        rusqlite::Connection::open(uri(&files.copy, &format!("sync_url={url}"))).expect("opens");
    for round in 0..50 {
        primary
            .execute(
                "UPDATE note SET text = ?1 WHERE id % 50 = ?2",
                (format!("round {round}"), round),
            )
            .expect("writes");
        let answer: String = replica
            .query_row("SELECT replica_sync()", [], |row| row.get(0))
            .expect("syncs");
        let seen: String = replica
            .query_row("SELECT text FROM note WHERE id = 50 + ?1", [round], |row| {
                row.get(0)
            })
            .expect("reads");
        assert_eq!(seen, format!("round {round}"), "{answer}");
    }
    drop(replica);
    drop(primary);
    assert_same(&files.app, &files.copy, "one process");
}

/// A directory with the extension and one of the walkthroughs, its port replaced by a free one.
fn walkthrough(directory: &Path, name: &str, port: u16) -> (PathBuf, String) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../sql")
        .join(name);
    let text = std::fs::read_to_string(source).expect("walkthrough");
    assert!(
        text.contains("127.0.0.1:8080"),
        "{name} names another address"
    );
    let place = directory.join(name.replace(".sql", ""));
    std::fs::create_dir_all(&place).expect("directory");
    std::fs::copy(library(), place.join("libreplica.so")).expect("copy");
    (
        place,
        text.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}")),
    )
}

#[test]
fn the_walkthroughs_run_and_a_signal_ends_the_server() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let directory = harness::directory();
        let port = free_port();
        let (place, text) = walkthrough(directory.path(), "primary.sql", port);
        let mut command = Command::new(SQLITE3);
        command
            .args(["-batch", "-init", "/dev/null"])
            .current_dir(&place);
        let mut server = Process::spawn("sql/primary.sql", &mut command);
        assert!(server.write(&text));
        server.close_input();
        wait_for("the primary's port", || {
            assert!(
                server.is_running(),
                "sql/primary.sql ended: {:?} {:?}",
                server.pending_output(),
                server.pending_errors()
            );
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });

        // The second run finds the replica that the first has made; the last one brings the first up to date.
        for (name, round) in [
            ("replica", 0),
            ("replica", 1),
            ("offline", 0),
            ("offline", 1),
            ("replica", 2),
        ] {
            let (replica_place, text) = walkthrough(directory.path(), &format!("{name}.sql"), port);
            let mut command = Command::new(SQLITE3);
            command
                .args(["-batch", "-init", "/dev/null"])
                .current_dir(&replica_place);
            let mut follower = Process::spawn(name, &mut command);
            // The error log says more than the shell; it lies in the directory that is removed in the end.
            assert!(follower.write(&format!(".log log.txt\n{text}")));
            follower.close_input();
            let status = follower.wait();
            let output = follower.remaining_output().join("\n");
            let errors = follower.remaining_errors().join("\n");
            assert!(
                status.success() && errors.is_empty(),
                "{name}, round {round}: {status}\n{output}\n{errors}\n{}",
                std::fs::read_to_string(replica_place.join("log.txt")).unwrap_or_default()
            );
            println!("{output}");
        }
        let replica = directory.path().join("replica/replica.db");
        assert_same(&place.join("app.db"), &replica, "the walkthroughs");

        server.signal(signal);
        let status = server.wait();
        println!("signal {signal}: the server's shell ended with {status}");
        assert!(
            std::net::TcpStream::connect(("127.0.0.1", port)).is_err(),
            "nothing listens after the signal"
        );
        assert_intact(&place.join("app.db"), "after the signal");
        // It can be served again at once, on the same port.
        Primary::start_at(&place.join("app.db"), &format!("127.0.0.1:{port}"));
    }
}
