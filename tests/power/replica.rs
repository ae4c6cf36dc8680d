//! A replica that loses power at any moment of its bootstrap and its syncs.
//!
//! Afterwards its content is a state that the primary really had, no older than the last sync that
//! returned, and the recorded position does not lead it: the next sync ends at the primary's state,
//! and fetches changes only.
use crate::campaign::{self, Cut, Fault, Space};
use crate::content::{Content, content};
use crate::host::{Host, json, number};
use crate::image::Step;
use crate::storage::Storage;
use crate::trace::Recorder;
use std::fs;
use std::path::Path;

struct Recording {
    storage: Storage,
    steps: Vec<Step>,
    /// By number; the first is of the empty file and never served.
    states: Vec<Content>,
    /// What a replica that stopped after its bootstrap fetches to come to the last state.
    changes: u64,
    url: String,
}

/// Fills a database with rows, seven to a page. Random text, so that its size shows on the wire.
pub fn fill(rows: usize) -> [String; 5] {
    [
        "PRAGMA auto_vacuum=INCREMENTAL".into(),
        "PRAGMA journal_mode=WAL".into(),
        "CREATE TABLE t(k INTEGER PRIMARY KEY, g INTEGER, v TEXT)".into(),
        "CREATE INDEX by_g ON t(g)".into(),
        format!(
            "WITH RECURSIVE c(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM c WHERE i<{rows}) \
             INSERT INTO t SELECT i, i%50, hex(randomblob(250)) FROM c"
        ),
    ]
}

/// A transaction by number: most are small, one deletes, one shrinks the file, one fills several pages.
pub fn transaction(number: usize) -> String {
    let key = number * 37 % 2000;
    match number % 7 {
        2 => format!("DELETE FROM t WHERE k BETWEEN {} AND {}", key, key + 20),
        4 => "PRAGMA incremental_vacuum(3)".into(),
        5 => format!(
            "WITH RECURSIVE c(i) AS (VALUES({}) UNION ALL SELECT i+1 FROM c WHERE i<{}) \
             INSERT INTO t SELECT i, i%50, hex(randomblob(250)) FROM c",
            5000 + 100 * number,
            5030 + 100 * number
        ),
        _ => format!(
            "UPDATE t SET v=hex(randomblob(250)) WHERE k BETWEEN {key} AND {}",
            key + 1
        ),
    }
}

fn follow(
    file: &Path,
    storage: Storage,
    url: &str,
    recorder: Option<&Recorder>,
) -> Result<Host, String> {
    let mut host = Host::extended(recorder)?;
    host.open(file, storage, Some(url))?;
    Ok(host)
}

/// The primary serves on while the images are checked.
fn record(
    space: &Space,
    storage: Storage,
    rows: usize,
    rounds: usize,
) -> Result<(Recording, Host), String> {
    let file = space.0.join("app.db");
    let mut primary = Host::extended(None)?;
    primary.open(&file, storage, None)?;
    let mut states = vec![content(&mut primary)?];
    for statement in fill(rows) {
        primary.run(&statement)?;
    }
    let url = json(
        &primary.value("SELECT replica_serve('127.0.0.1:0')")?,
        "$.url",
    );
    states.push(content(&mut primary)?);

    let mut recorder = Recorder::new(&space.0.join("recorded"), &space.0.join("trace"));
    let database = recorder.dir().join("replica.db");
    recorder.mark("start 1");
    let mut replica = follow(&database, storage, &url, Some(&recorder))?;
    replica.sync()?;
    recorder.mark("ack 1");
    let mut early = follow(&space.0.join("early.db"), storage, &url, None)?;
    early.sync()?;

    for round in 1..=rounds {
        for _ in 0..1 + round % 3 {
            primary.run(&transaction(states.len()))?;
            states.push(content(&mut primary)?);
        }
        let newest = states.len() - 1;
        recorder.mark(&format!("start {newest}"));
        replica.sync()?;
        recorder.mark(&format!("ack {newest}"));
        if content(&mut replica)? != states[newest] {
            return Err(format!(
                "round {round}: the replica has another content, without any power loss"
            ));
        }
        match round {
            // A full checkpoint lets the next apply restart the log.
            1 | 2 | 4 | 5 | 7 => drop(replica.run("PRAGMA wal_checkpoint")?),
            9 => drop(replica.run("PRAGMA wal_checkpoint(TRUNCATE)")?),
            6 => {
                replica.close()?;
                replica = follow(&database, storage, &url, Some(&recorder))?;
            }
            8 => {
                // A reader without the extension closes last, and so deletes the log: of an encrypted
                // database, which it cannot read, neither that nor anything else.
                replica.close()?;
                let mut plain = Host::shell(Some(&recorder));
                plain.run(&format!(".open '{}'", database.display()))?;
                let read = content(&mut plain);
                if read.is_ok() != (storage == Storage::Plain) {
                    return Err(format!("without the extension: {read:?}"));
                }
                // (The shell's exit says whether a statement failed.)
                let closed = plain.close();
                if storage == Storage::Plain {
                    closed?;
                }
                replica = follow(&database, storage, &url, Some(&recorder))?;
            }
            _ => {}
        }
    }
    replica.close()?;
    let changes = number(&early.sync()?, "$.bytes_received")?;
    let pages: u64 = primary.value("PRAGMA page_count")?.parse().unwrap();
    let size = pages * 4096;
    assert!(
        changes < size / 5,
        "{changes} of {size} bytes: a full download would not be noticed"
    );
    Ok((
        Recording {
            storage,
            steps: recorder.finish(),
            states,
            changes,
            url,
        },
        primary,
    ))
}

