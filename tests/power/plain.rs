//! Plain SQLite under the same test: what it promises holds, and what it does not promise is seen
//! to break. This is the proof that the recorder and the images are right.
use crate::campaign::{self, Cut, Fault, Report, Space};
use crate::content::{Content, content};
use crate::host::Host;
use crate::image::Step;
use crate::storage::Storage;
use crate::trace::Recorder;
use std::path::Path;

pub struct Recording {
    storage: Storage,
    pub steps: Vec<Step>,
    states: Vec<Content>,
}

/// Statements that each make one state of their own.
fn statements(vacuum: bool) -> Vec<String> {
    let rows = |first: usize, count: usize| {
        format!(
            "WITH RECURSIVE c(i) AS (VALUES({first}) UNION ALL SELECT i+1 FROM c WHERE i<{}) \
             INSERT INTO t SELECT i, abs(random()) % 50, hex(randomblob(100)) FROM c",
            first + count - 1
        )
    };
    let mut all = vec![
        "CREATE TABLE t(k INTEGER PRIMARY KEY, g INTEGER, v TEXT)".to_string(),
        "CREATE INDEX by_g ON t(g)".to_string(),
        rows(1, 150),
    ];
    for round in 1..=5 {
        // The middle one is larger than the page cache, so pages are spilled.
        all.push(format!(
            "UPDATE t SET v=hex(randomblob(100)) WHERE k%40={round}"
        ));
        all.push(rows(1000 * round, 60));
        all.push(format!(
            "UPDATE t SET g=g+1, v=hex(randomblob(90+{round})) WHERE k%5={}",
            round % 5
        ));
        all.push(format!("DELETE FROM t WHERE k%11={round}"));
        all.push("PRAGMA wal_checkpoint".to_string());
        all.push(format!(
            "UPDATE t SET v=hex(randomblob(100)) WHERE k%50={round}"
        ));
    }
    if vacuum {
        all.push("VACUUM".to_string());
    }
    all.push("DELETE FROM t WHERE k>3000".to_string());
    all
}

pub fn record(
    space: &Space,
    storage: Storage,
    pragmas: &[&str],
    vacuum: bool,
    host: impl Fn(&Path, &Recorder) -> Host,
) -> Recording {
    let mut recorder = Recorder::new(&space.0.join("recorded"), &space.0.join("trace"));
    let mut host = host(&recorder.dir().join("app.db"), &recorder);
    let mut states = vec![content(&mut host).unwrap()];
    for pragma in ["PRAGMA page_size=1024", "PRAGMA cache_size=10"]
        .iter()
        .chain(pragmas)
    {
        host.run(pragma).unwrap();
    }
    for statement in statements(vacuum) {
        recorder.mark(&format!("start {}", states.len()));
        host.run(&statement).unwrap();
        recorder.mark(&format!("ack {}", states.len()));
        states.push(content(&mut host).unwrap());
    }
    host.close().unwrap();
    Recording {
        storage,
        steps: recorder.finish(),
        states,
    }
}

fn shell(database: &Path, recorder: &Recorder) -> Host {
    let mut host = Host::shell(Some(recorder));
    host.run(&format!(".open '{}'", database.display()))
        .unwrap();
    host
}

pub fn check(recording: &Recording, cut: &Cut, dir: &Path) -> Result<(), Fault> {
    let states = &recording.states;
    let found = recording.storage.recovered(&dir.join("app.db"))?;
    if states[cut.acknowledged..=cut.begun].contains(&found) {
        return Ok(());
    }
    match states.iter().rposition(|s| *s == found) {
        Some(state) if state < cut.acknowledged => {
            Err(Fault::Lost(format!("back at state {state}")))
        }
        Some(state) => Err(Fault::Broken(format!("state {state} before its time"))),
        None => Err(Fault::Broken("a state that never was".into())),
    }
}

/// Records a database under these settings, and checks what is left of it.
pub fn survey(
    name: &str,
    storage: Storage,
    pragmas: &[&str],
    host: impl Fn(&Path, &Recorder) -> Host,
) -> Report {
    let space = Space::new();
    // Where the unlink of the journal is not synced (FULL), the truncation after a VACUUM can reach the
    // disk before it, and the journal that comes back then does not restore the lost pages.
    let vacuum = !(pragmas.contains(&"PRAGMA journal_mode=DELETE")
        && pragmas.contains(&"PRAGMA synchronous=FULL"));
    let recording = record(&space, storage, pragmas, vacuum, host);
    let images = storage.images(4000);
    let name = format!("{}{name}", storage.title());
    campaign::run(&name, &recording.steps, images, usize::MAX, |cut, dir| {
        check(&recording, cut, dir)
    })
}

/// The same of a plain database in the shell.
fn plain(name: &str, pragmas: &[&str]) -> Report {
    survey(name, Storage::Plain, pragmas, shell)
}

#[test]
fn wal_full_keeps_every_commit() {
    plain(
        "plain wal full",
        &["PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"],
    )
    .expect_none();
}

#[test]
fn wal_full_keeps_every_commit_in_python() {
    let pragmas = ["PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"];
    survey(
        "python wal full",
        Storage::Plain,
        &pragmas,
        |file, recorder| Host::python(file, Some(recorder)),
    )
    .expect_none();
}

#[test]
fn wal_normal_loses_commits_and_breaks_nothing() {
    let report = plain(
        "plain wal normal",
        &["PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL"],
    );
    assert!(report.lost > 0);
    report.expect_sound();
}

#[test]
fn delete_extra_keeps_every_commit() {
    plain(
        "plain delete extra",
        &["PRAGMA journal_mode=DELETE", "PRAGMA synchronous=EXTRA"],
    )
    .expect_none();
}

/// FULL does not sync the directory after the journal's unlink, so the journal may come back and
/// undo the commit. That this is seen shows that the recorder sees directories.
#[test]
fn delete_full_may_lose_the_last_commit_and_breaks_nothing() {
    let report = plain(
        "plain delete full",
        &["PRAGMA journal_mode=DELETE", "PRAGMA synchronous=FULL"],
    );
    assert!(report.lost > 0);
    report.expect_sound();
}

#[test]
fn wal_off_is_caught() {
    let report = plain(
        "plain wal off",
        &["PRAGMA journal_mode=WAL", "PRAGMA synchronous=OFF"],
    );
    assert!(report.broken > 0);
}

/// A host that forgets to sync its log, made from one that does not.
#[test]
fn wal_full_without_log_syncs_is_caught() {
    let space = Space::new();
    let recording = record(
        &space,
        Storage::Plain,
        &["PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"],
        true,
        shell,
    );
    let lying = campaign::without_syncs(&recording.steps, |name, _| campaign::is_log(name));
    let check = |cut: &Cut, dir: &Path| check(&recording, cut, dir);
    let report = campaign::run(
        "plain wal full without log syncs",
        &lying,
        400,
        usize::MAX,
        check,
    );
    assert!(report.lost > 0);
    assert!(report.broken > 0);
}

#[test]
fn delete_off_is_caught() {
    let report = plain(
        "plain delete off",
        &["PRAGMA journal_mode=DELETE", "PRAGMA synchronous=OFF"],
    );
    assert!(report.broken > 0);
}
