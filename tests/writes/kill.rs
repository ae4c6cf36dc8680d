//! `kill -9` in the middle of commits: of the replica's process, and of the primary's. What was acknowledged is there
//! once, the file is whole and understood, and the next sync fetches what changed, not everything.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::full::amount;
use harness::image::copy_with_log;
use harness::lists::End;
use harness::{
    Client, Image, Kind, Primary, Relay, Trouble, assert_intact, assert_same, directory, free_port,
    image, json, seed,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KINDS: [Kind; 3] = [Kind::Shell, Kind::Python, Kind::Bundled];
const SQLITE_IOERR: i32 = 10;

/// A table that is written to, beside 3 MB that nobody changes and nobody can compress.
fn create(path: &Path) {
    image::create(path)
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE word(number INTEGER PRIMARY KEY, id INTEGER NOT NULL, part INTEGER NOT NULL, text BLOB);
             CREATE INDEX word_text ON word(text);
             CREATE TABLE ballast AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3)
               SELECT n, randomblob(1000000) AS b FROM c;",
        )
        .expect("words");
}

/// A writer's transactions until it is killed or the time is up: their ids, and what became of them.
struct Writer {
    next: u64,
    ends: Vec<(u64, End)>,
}

impl Writer {
    /// Writes until the process is gone, or `until`.
    fn work(&mut self, client: &mut Client, random: &mut StdRng, until: Instant) {
        while Instant::now() < until {
            let id = self.next;
            self.next += 1;
            let written = Writer::transaction(client, random, id);
            let end = match &written {
                Ok(()) => End::Committed,
                Err((true, trouble)) if !trouble.is_busy() => End::Unknown,
                Err(_) => End::Failed,
            };
            self.ends.push((id, end));
            match written {
                Ok(()) => {}
                Err((_, Trouble::Gone)) => return,
                Err((at_commit, Trouble::Refused(failure))) => {
                    let is_expected = [5, SQLITE_IOERR].contains(&(failure.code & 0xff));
                    let reason = client.sql("SELECT replica_last_error()");
                    assert!(
                        is_expected,
                        "at COMMIT: {at_commit}; {failure:?}; {reason:?}"
                    );
                    let _ = client.sql("ROLLBACK");
                }
            }
        }
    }

    /// Each has two rows; now and then it spills, rolls back to a savepoint, or overwrites what was spilled.
    fn transaction(
        client: &mut Client,
        random: &mut StdRng,
        id: u64,
    ) -> Result<(), (bool, Trouble)> {
        let insert = |part| {
            format!(
                "INSERT INTO word(id, part, text) VALUES ({id}, {part}, randomblob({}))",
                10 + id % 300
            )
        };
        let mut statements = vec![
            ["BEGIN", "BEGIN IMMEDIATE"][random.random_range(0..2)].to_string(),
            insert(1),
        ];
        if random.random_ratio(1, 4) {
            statements
                .push("UPDATE word SET text = randomblob(200) WHERE number % 3 = 0".to_string());
            statements
                .push("UPDATE word SET text = randomblob(200) WHERE number % 3 = 0".to_string());
        }
        if random.random_ratio(1, 4) {
            statements.push("SAVEPOINT one".to_string());
            statements.push("UPDATE word SET text = randomblob(300)".to_string());
            statements.push("ROLLBACK TO one".to_string());
        }
        if random.random_ratio(1, 4) {
            statements.push(
                "DELETE FROM word WHERE number < (SELECT max(number) - 400 FROM word) AND id = 0"
                    .to_string(),
            );
        }
        statements.push(insert(2));
        for statement in statements {
            client.sql(&statement).map_err(|trouble| (false, trouble))?;
        }
        client
            .sql("COMMIT")
            .map(drop)
            .map_err(|trouble| (true, trouble))
    }

    /// Both rows of each acknowledged transaction are there once; of others, both or none.
    #[track_caller]
    fn assert_there(&self, path: &Path, context: &str) {
        let look = image::look(path);
        let sql = "SELECT id, count(*), sum(part) FROM word GROUP BY id";
        let mut statement = look.prepare(sql).expect("words");
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))
            .expect("words");
        let there: std::collections::HashMap<u64, (u64, u64)> =
            rows.map(|row| row.expect("a row")).collect();
        for (id, end) in &self.ends {
            let seen = there.get(id).copied();
            let whole = match end {
                End::Committed => seen == Some((2, 3)),
                End::Failed => seen.is_none(),
                End::Unknown => seen.is_none() || seen == Some((2, 3)),
            };
            assert!(
                whole,
                "{context}: transaction {id} ended {end:?}, and is there as {seen:?}"
            );
        }
        assert!(there.len() as u64 <= self.next, "{context}: rows of nobody");
    }
}

