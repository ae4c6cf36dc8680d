//! Small changes travel as differences, and batches that are too large for memory arrive whole.

use std::path::Path;
use std::time::Instant;

use harness::image::{self, copy_with_log};
use harness::{
    Primary, Relay, Shell, assert_intact, assert_same, directory, free_port, json, number, seed,
    side_file,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Rows of text in pages of 4096 bytes, with an index.
fn orders(path: &Path) {
    Shell::plain(path).sql(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL;
         CREATE TABLE orders(id INTEGER PRIMARY KEY, customer TEXT, item TEXT, quantity INTEGER);
         CREATE INDEX by_customer ON orders(customer);
         WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5000)
           INSERT INTO orders SELECT n, 'customer ' || abs(random() % 1000), hex(randomblob(30)), n % 7 FROM c",
    );
}

fn spread(mut values: Vec<u64>) -> String {
    values.sort_unstable();
    let (first, last) = (values[0], values[values.len() - 1]);
    format!("{} ({first} to {last})", values[values.len() / 2])
}

#[test]
fn a_change_of_one_row_costs_little() {
    let directory = directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    orders(&app);
    let mut primary = Primary::start(&app);
    let relay = Relay::to(primary.address());
    let mut replica = Shell::replica(&copy, &format!("sync_url={}", relay.url("app")));
    replica.sync();
    let nothing = replica.sync();
    let (received, sent) = (
        number(&nothing, "$.bytes_received"),
        number(&nothing, "$.bytes_sent"),
    );
    println!("nothing new: {received} bytes received, {sent} sent");
    assert!(received + sent < 200, "{nothing}");
    for (what, sql) in [
        (
            "update",
            "UPDATE orders SET quantity = quantity + 1 WHERE id = 1 + abs(random() % 5000)",
        ),
        (
            "insert",
            "INSERT INTO orders(customer, item, quantity) VALUES('customer 17', hex(randomblob(30)), 3)",
        ),
        (
            "delete",
            "DELETE FROM orders WHERE id = (SELECT id FROM orders LIMIT 1 OFFSET abs(random() % 4000))",
        ),
    ] {
        let (mut bodies, mut line, mut pages) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..50 {
            primary.sql(sql);
            relay.take_received();
            let answer = replica.sync();
            bodies.push(number(&answer, "$.bytes_received") + number(&answer, "$.bytes_sent"));
            line.push(relay.take_received());
            pages.push(number(&answer, "$.pages"));
            assert_eq!(number(&answer, "$.transactions"), 1, "{what}: {answer}");
        }
        assert_same(&app, &copy, what);
        println!(
            "one-row {what}: {} pages; {} bytes of bodies in both directions; {} received on the line",
            spread(pages),
            spread(bodies.clone()),
            spread(line)
        );
        bodies.sort_unstable();
        assert!(bodies[25] <= 500, "{what}: {bodies:?}");
    }
    let verified = replica.sql("SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "{verified}");
}

/// Replicas at different positions, plain writers that checkpoint, and a primary that forgot: each gets the right pages.
#[test]
fn every_position_gets_what_fits_it() {
    let directory = directory();
    let app = directory.path().join("app.db");
    orders(&app);
    let address = format!("127.0.0.1:{}", free_port());
    let mut primary = Primary::start_at(&app, &address);
    let open = |name: &str, url: &str| {
        Shell::replica(&directory.path().join(name), &format!("sync_url={url}"))
    };
    let mut often = open("often.db", primary.url());
    let mut seldom = open("seldom.db", primary.url());
    often.sync();
    seldom.sync();
    let (mut small, mut rounds) = (0, 0);
    for round in 0..60 {
        let change = format!(
            "UPDATE orders SET quantity = {round} WHERE id % 1000 = {round};
             DELETE FROM orders WHERE id = {round};"
        );
        match round % 3 {
            0 => drop(primary.sql(&change)),
            1 => drop(Shell::plain(&app).sql(&change)),
            _ => {
                let mut plain = Shell::plain(&app);
                plain.sql(".timeout 20000");
                plain.sql("PRAGMA wal_checkpoint(PASSIVE)");
                plain.sql(&change);
                plain.sql("PRAGMA wal_checkpoint(PASSIVE)");
            }
        }
        let answer = often.sync();
        let bytes = number(&answer, "$.bytes_received");
        let pages = number(&answer, "$.pages");
        rounds += 1;
        small += u64::from(bytes < 100 + 400 * pages);
        assert_same(&app, &directory.path().join("often.db"), &answer);
        if round % 7 == 6 {
            let answer = seldom.sync();
            println!("seldom: {answer}");
            assert_same(&app, &directory.path().join("seldom.db"), &answer);
        }
        if round == 30 {
            primary.kill();
            primary = Primary::start_at(&app, &address);
            often.sync();
        }
    }
    println!("{small} of {rounds} syncs were made of differences");
    assert!(small * 10 >= rounds * 8, "{small} of {rounds}");
}

/// What a sync holds in memory; the rest goes to a scratch file.
const MEMORY: u64 = 16 << 20;
const KILLS: usize = 12;

#[test]
fn a_batch_larger_than_memory_is_applied_whole_or_not() {
    let seed = seed("large batch", 7);
    let mut random = StdRng::seed_from_u64(seed);
    let directory = directory();
    let aside = harness::directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    Shell::plain(&app).sql(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; CREATE TABLE big(id INTEGER PRIMARY KEY, n INTEGER, b BLOB);
         WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 7000)
           INSERT INTO big SELECT n, 0, randomblob(3000) FROM c",
    );
    let mut primary = Primary::start(&app);
    let parameters = format!("sync_url={}", primary.url());
    let mut replica = Shell::replica(&copy, &parameters);
    replica.sync();
    let change = "UPDATE big SET n = n + 1, b = randomblob(3000)";
    primary.sql(change);
    let begun = Instant::now();
    let answer = replica.sync();
    let longest = begun.elapsed();
    println!("{answer} in {longest:?}");
    assert!(number(&answer, "$.pages") * 4096 > MEMORY, "{answer}");
    assert_same(&app, &copy, "after a large batch");
    replica.close();

    let (mut before, mut after) = (0, 0);
    for round in 2..2 + KILLS {
        let context = format!("seed {seed}, round {round}");
        primary.sql(change);
        let mut replica = Shell::replica(&copy, &parameters);
        replica.feed("SELECT replica_sync()");
        // From while it is fetched to after it has entered.
        std::thread::sleep(longest.mul_f64(0.4 + 1.2 * random.random::<f64>()));
        replica.kill();
        let as_left = copy_with_log(&copy, aside.path());
        assert_intact(&as_left, &context);
        let found = image::value(
            &as_left,
            "SELECT count(DISTINCT n) || ' ' || max(n) FROM big",
        );
        match found {
            found if found == format!("1 {}", round - 1) => before += 1,
            found if found == format!("1 {round}") => after += 1,
            found => panic!("{context}: neither before nor after: {found}"),
        }
        let mut replica = Shell::replica(&copy, &parameters);
        let answer = replica.sync();
        assert_same(&app, &copy, &format!("{context}: {answer}"));
        assert!(!side_file(&copy, "-replica-batch").exists(), "{context}");
        replica.close();
    }
    println!("{KILLS} kills: {before} left the content before, {after} the content after");
}
