//! Replicas that are written offline: commits are made in the local file, and pushed later.

use std::path::Path;
use std::time::Duration;

use harness::image::look;
use harness::{
    Files, Host, Primary, Relay, Shell, assert_intact, assert_same, encryption, free_port, json,
    lsn_of, side_file, uri, wait_for,
};

const PENDING: &str = "SELECT state, offline, pending_transactions, pending_pages > 0, pending_bytes FROM replica_status";

fn offline(url: &str) -> String {
    format!("sync_url={url}&offline=1&sync_timeout=2")
}

/// A replica that is there, in mode offline.
fn replica(files: &Files, url: &str) -> Shell {
    let mut replica = Shell::replica(&files.copy, &offline(url));
    assert_eq!(replica.sql("SELECT count(*) FROM note"), "1000");
    replica
}

fn set(id: u32, text: &str) -> String {
    format!("UPDATE note SET text = '{text}' WHERE id = {id}")
}

fn text(shell: &mut Shell, id: u32) -> String {
    shell.sql(&format!("SELECT text FROM note WHERE id = {id}"))
}

fn pending(replica: &mut Shell) -> u64 {
    let pending = replica.sql("SELECT pending_transactions FROM replica_status");
    pending.parse().expect("a number")
}

#[track_caller]
fn assert_verified(replica: &mut Shell) {
    let verified = replica.sql("SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "{verified}");
}

#[test]
fn commits_need_no_network_and_are_pushed_later() {
    let files = Files::new();
    let port = free_port();
    let primary = Primary::start_at(&files.app, &format!("127.0.0.1:{port}"));
    let mut replica = replica(&files, primary.url());
    assert_eq!(replica.sql(PENDING), "ok|1|0|0|0");
    primary.close();

    for round in 0..20 {
        replica.sql(&set(round + 1, &format!("offline {round}")));
    }
    replica
        .sql("CREATE TABLE mine(a PRIMARY KEY, b); INSERT INTO mine VALUES (1, zeroblob(100000))");
    replica.sql("BEGIN; DELETE FROM note WHERE id > 900; SAVEPOINT s; DELETE FROM note; ROLLBACK TO s; COMMIT");
    replica.sql("BEGIN; UPDATE note SET text = 'taken back'; ROLLBACK");
    assert_eq!(
        replica.sql("SELECT count(*), min(text) FROM note WHERE text LIKE 'offline%'"),
        "20|offline 0"
    );
    assert_eq!(replica.sql("SELECT count(*) FROM note"), "900");
    assert!(pending(&mut replica) >= 22, "{}", replica.sql(PENDING));
    assert_verified(&mut replica);
    let told = replica.refused("SELECT replica_push()");
    assert!(told.contains(&port.to_string()), "{told}");
    // It is what it is after a close, whoever opens it.
    replica.close();
    if !encryption::is_on(encryption::End::Replica) {
        assert_eq!(
            look(&files.copy)
                .query_row("SELECT count(*) FROM mine", [], |row| row.get::<_, i64>(0)),
            Ok(1)
        );
    }
    let mut replica = Shell::replica(&files.copy, "");
    assert_eq!(replica.sql("SELECT count(*) FROM note"), "900");
    assert!(pending(&mut replica) >= 22);
    assert_verified(&mut replica);

    let mut primary = Primary::start_at(&files.app, &format!("127.0.0.1:{port}"));
    let before = primary.shell().position();
    let report = replica.sql("SELECT replica_push()");
    println!("{report}");
    assert_eq!(json(&report, "$.from"), before);
    assert_eq!(json(&report, "$.to"), primary.shell().position());
    // All of it is one transaction there.
    assert_eq!(lsn_of(&primary.shell().position()), lsn_of(&before) + 1);
    assert_eq!(replica.sql(PENDING), "ok|1|0|0|0");
    assert_eq!(text(primary.shell(), 7), "offline 6");
    assert_verified(&mut replica);
    // What others write comes while nothing is pending.
    primary.sql(&set(500, "from there"));
    let report = replica.sql("SELECT replica_sync()");
    assert_eq!(json(&report, "$.transactions"), "1", "{report}");
    assert_eq!(text(&mut replica, 500), "from there");
    let report = replica.sql("SELECT replica_push()");
    assert_eq!(json(&report, "$.pages"), "0", "{report}");
    replica.sql(&set(501, "and back"));
    replica.sql("SELECT replica_sync()");
    assert_eq!(text(primary.shell(), 501), "and back");
    replica.close();
    assert_same(&files.app, &files.copy, "at the end");
    assert_intact(&files.copy, "at the end");
}

#[test]
fn when_both_have_moved_nothing_is_lost_and_discard_goes_back() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut replica = replica(&files, primary.url());
    let before = replica.sql("SELECT replica_position()");
    let sum = replica.sha3sum();
    replica.sql(&set(1, "here"));
    replica.sql(
        "INSERT INTO note(text) SELECT text FROM note; DELETE FROM note WHERE id % 3 = 0; VACUUM",
    );
    primary.sql(&set(1, "there"));
    for function in ["replica_sync", "replica_pull", "replica_push"] {
        let told = replica.refused(&format!("SELECT {function}()"));
        assert!(
            told.contains("has moved on") && told.contains("replica_discard"),
            "{told}"
        );
        assert!(
            replica.sql(PENDING).starts_with("diverged|1|"),
            "{}",
            replica.sql(PENDING)
        );
    }
    // Both go on.
    assert_eq!(text(&mut replica, 1), "here");
    replica.sql(&set(2, "here too"));
    assert_eq!(text(primary.shell(), 1), "there");
    let told = replica.refused("SELECT replica_config('offline', 0)");
    assert!(told.contains("has moved on"), "{told}");
    assert_eq!(replica.sql("SELECT replica_config('offline')"), "1");

    // Without the network.
    let port = primary.url().to_string();
    primary.close();
    let report = replica.sql("SELECT replica_discard()");
    println!("{report} {port}");
    assert_eq!(json(&report, "$.to"), before);
    assert_eq!(replica.sha3sum(), sum);
    assert_eq!(replica.sql(PENDING), "ok|1|0|0|0");
    assert_verified(&mut replica);
    replica.close();
    let mut primary = files.primary();
    let mut replica = Shell::replica(&files.copy, &format!("sync_url={}", primary.url()));
    replica.sync();
    assert_eq!(text(&mut replica, 1), "there");
    primary.sql(&set(3, "again"));
    replica.sync();
    replica.close();
    assert_same(&files.app, &files.copy, "after all");
}

