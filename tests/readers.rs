//! Readers in six processes while 1,000 transactions arrive and others checkpoint: never an error, never a torn state.

use harness::bank::{self, Bank};
use harness::{Host, Primary, Shell, assert_intact, assert_same, directory, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const TRANSACTIONS: usize = 1000;

#[test]
fn six_readers_while_a_thousand_transactions_are_synced() {
    let seed = seed("readers", 3);
    let directory = directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    bank::create(&app, 4096);
    let mut primary = Primary::start(&app);
    let mut replica = Shell::replica(&copy, &format!("sync_url={}", primary.url()));
    replica.sync();

    let mut readers = Vec::new();
    for _ in 0..2 {
        readers.push(("Python, plain", Host::plain_on(&copy)));
        let mut host = Host::python();
        host.open_replica(&copy, "");
        readers.push(("Python, extension", host));
        let mut host = Host::bundled();
        host.open_replica(&copy, "");
        readers.push(("bundled, extension", host));
    }
    // One of them reads through a memory map, which the VFS has to pass on.
    readers[5].1.sql("main", "PRAGMA mmap_size = 268435456");
    for (_, reader) in &mut readers {
        reader.watch("main", bank::CHECK);
    }
    let mut checkpointers = vec![
        ("Python, plain", Host::plain_on(&copy)),
        ("bundled, extension", Host::bundled()),
    ];
    checkpointers[1].1.open_replica(&copy, "");
    for (_, host) in &mut checkpointers {
        // A checkpoint that waits for readers holds writers off: not for longer than a sync waits for the lock.
        host.sql("main", "PRAGMA busy_timeout = 2000");
        host.checkpoint("main", 15);
    }

    let mut bank = Bank::new(seed);
    let mut random = StdRng::seed_from_u64(seed ^ 1);
    let (mut done, mut syncs) = (0, 0);
    while done < TRANSACTIONS {
        let batch = random.random_range(1..=4).min(TRANSACTIONS - done);
        primary.sql(&bank.transactions(batch));
        done += batch;
        replica.sync();
        syncs += 1;
        if syncs % 100 == 0 {
            assert_same(&app, &copy, &format!("sync {syncs}"));
        }
    }

    let mut after_the_first = 0;
    for (kind, mut reader) in readers {
        let seen = reader.stop();
        println!("{kind}: reads|integrity checks|first|last transaction seen = {seen}");
        let seen: Vec<i64> = seen
            .split('|')
            .map(|n| n.parse().expect("number"))
            .collect();
        assert!(
            seen[0] >= 20 && seen[1] >= 1,
            "{kind}: it hardly read: {seen:?}"
        );
        assert!(
            seen[3] > seen[2],
            "{kind}: it never saw a newer state: {seen:?}"
        );
        after_the_first += seen[0];
    }
    for (kind, mut host) in checkpointers {
        let counts = host.stop();
        println!("{kind}: checkpoints done|busy = {counts}");
        assert!(!counts.starts_with("0|"), "{kind}: no checkpoint ever ran");
    }
    println!("{done} transactions in {syncs} syncs, {after_the_first} reading transactions");
    assert_eq!(bank::assert_whole(&copy, "at the end"), TRANSACTIONS as i64);
    assert_same(&app, &copy, "at the end");
    assert_intact(&copy, "at the end");
}

/// A reader inside a transaction keeps its snapshot while the same connection's file is synced under it.
#[test]
fn a_snapshot_stays_while_its_own_connection_syncs() {
    let directory = directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    bank::create(&app, 4096);
    let mut primary = Primary::start(&app);
    for mut host in [Host::python(), Host::bundled()] {
        host.open_replica(&copy, &format!("sync_url={}", primary.url()));
        host.sql("main", "SELECT replica_sync()");
        let before = host.sql("main", "SELECT transactions FROM total");
        host.sql("main", "BEGIN");
        assert_eq!(host.sql("main", "SELECT transactions FROM total"), before);
        primary.sql(&Bank::new(1).transactions(3));
        host.sql("main", "SELECT replica_sync()");
        assert_eq!(host.sql("main", "SELECT transactions FROM total"), before);
        host.sql("main", "COMMIT");
        let after: u64 = host
            .sql("main", "SELECT transactions FROM total")
            .parse()
            .expect("number");
        assert_eq!(after, before.parse::<u64>().expect("number") + 3);
    }
}
