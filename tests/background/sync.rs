//! Replicas that keep themselves up to date: nobody calls `replica_sync()` here.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::{
    Files, Host, Primary, Relay, Shell, assert_same, free_port, image, json, uri, wait_for,
};

/// Ways to follow in the background.
const WAYS: [&str; 2] = ["sync_interval=0.1", "live=1"];
const NEWEST: &str = "SELECT text FROM note WHERE id = 1";

fn set(text: &str) -> String {
    format!("UPDATE note SET text = '{text}' WHERE id = 1")
}

#[track_caller]
fn wait_for_text(replica: &mut Shell, text: &str, context: &str) {
    wait_for(&format!("{context}: {text}"), || {
        replica.sql(NEWEST) == text
    });
}

/// Waits for a state of `replica_status`.
#[track_caller]
fn wait_for_error(replica: &mut Shell, part: &str, context: &str) {
    let sql = "SELECT last_error FROM replica_status";
    wait_for(&format!("{context}: an error of '{part}'"), || {
        replica.sql(sql).contains(part)
    });
}

#[track_caller]
fn wait_until_well(replica: &mut Shell, context: &str) {
    let sql = "SELECT last_error IS NULL AND state = 'ok' FROM replica_status";
    wait_for(&format!("{context}: no error"), || replica.sql(sql) == "1");
}

fn primary_at(files: &Files, port: u16) -> Primary {
    Primary::start_at(&files.app, &format!("127.0.0.1:{port}"))
}

#[test]
fn changes_appear_by_themselves() {
    for way in WAYS {
        let files = Files::new();
        let mut primary = files.primary();
        let mut replica = Shell::replica(&files.copy, &format!("sync_url={}&{way}", primary.url()));
        replica.sql("SELECT count(*) FROM note");
        for round in 0..5 {
            primary.sql(&set(&format!("round {round}")));
            wait_for_text(&mut replica, &format!("round {round}"), way);
        }
        // Written by somebody who knows nothing of replicas.
        image::look(&files.app)
            .execute_batch(&set("plain"))
            .expect("a write");
        wait_for_text(&mut replica, "plain", way);
        assert_eq!(
            replica.sql("SELECT background IS NOT NULL FROM replica_status"),
            "1"
        );
        replica.close();

        // It is remembered.
        primary.sql(&set("meanwhile"));
        let mut replica = Shell::replica(&files.copy, "");
        wait_for_text(&mut replica, "meanwhile", way);
        // What is written here goes on beside it.
        replica.sql("UPDATE note SET text = 'here' WHERE id = 2");
        primary.sql(&set("there"));
        wait_for_text(&mut replica, "there", way);
        replica.close();
        assert_same(&files.app, &files.copy, way);
    }
}

#[test]
fn settings_change_while_a_replica_is_open() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut replica = files.replica(primary.url());
    let setting =
        |replica: &mut Shell, name: &str| replica.sql(&format!("SELECT replica_config('{name}')"));
    for (name, value) in [
        ("sync_interval", "0"),
        ("live", "0"),
        ("sync_timeout", "10"),
        ("write_mode", "auto"),
        ("sync_url", primary.url()),
        ("auth_token", ""),
    ] {
        assert_eq!(setting(&mut replica, name), value, "{name}");
    }
    primary.sql(&set("first"));
    std::thread::sleep(Duration::from_millis(300));
    assert_ne!(replica.sql(NEWEST), "first");
    assert_eq!(replica.sql("SELECT background FROM replica_status"), "");
    assert_eq!(
        replica.sql("SELECT replica_config('sync_interval', 0.1)"),
        "0.1"
    );
    wait_for_text(&mut replica, "first", "an interval");
    replica.sql("SELECT replica_config('sync_interval', 0)");
    replica.sql("SELECT replica_config('live', 1, 'main')");
    primary.sql(&set("second"));
    wait_for_text(&mut replica, "second", "live");
    replica.sql("SELECT replica_config('live', '0')");
    wait_for("rest", || {
        replica.sql("SELECT background FROM replica_status") == "idle"
    });
    primary.sql(&set("third"));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(replica.sql(NEWEST), "second");
    for wrong in [
        "'lives', 1",
        "'live', 2",
        "'sync_interval', -1",
        "'sync_url', 'nowhere'",
        "'encryption_key', 'secret'",
        "'offline', 2",
        "'live', 1, 'other'",
    ] {
        let told = replica.refused(&format!("SELECT replica_config({wrong})"));
        assert!(!told.contains("secret"), "{told}");
    }
    replica.sql("SELECT replica_config('auth_token', 'a-secret')");
    assert_ne!(setting(&mut replica, "auth_token"), "a-secret");
    // What was set is there after an open, but for the secret.
    replica.sql("SELECT replica_config('write_mode', 'exclusive')");
    replica.close();
    let mut replica = Shell::replica(&files.copy, "");
    replica.sync();
    assert_eq!(setting(&mut replica, "write_mode"), "exclusive");
    assert_eq!(setting(&mut replica, "auth_token"), "");
    assert_eq!(
        replica.sql("SELECT live, sync_interval, write_mode FROM replica_status"),
        "0||exclusive"
    );
}