/// Commits go on while a push is on its way; whatever becomes of it.
#[test]
fn commits_during_a_push() {
    for outcome in ["accepted", "conflict", "answer lost", "killed", "discarded"] {
        let files = Files::new();
        let mut primary = files.primary();
        let relay = Relay::to(primary.address());
        let mut host = Host::bundled();
        let name = uri(&files.copy, &offline(&relay.url("app")));
        host.open("main", &name);
        host.sql("main", "SELECT count(*) FROM note");
        host.sql("main", &set(1, "first"));
        host.sql("main", "INSERT INTO note(text) VALUES ('grown')");
        let position = host.sql("main", "SELECT replica_position()");
        let mut other = Host::bundled();
        other.open("main", &name);
        if outcome == "conflict" {
            primary.sql(&set(900, "there"));
        }
        // The push arrives, its answer does not.
        relay.hold_answer(0);
        let pushing = std::thread::spawn(move || {
            let answer = host.try_sql("main", "SELECT replica_push()");
            (host, answer)
        });
        relay.wait_until_held();
        // A page that is being pushed, others, and the size.
        other.sql("main", &set(1, "second"));
        other.sql("main", &set(700, "second"));
        other.sql("main", "DELETE FROM note WHERE id > 800");
        other.sql("main", "VACUUM");
        let counted = "SELECT pending_transactions FROM replica_status";
        assert!(
            other.sql("main", counted).parse::<u64>().expect("a number") >= 4,
            "{outcome}"
        );
        if outcome == "discarded" {
            other.sql("main", "SELECT replica_discard()");
            assert_eq!(
                other.sql("main", "SELECT text FROM note WHERE id = 1"),
                "note 1",
                "{outcome}"
            );
            assert_eq!(other.sql("main", counted), "0");
        }
        match outcome {
            "answer lost" | "killed" => relay.point(None),
            _ => relay.release(),
        }
        let (mut host, answer) = pushing.join().expect("no panic");
        println!("{outcome}: {answer:?}");
        match outcome {
            "accepted" | "discarded" => assert!(answer.is_ok(), "{answer:?}"),
            _ => assert!(answer.is_err(), "{answer:?}"),
        }
        if outcome == "killed" {
            host.process().kill();
            other.process().kill();
            host = Host::bundled();
            host.open("main", &name);
        }
        relay.point(Some(primary.address()));
        relay.release();
        if outcome == "conflict" {
            assert_eq!(
                host.sql("main", "SELECT text FROM note WHERE id = 1"),
                "second"
            );
            assert_eq!(
                host.sql("main", "SELECT state FROM replica_status"),
                "diverged"
            );
            host.refused("main", "SELECT replica_push()");
            host.sql("main", "SELECT replica_discard()");
            assert_eq!(host.sql("main", "SELECT replica_position()"), position);
            assert_eq!(
                host.sql("main", "SELECT text FROM note WHERE id IN (1, 700)"),
                "note 1\nnote 700"
            );
        }
        host.sql("main", "SELECT replica_sync()");
        let verified = host.sql("main", "SELECT replica_verify()");
        assert_eq!(json(&verified, "$.ok"), "1", "{outcome}: {verified}");
        assert_eq!(host.sql("main", counted), "0", "{outcome}");
        match outcome {
            "conflict" => assert_eq!(text(primary.shell(), 900), "there"),
            // It had been accepted before it was thrown away here.
            "discarded" => assert_eq!(text(primary.shell(), 1), "first"),
            _ => {
                assert_eq!(text(primary.shell(), 1), "second", "{outcome}");
                assert_eq!(primary.sql("SELECT max(id) FROM note"), "800", "{outcome}");
                // Two pushes, one for what was written before each.
                assert_eq!(
                    lsn_of(&primary.shell().position()),
                    lsn_of(&position) + 2,
                    "{outcome}"
                );
            }
        }
        host.close_connection("main");
        drop(other);
        assert_same(&files.app, &files.copy, outcome);
        assert_intact(&files.copy, outcome);
    }
}

