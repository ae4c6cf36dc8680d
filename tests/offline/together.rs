//! Everybody writes at once: three replicas that are written offline by two processes each, and plain SQLite on the
//! primary's file; lines are cut, processes are killed. Whatever was acknowledged is everywhere in the end, once.
//!
//! `REPLICA_SECONDS` says how long.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use harness::full::amount;
use harness::{Primary, Relay, Shell, assert_intact, assert_same, directory, seed, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SCHEMA: &str = "PRAGMA journal_mode = WAL;
    CREATE TABLE entry(id INTEGER PRIMARY KEY, who TEXT NOT NULL, text TEXT NOT NULL UNIQUE);
    CREATE INDEX entry_who ON entry(who);
    CREATE VIRTUAL TABLE entry_text USING fts5(text, content = 'entry', content_rowid = 'id');
    CREATE TRIGGER entry_come AFTER INSERT ON entry BEGIN
      INSERT INTO entry_text(rowid, text) VALUES (new.id, new.text); END;
    CREATE TRIGGER entry_go AFTER DELETE ON entry BEGIN
      INSERT INTO entry_text(entry_text, rowid, text) VALUES ('delete', old.id, old.text); END;
    CREATE TABLE remark(entry INTEGER NOT NULL REFERENCES entry(id) ON DELETE CASCADE, n INTEGER, PRIMARY KEY (entry, n))
      WITHOUT ROWID;
    CREATE TABLE shared(id INTEGER PRIMARY KEY, n INTEGER, who TEXT);
    CREATE INDEX shared_n ON shared(n);
    WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300) INSERT INTO shared SELECT n, 0, '' FROM c;
    CREATE TABLE large(id INTEGER PRIMARY KEY, data BLOB);";

/// What became of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    There,
    Gone,
    /// Its process was killed.
    Unknown,
}

/// The entries of all, each under its own number, by who made it.
type Entries = Mutex<BTreeMap<i64, (String, Told)>>;

/// One process that writes a file.
struct Worker<'a> {
    who: String,
    /// The file, and the parameters to open it.
    file: (PathBuf, String),
    /// Whether the file is a replica.
    is_replica: bool,
    random: StdRng,
    shell: Shell,
    entries: &'a Entries,
    done: Done,
}

/// How often what happened.
type Done = BTreeMap<&'static str, usize>;

fn open(file: &(PathBuf, String), is_replica: bool) -> Shell {
    let mut shell = match is_replica {
        true => Shell::replica(&file.0, &file.1),
        false => Shell::plain(&file.0),
    };
    shell.sql("PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL");
    shell
}

