//! Money moves between accounts on four replicas and on the primary, while processes are killed at random: the total is
//! constant wherever one looks, and every acknowledged transfer is there once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::client::Victim;
use harness::full::amount;
use harness::lists::End;
use harness::{
    Client, Kind, Trouble, assert_intact, assert_same, directory, free_port, image, json, seed,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ACCOUNTS: u64 = 120;
const TOTAL: &str = "SELECT sum(balance), count(*) FROM account";
/// Accounts that do not hold what the ledger says.
const WRONG: &str = "WITH moved(id, amount) AS (
    SELECT source, -amount FROM ledger UNION ALL SELECT target, amount FROM ledger)
  SELECT count(*) FROM account
  LEFT JOIN (SELECT id, sum(amount) AS more FROM moved GROUP BY id) USING (id)
  WHERE balance <> 1000 + coalesce(more, 0)";
const SQLITE_BUSY: i32 = 5;
const SQLITE_IOERR: i32 = 10;
const SERVING: usize = 8;

/// One process after the other in the same place.
struct Place {
    kind: Kind,
    path: PathBuf,
    parameters: String,
    /// Where it serves, if it does.
    address: Option<String>,
    victim: Mutex<Option<Victim>>,
}

/// What all of them share.
struct Bank {
    until: Instant,
    ids: AtomicU64,
    ends: Mutex<HashMap<u64, End>>,
    codes: Mutex<HashMap<String, u64>>,
    reads: AtomicU64,
}

impl Bank {
    fn count(&self, what: String) {
        *self
            .codes
            .lock()
            .expect("no panic")
            .entry(what)
            .or_default() += 1;
    }

    /// Whether it may go on after this trouble: SQLite was busy, or could not know. All else is wrong.
    fn note(&self, place: &Place, client: &mut Client, doing: &str, trouble: &Trouble) {
        let Trouble::Refused(failure) = trouble else {
            self.count(format!("gone at {doing}"));
            return;
        };
        let code = failure.code;
        self.count(format!("{code} at {doing}"));
        // SQLite would keep the transaction, with frames that no recovery takes. (The shell tells primary codes only.)
        let keeps = doing == "COMMIT" && code == SQLITE_BUSY && place.kind != Kind::Shell;
        assert!(!keeps, "{:?}: {trouble:?} at COMMIT", place.kind);
        if !trouble.is_busy() && code & 0xff != SQLITE_IOERR {
            let reason = client.sql("SELECT replica_last_error()");
            let status = client.sql("SELECT * FROM replica_status");
            panic!(
                "{:?} on {}: {doing}: {trouble:?}; {reason:?}; {status:?}",
                place.kind,
                place.path.display()
            );
        }
    }

    fn work(&self, place: &Place, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while Instant::now() < self.until {
            let mut client = Client::start(place.kind);
            *place.victim.lock().expect("no panic") = Some(client.victim());
            let begun = self.begin(place, &mut client, &mut random);
            if begun.is_ok() {
                while Instant::now() < self.until {
                    if self.transfer(place, &mut client, &mut random).is_err() {
                        break;
                    }
                    if random.random_ratio(1, 3) && self.look(place, &mut client).is_err() {
                        break;
                    }
                }
            }
            *place.victim.lock().expect("no panic") = None;
            match random.random() {
                true => client.close(),
                false => client.kill(),
            }
        }
    }

    /// Opens the database. `Err` where it has to be tried again.
    fn begin(&self, place: &Place, client: &mut Client, random: &mut StdRng) -> Result<(), ()> {
        let cache = ["PRAGMA cache_size = 5", "PRAGMA cache_size = 200"];
        let serve = place.address.as_ref();
        let serve = serve.map(|address| format!("SELECT replica_serve('{address}')"));
        let mut statements = vec![
            cache[random.random_range(0..2)].to_string(),
            TOTAL.to_string(),
        ];
        statements.extend(serve);
        if place.kind == Kind::PlainPython {
            statements.push("PRAGMA busy_timeout = 5000".to_string());
        }
        let opened = client.open(&place.path, &place.parameters);
        opened.map_err(|trouble| self.note(place, client, "open", &trouble))?;
        for statement in statements {
            let done = client.sql(&statement);
            let word = statement.split(['(', '=']).next().unwrap_or_default();
            done.map_err(|trouble| self.note(place, client, word, &trouble))?;
        }
        Ok(())
    }

