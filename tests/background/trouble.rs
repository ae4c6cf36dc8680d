//! Troubles of the thread in the background that lie in the machine or between the machines: each is told in
//! `replica_status` and once in the log, and passes without a restart.

use harness::{
    Certificates, Files, Host, Shell, assert_same, encryption, free_port, json, side_file, uri,
    wait_for,
};

/// Ways to follow in the background.
const WAYS: [&str; 2] = ["sync_interval=0.1", "live=1"];
const NEWEST: &str = "SELECT text FROM note WHERE id = 1";
const ERROR: &str = "SELECT last_error FROM replica_status";
const WELL: &str = "SELECT last_error IS NULL AND state = 'ok' FROM replica_status";

fn set(text: &str) -> String {
    format!("UPDATE note SET text = '{text}' WHERE id = 1")
}

/// How many lines of a log tell of the thread's trouble with this in it.
fn told(log: &std::path::Path, part: &str) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let tells = |line: &&str| line.contains("background sync") && line.contains(part);
    text.lines().filter(tells).count()
}

#[test]
fn an_authority_that_is_not_trusted_any_more() {
    for way in WAYS {
        let certificates = Certificates::new();
        let files = Files::new();
        let log = files.path("replica.log");
        let port = free_port();
        let mut primary = Shell::with_extension();
        primary.open(&uri(&files.app, ""));
        let options = certificates.options("server.pem", "server.key");
        let served = format!("SELECT replica_serve('127.0.0.1:{port}', '{options}')");
        let url = json(&primary.sql(&served), "$.url");

        let wish = format!("warn:{}", log.display());
        let mut replica = Shell::in_environment(&[("REPLICA_LOG", &wish)]);
        let authority = certificates.text("ca.pem");
        let parameters = format!("sync_url={url}&ca_file={authority}&{way}");
        replica.open(&uri(&files.copy, &parameters));
        replica.sql(NEWEST);
        wait_for("a first sync", || replica.sql(WELL) == "1");

        // Another authority: connections made from now on are refused.
        let other = certificates.text("other.pem");
        replica.sql(&format!("SELECT replica_config('ca_file', '{other}')"));
        primary.sql(&set("unseen"));
        wait_for("the error", || replica.sql(ERROR).contains("not trusted"));
        assert_ne!(replica.sql(NEWEST), "unseen", "{way}");
        wait_for("retries", || {
            replica.sql("SELECT background FROM replica_status") == "retrying"
        });
        assert_eq!(told(&log, "not trusted"), 1, "{way}: once");

        replica.sql(&format!("SELECT replica_config('ca_file', '{authority}')"));
        wait_for("the change", || replica.sql(NEWEST) == "unseen");
        wait_for("no error", || replica.sql(WELL) == "1");
        replica.close();
        assert_same(&files.app, &files.copy, way);
    }
}

#[test]
fn a_disk_that_is_full_and_has_room_again() {
    for way in WAYS {
        let files = Files::new();
        let mut primary = files.primary();
        let mut host = Host::python();
        host.open_replica(&files.copy, &format!("sync_url={}&{way}", primary.url()));
        host.sql("main", NEWEST);
        wait_for("a first sync", || host.sql("main", WELL) == "1");
        let before = host.sql("main", "SELECT position FROM replica_status");

        // Nothing that is longer than the database is can be written.
        let size = std::fs::metadata(&files.copy).expect("the file").len();
        let log = side_file(&files.copy, encryption::log_suffix(&files.copy));
        let log = std::fs::metadata(log).map_or(0, |file| file.len());
        host.limit_files(Some(size.min(log + 20_000)));
        primary.sql("UPDATE note SET extra = randomblob(4000)");
        primary.sql(&set("does not fit"));
        wait_for("the error", || {
            let error = host.sql("main", ERROR);
            // The second is what SQLite says of a file that may not grow.
            error.contains("full") || error.contains("disk I/O error")
        });
        println!("{way}: {}", host.sql("main", ERROR));
        // What is there can be read, and is what it was.
        assert_ne!(host.sql("main", NEWEST), "does not fit", "{way}");
        assert_eq!(
            host.sql("main", "SELECT position FROM replica_status"),
            before,
            "{way}"
        );
        assert_eq!(host.sql("main", "PRAGMA integrity_check"), "ok", "{way}");

        host.limit_files(None);
        wait_for("the change", || host.sql("main", NEWEST) == "does not fit");
        wait_for("no error", || host.sql("main", WELL) == "1");
        host.close_connection("main");
        assert_same(&files.app, &files.copy, way);
    }
}