fn check(recording: &Recording, cut: &Cut, dir: &Path) -> Result<(), Fault> {
    let Recording {
        storage,
        states,
        changes,
        url,
        ..
    } = recording;
    let last = states.len() - 1;
    let database = dir.join("replica.db");
    let complete = cut.acknowledged > 0;
    let possible = &states[cut.acknowledged.max(1)..=cut.begun.max(1)];
    let judge = |found: Content, who: &str| match states.iter().position(|s| *s == found) {
        _ if possible.contains(&found) => Ok(()),
        Some(state) if state < cut.acknowledged => {
            Err(Fault::Lost(format!("{who} is back at state {state}")))
        }
        Some(state) => Err(Fault::Broken(format!(
            "{who} reads state {state} before its time"
        ))),
        None => Err(Fault::Broken(format!("{who} reads a state that never was"))),
    };
    // What a plain reader finds, on a copy: it recovers, and a close takes the log away.
    let there = database.exists();
    if there {
        let copy = dir.join("plain");
        fs::create_dir(&copy).unwrap();
        for name in storage.files("replica.db") {
            let _ = fs::copy(dir.join(&name), copy.join(&name));
        }
        judge(
            storage
                .recovered(&copy.join("replica.db"))
                .map_err(|e| format!("plain: {e}"))?,
            "a plain reader",
        )?;
    } else if complete {
        return Err(Fault::Lost("the database file is gone".into()));
    }

    let mut host = follow(&database, *storage, url, None)?;
    let opened = content(&mut host)?;
    // A bootstrap, and a cure at open, lead to the primary's state of today.
    if opened != states[last] {
        judge(opened, "the replica")?;
    }
    let report = host.sync()?;
    let status = host
        .run("SELECT state, last_error FROM replica_status")?
        .join(" ");
    if content(&mut host)? != states[last] {
        return Err(Fault::Broken(format!(
            "after a sync not at the primary's state: {report} {status}"
        )));
    }
    let verified = host.value("SELECT replica_verify()")?;
    if json(&verified, "$.ok") != "1" {
        return Err(Fault::Broken(format!("replica_verify: {verified}")));
    }
    if ["foreign", "diverged", "healing", "error"]
        .iter()
        .any(|state| status.starts_with(state))
    {
        return Err(Fault::Broken(format!("in state {status}")));
    }
    if complete && number(&report, "$.bytes_received")? > changes + 64 * 1024 {
        return Err(Fault::Broken(format!(
            "fetched more than the changes ({changes}): {report}"
        )));
    }
    host.close()?;
    if dir.join("replica.db-replica-part").exists() {
        return Err(Fault::Broken(
            "the spool of the bootstrap is still there".into(),
        ));
    }
    match storage.recovered(&database)? == states[last] {
        true => Ok(()),
        false => Err(Fault::Broken("another content after the close".into())),
    }
}

fn survive(storage: Storage) {
    let space = Space::new();
    let (recording, _primary) = record(&space, storage, 2000, 10).unwrap();
    let check = |cut: &Cut, dir: &Path| check(&recording, cut, dir);
    let run = |name: &str, steps: &[Step], images, enough, check: &Check| {
        let name = format!("{}{name}", storage.title());
        campaign::run(&name, steps, images, enough, check)
    };
    // The same trace on disks that ignore a sync: were this not seen, the test could not see an engine
    // that forgets it.
    let late = |cut: &Cut, dir: &Path| {
        if cut.acknowledged > 0 {
            check(cut, dir)
        } else {
            Ok(())
        }
    };
    let log = campaign::without_syncs(&recording.steps, |name, _| campaign::is_log(name));
    let report = run("replica without log syncs", &log, 200, 5, &late);
    assert!(report.lost + report.broken > 0);
    // A log that starts anew, with its header only as durable as its frames: the one the prototype
    // `wal_header_sync` saw replay an old commit over a newer database.
    let header = campaign::without_syncs(&recording.steps, |name, before| {
        campaign::is_log(name) && matches!(before, Step::Write { offset: 0, .. })
    });
    let report = run("replica without header syncs", &header, 6000, 1, &late);
    assert!(report.lost + report.broken > 0);
    let images = storage.images(3000);
    run("replica", &recording.steps, images, 10, &check).expect_none();
}

type Check<'a> = dyn Fn(&Cut, &Path) -> Result<(), Fault> + Sync + 'a;

#[test]
fn a_replica_survives_power_loss() {
    survive(Storage::Plain);
}

#[test]
fn a_sealed_replica_survives_power_loss() {
    survive(Storage::Sealed);
}

/// Large enough to come in many parts, with resting points between them.
fn survive_a_long_bootstrap(storage: Storage) {
    let space = Space::new();
    let (recording, _primary) = record(&space, storage, 62_000, 0).unwrap();
    let check = |cut: &Cut, dir: &Path| check(&recording, cut, dir);
    let name = format!("{}long bootstrap", storage.title());
    campaign::run(&name, &recording.steps, storage.images(90), 10, check).expect_none();
}

#[test]
fn a_long_bootstrap_survives_power_loss() {
    survive_a_long_bootstrap(Storage::Plain);
}

#[test]
fn a_long_sealed_bootstrap_survives_power_loss() {
    survive_a_long_bootstrap(Storage::Sealed);
}