#[test]
fn a_foreign_write_is_noticed_and_kept() {
    if encryption::is_on(encryption::End::Replica) {
        // Nobody writes to it without the extension.
        return;
    }
    let files = Files::new();
    let mut primary = files.primary();
    let mut shell = replica(&files, primary.url());
    shell.sql(&set(1, "here"));
    shell.close();
    let plain = Shell::plain(&files.copy);
    let mut plain = plain;
    plain.sql("CREATE TABLE foreigner(a); INSERT INTO foreigner VALUES (42)");
    plain.sql("UPDATE note SET text = 'foreign' WHERE id > 500");
    plain.close();
    let mut shell = Shell::replica(&files.copy, "");
    let told = shell.refused("SELECT replica_push()");
    assert!(told.contains("did not come from its remote"), "{told}");
    assert_eq!(shell.sql("SELECT state FROM replica_status"), "foreign");
    assert_eq!(shell.sql("SELECT a FROM foreigner"), "42");
    assert_eq!(text(&mut shell, 1), "here");
    shell.refused(&set(2, "refused"));
    shell.sql("SELECT replica_discard()");
    assert_eq!(shell.sql(PENDING), "ok|1|0|0|0");
    shell.sql(&set(1, "anew"));
    shell.sql("SELECT replica_sync()");
    assert_eq!(text(primary.shell(), 1), "anew");
    shell.close();
    assert_same(&files.app, &files.copy, "after the discard");
}

