//! A long transfer tells how far it is: in `replica_status`, in the log, and on a terminal.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Files, Primary, Relay, Shell, json, library, uri, wait_for};

/// Bytes that cannot be compressed, more than a part of an answer holds.
const BYTES: usize = 6_000_000;

/// Bytes in a second.
const SLOW: u64 = 2_000_000;

struct Scene {
    files: Files,
    primary: Primary,
    relay: Relay,
}

impl Scene {
    fn new() -> Scene {
        let files = Files::new();
        Shell::plain(&files.app).sql(&format!(
            "CREATE TABLE ballast AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {})
               SELECT n, randomblob(10000) AS b FROM c",
            BYTES / 10_000
        ));
        let primary = files.primary();
        let relay = Relay::to(primary.address());
        relay.limit(SLOW);
        Scene {
            files,
            primary,
            relay,
        }
    }

    /// What the host tells, and the log.
    fn run(&self, parameters: &str, kind: &str, statements: &[&str]) -> (String, String) {
        let log = self.files.path("replica.log");
        let _ = std::fs::remove_file(&log);
        let parameters = format!("sync_url={}{parameters}", self.relay.url("app"));
        let output = Command::new("/usr/bin/python3")
            .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("progress/host.py"))
            .arg(library())
            .arg(uri(&self.files.copy, &parameters))
            .arg(kind)
            .args(statements)
            .env("REPLICA_LOG", format!("info:{}", log.display()))
            .output()
            .expect("python3");
        let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{told} {output:?}");
        assert_eq!(json(&told, "$.failures"), "[]", "{told}");
        (told, std::fs::read_to_string(&log).unwrap_or_default())
    }

    fn pages(&mut self) -> u64 {
        let pages = self.primary.sql("PRAGMA page_count");
        pages.parse().expect("a number")
    }
}

/// How far the bootstrap was, each time that somebody looked: pages, and all there will be.
fn seen(told: &str) -> Vec<(u64, Option<u64>)> {
    let steps = json(told, "$.steps");
    let step = |step: &str| {
        let (pages, total) = step.split_once('/').expect("two numbers");
        (pages.parse().expect("pages"), total.parse().ok())
    };
    steps.split_whitespace().map(step).collect()
}

fn remove(path: &Path) {
    harness::image::remove_database(path);
}

#[test]
fn a_bootstrap_shows_how_far_it_is() {
    let mut scene = Scene::new();
    let query = ["SELECT count(*) FROM ballast"];
    let (told, log) = scene.run("", "terminal", &query);
    let total = scene.pages();
    let seen = seen(&told);
    println!("{seen:?} of {total}\n{log}");
    assert!(seen.len() >= 3, "{told}");
    assert!(seen.windows(2).all(|two| two[0].0 <= two[1].0), "{seen:?}");
    assert!(
        seen.iter()
            .all(|(pages, of)| *pages <= total && of.is_none_or(|of| of == total)),
        "{seen:?} of {total}"
    );
    assert!(
        seen.iter()
            .any(|(pages, of)| *pages > 0 && *pages < total && *of == Some(total))
    );
    assert_eq!(json(&told, "$.after"), "nothing", "{told}");
    assert!(
        log.contains("bootstrap: ") && log.contains(" MB received in "),
        "{log}"
    );
    // One line that is written again and again, and erased in the end.
    let errors = json(&told, "$.errors");
    println!("{errors:?}");
    assert!(
        errors.starts_with("\rreplica.db: bootstrap: "),
        "{errors:?}"
    );
    assert!(
        errors.contains(&format!(" of {total} pages (")) && errors.contains(" left"),
        "{errors:?}"
    );
    assert!(
        errors.ends_with("\r\u{1b}[K") && !errors.contains('\n'),
        "{errors:?}"
    );

    // Not where nobody looks, nor where nobody wants it; it is remembered.
    for (parameters, kind) in [("", "pipe"), ("&progress=0", "terminal"), ("", "terminal")] {
        if parameters == "&progress=0" || kind == "pipe" {
            remove(&scene.files.copy);
            let _ = std::fs::remove_file(harness::side_file(&scene.files.copy, "-replica"));
        } else {
            // All of it changes: a long sync of a replica that was made with progress=0.
            let plain = rusqlite::Connection::open(&scene.files.app).expect("open");
            plain
                .execute("UPDATE ballast SET b = randomblob(10000)", [])
                .expect("update");
        }
        let (told, _) = scene.run(
            parameters,
            kind,
            &["SELECT count(*) FROM ballast", "SELECT replica_sync()"],
        );
        assert_eq!(json(&told, "$.errors"), "", "{parameters} {kind}");
    }
}

#[test]
fn a_long_sync_shows_how_far_it_is() {
    let scene = Scene::new();
    let files = &scene.files;
    let mut replica = files.replica(scene.primary.url());
    replica.sql("SELECT count(*) FROM ballast");
    replica.close();
    let plain = rusqlite::Connection::open(&files.app).expect("open");
    plain
        .execute("UPDATE ballast SET b = randomblob(10000)", [])
        .expect("update");
    let parameters = format!("sync_url={}", scene.relay.url("app"));
    let mut looking = harness::Host::bundled();
    // Two connections of one process: one syncs, the other looks.
    looking.open_replica(&files.copy, &parameters);
    looking.sql("main", "SELECT replica_config('sync_interval', 0.1)");
    let sql =
        "SELECT transfer || ' ' || transfer_pages || ' ' || transfer_bytes FROM replica_status";
    wait_for("a transfer", || {
        looking.sql("main", sql).starts_with("sync ")
    });
    println!("{}", looking.sql("main", sql));
    let done = "SELECT transfer IS NULL AND last_error IS NULL AND lag_transactions = 0 FROM replica_status";
    wait_for("its end", || looking.sql("main", done) == "1");
}
