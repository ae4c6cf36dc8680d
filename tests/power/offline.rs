//! A replica that is written offline loses power at any moment of its commits, pushes, rebases and
//! checkpoints.
//!
//! Afterwards its content is that of a commit, none older than the last that was acknowledged where each
//! was synced; it is understood, nothing of it counts as foreign, and a discard leads to what the remote
//! had, without asking it.
use crate::campaign::{self, Cut, Fault, Space};
use crate::content::{Content, content};
use crate::host::{Host, json};
use crate::image::Step;
use crate::replica::{fill, transaction};
use crate::storage::Storage;
use crate::trace::Recorder;
use std::fs;
use std::path::Path;

struct Recording {
    storage: Storage,
    steps: Vec<Step>,
    /// By number; the first is not used, the second is what the bootstrap brought.
    states: Vec<Content>,
    /// What the remote had, and from the begin of which state on that may be the base, ascending.
    bases: Vec<(usize, Content)>,
    url: String,
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
    synchronous: &str,
    rounds: usize,
) -> Result<(Recording, Host), String> {
    let mut primary = Host::extended(None)?;
    primary.open(&space.0.join("app.db"), storage, None)?;
    for statement in fill(400) {
        primary.run(&statement)?;
    }
    let url = json(
        &primary.value("SELECT replica_serve('127.0.0.1:0')")?,
        "$.url",
    );
    let mut states = vec![0, content(&mut primary)?];
    let mut bases = vec![(1, states[1])];

    let mut recorder = Recorder::new(&space.0.join("recorded"), &space.0.join("trace"));
    let database = recorder.dir().join("replica.db");
    recorder.mark("start 1");
    let synchronous = format!("PRAGMA synchronous={synchronous}");
    let mut replica = follow(&database, storage, &url, Some(&recorder))?;
    replica.sync()?;
    replica.value("SELECT replica_config('offline', 1)")?;
    replica.run(&synchronous)?;
    recorder.mark("ack 1");
    for round in 1..=rounds {
        let next = states.len();
        recorder.mark(&format!("start {next}"));
        replica.run(&transaction(next))?;
        recorder.mark(&format!("ack {next}"));
        states.push(content(&mut replica)?);
        match round % 12 {
            1 => {
                primary.run(&format!(
                    "UPDATE t SET g = g + 1000 WHERE k % 40 = {round} % 40;
                     INSERT INTO t VALUES ({}, {round}, 'of the primary')",
                    100_000 + round
                ))?;
                let next = states.len();
                bases.push((next, content(&mut primary)?));
                recorder.mark(&format!("start {next}"));
                replica.value("SELECT replica_rebase('local')")?;
                recorder.mark(&format!("ack {next}"));
                states.push(content(&mut replica)?);
                bases.push((next, states[next]));
            }
            3 | 7 => drop(replica.run("PRAGMA wal_checkpoint")?),
            5 => {
                replica.value("SELECT replica_push()")?;
                bases.push((next, states[next]));
            }
            9 => {
                replica.close()?;
                replica = follow(&database, storage, &url, Some(&recorder))?;
                replica.run(&synchronous)?;
            }
            11 => {
                // A reader without the extension closes last, and so deletes the log.
                replica.close()?;
                let mut plain = Host::shell(Some(&recorder));
                plain.run(&format!(".open '{}'", database.display()))?;
                let read = content(&mut plain);
                let closed = plain.close();
                if storage == Storage::Plain {
                    read.and(closed.map(|()| 0))?;
                }
                replica = follow(&database, storage, &url, Some(&recorder))?;
                replica.run(&synchronous)?;
            }
            _ => {}
        }
    }
    replica.close()?;
    Ok((
        Recording {
            storage,
            steps: recorder.finish(),
            states,
            bases,
            url,
        },
        primary,
    ))
}

