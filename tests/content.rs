//! The content of a replica equals the content of its primary after every transaction, whatever kind it was.

use std::collections::BTreeMap;

use harness::workload::Workload;
use harness::{
    Image, Primary, Shell, assert_intact, assert_same, directory, image, json, number, seed,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const TRANSACTIONS: usize = 500;

#[test]
fn equal_after_each_of_500_transactions_with_pages_of_512() {
    equal_after_each(512);
}

#[test]
fn equal_after_each_of_500_transactions_with_pages_of_4096() {
    equal_after_each(4096);
}

#[test]
fn equal_after_each_of_500_transactions_with_pages_of_65536() {
    equal_after_each(65536);
}

fn equal_after_each(page_size: usize) {
    let seed = seed(&format!("content {page_size}"), page_size as u64);
    let directory = directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    let mut workload = Workload::new(seed, page_size);
    let mut random = StdRng::seed_from_u64(seed ^ 1);
    Shell::plain(&app).sql(&workload.begin());
    assert_eq!(Image::read(&app).page_size(), page_size);

    let mut primary = Primary::start(&app);
    let mut plain = Shell::plain(&app);
    plain.sql(".timeout 20000");
    let mut replica = Shell::replica(&copy, &format!("sync_url={}", primary.url()));
    replica.sync();
    assert_same(&app, &copy, "after the bootstrap");

    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut pages = 0;
    for index in 1..=TRANSACTIONS {
        if index % 60 == 0 {
            plain = Shell::plain(&app);
            plain.sql(".timeout 20000");
        }
        let step = workload.step();
        let by_plain = random.random_ratio(1, 3);
        if by_plain {
            plain.sql(&step.sql);
        } else {
            primary.sql(&step.sql);
        }
        let writer = if by_plain {
            "plain SQLite"
        } else {
            "the primary"
        };
        let context = format!(
            "seed {seed}, page size {page_size}, step {index} ({}) by {writer}",
            step.kind
        );

        let answer = replica.sync();
        let position = primary.shell().position();
        assert_eq!(replica.position(), position, "{context}: {answer}");
        assert_eq!(json(&answer, "$.to"), position, "{context}: {answer}");
        let moved = json(&answer, "$.from") != json(&answer, "$.to");
        assert_eq!(
            moved,
            number(&answer, "$.transactions") > 0,
            "{context}: {answer}"
        );
        if ["rolled back", "wal_checkpoint"].contains(&step.kind) {
            assert!(!moved, "{context}: nothing was committed: {answer}");
        }
        assert_same(&app, &copy, &context);
        assert_eq!(replica.sha3sum(), primary.shell().sha3sum(), "{context}");
        let verified = replica.sql("SELECT replica_verify()");
        assert_eq!(json(&verified, "$.ok"), "1", "{context}: {verified}");
        if index % 10 == 0 {
            assert_intact(&copy, &context);
        }
        *kinds.entry(step.kind).or_default() += 1;
        pages += number(&answer, "$.pages");
    }
    assert_eq!(kinds.len(), 16, "every kind was made: {kinds:?}");
    let size = Image::read(&copy).size();
    println!(
        "page size {page_size}: {TRANSACTIONS} steps, {pages} pages, {size} bytes at the end; {kinds:?}"
    );
}

/// The page at 1 GiB is never used by SQLite; a database that reaches beyond it must still arrive whole.
#[test]
fn equal_beyond_the_lock_byte_page() {
    let directory = directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    let mut builder = Shell::plain(&app);
    builder.sql(
        "PRAGMA page_size = 65536; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = OFF;
         PRAGMA synchronous = OFF; CREATE TABLE big(id INTEGER PRIMARY KEY, b BLOB);
         WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < 1050)
           INSERT INTO big SELECT n, CAST(n AS BLOB) || zeroblob(1020000) FROM counter;
         PRAGMA journal_mode = WAL",
    );
    drop(builder);
    assert!(Image::read(&app).size() > (1 << 30) + 65536);
    let mut primary = Primary::start(&app);
    let mut replica = Shell::replica(&copy, &format!("sync_url={}", primary.url()));
    replica.sync();
    assert_same(&app, &copy, "after the bootstrap");
    for (what, sql) in [
        (
            "changed above",
            "UPDATE big SET b = x'01' || zeroblob(1019999) WHERE id > 1046",
        ),
        (
            "grown above",
            "INSERT INTO big SELECT 2000 + id, zeroblob(900000) FROM big WHERE id <= 5",
        ),
        (
            "cut off below",
            "DELETE FROM big WHERE id > 900; PRAGMA incremental_vacuum",
        ),
        (
            "grown across",
            "INSERT INTO big SELECT 3000 + id, zeroblob(1020000) FROM big WHERE id <= 180",
        ),
    ] {
        primary.sql(sql);
        let answer = replica.sync();
        println!("{what}: {answer}");
        assert_same(&app, &copy, what);
        let verified = replica.sql("SELECT replica_verify()");
        assert_eq!(json(&verified, "$.ok"), "1", "{what}: {verified}");
    }
    assert_eq!(image::value(&copy, "SELECT max(id) FROM big"), "3180");
    assert_intact(&copy, "at the end");
}

/// Many commits between two syncs arrive as one batch that holds each changed page once.
#[test]
fn a_long_absence_costs_each_changed_page_once() {
    let directory = directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    Shell::plain(&app).sql(
        "PRAGMA journal_mode = WAL; CREATE TABLE counter(n INTEGER); INSERT INTO counter VALUES (0);
         CREATE TABLE ballast AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 500)
           SELECT n, randomblob(1000) AS b FROM c",
    );
    let mut primary = Primary::start(&app);
    let mut replica = Shell::replica(&copy, &format!("sync_url={}", primary.url()));
    replica.sync();
    let mut plain = Shell::plain(&app);
    plain.sql(".timeout 20000");
    let statement = "UPDATE counter SET n = n + 1;\n".repeat(500);
    plain.sql(&statement);
    primary.sql(&statement);
    let answer = replica.sync();
    println!("1,000 commits: {answer}");
    assert_eq!(number(&answer, "$.transactions"), 1000, "{answer}");
    assert!(number(&answer, "$.pages") <= 3, "{answer}");
    assert!(number(&answer, "$.bytes_received") < 20_000, "{answer}");
    assert_eq!(replica.sql("SELECT n FROM counter"), "1000");
    assert_same(&app, &copy, "after 1,000 commits");
}
