//! Histories of lists that grow on replicas and on the primary are strictly serialisable; those of a client that does
//! its reading and its writing in two transactions are not, and that is found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::full::amount;
use harness::lists::{End, Step, Transaction, Value, check};
use harness::{Client, Kind, Primary, Trouble, assert_same, directory, image, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SQLITE_IOERR: i32 = 10;

/// Where a client works.
struct Place {
    kind: Kind,
    path: PathBuf,
    parameters: String,
    file: usize,
}

/// What all clients share: one clock, and what they saw.
struct Record {
    begun: Instant,
    until: Instant,
    values: AtomicU64,
    history: Mutex<Vec<Transaction>>,
    lists: u64,
    /// Whether they read in one transaction and write in another.
    careless: bool,
}

fn numbers(answer: &str) -> Vec<Value> {
    let numbers = answer.split(',').filter(|text| !text.is_empty());
    numbers.map(|text| text.parse().expect("a value")).collect()
}

impl Record {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).expect("not for centuries")
    }

    fn work(&self, client: usize, place: &Place, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut process = Client::on(place.kind, &place.path, &place.parameters);
        if place.kind == Kind::PlainPython {
            process.done("PRAGMA busy_timeout = 5000");
        }
        while Instant::now() < self.until {
            let mut steps = Vec::new();
            let begun = self.now();
            let ended = self.transaction(&mut process, &mut random, &mut steps);
            let end = match &ended {
                Ok(_) => End::Committed,
                Err((_, trouble)) if trouble.is_busy() => End::Failed,
                Err((doing, Trouble::Refused(failure))) if failure.code & 0xff == SQLITE_IOERR => {
                    match *doing {
                        "COMMIT" => End::Unknown,
                        _ => End::Failed,
                    }
                }
                Err((doing, trouble)) => {
                    let reason = process.sql("SELECT replica_last_error()");
                    panic!("{:?}: {doing}: {trouble:?}; {reason:?}", place.kind)
                }
            };
            let time = (begun, self.now());
            if ended.is_err() {
                let _ = process.sql("ROLLBACK");
            }
            let transaction = Transaction {
                client,
                file: place.file,
                time,
                steps,
                end,
            };
            self.history.lock().expect("no panic").push(transaction);
            if place.file > 0 && random.random_ratio(1, 40) {
                let _ = process.sql("SELECT replica_sync()");
            }
        }
        process.close();
    }

    /// Two to five steps. A careless client gives the lock away between what it read and what it writes.
    fn transaction(
        &self,
        process: &mut Client,
        random: &mut StdRng,
        steps: &mut Vec<Step>,
    ) -> Result<(), (&'static str, Trouble)> {
        let only_reads = random.random_ratio(1, 3);
        let count = random.random_range(2..=5);
        let mut did_write = false;
        let begin = ["BEGIN", "BEGIN IMMEDIATE"][usize::from(!only_reads && random.random())];
        process.sql(begin).map_err(|trouble| ("BEGIN", trouble))?;
        for step in 0..count {
            let list = random.random_range(0..self.lists);
            let appends = !only_reads && (random.random() || (step + 1 == count && !did_write));
            if !appends {
                let sql = format!("SELECT items FROM list WHERE id = {list}");
                let answer = process.sql(&sql).map_err(|trouble| ("a read", trouble))?;
                steps.push(Step::Read(list, numbers(&answer)));
                continue;
            }
            if self.careless && !did_write {
                process
                    .sql("COMMIT")
                    .map_err(|trouble| ("COMMIT", trouble))?;
                process.sql("BEGIN").map_err(|trouble| ("BEGIN", trouble))?;
            }
            did_write = true;
            let value = self.values.fetch_add(1, Ordering::Relaxed);
            steps.push(Step::Append(list, value));
            let sql = format!("UPDATE list SET items = items || ',' || {value} WHERE id = {list}");
            process.sql(&sql).map_err(|trouble| ("a write", trouble))?;
        }
        process
            .sql("COMMIT")
            .map_err(|trouble| ("COMMIT", trouble))?;
        Ok(())
    }
}