fn check(recording: &Recording, cut: &Cut, dir: &Path) -> Result<(), Fault> {
    let Recording {
        storage,
        states,
        bases,
        url,
        ..
    } = recording;
    if cut.acknowledged == 0 {
        // Of a bootstrap.
        return Ok(());
    }
    let database = dir.join("replica.db");
    let copy = dir.join("plain");
    fs::create_dir(&copy).unwrap();
    for name in storage.files("replica.db") {
        let _ = fs::copy(dir.join(&name), copy.join(&name));
    }
    let found = storage
        .recovered(&copy.join("replica.db"))
        .map_err(|e| format!("plain: {e}"))?;
    let mut lost = None;
    // (A vacuum changes no content: some states are equal.)
    if !states[cut.acknowledged..=cut.begun].contains(&found) {
        match states.iter().position(|state| *state == found) {
            Some(state) if state < cut.acknowledged => lost = Some(state),
            Some(state) => return Err(Fault::Broken(format!("state {state} before its time"))),
            None => return Err(Fault::Broken("a state that never was".into())),
        }
    }
    let mut host = follow(&database, *storage, url, None)?;
    if content(&mut host)? != found {
        return Err(Fault::Broken("the replica reads another state".into()));
    }
    let verified = host.value("SELECT replica_verify()")?;
    let status = host
        .run("SELECT state, offline, last_error FROM replica_status")?
        .join(" ");
    if json(&verified, "$.ok") != "1" || !status.starts_with("ok|1") {
        return Err(Fault::Broken(format!("{verified}, in state {status}")));
    }
    // It can be written at once.
    host.run("UPDATE t SET g = g + 1 WHERE k < 50")?;
    host.value("SELECT replica_discard()")?;
    let back = content(&mut host)?;
    // A push, or a rebase, that was begun with the last state may be on record, or not yet.
    let newest = bases
        .iter()
        .rposition(|(from, _)| *from < cut.begun)
        .unwrap_or(0);
    let mut possible = bases[newest..]
        .iter()
        .take_while(|(from, _)| *from <= cut.begun);
    if !possible.any(|(_, base)| *base == back) {
        return Err(Fault::Broken(format!(
            "a discard led to {:?} after the begin of {}",
            states.iter().position(|state| *state == back),
            cut.begun
        )));
    }
    let verified = host.value("SELECT replica_verify()")?;
    if json(&verified, "$.ok") != "1" {
        return Err(Fault::Broken(format!("after the discard: {verified}")));
    }
    host.close()?;
    match lost {
        Some(state) => Err(Fault::Lost(format!("back at state {state}"))),
        None => Ok(()),
    }
}

fn survive(storage: Storage, synchronous: &str) {
    let space = Space::new();
    let (recording, _primary) = record(&space, storage, synchronous, 30).unwrap();
    let check = |cut: &Cut, dir: &Path| check(&recording, cut, dir);
    let name = format!("{}offline {synchronous}", storage.title());
    let images = storage.images(1200);
    if synchronous != "FULL" {
        // Commits that were not synced may be gone, and nothing else.
        campaign::run(&name, &recording.steps, images, images, check).expect_sound();
        return;
    }
    // On a disk that ignores a sync of the images: were this not seen, the test could not see an engine that
    // forgets it.
    let store = |name: &str| name.ends_with("-replica-wal") || name.ends_with("-replica-swal");
    let careless = campaign::without_syncs(&recording.steps, |name, _| store(name));
    let report = campaign::run(
        &format!("{name}, without store syncs"),
        &careless,
        images,
        1,
        check,
    );
    assert!(report.lost + report.broken > 0);
    campaign::run(&name, &recording.steps, images, 10, check).expect_none();
}

#[test]
fn an_offline_replica_survives_power_loss() {
    survive(Storage::Plain, "FULL");
}

#[test]
fn an_offline_replica_that_does_not_sync_its_commits_survives_power_loss() {
    survive(Storage::Plain, "NORMAL");
}

#[test]
fn a_sealed_offline_replica_survives_power_loss() {
    survive(Storage::Sealed, "FULL");
}
