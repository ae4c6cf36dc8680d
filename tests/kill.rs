//! `kill -9` of replica and primary at random moments: the content is whole, and the next sync transfers only what
//! changed.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::bank::{self, Bank};
use harness::image::{copy_with_log, remove_database};
use harness::{
    Image, Primary, Relay, Shell, assert_intact, assert_same, directory, free_port, number, seed,
    side_file, uri,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Kills of the replica.
const REPLICA_KILLS: usize = 200;
/// Kills of the primary.
const PRIMARY_KILLS: usize = 50;

/// A bank beside megabytes that never change and cannot be compressed: a download of everything cannot look small.
fn create(path: &Path, megabytes: usize) {
    bank::create(path, 4096);
    Shell::plain(path).sql(&format!(
        "CREATE TABLE ballast AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {megabytes})
           SELECT n, randomblob(1000000) AS b FROM c"
    ));
}

/// What one sync may receive when `pages` pages differ: twice their size, and an eighth of the file for asking which
/// pages they are.
fn allowed(pages: usize, image: &Image) -> u64 {
    2 * (pages * image.page_size()) as u64 + image.size() / 8
}

#[test]
fn replica_killed_200_times() {
    let seed = seed("kill replica", 5);
    let mut random = StdRng::seed_from_u64(seed);
    let mut bank = Bank::new(seed);
    let directory = directory();
    let aside = harness::directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    create(&app, 10);
    let mut primary = Primary::start(&app);
    let relay = Relay::to(primary.address());
    // As slow as a line, so that a bootstrap lasts long enough to be hit in the middle.
    relay.limit(20_000_000);
    let parameters = format!("sync_url={}", relay.url("app"));

    let begun = Instant::now();
    let mut replica = Shell::replica(&copy, &parameters);
    replica.sync();
    let bootstrap = begun.elapsed();
    assert_same(&app, &copy, "after the first bootstrap");
    let whole = relay.take_received();
    replica.close();
    println!("bootstrap: {whole} bytes in {bootstrap:?}");

    let (mut in_bootstrap, mut in_sync, mut early) = (0, 0, 0);
    let (mut received, mut most) = (0, 0);
    for round in 1..=REPLICA_KILLS {
        let anew = round % 3 == 0;
        if anew {
            remove_database(&copy);
        }
        // Half of the kills come at a moment that is sought, however fast the machine is: a part of the file is
        // there, or a sync was answered.
        let (sought, longest) = match round % 6 {
            0 => (Some(side_file(&copy, "-replica-part")), bootstrap / 8),
            3 => (None, bootstrap),
            _ => (None, Duration::from_millis(150)),
        };
        let mut replica = Shell::with_extension();
        replica.feed(&format!(".open \"{}\"", uri(&copy, &parameters)));
        replica.feed(&"SELECT replica_sync();\n".repeat(400));
        let mut answers = Vec::new();
        let begun = Instant::now();
        let is_there = |answers: &[String]| match &sought {
            Some(part) => part.exists() || !answers.is_empty(),
            None => round % 3 != 1 || !answers.is_empty(),
        };
        while !is_there(&answers) && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
            answers.extend(replica.fed_output());
        }
        let transactions = random.random_range(1..=6);
        primary.shell().feed(&bank.transactions(transactions));
        // The random moment is the test.
        std::thread::sleep(longest.mul_f64(random.random()));
        let errors = replica.fed_errors();
        answers.extend(replica.kill());
        primary.shell().settle();
        assert!(errors.is_empty(), "round {round}: {errors:?}");
        let context = format!(
            "seed {seed}, round {round}, killed after {} syncs",
            answers.len()
        );

        let before = copy.exists().then(|| {
            // As the crash left it; every other time also in place, which recovers, checkpoints and removes the log.
            let as_left = copy_with_log(&copy, aside.path());
            assert_intact(&as_left, &context);
            bank::assert_whole(&as_left, &context);
            Image::read(&as_left)
        });
        match (&before, answers.len()) {
            (None, _) => in_bootstrap += 1,
            (Some(_), 0) => early += 1,
            (Some(_), _) => in_sync += 1,
        }
        if before.is_some() && random.random_ratio(1, 3) {
            let mut plain = Shell::plain(&copy);
            assert_eq!(
                plain.sql("PRAGMA integrity_check"),
                "ok",
                "{context}: in place"
            );
            plain.close();
        }

        relay.take_received();
        let mut replica = Shell::replica(&copy, &parameters);
        let answer = replica.sync();
        let bytes = relay.take_received();
        assert_eq!(
            replica.position(),
            primary.shell().position(),
            "{context}: {answer}"
        );
        assert_same(&app, &copy, &context);
        assert_intact(&copy, &context);
        assert!(
            !side_file(&copy, "-replica-part").exists(),
            "{context}: the unfinished bootstrap was left behind"
        );
        if let Some(before) = before {
            let differing = before.differing_pages(&Image::read(&app)).len();
            assert!(
                bytes <= allowed(differing, &before),
                "{context}: {bytes} bytes received for {differing} changed pages of {}: {answer}",
                before.pages()
            );
            assert!(
                number(&answer, "$.bytes_received") <= bytes,
                "{context}: {answer}"
            );
            received += bytes;
            most = most.max(bytes);
        }
        if random.random() {
            replica.close();
        } else {
            replica.kill();
        }
    }
    let survived = REPLICA_KILLS - in_bootstrap;
    println!(
        "{REPLICA_KILLS} kills: {in_bootstrap} before the file was there, {early} before the first sync, {in_sync} while syncing"
    );
    println!(
        "next sync after the {survived} kills of a complete replica: {received} bytes in all, {most} at most, {} on \
         average; the whole is {whole}",
        received / survived.max(1) as u64
    );
    assert!(
        in_bootstrap >= 20 && in_sync >= 50,
        "the kills missed what they are for"
    );
}

