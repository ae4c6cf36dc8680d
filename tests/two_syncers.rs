//! Two processes sync the same replica file at the same time, while the primary is written and a third process reads.

use std::time::{Duration, Instant};

use harness::bank::{self, Bank};
use harness::encryption::log_suffix;
use harness::{Host, Primary, assert_intact, assert_same, directory, image, seed, side_file};

/// Seconds, unless `REPLICA_SYNC_SECONDS` says otherwise.
const SECONDS: u64 = 60;

#[test]
fn two_processes_sync_one_file() {
    let seconds = std::env::var("REPLICA_SYNC_SECONDS").map_or(SECONDS, |text| {
        text.parse().expect("REPLICA_SYNC_SECONDS is a number")
    });
    let directory = directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    bank::create(&app, 4096);
    let mut primary = Primary::start(&app);
    let parameters = format!("sync_url={}", primary.url());

    let mut syncers = [("Python", Host::python()), ("bundled", Host::bundled())];
    for (_, host) in &mut syncers {
        host.open_replica(&copy, &parameters);
        host.repeat("main", "SELECT replica_sync()");
    }
    let mut reader = Host::plain_on(&copy);
    reader.watch("main", bank::CHECK);

    let mut bank = Bank::new(seed("two syncers", 4));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut transactions = 0;
    while Instant::now() < end {
        primary.sql(&bank.transaction());
        transactions += 1;
        if transactions % 200 == 0 {
            assert_intact(&copy, &format!("after {transactions} transactions"));
            bank::assert_whole(&copy, &format!("after {transactions} transactions"));
        }
    }

    println!("reads|integrity checks|first|last = {}", reader.stop());
    for (kind, host) in &mut syncers {
        let counted = host.stop();
        println!("{kind}: syncs|last answer = {counted}");
        let syncs: u64 = counted
            .split('|')
            .next()
            .and_then(|count| count.parse().ok())
            .expect("number");
        assert!(syncs > seconds, "{kind}: it hardly synced: {counted}");
    }
    let position = primary.shell().position();
    for (kind, host) in &mut syncers {
        host.sql("main", "SELECT replica_sync()");
        assert_eq!(
            host.sql("main", "SELECT replica_position()"),
            position,
            "{kind}"
        );
        let newest = host.sql("main", "SELECT transactions FROM total");
        assert_eq!(newest, transactions.to_string(), "{kind}: not current");
        let verified = host.sql("main", "SELECT replica_verify()");
        assert_eq!(harness::json(&verified, "$.ok"), "1", "{kind}: {verified}");
    }
    assert_same(&app, &copy, "at the end");
    assert_intact(&copy, "at the end");
    for path in [&app, &copy] {
        let log = std::fs::metadata(side_file(path, log_suffix(path))).map_or(0, |file| file.len());
        println!("{}: a log of {log} bytes", path.display());
        // A few megabytes are aimed at; this leaves room for what readers and a loaded machine hold back.
        assert!(
            log < 64 << 20,
            "the log of {} grew to {log} bytes",
            path.display()
        );
    }
    println!(
        "{transactions} transactions in {seconds} s; {} pages",
        image::Image::read(&copy).pages()
    );
}