fn create(path: &Path, lists: u64) {
    image::create(path)
        .execute_batch(&format!(
            "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL;
             CREATE TABLE list(id INTEGER PRIMARY KEY, items TEXT NOT NULL);
             WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n + 1 < {lists})
               INSERT INTO list SELECT n, '' FROM c;"
        ))
        .expect("lists");
}

/// The history of four replicas and the primary, and the lists in the end.
fn record(
    mode: &str,
    seconds: u64,
    careless: bool,
    seed: u64,
) -> (Vec<Transaction>, BTreeMap<u64, Vec<Value>>) {
    let directory = directory();
    let app = directory.path().join("app.db");
    let lists = 5;
    create(&app, lists);
    let primary = Primary::start(&app);
    let kinds = [Kind::Shell, Kind::Python, Kind::Bundled, Kind::Python];
    let parameters = format!("sync_url={}&write_mode={mode}", primary.url());
    let place = |kind, name: &str, parameters: &str, file| Place {
        kind,
        path: directory.path().join(name),
        parameters: parameters.to_string(),
        file,
    };
    let mut places: Vec<Place> = (0..6)
        .map(|at| {
            let file = at % 4 + 1;
            place(
                kinds[at % 4],
                &format!("replica-{file}.db"),
                &parameters,
                file,
            )
        })
        .collect();
    places.push(place(Kind::Bundled, "app.db", "", 0));
    places.push(place(Kind::PlainPython, "app.db", "", 0));
    for place in &places[..4] {
        Client::on(place.kind, &place.path, &place.parameters).done("SELECT replica_sync()");
    }
    let begun = Instant::now();
    let record = Record {
        begun,
        until: begun + Duration::from_secs(seconds),
        values: AtomicU64::new(1),
        history: Mutex::default(),
        lists,
        careless,
    };
    std::thread::scope(|scope| {
        for (at, place) in places.iter().enumerate() {
            let record = &record;
            scope.spawn(move || record.work(at, place, seed * 100 + at as u64));
        }
    });
    let mut last = BTreeMap::new();
    let look = image::look(&app);
    for list in 0..lists {
        let items: String = look
            .query_row("SELECT items FROM list WHERE id = ?1", [list], |row| {
                row.get(0)
            })
            .expect("a list");
        last.insert(list, numbers(&items));
    }
    for place in &places[..4] {
        let mut client = Client::on(Kind::Shell, &place.path, "");
        client.done("SELECT replica_sync()");
        assert_same(&app, &place.path, "in the end");
    }
    (record.history.into_inner().expect("no panic"), last)
}

fn assert_serialisable(mode: &str, seconds: u64, seed: u64) {
    let (history, last) = record(mode, seconds, false, seed);
    let ended = |end| {
        history
            .iter()
            .filter(|transaction| transaction.end == end)
            .count()
    };
    let (committed, failed) = (ended(End::Committed), ended(End::Failed));
    println!(
        "{mode}: {committed} committed, {failed} rolled back, {} unknown",
        ended(End::Unknown)
    );
    match check(&history, &last) {
        Ok(found) => println!("{mode}: {found:?}"),
        Err(violation) => panic!("{mode}: {violation}"),
    }
    assert!(
        committed as u64 > 10 * seconds,
        "{committed} transactions in {seconds} s"
    );
}

#[test]
fn histories_are_strictly_serialisable() {
    let seed = seed("histories", 21);
    assert_serialisable("auto", amount("REPLICA_SECONDS", 12, 90), seed);
}

#[test]
fn histories_are_strictly_serialisable_with_leases() {
    let seed = seed("histories", 22);
    assert_serialisable("exclusive", amount("REPLICA_SECONDS", 8, 60), seed);
}

#[test]
fn histories_are_strictly_serialisable_without_leases() {
    let seed = seed("histories", 23);
    assert_serialisable("optimistic", amount("REPLICA_SECONDS", 8, 60), seed);
}

#[test]
fn what_careless_clients_do_is_found() {
    let seed = seed("histories", 24);
    let (history, last) = record("auto", amount("REPLICA_SECONDS", 6, 20), true, seed);
    match check(&history, &last) {
        Ok(found) => panic!("reading and writing in two transactions went unnoticed: {found:?}"),
        Err(violation) => println!("{violation}"),
    }
}