/// A second connection of the process asks for another way.
#[test]
fn the_last_to_open_a_replica_says_how_it_is_followed() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::bundled();
    let parameters = format!("sync_url={}", primary.url());
    host.open_replica(&files.copy, &parameters);
    host.sql("main", NEWEST);
    host.open("other", &uri(&files.copy, &format!("{parameters}&live=1")));
    host.sql("other", NEWEST);
    host.close_connection("main");
    primary.sql(&set("newer"));
    wait_for("the change", || host.sql("other", NEWEST) == "newer");
}

#[test]
fn trouble_is_told_and_passes() {
    for way in WAYS {
        let files = Files::new();
        let port = free_port();
        let mut primary = primary_at(&files, port);
        let url = primary.url().to_string();
        let mut replica =
            Shell::replica(&files.copy, &format!("sync_url={url}&{way}&sync_timeout=2"));
        replica.sql(NEWEST);
        wait_until_well(&mut replica, way);

        // The primary is gone, and comes back.
        primary.close();
        wait_for_error(&mut replica, "127.0.0.1", way);
        let states = replica.sql("SELECT state, background FROM replica_status");
        assert!(
            ["ok|retrying", "ok|syncing"].contains(&states.as_str()),
            "{way}: {states}"
        );
        primary = primary_at(&files, port);
        primary.sql(&set("back"));
        wait_for_text(&mut replica, "back", way);
        wait_until_well(&mut replica, way);

        // A token is wanted, from now on.
        let token = json(
            &primary.sql("SELECT replica_token('write', 1000)"),
            "$.token",
        );
        primary.sql(&set("behind a door"));
        wait_for_error(&mut replica, "auth_token", way);
        replica.sql("SELECT replica_config('auth_token', 'wrong')");
        wait_for_error(&mut replica, "token", way);
        assert_ne!(replica.sql(NEWEST), "behind a door");
        replica.sql(&format!("SELECT replica_config('auth_token', '{token}')"));
        wait_for_text(&mut replica, "behind a door", way);
        wait_until_well(&mut replica, way);

        // A wrong address.
        replica.sql(&format!("SELECT replica_config('sync_url', '{url}x')"));
        wait_for_error(&mut replica, "appx", way);
        replica.sql(&format!(
            "SELECT replica_config('sync_url', 'https://127.0.0.1:{port}/app')"
        ));
        wait_for_error(&mut replica, "https://", way);
        primary.sql(&set("at its place"));
        replica.sql(&format!("SELECT replica_config('sync_url', '{url}')"));
        wait_for_text(&mut replica, "at its place", way);
        wait_until_well(&mut replica, way);
        replica.close();
        assert_same(&files.app, &files.copy, way);
    }
}

