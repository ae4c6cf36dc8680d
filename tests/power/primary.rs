//! A primary that loses power while a follower pulls from it.
//!
//! Whatever the follower was told is in the primary's content and history afterwards, so that it
//! goes on with changes only. What nobody was told, and was not asked to be durable, may go.
use crate::campaign::{self, Cut, Fault, Space};
use crate::content::{Content, content};
use crate::host::{Host, json, number};
use crate::image::{Image, Step};
use crate::replica::{fill, transaction};
use crate::storage::Storage;
use crate::trace::{self, Recorder};
use std::fs;
use std::path::Path;

/// The follower as it was after one of its pulls.
struct Follower {
    files: Image,
    position: String,
    /// The number of the state it holds.
    state: usize,
}

struct Recording {
    storage: Storage,
    steps: Vec<Step>,
    states: Vec<Content>,
    followers: Vec<Follower>,
    /// The step after which each of the followers may have been what it is.
    exposed: Vec<usize>,
}

struct Recorded {
    storage: Storage,
    recorder: Recorder,
    states: Vec<Content>,
}

impl Recorded {
    /// Commits one state. Only synchronous=FULL promises that it stays.
    fn commit(&mut self, host: &mut Host, sql: &str, full: bool) -> Result<(), String> {
        let number = self.states.len();
        self.recorder.mark(&format!("start {number}"));
        host.run(sql)?;
        self.recorder
            .mark(&format!("{} {number}", if full { "ack" } else { "done" }));
        self.states.push(content(host)?);
        Ok(())
    }

    /// Somebody who does not serve: where the file can be read without the extension, without it.
    fn outsider(&self) -> Result<Host, String> {
        let file = self.recorder.dir().join("app.db");
        if self.storage == Storage::Sealed {
            let mut host = Host::extended(Some(&self.recorder))?;
            host.open(&file, self.storage, None)?;
            return Ok(host);
        }
        let mut host = Host::shell(Some(&self.recorder));
        host.run(&format!(".open '{}'", file.display()))?;
        host.run(".timeout 20000")?;
        Ok(host)
    }

    fn serve(&self, address: &str) -> Result<(Host, String), String> {
        let mut host = Host::extended(Some(&self.recorder))?;
        host.open(&self.recorder.dir().join("app.db"), self.storage, None)?;
        let url = json(
            &host.value(&format!("SELECT replica_serve('{address}')"))?,
            "$.url",
        );
        Ok((host, url))
    }
}

fn record(space: &Space, storage: Storage) -> Result<Recording, String> {
    let recorder = Recorder::new(&space.0.join("recorded"), &space.0.join("trace"));
    let mut recorded = Recorded {
        storage,
        recorder,
        states: Vec::new(),
    };
    let mut plain = recorded.outsider()?;
    recorded.states.push(content(&mut plain)?);
    for statement in fill(2000) {
        recorded.commit(&mut plain, &statement, true)?;
    }
    plain.close()?;

    let (mut primary, url) = recorded.serve("127.0.0.1:0")?;
    let address = url
        .trim_start_matches("http://")
        .split('/')
        .next()
        .unwrap()
        .to_string();
    let follower_dir = space.0.join("follower");
    fs::create_dir_all(&follower_dir).unwrap();
    let mut follower = Host::extended(None)?;
    let mut followers = Vec::new();
    for round in 0..12 {
        let full = round % 2 == 0;
        primary.run(&format!(
            "PRAGMA synchronous={}",
            if full { "FULL" } else { "NORMAL" }
        ))?;
        for _ in 0..1 + round % 3 {
            let sql = transaction(recorded.states.len());
            recorded.commit(&mut primary, &sql, full)?;
        }
        match round {
            2 | 3 | 6 => drop(primary.run("PRAGMA wal_checkpoint")?),
            8 => drop(primary.run("PRAGMA wal_checkpoint(TRUNCATE)")?),
            5 => {
                // Somebody else writes, while it serves and while it does not.
                plain = recorded.outsider()?;
                recorded.commit(&mut plain, &transaction(1), true)?;
                primary.close()?;
                recorded.commit(&mut plain, &transaction(2), true)?;
                plain.close()?;
                (primary, _) = recorded.serve(&address)?;
            }
            _ => {}
        }
        if round % 4 == 3 {
            continue; // Not pulled: commits that nobody knows yet.
        }
        recorded.recorder.mark(&format!("pull {}", followers.len()));
        match round {
            0 => follower.open(&follower_dir.join("replica.db"), storage, Some(&url))?,
            _ => drop(follower.sync()?),
        }
        recorded
            .recorder
            .mark(&format!("pulled {}", followers.len()));
        let state = recorded.states.len() - 1;
        if content(&mut follower)? != recorded.states[state] {
            return Err(format!(
                "round {round}: the follower has another content, without any power loss"
            ));
        }
        let position = follower.value("SELECT replica_position()")?;
        followers.push(Follower {
            files: trace::snapshot(&follower_dir),
            position,
            state,
        });
    }
    primary.close()?;
    let steps = recorded.recorder.finish();
    let exposed = (0..followers.len())
        .map(|pull| exposure(&steps, pull))
        .collect();
    Ok(Recording {
        storage,
        steps,
        states: recorded.states,
        followers,
        exposed,
    })
}

