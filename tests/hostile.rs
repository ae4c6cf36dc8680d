//! A broken or lying peer on either side of the wire: always a clear error or a right result, the database unchanged
//! and readable, memory bounded; the primary goes on serving.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::bank::{self, Bank};
use harness::{Files, Host, Primary, assert_intact, assert_same, directory, image, seed, uri};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[path = "hostile/client.rs"]
mod client;
#[path = "hostile/message.rs"]
mod message;
#[path = "hostile/mutate.rs"]
mod mutate;
#[path = "hostile/peer.rs"]
mod peer;

use client::Client;
use peer::{Peer, Plan};

/// Syncs that met an altered answer.
const SYNCS: u64 = 9000;
const BOOTSTRAPS: u64 = 1400;
const LIES: u64 = 200;
const REQUESTS: u64 = 10_000;

/// What a process may grow by: a few parts of 8 MiB in memory at once.
const GROWTH_KIB: u64 = 96 << 10;

/// The most memory a process ever held, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .expect("VmHWM");
    line.split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("a number")
}

#[track_caller]
fn assert_bounded(name: &str, before: u64, pid: u32) {
    let after = peak(pid);
    println!("{name}: {before} KiB at most before the cases, {after} KiB after them");
    assert!(
        after < before + GROWTH_KIB,
        "{name} grew from {before} to {after} KiB"
    );
}

/// The state the host reads is that of one whole transaction; its number.
#[track_caller]
fn whole(host: &mut Host, context: &str) -> u64 {
    let row = host.sql("main", bank::CHECK);
    let mut columns = row.split('|');
    let number = columns.next().and_then(|text| text.parse().ok());
    assert_eq!(
        columns.next(),
        Some("1"),
        "{context}: not one transaction's state: {row}"
    );
    number.expect("a number")
}

fn broken(random: &mut StdRng) -> Plan {
    Plan::Broken {
        seed: random.random(),
        // Most syncs are one question; a healing one asks more.
        skip: [0, 0, 0, 0, 0, 0, 1, 2][random.random_range(0..8)],
        once: random.random(),
    }
}

/// A clean sync, which always brings the newest state, whatever went before.
#[track_caller]
fn recovers(host: &mut Host, peer: &Peer, app: &Path, copy: &Path, context: &str) {
    peer.plan(Plan::Honest);
    let answer = host.sql("main", "SELECT replica_sync()");
    assert_eq!(
        host.sql("main", "SELECT state FROM replica_status"),
        "ok",
        "{context}: {answer}"
    );
    assert_same(app, copy, context);
}

#[test]
fn a_replica_with_a_hostile_primary() {
    let seed = seed("hostile", 11);
    let directory = directory();
    let (app, copy) = (
        directory.path().join("app.db"),
        directory.path().join("replica.db"),
    );
    bank::create(&app, 1024);
    let mut bank = Bank::new(seed);
    let mut primary = Primary::start(&app);
    let peer = Peer::before(primary.address());
    let mut host = Host::bundled();
    host.open_replica(
        &copy,
        &format!("sync_timeout=1&sync_url={}", peer.url("app")),
    );
    whole(&mut host, "at first");
    let pid = host.process().pid();
    let before = peak(pid);
    let (mut failed, mut done, mut altered) = (0, 0, 0);
    let mut kinds = std::collections::BTreeMap::new();
    for case in 0.. {
        if altered == SYNCS {
            break;
        }
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(case));
        if random.random() {
            primary.sql(&bank.transaction());
        }
        let seen = whole(&mut host, "before");
        peer.plan(broken(&mut random));
        let begun = Instant::now();
        let result = host.try_sql("main", "SELECT replica_sync()");
        let context = format!("case {case}, {}: {result:?}", peer.last_fault());
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{context}: took {:?}",
            begun.elapsed()
        );
        altered += u64::from(peer.last_fault() != "none");
        *kinds.entry(peer.last_fault()).or_insert(0) += 1;
        let now = whole(&mut host, &context);
        match result {
            Ok(_) => done += 1,
            Err(failure) => {
                failed += 1;
                assert!(failure.code != 0 && failure.message.len() > 20, "{context}");
                assert!(now >= seen, "{context}: went back from {seen} to {now}");
            }
        }
        if case % 250 == 249 {
            recovers(&mut host, &peer, &app, &copy, &context);
            assert_intact(&copy, &context);
        }
    }
    println!("{failed} refused, {done} came through: {kinds:?}");
    assert!(
        failed > SYNCS / 3 && done > SYNCS / 100,
        "{failed} refused, {done} came through"
    );
    assert_bounded("the replica's host", before, pid);
    primary.sql("SELECT replica_verify()");
}