#[test]
fn the_mode_belongs_to_the_file() {
    let files = Files::new();
    let mut primary = files.primary();
    let url = primary.url().to_string();
    // An online replica becomes one that is written offline, and back.
    let mut online = files.replica(&url);
    online.sql(&set(1, "online"));
    assert_eq!(text(primary.shell(), 1), "online");
    assert_eq!(online.sql("SELECT replica_config('offline', 1)"), "1");
    online.sql(&set(1, "offline"));
    assert_eq!(text(primary.shell(), 1), "online");
    // For everybody who has it open.
    let mut second = Shell::replica(&files.copy, "");
    second.sql(&set(2, "offline"));
    assert_eq!(text(primary.shell(), 2), "note 2");
    let mut third = Shell::with_extension();
    third.refused(&format!(
        ".open \"{}\"\nSELECT count(*) FROM note",
        uri(&files.copy, "offline=0")
    ));
    let told = third.sql("SELECT replica_last_error()");
    assert!(
        told.contains("replica_push") && told.contains("transactions"),
        "{told}"
    );
    // (An encrypted one would want its key first.)
    if !encryption::is_on(encryption::End::Replica) {
        let mut fourth = Shell::with_extension();
        let told = fourth.refused(&format!(
            "SELECT replica_configure('{}', '{{\"offline\": 0}}')",
            files.copy.display()
        ));
        assert!(told.contains("not on its remote"), "{told}");
    }
    let told = online.refused("SELECT replica_exec('DELETE FROM note')");
    assert!(told.contains("replica_push"), "{told}");
    let waited = online.sql(&format!(
        "SELECT replica_wait('{}', 0)",
        online_position(&mut second)
    ));
    assert_eq!(json(&waited, "$.reached"), "0", "{waited}");
    // What was written here goes first.
    assert_eq!(online.sql("SELECT replica_config('offline', 0)"), "0");
    assert_eq!(text(primary.shell(), 1), "offline");
    assert_eq!(text(primary.shell(), 2), "offline");
    second.sql(&set(3, "online again"));
    assert_eq!(text(primary.shell(), 3), "online again");
    online.close();
    second.close();

    // By the settings of hosts without URIs.
    let mut third = Shell::with_extension();
    let copy = files.path("configured.db");
    third.sql(&format!(
        "SELECT replica_configure('{}', '{{\"sync_url\": \"{url}\", \"offline\": true}}')",
        copy.display()
    ));
    third.open(&uri(&copy, ""));
    third.sql(&set(4, "configured"));
    assert_eq!(text(primary.shell(), 4), "note 4");
    third.sql("SELECT replica_sync()");
    assert_eq!(text(primary.shell(), 4), "configured");
    let told = third.refused(&format!(
        ".open \"{}\"\nSELECT count(*) FROM note",
        uri(
            &files.path("memory.db"),
            &format!("sync_url={url}&storage=memory&offline=1")
        )
    ));
    println!("{told}");
    let told = third.sql("SELECT replica_last_error()");
    // Encrypted, it is refused already for its key.
    assert!(
        told.contains("storage=memory") || told.contains("in memory"),
        "{told}"
    );
}

fn online_position(shell: &mut Shell) -> String {
    shell.sql("SELECT replica_position()")
}

#[test]
fn in_the_background_both_ways() {
    for way in ["live=1", "sync_interval=0.1"] {
        let files = Files::new();
        let port = free_port();
        let mut primary = Primary::start_at(&files.app, &format!("127.0.0.1:{port}"));
        let mut replica = Shell::replica(&files.copy, &format!("{}&{way}", offline(primary.url())));
        assert_eq!(replica.sql("SELECT count(*) FROM note"), "1000");
        for round in 0..5 {
            primary.sql(&set(1, &format!("there {round}")));
            wait_for("a change from there", || {
                text(&mut replica, 1) == format!("there {round}")
            });
            replica.sql(&set(2, &format!("here {round}")));
            wait_for("a change from here", || {
                text(primary.shell(), 2) == format!("here {round}")
            });
        }
        primary.close();
        replica.sql(&set(3, "alone"));
        wait_for("an error", || {
            replica
                .sql("SELECT last_error FROM replica_status")
                .contains(&port.to_string())
        });
        replica.sql(&set(4, "alone"));
        let mut primary = Primary::start_at(&files.app, &format!("127.0.0.1:{port}"));
        wait_for("what was written alone", || {
            text(primary.shell(), 4) == "alone"
        });
        wait_for("no error", || {
            replica
                .sql("SELECT last_error IS NULL AND pending_transactions = 0 FROM replica_status")
                == "1"
        });
        replica.close();
        assert_same(&files.app, &files.copy, way);
    }
}