/// A primary restored from a backup: pages that differ are exchanged, nobody has to ask for it.
#[test]
fn a_restored_primary_is_followed() {
    for way in WAYS {
        let files = Files::new();
        let port = free_port();
        let primary = primary_at(&files, port);
        primary.close();
        let kept = |name: &str| files.path(&format!("kept-{name}"));
        for name in ["app.db", "app.db-replica"] {
            std::fs::copy(files.path(name), kept(name)).expect("keep");
        }
        let mut primary = primary_at(&files, port);
        let mut replica = Shell::replica(&files.copy, &format!("sync_url={}&{way}", primary.url()));
        primary.sql(&set("lost"));
        wait_for_text(&mut replica, "lost", way);
        primary.close();
        for name in ["app.db", "app.db-replica"] {
            std::fs::copy(kept(name), files.path(name)).expect("restore");
        }
        let mut primary = primary_at(&files, port);
        primary.sql(&set("restored"));
        wait_for_text(&mut replica, "restored", way);
        wait_until_well(&mut replica, way);
        replica.close();
        assert_same(&files.app, &files.copy, way);
    }
}

/// Somebody else wrote to the file: it is told, and nothing is overwritten.
#[test]
fn a_foreign_write_is_told() {
    for way in WAYS {
        let files = Files::new();
        let mut primary = files.primary();
        let mut replica = Shell::replica(&files.copy, &format!("sync_url={}&{way}", primary.url()));
        replica.sql(NEWEST);
        wait_until_well(&mut replica, way);
        image::look(&files.copy)
            .execute_batch(&set("foreign"))
            .expect("a write");
        primary.sql(&set("newer"));
        wait_for("the state", || {
            replica.sql("SELECT state FROM replica_status") == "foreign"
        });
        wait_for_error(&mut replica, "replica_discard", way);
        assert_eq!(replica.sql(NEWEST), "foreign");
        replica.sql("SELECT replica_discard()");
        primary.sql(&set("newest"));
        wait_for_text(&mut replica, "newest", way);
    }
}

/// However long the remote takes.
#[test]
fn a_close_waits_for_no_remote() {
    for way in WAYS {
        let files = Files::new();
        let primary = files.primary();
        let relay = Relay::to(primary.address());
        let mut host = Host::bundled();
        host.open_replica(&files.copy, &format!("sync_url={}&{way}", relay.url("app")));
        host.sql("main", NEWEST);
        relay.hold_answer(0);
        relay.wait_until_held();
        let begun = Instant::now();
        host.close_connection("main");
        let took = begun.elapsed();
        println!("{way}: closed in {took:?}");
        assert!(
            took < Duration::from_secs(1),
            "{way}: the close took {took:?}"
        );
        assert_closed(&files.copy);
        relay.release();
    }
}

/// Neither a log nor its index.
#[track_caller]
fn assert_closed(path: &Path) {
    let beside = harness::side_files(path);
    assert!(
        !beside
            .iter()
            .any(|file| file.ends_with("db-wal") || file.ends_with("db-shm")),
        "{beside:?}"
    );
}

/// Who has no threads starts none; all else works on call.
#[test]
fn a_host_without_threads_gets_none() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::single_threaded();
    host.open_replica(
        &files.copy,
        &format!("sync_url={}&live=1&sync_interval=1", primary.url()),
    );
    primary.sql(&set("newer"));
    host.sql("main", "SELECT replica_sync()");
    assert_eq!(host.sql("main", NEWEST), "newer");
    assert_eq!(
        host.sql("main", "SELECT background FROM replica_status"),
        ""
    );
    let threads = std::fs::read_dir(format!("/proc/{}/task", host.process().pid()))
        .expect("threads")
        .count();
    assert_eq!(threads, 1);
}

/// The one thread per replica and process that the README states.
#[test]
fn a_replica_has_one_thread() {
    let files = Files::new();
    let primary = files.primary();
    let mut host = Host::bundled();
    let threads = |host: &mut Host| {
        let tasks =
            std::fs::read_dir(format!("/proc/{}/task", host.process().pid())).expect("threads");
        tasks.count()
    };
    let before = threads(&mut host);
    let parameters = format!("sync_url={}&live=1", primary.url());
    host.open_replica(&files.copy, &parameters);
    host.sql("main", NEWEST);
    host.open("other", &uri(&files.copy, &parameters));
    host.sql("other", NEWEST);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(threads(&mut host), before + 1);
    host.close_connection("other");
    assert_eq!(threads(&mut host), before + 1);
    host.close_connection("main");
    assert_eq!(threads(&mut host), before);
}