/// The follower may hold what a pull brought from the moment the last of it was sent, well before
/// it says so.
fn exposure(steps: &[Step], pull: usize) -> usize {
    let mark = |word: &str| {
        steps
            .iter()
            .position(|s| *s == Step::Mark(format!("{word} {pull}")))
            .unwrap()
    };
    let (begin, end) = (mark("pull"), mark("pulled"));
    let sent = steps[begin..end].iter().rposition(|s| *s == Step::Send);
    begin + sent.expect("an answer was sent")
}

fn check(recording: &Recording, cut: &Cut, dir: &Path) -> Result<(), Fault> {
    let Recording {
        storage,
        states,
        followers,
        exposed,
        ..
    } = recording;
    let follower = exposed
        .iter()
        .rposition(|index| *index < cut.index)
        .map(|pull| &followers[pull]);
    let known = cut.acknowledged.max(follower.map_or(0, |f| f.state));
    let judge = |found: Content, who: &str| match states.iter().rposition(|s| *s == found) {
        _ if states[known..=cut.begun].contains(&found) => Ok(()),
        Some(state) if state < known => Err(Fault::Lost(format!(
            "{who} is back at state {state}, {known} was known"
        ))),
        Some(state) => Err(Fault::Broken(format!(
            "{who} reads state {state} before its time"
        ))),
        None => Err(Fault::Broken(format!("{who} reads a state that never was"))),
    };
    let copy = dir.join("plain");
    fs::create_dir(&copy).unwrap();
    for name in storage.files("app.db") {
        let _ = fs::copy(dir.join(&name), copy.join(&name));
    }
    judge(
        storage
            .recovered(&copy.join("app.db"))
            .map_err(|e| format!("plain: {e}"))?,
        "a plain reader",
    )?;
    // Before the journal mode is durable there is nothing yet that could be served.
    if cut.acknowledged < 2 {
        return Ok(());
    }

    let mut primary = Host::extended(None)?;
    primary.open(&dir.join("app.db"), *storage, None)?;
    let served = primary.value("SELECT replica_serve('127.0.0.1:0')")?;
    let url = json(&served, "$.url");
    judge(content(&mut primary)?, "the primary")?;

    let follower_dir = dir.join("follower");
    trace::install(follower.map_or(&Image::new(), |f| &f.files), &follower_dir);
    let mut host = Host::extended(None)?;
    host.open(&follower_dir.join("replica.db"), *storage, Some(&url))?;
    let report = host.sync()?;
    if let Some(follower) = follower {
        if json(&report, "$.from") != follower.position {
            return Err(Fault::Broken(format!(
                "the follower was at {}: {report}",
                follower.position
            )));
        }
        if !in_history(&dir.join("app.db-replica"), *storage, &follower.position)? {
            return Err(Fault::Broken(format!(
                "the primary has forgotten {}: {report}",
                follower.position
            )));
        }
        // All the changes after the first pull are far smaller than this, the database is larger.
        let pages: u64 = primary.value("PRAGMA page_count")?.parse().unwrap();
        let size = pages * 4096;
        if number(&report, "$.bytes_received")? > size / 5 {
            return Err(Fault::Broken(format!("a full download: {report}")));
        }
    }
    same(&mut primary, &mut host, &report)?;
    // And it goes on from there.
    primary.run("CREATE TABLE afterwards AS SELECT 1 AS one")?;
    let report = host.sync()?;
    same(&mut primary, &mut host, &report)?;
    host.close()?;
    Ok(primary.close()?)
}

fn same(primary: &mut Host, follower: &mut Host, report: &str) -> Result<(), Fault> {
    let status = follower
        .run("SELECT state, last_error FROM replica_status")?
        .join(" ");
    if content(primary)? != content(follower)? {
        return Err(Fault::Broken(format!(
            "another content than the primary: {report} {status}"
        )));
    }
    let verified = follower.value("SELECT replica_verify()")?;
    if json(&verified, "$.ok") != "1" {
        return Err(Fault::Broken(format!("replica_verify: {verified}")));
    }
    if ["foreign", "diverged", "healing", "error"]
        .iter()
        .any(|state| status.starts_with(state))
    {
        return Err(Fault::Broken(format!("in state {status}")));
    }
    let positions = [
        primary.value("SELECT replica_position()")?,
        follower.value("SELECT replica_position()")?,
    ];
    if positions[0] != positions[1] {
        return Err(Fault::Broken(format!("positions {positions:?}: {report}")));
    }
    Ok(())
}

/// Whether a position is one that the primary had.
fn in_history(store: &Path, storage: Storage, position: &str) -> Result<bool, String> {
    let (lsn, id) = position
        .split_once('-')
        .ok_or(format!("position {position}"))?;
    let sql = format!(
        "SELECT CAST(count(*) AS TEXT) FROM history WHERE lsn = {lsn} AND lower(hex(id)) = '{id}'"
    );
    let found = storage.read(store, |source| source.lines(&sql))?;
    Ok(found == ["1"])
}

fn survive(storage: Storage) {
    let recording = record(&Space::new(), storage).unwrap();
    let check = |cut: &Cut, dir: &Path| check(&recording, cut, dir);
    let name = format!("{}primary", storage.title());
    let images = storage.images(2500);
    campaign::run(&name, &recording.steps, images, 10, check).expect_none();
    let lying = campaign::without_syncs(&recording.steps, |name, _| campaign::is_log(name));
    let name = format!("{name} without log syncs");
    let report = campaign::run(&name, &lying, 100, 10, check);
    assert!(report.lost + report.broken > 0);
}

#[test]
fn a_primary_survives_power_loss() {
    survive(Storage::Plain);
}

#[test]
fn a_sealed_primary_survives_power_loss() {
    survive(Storage::Sealed);
}