/// Two processes, whose commits interleave, and a third one that reads.
#[test]
fn processes_share_a_replica_that_is_written_offline() {
    let files = Files::new();
    let mut primary = files.primary();
    let name = uri(&files.copy, &offline(primary.url()));
    let mut hosts = [Host::python(), Host::bundled(), Host::python()];
    for host in &mut hosts {
        host.open("main", &name);
        host.sql("main", "SELECT count(*) FROM note");
    }
    // Without pauses one would hardly ever find the write lock free when SQLite's busy handler looks.
    for (host, name, first) in [(0, "zero", 1), (1, "one", 401)] {
        let sql = format!(
            "UPDATE note SET text = '{name} ' || random() WHERE id = {first} + abs(random() % 400)"
        );
        hosts[host].repeat_with_pauses("main", &sql, 5);
    }
    hosts[2].repeat_with_pauses("main", "SELECT replica_push()", 20);
    std::thread::sleep(Duration::from_secs(5));
    let counted: Vec<_> = hosts.iter_mut().map(Host::stop).collect();
    println!("{counted:?}");
    hosts[2].sql("main", "SELECT replica_push()");
    for host in &mut hosts {
        assert_eq!(
            host.sql("main", "SELECT pending_transactions FROM replica_status"),
            "0"
        );
    }
    assert!(
        lsn_of(&primary.shell().position()) > 5,
        "{}",
        primary.shell().position()
    );
    for mut host in hosts {
        host.close_connection("main");
    }
    assert_same(&files.app, &files.copy, "at the end");
    assert_intact(&files.copy, "at the end");
}

/// Bytes that the images of changed pages take: at most so many times the pages themselves.
const IMAGES: u64 = 4;

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// Days offline: what it takes follows the pages that were changed, not the commits.
#[test]
fn many_commits_are_one_small_push() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut shell = replica(&files, primary.url());
    let script = files.path("script.sql");
    let commits = 20_000;
    let lines: String = (0..commits)
        .map(|number| format!("{};\n", set(number % 300 + 1, &format!("commit {number}"))))
        .collect();
    std::fs::write(&script, lines).expect("write");
    shell.sql("PRAGMA synchronous = NORMAL");
    shell.feed(&format!(".read \"{}\"", script.display()));
    shell.settle();
    assert_eq!(pending(&mut shell), u64::from(commits));
    let pages: u64 = shell
        .sql("SELECT pending_pages FROM replica_status")
        .parse()
        .expect("a number");
    let store =
        bytes(&side_file(&files.copy, "-replica")) + bytes(&side_file(&files.copy, "-replica-wal"));
    let log = bytes(&side_file(&files.copy, encryption::log_suffix(&files.copy)));
    let report = shell.sql("SELECT replica_push()");
    println!("{commits} commits, {pages} pages; state store {store} bytes, log {log}; {report}");
    assert!(pages < 120, "{pages}");
    assert!(store < IMAGES * pages * 4096 + (8 << 20), "{store}");
    let sent: u64 = json(&report, "$.bytes_sent").parse().expect("a number");
    assert!(sent < pages * 4096, "{sent}");
    assert_eq!(
        text(primary.shell(), 1),
        format!("commit {}", commits - 200)
    );
    shell.close();
    assert_same(&files.app, &files.copy, "at the end");
}