#[test]
fn a_bootstrap_from_a_hostile_primary() {
    let seed = seed("hostile bootstrap", 12);
    let directory = directory();
    let app = directory.path().join("app.db");
    bank::create(&app, 1024);
    let primary = Primary::start(&app);
    let peer = Peer::before(primary.address());
    let mut host = Host::bundled();
    let pid = host.process().pid();
    let mut before = 0;
    let mut failed = 0;
    for case in 0..BOOTSTRAPS {
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(case));
        let copy = directory.path().join(format!("replica-{case}.db"));
        let name = uri(
            &copy,
            &format!("sync_timeout=1&sync_url={}", peer.url("app")),
        );
        peer.plan(broken(&mut random));
        let result = host
            .try_open("main", &name)
            .and_then(|()| host.try_sql("main", bank::CHECK));
        let context = format!("case {case}, {}: {result:?}", peer.last_fault());
        match &result {
            Ok(row) => assert!(row.starts_with("0|1|"), "{context}"),
            Err(failure) => {
                failed += 1;
                assert!(!copy.exists(), "{context}: a file was left");
                assert!(failure.code != 0, "{context}");
                let sentence = host.sql("memory", "SELECT replica_last_error()");
                assert!(sentence.len() > 20, "{context}: {sentence}");
                // The next attempt makes it, on the same connection or a new one.
                peer.plan(Plan::Honest);
                if host.try_sql("main", bank::CHECK).is_err() {
                    host.open("main", &name);
                }
            }
        }
        recovers(&mut host, &peer, &app, &copy, &context);
        whole(&mut host, &context);
        host.close_connection("main");
        image::remove_database(&copy);
        if case == 20 {
            before = peak(pid);
        }
    }
    println!("{failed} of {BOOTSTRAPS} refused");
    assert!(failed > BOOTSTRAPS / 3);
    assert_bounded("the host", before, pid);
}

/// A remote that means it hands over wrong rows: nothing but the rows is wrong, and the truth heals them.
#[test]
fn a_lie_that_fits_is_only_wrong_rows() {
    let seed = seed("lies", 13);
    let directory = directory();
    let (app, copy) = (
        directory.path().join("app.db"),
        directory.path().join("replica.db"),
    );
    bank::create(&app, 1024);
    let mut bank = Bank::new(seed);
    let mut primary = Primary::start(&app);
    let peer = Peer::before(primary.address());
    let mut host = Host::bundled();
    host.open_replica(
        &copy,
        &format!("sync_timeout=1&sync_url={}", peer.url("app")),
    );
    whole(&mut host, "at first");
    let mut lied = 0;
    for case in 0..LIES {
        primary.sql(&bank.transaction());
        peer.plan(Plan::Lies {
            seed: seed.wrapping_add(case),
        });
        let result = host.try_sql("main", "SELECT replica_sync()");
        lied += u64::from(peer.last_fault() == "a lie");
        let context = format!("case {case}: {result:?}");
        // Whatever the rows are now: reading them is an answer or an error of SQLite, here and without the extension.
        let _ = host.try_sql("main", bank::CHECK);
        let _ = host.try_sql("main", "PRAGMA integrity_check");
        primary.sql(&bank.transaction());
        recovers(&mut host, &peer, &app, &copy, &context);
        whole(&mut host, &context);
    }
    assert!(lied > LIES / 2, "{lied} lies");
    assert_intact(&copy, "after the lies");
}

#[test]
fn a_primary_with_hostile_clients() {
    let seed = seed("hostile clients", 14);
    let files = Files::new();
    bank::create(&files.path("bank.db"), 1024);
    std::fs::rename(files.path("bank.db"), &files.app).expect("rename");
    let mut bank = Bank::new(seed);
    let mut primary = files.primary();
    let mut client = Client::new(primary.address());
    let (head, everything) = client.post("/app/v1/pull", &message::question(1, 0));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let good = [
        ("/app/v1/pull", message::question(1, 0)),
        ("/app/v1/pull", message::question(1, 7)),
        ("/app/v1/hashes", message::question(2, 0)),
        ("/app/v1/pull", message::informed_question(&everything, &[])),
        (
            "/app/v1/pages",
            message::informed_question(&everything, &[1, 2, 3, 50]),
        ),
    ];
    for (path, body) in &good {
        let (head, _) = client.post(path, body);
        assert!(
            head.starts_with("HTTP/1.1 200"),
            "the questions are good: {path}: {head}"
        );
    }
    let mut replica = files.replica(primary.url());
    let pid = primary.shell().process().pid();
    let before = peak(pid);
    for case in 0..REQUESTS {
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(case));
        client::hostile_request(&mut random, &mut client, &good);
        if case % 250 == 249 {
            // It serves, and its program writes.
            primary.sql(&bank.transaction());
            replica.sync();
            assert_same(&files.app, &files.copy, &format!("case {case}"));
        }
    }
    assert_bounded("the primary's host", before, pid);
    let verified = primary.sql("SELECT replica_verify()");
    assert_eq!(harness::json(&verified, "$.ok"), "1", "{verified}");
    assert_intact(&files.app, "after the requests");
}
