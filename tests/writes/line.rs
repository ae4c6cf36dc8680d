//! A line that loses, repeats, delays and breaks off messages, each kind of message in turn: what was acknowledged is
//! there once, SQLite's codes say what happened, and once the line is back everything goes on by itself.

use std::time::{Duration, Instant};

use harness::full::amount;
use harness::messages::Fault;
use harness::process::wait_for;
use harness::{Client, Kind, Primary, assert_same, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[path = "line/replicas.rs"]
mod replicas;

use replicas::{Ended, Line, SQLITE_BUSY, SQLITE_IOERR, code};

const SQLITE_BUSY_SNAPSHOT: i32 = 517;

/// Longer than `sync_timeout`, which is one second here.
const LATE: Duration = Duration::from_millis(2500);

const FAULTS: [Fault; 9] = [
    Fault::RequestLost,
    Fault::ReplyLost,
    Fault::Duplicated,
    Fault::Delayed(LATE),
    Fault::ReplyDelayed(LATE),
    Fault::ResetInRequest,
    Fault::ResetInReply,
    Fault::ResetBefore,
    Fault::ResetAfter,
];

#[test]
fn every_fault_of_a_push() {
    let mut line = Line::new(&["auto"]);
    for fault in FAULTS {
        let context = format!("push, {fault:?}");
        let replica = &mut line.replicas[0];
        replica.commit(&context);
        replica.relay.take_seen();
        replica.relay.hit("push", fault);
        let ended = replica.attempt();
        println!("{context}: {ended:?}");
        let may_be_unknown = matches!(
            fault,
            Fault::RequestLost | Fault::ReplyLost | Fault::Delayed(_) | Fault::ReplyDelayed(_)
        );
        match ended {
            Ended::Committed => {}
            Ended::AtCommit(SQLITE_IOERR) if may_be_unknown => {}
            _ => panic!("{context}: {ended:?}"),
        }
        assert!(replica.was_hit("push"), "{context}: it met no push");
        let refusals = replica.commit(&context);
        println!("{context}: then {refusals:?}");
        line.assert_whole(&context);
    }
}

#[test]
fn every_fault_of_a_begin() {
    let mut line = Line::new(&["auto", "exclusive"]);
    for fault in FAULTS {
        for at in 0..2 {
            let context = format!("begin, replica {at}, {fault:?}");
            let replica = &mut line.replicas[at];
            replica.commit(&context);
            // It no longer counts as at the head.
            std::thread::sleep(Duration::from_millis(1100));
            replica.relay.take_seen();
            replica.relay.hit("begin", fault);
            let ended = replica.attempt();
            println!("{context}: {ended:?}");
            assert!(
                matches!(ended, Ended::Committed | Ended::AtBegin(SQLITE_BUSY)),
                "{context}: {ended:?}"
            );
            assert!(replica.was_hit("begin"), "{context}: it met no begin");
            replica.commit(&context);
            line.assert_whole(&context);
        }
    }
}

#[test]
fn every_fault_of_a_pull() {
    let mut line = Line::new(&["auto", "auto"]);
    for fault in FAULTS {
        let context = format!("pull, {fault:?}");
        line.replicas[1].commit(&context);
        let replica = &mut line.replicas[0];
        replica.relay.take_seen();
        replica.relay.hit("pull", fault);
        let synced = replica.client.sql("SELECT replica_sync()");
        println!("{context}: {synced:?}");
        if let Err(trouble) = synced {
            assert_eq!(code(trouble) & 0xff, SQLITE_BUSY, "{context}");
            replica.assert_readable(Ended::AtBegin(SQLITE_BUSY));
        }
        assert!(replica.was_hit("pull"), "{context}: it met no pull");
        replica.commit(&context);
        line.assert_whole(&context);
    }
}

#[test]
fn every_fault_of_a_release() {
    let mut line = Line::new(&["exclusive", "exclusive"]);
    for fault in FAULTS {
        let context = format!("release, {fault:?}");
        let replica = &mut line.replicas[0];
        replica.commit(&context);
        replica.relay.take_seen();
        replica.relay.hit("release", fault);
        replica.client.insist("BEGIN IMMEDIATE");
        replica.client.done("INSERT INTO word(id) VALUES (-1)");
        replica.client.done("ROLLBACK");
        assert!(replica.was_hit("release"), "{context}: it met no release");
        // A lease that is not given back ends by itself.
        let begun = Instant::now();
        line.replicas[1].commit(&context);
        println!("{context}: the other one wrote after {:?}", begun.elapsed());
        line.assert_whole(&context);
    }
    assert_eq!(
        line.primary.sql("SELECT count(*) FROM word WHERE id = -1"),
        "0"
    );
}

#[test]
fn a_late_push_behind_another_transaction_is_refused() {
    let mut line = Line::new(&["auto", "auto"]);
    line.replicas[0].commit("first");
    line.replicas[0].delay_push(Duration::from_secs(4));
    assert_eq!(line.replicas[0].attempt(), Ended::AtCommit(SQLITE_IOERR));
    // Nobody has it yet, and then somebody else writes.
    line.replicas[1].commit("meanwhile");
    line.replicas[0].relay.heal();
    let (unknown, _) = *line.replicas[0].ends.last().expect("one");
    line.replicas[0].commit("then");
    line.assert_whole("late");
    let count = format!("SELECT count(*) FROM word WHERE id = {unknown}");
    assert_eq!(
        line.primary.sql(&count),
        "0",
        "it came in behind another transaction"
    );
}

#[test]
fn a_late_push_of_a_killed_replica_is_there_once_or_not() {
    let mut line = Line::new(&["auto", "auto"]);
    for round in 0..2 {
        let replica = &mut line.replicas[0];
        replica.commit("first");
        replica.delay_push(LATE);
        assert_eq!(replica.attempt(), Ended::AtCommit(SQLITE_IOERR));
        let path = replica.path.clone();
        let client = Client::on(Kind::Python, &path, "");
        std::mem::replace(&mut replica.client, client).kill();
        replica.relay.heal();
        replica.client.done("PRAGMA busy_timeout = 0");
        if round == 0 {
            // The base moves on before it arrives.
            replica.commit("before it arrives");
        } else {
            let late = || !replica.relay.is_late();
            wait_for("the late push", late);
        }
        line.assert_whole(&format!("round {round}"));
        let (unknown, _) = *line.replicas[0]
            .ends
            .iter()
            .rfind(|end| end.1 == Ended::AtCommit(SQLITE_IOERR))
            .expect("one");
        let count = line
            .primary
            .sql(&format!("SELECT count(*) FROM word WHERE id = {unknown}"));
        assert_eq!(count, round.to_string(), "round {round}");
    }
}

#[test]
fn while_an_outcome_is_not_known_nothing_is_written() {
    let mut line = Line::new(&["auto"]);
    let replica = &mut line.replicas[0];
    replica.commit("first");
    replica.relay.hit("push", Fault::ReplyLost);
    // Silent from the reply on.
    replica
        .relay
        .hit_later("push", 0, u64::MAX, Fault::RequestLost);
    assert_eq!(replica.attempt(), Ended::AtCommit(SQLITE_IOERR));
    replica.relay.fall_silent();
    let rows = replica.client.done("SELECT count(*) FROM word");
    for _ in 0..3 {
        assert_eq!(replica.attempt(), Ended::AtBegin(SQLITE_IOERR));
        assert_eq!(
            replica.client.done("SELECT count(*) FROM word"),
            rows,
            "reads go on"
        );
    }
    replica.relay.heal();
    let refusals = replica.commit("healed");
    println!("after the line was back: {refusals:?}");
    line.assert_whole("healed");
    // The primary had it.
    let (unknown, _) = line.replicas[0].ends[1];
    let count = format!("SELECT count(*) FROM word WHERE id = {unknown}");
    assert_eq!(line.primary.sql(&count), "1");
}

#[test]
fn a_conflict_is_busy_snapshot_at_commit() {
    let mut line = Line::new(&["optimistic", "auto"]);
    line.replicas[0].commit("first");
    let replica = &mut line.replicas[0];
    assert_eq!(replica.client.insist("BEGIN IMMEDIATE"), 0);
    replica.client.done("INSERT INTO word(id) VALUES (-1)");
    line.replicas[1].commit("the other one");
    let replica = &mut line.replicas[0];
    let refused = replica.client.sql("COMMIT").expect_err("a conflict");
    assert_eq!(code(refused), SQLITE_BUSY_SNAPSHOT);
    let sentence = replica.client.done("SELECT replica_last_error()");
    assert!(
        sentence.contains("committed first") && sentence.contains("run it again"),
        "{sentence}"
    );
    // It is rolled back: another one may begin.
    replica.commit("again");
    line.assert_whole("in the end");
    assert_eq!(
        line.primary.sql("SELECT count(*) FROM word WHERE id = -1"),
        "0"
    );
}

#[test]
fn a_primary_that_is_gone_is_busy_at_the_start_and_busy_snapshot_at_commit() {
    let Line {
        directory,
        app,
        mut primary,
        replicas,
    } = Line::new(&[]);
    assert!(replicas.is_empty());
    let address = primary.address().to_string();
    let copy = directory.path().join("replica.db");
    let parameters = format!("sync_url={}&sync_timeout=2", primary.url());
    let mut client = Client::on(Kind::Python, &copy, &parameters);
    client.done("PRAGMA busy_timeout = 0");
    client.insist("INSERT INTO word(id) VALUES (1)");
    client.done("BEGIN IMMEDIATE");
    client.done("INSERT INTO word(id) VALUES (2)");
    primary.kill();
    let refused = client.sql("COMMIT").expect_err("nobody is there");
    let sentence = client.done("SELECT replica_last_error()");
    println!("COMMIT: {refused:?}: {sentence}");
    assert_eq!(code(refused), SQLITE_BUSY_SNAPSHOT, "{sentence}");
    assert!(sentence.contains("nothing was sent"), "{sentence}");
    for _ in 0..3 {
        let refused = client
            .sql("INSERT INTO word(id) VALUES (3)")
            .expect_err("nobody is there");
        assert_eq!(code(refused), SQLITE_BUSY);
        let sentence = client.done("SELECT replica_last_error()");
        assert!(sentence.contains("refused"), "{sentence}");
        assert_eq!(client.done("SELECT count(*) FROM word"), "1");
    }
    primary = Primary::start_at(&app, &address);
    client.done("PRAGMA busy_timeout = 20000");
    client.insist("INSERT INTO word(id) VALUES (4)");
    assert_eq!(primary.sql("SELECT group_concat(id) FROM word"), "1,4");
    client.done("SELECT replica_sync()");
    assert_same(&app, &copy, "in the end");
}

#[test]
fn faults_at_random() {
    let seed = seed("line", 31);
    let mut random = StdRng::seed_from_u64(seed);
    let mut line = Line::new(&["auto", "exclusive", "optimistic"]);
    let rounds = amount("REPLICA_ROUNDS", 60, 600);
    let mut seen = std::collections::BTreeMap::new();
    for round in 0..rounds {
        let replica = &mut line.replicas[random.random_range(0..3)];
        if random.random() {
            let name = ["begin", "push", "push", "pull", "release"][random.random_range(0..5)];
            let fault = match FAULTS[random.random_range(0..FAULTS.len())] {
                Fault::Delayed(_) => {
                    Fault::Delayed(Duration::from_millis(random.random_range(100..4000)))
                }
                fault => fault,
            };
            replica.relay.hit_later(
                name,
                random.random_range(0..2),
                random.random_range(1..3),
                fault,
            );
        }
        let ended = replica.attempt();
        match ended {
            Ended::Committed => {}
            Ended::AtBegin(code) | Ended::AtWrite(code)
                if [SQLITE_BUSY, SQLITE_IOERR].contains(&(code & 0xff)) => {}
            Ended::AtCommit(SQLITE_BUSY_SNAPSHOT | SQLITE_IOERR) => {}
            _ => panic!("seed {seed}, round {round}: {ended:?}"),
        }
        *seen.entry(format!("{ended:?}")).or_insert(0) += 1;
        if random.random_ratio(1, 10) {
            let _ = replica.client.sql("SELECT replica_sync()");
        }
        if round % 20 == 19 {
            line.assert_whole(&format!("seed {seed}, round {round}"));
        }
    }
    line.assert_whole(&format!("seed {seed}, in the end"));
    println!("{rounds} rounds: {seen:?}");
}