#[test]
fn a_replica_is_killed_in_the_middle_of_commits() {
    let seed = seed("kill a writer", 41);
    let rounds = amount("REPLICA_ROUNDS", 40, 200);
    let mut random = StdRng::seed_from_u64(seed);
    let directory = directory();
    let aside = harness::directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    create(&app);
    let mut primary = Primary::start(&app);
    let relay = Relay::to(primary.address());
    let parameters = format!("sync_url={}&sync_timeout=5", relay.url("app"));
    let mut first = Client::on(Kind::Shell, &copy, &parameters);
    first.done("SELECT replica_sync()");
    first.close();
    let whole = relay.take_received();
    let mut writer = Writer {
        next: 1,
        ends: Vec::new(),
    };
    let (mut in_commit, mut most) = (0, 0);
    for round in 0..rounds {
        let context = format!("seed {seed}, round {round}");
        let mut client = Client::on(KINDS[round as usize % 3], &copy, &parameters);
        client.insist(
            ["PRAGMA cache_size = 5", "PRAGMA cache_size = 500"][random.random_range(0..2)],
        );
        let victim = client.victim();
        let moment = Duration::from_millis(random.random_range(5..400));
        let killer = std::thread::spawn(move || {
            // The random moment is the test.
            std::thread::sleep(moment);
            victim.kill()
        });
        let until = Instant::now() + Duration::from_secs(20);
        writer.work(&mut client, &mut random, until);
        assert!(
            killer.join().expect("the killer"),
            "{context}: it was gone before"
        );
        in_commit += u64::from(writer.ends.last().is_some_and(|end| end.1 == End::Unknown));
        if random.random_ratio(1, 3) {
            // Somebody else writes meanwhile.
            primary.sql("INSERT INTO word(id, part) VALUES (0, 1)");
        }
        let as_left = copy_with_log(&copy, aside.path());
        assert_intact(&as_left, &context);
        if random.random_ratio(1, 3) {
            // Plain SQLite recovers, looks, and closes as the last one.
            let mut plain = Client::on(Kind::PlainPython, &copy, "");
            assert_eq!(
                plain.done("PRAGMA integrity_check"),
                "ok",
                "{context}: in place"
            );
            plain.close();
        }
        let before = Image::read(&copy);
        relay.take_received();
        let mut next = Client::on(KINDS[random.random_range(0..3)], &copy, "");
        let status = next.done("SELECT state FROM replica_status");
        assert_ne!(status, "foreign", "{context}");
        next.done("SELECT replica_sync()");
        assert_eq!(
            next.done("SELECT state FROM replica_status"),
            "ok",
            "{context}"
        );
        let received = relay.take_received();
        assert_same(&app, &copy, &context);
        writer.assert_there(&copy, &context);
        let differing = before.differing_pages(&Image::read(&app)).len() as u64;
        assert!(
            received <= 2 * 4096 * differing + 20_000 && received < whole / 2,
            "{context}: {received} bytes for {differing} changed pages; the whole is {whole}"
        );
        most = most.max(received);
        match random.random() {
            true => next.close(),
            false => next.kill(),
        }
    }
    let count = |end| writer.ends.iter().filter(|other| other.1 == end).count();
    println!(
        "{rounds} kills, {in_commit} in a commit; {} acknowledged, {} unknown, {} rolled back; {most} bytes at most \
         in the next sync, the whole is {whole}",
        count(End::Committed),
        count(End::Unknown),
        count(End::Failed)
    );
    assert!(
        in_commit * 10 >= rounds,
        "the kills missed the commits: {in_commit} of {rounds}"
    );
}

#[test]
fn the_primary_is_killed_in_the_middle_of_commits() {
    let seed = seed("kill the primary of a writer", 42);
    let rounds = amount("REPLICA_ROUNDS", 30, 200);
    let mut random = StdRng::seed_from_u64(seed);
    let directory = directory();
    let aside = harness::directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    create(&app);
    let address = format!("127.0.0.1:{}", free_port());
    let serve = format!("SELECT replica_serve('{address}')");
    let mut primary = Client::on(Kind::Shell, &app, "");
    primary.done(&serve);
    let relay = Relay::to(&address);
    let parameters = format!("sync_url={}&sync_timeout=5", relay.url("app"));
    let mut client = Client::on(Kind::Python, &copy, &parameters);
    client.done("SELECT replica_sync()");
    let whole = relay.take_received();
    let mut writer = Writer {
        next: 1,
        ends: Vec::new(),
    };
    let mut received = 0;
    for round in 0..rounds {
        let context = format!("seed {seed}, round {round}");
        let victim = primary.victim();
        let moment = Duration::from_millis(random.random_range(5..250));
        let stays_away = Duration::from_millis(random.random_range(0..300));
        let plain_looks = random.random_ratio(1, 3);
        let (file, left, again) = (app.clone(), aside.path().to_path_buf(), serve.clone());
        let killer = std::thread::spawn(move || {
            // The random moment is the test.
            std::thread::sleep(moment);
            victim.kill();
            let as_left = copy_with_log(&file, &left);
            assert_intact(&as_left, "as it was left");
            if plain_looks {
                Client::on(Kind::PlainPython, &file, "").close();
            }
            std::thread::sleep(stays_away);
            let mut primary = Client::on(KINDS[0], &file, "");
            primary.done(&again);
            primary
        });
        let until = Instant::now() + moment + stays_away + Duration::from_millis(600);
        writer.work(&mut client, &mut random, until);
        primary = killer.join().expect("the killer");
        // Whatever was not known is known once a write is through.
        client.insist("BEGIN IMMEDIATE");
        client.done("ROLLBACK");
        client.done("SELECT replica_sync()");
        assert_eq!(
            client.done("SELECT state FROM replica_status"),
            "ok",
            "{context}"
        );
        assert_same(&app, &copy, &context);
        assert_intact(&copy, &context);
        writer.assert_there(&app, &context);
        if round % 10 == 9 {
            let verified = primary.done("SELECT replica_verify()");
            assert_eq!(json(&verified, "$.ok"), "1", "{context}: {verified}");
        }
        received += relay.take_received();
    }
    let count = |end| writer.ends.iter().filter(|other| other.1 == end).count();
    println!(
        "{rounds} kills; {} acknowledged, {} unknown, {} rolled back; {received} bytes received in all, the whole is {whole}",
        count(End::Committed),
        count(End::Unknown),
        count(End::Failed)
    );
    assert!(
        count(End::Committed) as u64 > rounds,
        "the writer hardly wrote"
    );
}
