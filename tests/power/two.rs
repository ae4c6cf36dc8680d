//! One transaction over two databases, of which at least one is encrypted: after a power loss it has happened in both or in
//! neither, whichever is opened first, and whoever opens it.
use crate::campaign::{self, Cut, Fault, Space};
use crate::host::Host;
use crate::image::Step;
use crate::storage::Storage;
use crate::trace::Recorder;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const ROUNDS: usize = 6;

struct Recording {
    /// Journals name each other by path: images are checked where they were recorded.
    dir: PathBuf,
    steps: Vec<Step>,
    /// How each database lies on disk.
    storages: [(&'static str, Storage); 2],
}

fn record(space: &Space, mode: &str, other: Storage) -> Recording {
    let mut recorder = Recorder::new(&space.0.join("recorded"), &space.0.join("trace"));
    let storages = [("a.db", Storage::Sealed), ("b.db", other)];
    let mut host = Host::extended(Some(&recorder)).unwrap();
    host.open(&recorder.dir().join("a.db"), Storage::Sealed, None)
        .unwrap();
    let (folder, parameter) = (recorder.dir().display().to_string(), other.parameter());
    host.run(&format!(
        "ATTACH 'file:{folder}/b.db?vfs=replica{parameter}' AS b"
    ))
    .unwrap();
    for schema in ["main", "b"] {
        for sql in [
            format!("PRAGMA {schema}.page_size=1024"),
            format!("PRAGMA {schema}.cache_size=10"),
            format!("PRAGMA {schema}.journal_mode={mode}"),
            format!("PRAGMA {schema}.synchronous=EXTRA"),
            format!("CREATE TABLE {schema}.t(x INTEGER, y BLOB)"),
            format!(
                "INSERT INTO {schema}.t WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<40) \
                 SELECT 0, randomblob(300) FROM c"
            ),
        ] {
            host.run(&sql).unwrap();
        }
    }
    for round in 1..=ROUNDS {
        recorder.mark(&format!("start {round}"));
        host.run(&format!(
            "BEGIN; UPDATE main.t SET x={round}, y=randomblob(300); UPDATE b.t SET x={round}, y=randomblob(300); COMMIT"
        ))
        .unwrap();
        recorder.mark(&format!("ack {round}"));
    }
    host.close().unwrap();
    let (dir, steps) = (recorder.dir().to_owned(), recorder.finish());
    Recording {
        dir,
        steps,
        storages,
    }
}

/// What a database holds. Its first statement has to succeed.
fn state(database: &Path, storage: Storage) -> Result<String, Fault> {
    let found = storage.read(database, |source| {
        let sound = source.lines("PRAGMA integrity_check")?;
        if sound != ["ok"] {
            return Err(format!("integrity_check: {}", sound.join(" ")));
        }
        source.lines("SELECT min(x) || '-' || max(x) FROM t")
    });
    let lines = found.map_err(|error| Fault::Broken(format!("{}: {error}", database.display())))?;
    Ok(lines.concat())
}

impl Recording {
    /// The steps from the first transaction over both on.
    fn begun(&self) -> usize {
        let begins = |step: &Step| *step == Step::Mark("start 1".into());
        self.steps.iter().position(begins).expect("a transaction")
    }

    /// Whether both journals name the super-journal that may be left at this cut: both databases were written. (Who cannot
    /// read a journal leaves the super-journal alone, and it stays where that journal does not name it.)
    fn is_named(&self, cut: &Cut) -> bool {
        let (mut names, mut written) = (HashMap::new(), HashSet::<&String>::new());
        for step in &self.steps[..cut.index] {
            match step {
                Step::Create { name, .. } if name.contains("-mj") => written.clear(),
                Step::Create { inode, name } => drop(names.insert(inode, name)),
                Step::Write { inode, .. } => written.extend(names.get(inode)),
                _ => {}
            }
        }
        self.storages
            .iter()
            .all(|(database, _)| written.iter().any(|name| name == database))
    }

    fn check(&self, cut: &Cut, image: &Path, plain_first: bool) -> Result<(), Fault> {
        let begun = self.begun();
        if cut.index <= begun {
            return Ok(());
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        std::fs::rename(image, &self.dir).expect("the image");
        let mut order = self.storages;
        if plain_first || cut.index.is_multiple_of(2) {
            order.reverse();
        }
        let mut found = Vec::new();
        for (name, storage) in order {
            found.push(state(&self.dir.join(name), storage)?);
        }
        let wanted = (cut.acknowledged..=cut.begun)
            .any(|x| found == [format!("{x}-{x}"), format!("{x}-{x}")]);
        if !wanted {
            return Err(Fault::Broken(format!("{order:?} hold {found:?}")));
        }
        let left = std::fs::read_dir(&self.dir).expect("folder").flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        let left_behind = left
            .iter()
            .any(|name| name.to_string_lossy().contains("-mj"));
        // Who recovers a plain database cannot know whether the super-journal may go.
        let all_sealed = self
            .storages
            .iter()
            .all(|(_, storage)| *storage == Storage::Sealed);
        match all_sealed && left_behind && self.is_named(cut) {
            true => Err(Fault::Broken(format!("left behind: {left:?}"))),
            false => Ok(()),
        }
    }
}

fn survey(name: &str, mode: &str, other: Storage) {
    let space = Space::new();
    let recording = record(&space, mode, other);
    let one_at_a_time = Mutex::new(());
    let check = |cut: &Cut, dir: &Path| {
        let _turn = one_at_a_time
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        recording.check(cut, dir, other == Storage::Plain)
    };
    campaign::run(name, &recording.steps, 400, 10, check).expect_none();
}

#[test]
fn two_sealed_databases_change_together() {
    survey("two sealed databases, delete", "DELETE", Storage::Sealed);
    survey("two sealed databases, persist", "PERSIST", Storage::Sealed);
}

/// Whose plain one is recovered first, by SQLite without the extension.
#[test]
fn a_sealed_and_a_plain_database_change_together() {
    survey("a sealed and a plain database", "DELETE", Storage::Plain);
}