    /// One transfer. `Err` where the process is gone.
    fn transfer(&self, place: &Place, client: &mut Client, random: &mut StdRng) -> Result<(), ()> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (source, target) = (
            random.random_range(1..=ACCOUNTS),
            random.random_range(1..=ACCOUNTS),
        );
        let mut doing = "begin";
        let moved = (|| {
            client.sql(["BEGIN IMMEDIATE", "BEGIN"][random.random_range(0..2)])?;
            doing = "a read";
            // What is written is computed from what was read: an update that gets lost makes money.
            let read = format!(
                "SELECT balance FROM account WHERE id IN ({source}, {target}) ORDER BY id = {target}"
            );
            let answer = client.sql(&read)?;
            let balances: Vec<i64> = answer
                .lines()
                .map(|line| line.parse().expect("money"))
                .collect();
            doing = "a write";
            if let [from, to] = balances[..] {
                let amount = random.random_range(1..50);
                client.sql(&format!(
                    "UPDATE account SET balance = {} WHERE id = {source}",
                    from - amount
                ))?;
                client.sql(&format!(
                    "UPDATE account SET balance = {} WHERE id = {target}",
                    to + amount
                ))?;
                client.sql(&format!(
                    "INSERT INTO ledger(transfer, source, target, amount) VALUES ({id}, {source}, {target}, {amount})"
                ))?;
            } else {
                client.sql(&format!(
                    "INSERT INTO ledger(transfer, source, target, amount) VALUES ({id}, 1, 1, 0)"
                ))?;
            }
            if random.random_ratio(1, 15) {
                client.sql("UPDATE account SET note = hex(randomblob(150))")?;
            }
            doing = "COMMIT";
            client.sql("COMMIT")
        })();
        let end = match &moved {
            Ok(_) => End::Committed,
            Err(trouble) if doing == "COMMIT" && !trouble.is_busy() => End::Unknown,
            Err(_) => End::Failed,
        };
        self.ends.lock().expect("no panic").insert(id, end);
        match moved {
            Ok(_) => Ok(()),
            Err(trouble) => {
                self.note(place, client, doing, &trouble);
                match trouble {
                    Trouble::Gone => Err(()),
                    // Most failures have done so already.
                    Trouble::Refused(_) => match client.sql("ROLLBACK") {
                        Err(Trouble::Gone) => Err(()),
                        _ => Ok(()),
                    },
                }
            }
        }
    }

    fn look(&self, place: &Place, client: &mut Client) -> Result<(), ()> {
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        let (sql, expected) = match number % 10 {
            0 => (WRONG, "0".to_string()),
            _ => (TOTAL, format!("{}|{ACCOUNTS}", ACCOUNTS * 1000)),
        };
        match client.sql(sql) {
            Ok(answer) => {
                let whose = place.path.display();
                assert_eq!(
                    answer, expected,
                    "{:?} on {whose}, read {number}",
                    place.kind
                );
                Ok(())
            }
            Err(trouble) => {
                self.note(place, client, "a look", &trouble);
                match trouble {
                    Trouble::Gone => Err(()),
                    Trouble::Refused(_) => Ok(()),
                }
            }
        }
    }

    /// Kills some process now and then; how many of which place.
    fn kill(&self, places: &[Place], seed: u64) -> Vec<u64> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut kills = vec![0; places.len()];
        // The random moment is the test.
        while Instant::now() + Duration::from_millis(500) < self.until {
            std::thread::sleep(Duration::from_millis(random.random_range(20..600)));
            let at = random.random_range(0..places.len());
            let victim = places[at].victim.lock().expect("no panic").clone();
            if victim.is_some_and(|victim| victim.kill()) {
                kills[at] += 1;
            }
        }
        kills
    }
}

fn create(path: &Path) {
    image::create(path)
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, note TEXT NOT NULL);
             CREATE INDEX account_note ON account(note);
             CREATE TABLE ledger(number INTEGER PRIMARY KEY, transfer INTEGER NOT NULL, source, target, amount);
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {ACCOUNTS})
               INSERT INTO account SELECT n, 1000, hex(randomblob(150)) FROM c;"
        ))
        .expect("a bank");
}