impl<'a> Worker<'a> {
    fn new(who: &str, file: (PathBuf, String), seed: u64, entries: &'a Entries) -> Self {
        let is_replica = !file.1.is_empty();
        Self {
            who: who.to_owned(),
            shell: open(&file, is_replica),
            file,
            is_replica,
            random: StdRng::seed_from_u64(seed),
            entries,
            done: Done::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_insert(0) += 1;
    }

    fn work(mut self, until: Instant) -> Done {
        while Instant::now() < until {
            match self
                .random
                .random_range(0..if self.is_replica { 30 } else { 16 })
            {
                0..12 => self.write(),
                12 | 13 => self.delete(),
                14 => drop(self.shell.sql("PRAGMA wal_checkpoint")),
                15 => self.look(),
                16..20 => self.ask("SELECT replica_sync()"),
                20..22 => self.ask("SELECT replica_push()"),
                22 => self.ask("SELECT replica_pull()"),
                23 => self.ask("SELECT replica_rebase('local')"),
                24 => self.ask("SELECT replica_rebase('remote')"),
                25 => self.ask("SELECT replica_rebase()"),
                26 => self.ask("SELECT count(*) FROM replica_changes"),
                27 => self.kill(),
                _ => thread::sleep(Duration::from_millis(self.random.random_range(0..60))),
            }
        }
        self.shell.close();
        self.done
    }

    fn statements(&mut self, id: i64) -> Vec<String> {
        let who = self.who.clone();
        let shared = self.random.random_range(1..=300);
        let bytes = self.random.random_range(0..9000);
        let large = self.random.random_range(1..40);
        let mut statements = vec![
            format!("INSERT INTO entry VALUES ({id}, '{who}', 'text {id} of {who}')"),
            format!("INSERT INTO remark VALUES ({id}, 1), ({id}, 2)"),
            format!("UPDATE shared SET n = n + 1, who = '{who}' WHERE id = {shared}"),
        ];
        match self.random.random_range(0..6) {
            0 => statements.push(format!(
                "INSERT OR REPLACE INTO large VALUES ({large}, randomblob({bytes}))"
            )),
            1 => statements.push(format!(
                "UPDATE large SET data = randomblob(length(data)) WHERE id = {large}"
            )),
            2 => statements.push(format!("DELETE FROM large WHERE id = {large}")),
            _ => {}
        }
        statements
    }

    fn new_id(&mut self) -> i64 {
        self.random.random_range(1..i64::MAX)
    }

    fn remember(&self, id: i64, told: Told) {
        let mut entries = self.entries.lock().unwrap();
        entries.insert(id, (self.file_name(), told));
    }

    fn file_name(&self) -> String {
        self.file.0.display().to_string()
    }

    fn write(&mut self) {
        let id = self.new_id();
        let statements = self.statements(id);
        if self.transact(&statements) {
            self.remember(id, Told::There);
        }
    }

    /// Whether it was committed.
    fn transact(&mut self, statements: &[String]) -> bool {
        if let Err(error) = self.shell.try_sql("BEGIN IMMEDIATE") {
            assert!(error.contains("locked"), "{}: {error}", self.who);
            return false;
        }
        for statement in statements {
            self.shell.sql(statement);
        }
        self.shell.sql("COMMIT");
        true
    }

    /// An entry that was made in this file goes again.
    fn delete(&mut self) {
        let name = self.file_name();
        let mine: Vec<i64> = {
            let entries = self.entries.lock().unwrap();
            let mine = |(id, (file, told)): (&i64, &(String, Told))| {
                (*file == name && *told == Told::There).then_some(*id)
            };
            entries.iter().filter_map(mine).collect()
        };
        if mine.is_empty() {
            return;
        }
        let id = mine[self.random.random_range(0..mine.len())];
        if self.transact(&[format!("DELETE FROM entry WHERE id = {id}")]) {
            self.remember(id, Told::Gone);
        }
    }

    /// What was acknowledged here is here.
    fn look(&mut self) {
        let name = self.file_name();
        let before = self.entries.lock().unwrap().clone();
        let found = self.shell.sql("SELECT id FROM entry");
        let found: std::collections::BTreeSet<i64> =
            found.lines().map(|id| id.parse().unwrap()).collect();
        let after = self.entries.lock().unwrap().clone();
        for (id, (file, told)) in &before {
            if *file != name || after[id].1 != *told {
                continue;
            }
            match told {
                Told::There => assert!(found.contains(id), "{}: {id} is lost", self.who),
                Told::Gone => assert!(!found.contains(id), "{}: {id} came back", self.who),
                Told::Unknown => {}
            }
        }
    }

    /// Others may be in the way, the line may be cut, and rows may be in each other's way.
    fn ask(&mut self, sql: &str) {
        let Err(error) = self.shell.try_sql(sql) else {
            return self.count("transfers that were done");
        };
        let kinds = [
            ("has moved on", "diverged"),
            ("changed here and on the remote", "conflicts"),
            ("primary is busy", "busy"),
            ("remote http://", "unreachable"),
            ("(5)", "busy"),
        ];
        let kind = kinds.iter().find(|(words, _)| error.contains(words));
        let Some((_, kind)) = kind else {
            panic!("{}: {sql}: {error}", self.who);
        };
        self.count(kind);
    }

    /// The process ends in the middle of something.
    fn kill(&mut self) {
        let id = self.new_id();
        let statements = self.statements(id);
        let sql = match self.random.random_range(0..3) {
            0 => {
                self.remember(id, Told::Unknown);
                format!("BEGIN IMMEDIATE;\n{};\nCOMMIT;", statements.join(";\n"))
            }
            1 => "SELECT replica_sync();".to_owned(),
            _ => "SELECT replica_rebase('local');".to_owned(),
        };
        self.shell.feed(&sql);
        thread::sleep(Duration::from_micros(self.random.random_range(0..30_000)));
        let killed = std::mem::replace(&mut self.shell, open(&self.file, true));
        killed.kill();
        self.count("processes killed");
    }
}

/// The line of a replica is cut now and then.
fn cut(relay: &Relay, address: &str, seed: u64, until: Instant) {
    let mut random = StdRng::seed_from_u64(seed);
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(random.random_range(100..1500)));
        relay.point(None);
        thread::sleep(Duration::from_millis(random.random_range(0..400)));
        relay.point(Some(address));
    }
}

