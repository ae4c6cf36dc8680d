//! Replicas behind relays, and what became of their writes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::messages::{Fault, Messages};
use harness::process::wait_for;
use harness::{
    Client, Kind, Primary, Trouble, assert_intact, assert_same, directory, free_port, image, json,
};
use tempfile::TempDir;

pub const SQLITE_BUSY: i32 = 5;
pub const SQLITE_IOERR: i32 = 10;

/// Where a write ended, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Committed,
    AtBegin(i32),
    AtWrite(i32),
    AtCommit(i32),
}

/// A replica behind a relay, with notes of what became of its writes.
pub struct Replica {
    pub path: PathBuf,
    pub relay: Messages,
    pub client: Client,
    pub name: u64,
    pub made: u64,
    pub ends: Vec<(u64, Ended)>,
}

pub struct Line {
    pub directory: TempDir,
    pub app: PathBuf,
    pub primary: Primary,
    pub replicas: Vec<Replica>,
}

impl Line {
    pub fn new(modes: &[&str]) -> Line {
        let directory = directory();
        let app = directory.path().join("app.db");
        image::create(&app)
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE word(number INTEGER PRIMARY KEY, id INTEGER NOT NULL, text BLOB);
                 CREATE INDEX word_text ON word(text);",
            )
            .expect("words");
        let primary = Primary::start_at(&app, &format!("127.0.0.1:{}", free_port()));
        let replicas = modes.iter().enumerate().map(|(name, mode)| {
            let path = directory.path().join(format!("replica-{name}.db"));
            let relay = Messages::to(primary.address());
            let parameters = format!(
                "sync_url={}&sync_timeout=1&write_mode={mode}",
                relay.url("app")
            );
            // It tells extended codes.
            let mut client =
                Client::on([Kind::Python, Kind::Bundled][name % 2], &path, &parameters);
            client.done("SELECT replica_sync()");
            client.done("PRAGMA busy_timeout = 0");
            Replica {
                path,
                relay,
                client,
                name: name as u64,
                made: 0,
                ends: Vec::new(),
            }
        });
        let replicas = replicas.collect();
        Line {
            directory,
            app,
            primary,
            replicas,
        }
    }

    /// Nothing is lost, nothing is there twice, and all have the same.
    pub fn assert_whole(&mut self, context: &str) {
        for replica in &mut self.replicas {
            replica.relay.heal();
            let late = || !replica.relay.is_late();
            wait_for("late messages", late);
        }
        for replica in &mut self.replicas {
            // Also what is not known yet is known then.
            replica.commit(context);
        }
        let there = self.primary.sql("SELECT id FROM word");
        let there: Vec<u64> = there.lines().map(|id| id.parse().expect("an id")).collect();
        for replica in &self.replicas {
            for (id, end) in &replica.ends {
                let times = there.iter().filter(|other| *other == id).count();
                match end {
                    Ended::Committed => assert_eq!(times, 1, "{context}: acknowledged {id}"),
                    Ended::AtCommit(code) if code & 0xff == SQLITE_IOERR => {
                        assert!(times <= 1, "{context}: unknown {id} is there {times} times");
                    }
                    end => assert_eq!(times, 0, "{context}: {id}, which ended {end:?}"),
                }
            }
        }
        for replica in &mut self.replicas {
            replica.client.done("SELECT replica_sync()");
            assert_same(&self.app, &replica.path, context);
            assert_intact(&replica.path, context);
            assert_eq!(
                replica.client.done("SELECT state FROM replica_status"),
                "ok",
                "{context}"
            );
            let verified = replica.client.done("SELECT replica_verify()");
            assert_eq!(json(&verified, "$.ok"), "1", "{context}: {verified}");
        }
    }
}

impl Replica {
    /// One transaction, tried once.
    pub fn attempt(&mut self) -> Ended {
        let id = self.name * 1_000_000 + self.made;
        self.made += 1;
        let ended = self.transaction(id);
        self.ends.push((id, ended));
        if ended != Ended::Committed {
            self.assert_readable(ended);
            // Where SQLite has not rolled back by itself.
            let _ = self.client.sql("ROLLBACK");
            self.client.done("SELECT count(*) FROM word");
        }
        ended
    }

    fn transaction(&mut self, id: u64) -> Ended {
        if let Err(trouble) = self.client.sql("BEGIN IMMEDIATE") {
            return Ended::AtBegin(code(trouble));
        }
        let sql = format!(
            "INSERT INTO word(id, text) VALUES ({id}, randomblob(100 + abs(random()) % 9000))"
        );
        if let Err(trouble) = self.client.sql(&sql) {
            return Ended::AtWrite(code(trouble));
        }
        match self.client.sql("COMMIT") {
            Ok(_) => Ended::Committed,
            Err(trouble) => Ended::AtCommit(code(trouble)),
        }
    }

    /// A sentence that a person can read.
    pub fn assert_readable(&mut self, ended: Ended) {
        let sentence = self.client.done("SELECT replica_last_error()");
        let words = sentence.split_whitespace().count();
        let is_readable =
            words >= 4 && !sentence.contains(['{', '}']) && !sentence.contains("Error(");
        assert!(is_readable, "{ended:?}: {sentence:?}");
        if matches!(ended, Ended::AtCommit(code) | Ended::AtBegin(code) if code & 0xff == SQLITE_IOERR)
        {
            assert!(sentence.contains("known"), "{ended:?}: {sentence:?}");
        }
    }

    /// Writes until it is committed; what it was refused with meanwhile says "try again" or "not known yet".
    #[track_caller]
    pub fn commit(&mut self, context: &str) -> Vec<Ended> {
        let begun = Instant::now();
        let mut refusals = Vec::new();
        loop {
            let ended = self.attempt();
            match ended {
                Ended::Committed => return refusals,
                Ended::AtBegin(code) | Ended::AtCommit(code) | Ended::AtWrite(code)
                    if [SQLITE_BUSY, SQLITE_IOERR].contains(&(code & 0xff)) => {}
                _ => panic!("{context}: {ended:?}"),
            }
            if refusals.last() != Some(&ended) {
                refusals.push(ended);
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{context}: nothing is committed any more: {refusals:?}; {:?}",
                self.client.sql("SELECT replica_last_error()")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The next push comes late, and what is sent again for it not at all, until the line is healed.
    pub fn delay_push(&self, time: Duration) {
        self.relay.hit("push", Fault::Delayed(time));
        self.relay
            .hit_later("push", 0, u64::MAX, Fault::RequestLost);
    }

    pub fn was_hit(&self, name: &str) -> bool {
        let mut seen = self.relay.take_seen().into_iter();
        seen.any(|seen| seen.name == name && seen.fault.is_some())
    }
}

/// SQLite's code.
pub fn code(trouble: Trouble) -> i32 {
    match trouble {
        Trouble::Refused(failure) => failure.code,
        Trouble::Gone => panic!("the process is gone"),
    }
}