fn places(directory: &Path, address: &str) -> Vec<Place> {
    let kinds = [Kind::Shell, Kind::Python, Kind::Bundled, Kind::Python];
    let place = |kind, name: &str, parameters: &str| Place {
        kind,
        path: directory.join(name),
        parameters: parameters.to_string(),
        address: None,
        victim: Mutex::default(),
    };
    let url = format!("sync_url=http://{address}/app&sync_timeout=5");
    let mut places: Vec<Place> = (0..8)
        .map(|at| place(kinds[at % 4], &format!("replica-{}.db", at / 2), &url))
        .collect();
    places.push(place(Kind::Python, "app.db", ""));
    places[SERVING].address = Some(address.to_string());
    places.push(place(Kind::PlainPython, "app.db", ""));
    places
}

#[test]
fn money_moves_while_processes_are_killed() {
    let seed = seed("bank", 11);
    let seconds = amount("REPLICA_SECONDS", 20, 120);
    let directory = directory();
    let app = directory.path().join("app.db");
    create(&app);
    let address = format!("127.0.0.1:{}", free_port());
    let places = places(directory.path(), &address);
    let mut primary = Client::on(Kind::Shell, &app, "");
    primary.done(&format!("SELECT replica_serve('{address}')"));
    for place in &places[..8] {
        let mut first = Client::on(place.kind, &place.path, &place.parameters);
        assert_eq!(first.done(WRONG), "0");
        first.close();
    }
    primary.kill();
    let bank = Bank {
        until: Instant::now() + Duration::from_secs(seconds),
        ids: AtomicU64::new(1),
        ends: Mutex::default(),
        codes: Mutex::default(),
        reads: AtomicU64::new(0),
    };
    let kills = std::thread::scope(|scope| {
        let (bank, places) = (&bank, &places);
        for (at, place) in places.iter().enumerate() {
            scope.spawn(move || bank.work(place, seed * 100 + at as u64));
        }
        let killer = scope.spawn(move || bank.kill(places, seed));
        killer.join().expect("the killer")
    });
    println!("kills by place: {kills:?}");
    let mut codes: Vec<_> = bank
        .codes
        .into_inner()
        .expect("no panic")
        .into_iter()
        .collect();
    codes.sort();
    println!("troubles: {codes:?}");

    // Everybody is gone. What was killed last has left its traces.
    let mut primary = Client::on(Kind::Shell, &app, "");
    primary.done(&format!("SELECT replica_serve('{address}')"));
    let list = primary.done("SELECT transfer FROM ledger");
    let mut there: HashMap<u64, u64> = HashMap::new();
    for line in list.lines() {
        *there.entry(line.parse().expect("an id")).or_default() += 1;
    }
    let ends = bank.ends.into_inner().expect("no panic");
    let mut counts: HashMap<(String, u64), u64> = HashMap::new();
    for (id, end) in &ends {
        let times = there.remove(id).unwrap_or(0);
        *counts.entry((format!("{end:?}"), times)).or_default() += 1;
        match end {
            End::Committed => assert_eq!(times, 1, "acknowledged transfer {id}"),
            End::Failed => assert_eq!(times, 0, "transfer {id}, which was rolled back"),
            End::Unknown => assert!(times <= 1, "transfer {id} is there {times} times"),
        }
    }
    assert!(there.is_empty(), "transfers of nobody: {there:?}");
    println!(
        "outcomes, and how often they are there: {counts:?}; {} reads",
        bank.reads.into_inner()
    );
    let committed = counts
        .get(&("Committed".to_string(), 1))
        .copied()
        .unwrap_or(0);
    assert!(
        committed > 5 * seconds,
        "{committed} transfers in {seconds} s"
    );

    let position = primary.done("SELECT replica_position()");
    for replica in 0..4 {
        let path = directory.path().join(format!("replica-{replica}.db"));
        let mut client = Client::on(Kind::Shell, &path, "");
        client.done("SELECT replica_sync()");
        assert_eq!(client.done("SELECT replica_position()"), position);
        assert_eq!(client.done("SELECT state FROM replica_status"), "ok");
        let verified = client.done("SELECT replica_verify()");
        assert_eq!(
            json(&verified, "$.ok"),
            "1",
            "replica {replica}: {verified}"
        );
        assert_eq!(client.done(WRONG), "0", "replica {replica}");
        assert_same(&app, &path, &format!("replica {replica}, in the end"));
        client.close();
        assert_intact(&path, "in the end");
    }
    let verified = primary.done("SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "the primary: {verified}");
    primary.close();
    assert_intact(&app, "in the end");
}