fn settle(app: &Path, shells: &mut [Shell]) {
    let pending = "SELECT sum(pending_transactions) || state FROM replica_status";
    wait_for("all that was written to be everywhere", || {
        let synced: Vec<_> = shells
            .iter_mut()
            .map(|shell| shell.try_sql("SELECT replica_sync()"))
            .collect();
        synced.iter().all(Result::is_ok)
            && shells.iter_mut().all(|shell| shell.sql(pending) == "0ok")
    });
    for shell in &mut *shells {
        shell.sql("SELECT replica_sync()");
        let verified = shell.sql("SELECT replica_verify()");
        assert_eq!(harness::json(&verified, "$.ok"), "1", "{verified}");
    }
    assert_intact(app, "the primary");
}

#[test]
fn all_write_and_nothing_is_lost() {
    let seconds = amount("REPLICA_SECONDS", 15, 600);
    let seed = seed("together", 1);
    let directory = directory();
    let app = directory.path().join("app.db");
    Shell::plain(&app).sql(SCHEMA);
    let primary = Primary::start(&app);
    let entries = Entries::default();
    let relays: Vec<_> = (0..3).map(|_| Relay::to(primary.address())).collect();
    let files: Vec<_> = (0..3)
        .map(|n| {
            let policy = ["local", "remote", "local"][n];
            let background = ["", "&live=1", "&sync_interval=0.2"][n];
            let url = relays[n].url("app");
            let parameters =
                format!("sync_url={url}&offline=1&on_conflict={policy}{background}&sync_timeout=5");
            (directory.path().join(format!("replica-{n}.db")), parameters)
        })
        .collect();
    for file in &files {
        open(file, true).close();
    }
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    let done = thread::scope(|scope| {
        let mut workers = Vec::new();
        for (n, file) in files.iter().enumerate() {
            for process in 0..2 {
                let worker = Worker::new(
                    &format!("r{n}.{process}"),
                    file.clone(),
                    seed * 100 + n as u64 * 2 + process,
                    &entries,
                );
                workers.push(scope.spawn(move || worker.work(until)));
            }
            let (relay, address) = (&relays[n], primary.address());
            scope.spawn(move || cut(relay, address, seed * 100 + 50 + n as u64, until));
        }
        let plain = Worker::new(
            "plain",
            (app.clone(), String::new()),
            seed * 100 + 90,
            &entries,
        );
        workers.push(scope.spawn(move || plain.work(until)));
        let mut all = Done::new();
        for (what, count) in workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
        {
            *all.entry(what).or_insert(0) += count;
        }
        all
    });
    let mut shells: Vec<_> = files.iter().map(|file| open(file, true)).collect();
    settle(&app, &mut shells);
    for shell in shells {
        shell.close();
    }
    primary.close();

    let mut plain = Shell::plain(&app);
    for file in &files {
        assert_same(&app, &file.0, "in the end");
    }
    plain.sql("INSERT INTO entry_text(entry_text) VALUES ('integrity-check')");
    assert_eq!(plain.sql("PRAGMA foreign_key_check"), "");
    let found = plain.sql("SELECT id FROM entry");
    let found: std::collections::BTreeSet<i64> =
        found.lines().map(|id| id.parse().unwrap()).collect();
    let entries = entries.into_inner().unwrap();
    let mut counts = BTreeMap::new();
    for (id, (file, told)) in &entries {
        *counts.entry(format!("{told:?}")).or_insert(0) += 1;
        match told {
            Told::There => assert!(found.contains(id), "{id} of {file} is lost"),
            Told::Gone => assert!(!found.contains(id), "{id} of {file} came back"),
            Told::Unknown => {}
        }
    }
    for id in &found {
        assert!(entries.contains_key(id), "{id} was made by nobody");
    }
    println!("entries: {counts:?}; {done:?}");
    assert!(done["processes killed"] > 0 && counts["There"] > 100);
}