#[test]
fn primary_killed_50_times() {
    let seed = seed("kill primary", 6);
    let mut random = StdRng::seed_from_u64(seed);
    let mut bank = Bank::new(seed);
    let directory = directory();
    let aside = harness::directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    create(&app, 8);
    let address = format!("127.0.0.1:{}", free_port());
    let mut primary = Primary::start_at(&app, &address);
    let relay = Relay::to(&address);
    let parameters = format!("sync_url={}", relay.url("app"));
    let mut replica = Shell::replica(&copy, &parameters);
    replica.sync();
    let whole = relay.take_received();
    println!("bootstrap: {whole} bytes");

    let mut acknowledged = 0;
    let (mut received, mut most) = (0, 0);
    for round in 0..PRIMARY_KILLS {
        let before = Image::read(&copy);
        // Each commit is followed by its number: what was printed was committed.
        let mut work = |count: usize| -> String {
            (0..count)
                .map(|_| bank.transaction() + "\nSELECT transactions FROM total;\n")
                .collect()
        };
        let moment = Duration::from_millis(random.random_range(0..80));
        let follows = random.random();
        if follows {
            replica.feed(&"SELECT replica_sync();\n".repeat(20));
        }
        let mut printed = Vec::new();
        let kind = match round % 5 {
            0 => {
                primary.shell().feed(&work(30));
                std::thread::sleep(moment);
                printed.extend(primary.kill());
                "wrote itself"
            }
            1 => {
                let mut plain = Shell::plain(&app);
                plain.feed(".timeout 20000");
                plain.feed(&work(20));
                std::thread::sleep(moment);
                printed.extend(primary.kill());
                printed.push(
                    plain
                        .settle()
                        .lines()
                        .last()
                        .map(drop)
                        .map_or_else(String::new, |()| {
                            harness::image::value(&app, "SELECT transactions FROM total")
                        }),
                );
                plain.close();
                "plain SQLite wrote, went on and closed cleanly"
            }
            2 => {
                let mut plain = Shell::plain(&app);
                plain.feed(".timeout 20000");
                plain.feed(&work(20));
                primary.shell().feed(&work(20));
                std::thread::sleep(moment);
                printed.extend(primary.kill());
                printed.extend(plain.kill());
                "both wrote, both killed"
            }
            3 => {
                primary.shell().feed(&work(15));
                std::thread::sleep(moment);
                printed.extend(primary.kill());
                let mut plain = Shell::plain(&app);
                printed.extend(plain.sql(&work(3)).lines().map(str::to_string));
                plain.close();
                "wrote itself; then plain SQLite wrote and closed cleanly"
            }
            _ => {
                primary.shell().feed(&work(15));
                std::thread::sleep(moment);
                printed.extend(primary.kill());
                let mut plain = Shell::plain(&app);
                plain.sql(&work(4));
                plain.sql("PRAGMA wal_checkpoint(TRUNCATE)");
                plain.feed(&work(10));
                std::thread::sleep(moment);
                printed.extend(plain.kill());
                "wrote itself; then plain SQLite wrote, truncated the log and was killed"
            }
        };
        let context = format!("seed {seed}, round {round} ({kind}, following: {follows})");
        acknowledged = printed
            .iter()
            .filter_map(|line| line.parse::<i64>().ok())
            .fold(acknowledged, i64::max);

        let as_left = copy_with_log(&app, aside.path());
        assert_intact(&as_left, &context);
        let number_left = bank::assert_whole(&as_left, &context);
        assert!(
            number_left >= acknowledged,
            "{context}: {acknowledged} was acknowledged"
        );
        if follows {
            // The syncs that met no primary failed, each with its error; the replica must live on.
            replica.fed_output();
            let _ = replica.try_sql(".print settled");
            let errors = replica.fed_errors();
            println!("round {round}: {} syncs failed meanwhile", errors.len());
        }
        bank::assert_whole(&copy, &context);

        primary = Primary::start_at(&app, &address);
        if round % 7 == 6 {
            replica.close();
            replica = Shell::replica(&copy, &parameters);
        }
        let answer = replica.sync();
        // Also what the syncs during the round received: all of it is for this round's changes.
        let bytes = relay.take_received();
        assert_eq!(
            replica.position(),
            primary.shell().position(),
            "{context}: {answer}"
        );
        assert_same(&app, &copy, &context);
        assert_intact(&copy, &context);
        assert_eq!(
            bank::assert_whole(&copy, &context),
            number_left,
            "{context}"
        );
        let verified = primary.sql("SELECT replica_verify()");
        assert_eq!(
            harness::json(&verified, "$.ok"),
            "1",
            "{context}: {verified}"
        );
        let differing = before.differing_pages(&Image::read(&app)).len();
        // While following, a page that changed in several commits travels several times.
        let times = if follows { 10 } else { 1 };
        assert!(
            bytes <= allowed(differing * times, &before) && bytes < whole / 2,
            "{context}: {bytes} bytes received for {differing} changed pages of {}: {answer}",
            before.pages()
        );
        println!("round {round}: {kind}: {differing} pages changed, {bytes} bytes received");
        received += bytes;
        most = most.max(bytes);
    }
    println!(
        "{PRIMARY_KILLS} kills: {received} bytes received in all, {most} at most in one round; the whole is {whole}; \
         {acknowledged} transactions acknowledged"
    );
    assert!(acknowledged > 100, "the writers hardly wrote");
}
