//! Every file of an encrypted database is changed in every way: what is read afterwards is right, or an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::{Host, Primary, Shell, directory, image, json, side_file, uri};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{CIPHERS, raw, raw_with};

/// Rows of the test's table.
const ROWS: u32 = 400;
/// Random changes.
const MUTATIONS: u32 = 10_000;

fn text(id: u32, round: u32) -> String {
    format!(
        "row {id} in round {round} {}",
        "x".repeat(id as usize % 900)
    )
}

/// Writes all rows anew in one transaction.
fn write(shell: &mut Shell, round: u32) {
    let mut sql = "BEGIN;".to_owned();
    for id in 1..=ROWS {
        sql += &format!("REPLACE INTO t VALUES ({id}, '{}');", text(id, round));
    }
    shell.sql(&format!("{sql}COMMIT;"));
}

/// The files of a database that was killed with most of its pages in the database and some in the log.
fn victim(directory: &Path, name: &str, cipher: &str) -> PathBuf {
    let path = directory.join(format!("{cipher}-{name}"));
    let mut shell = Shell::replica(&path, &raw_with(cipher));
    shell.sql("PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT)");
    write(&mut shell, 1);
    shell.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    write(&mut shell, 2);
    shell.sql("PRAGMA wal_checkpoint(PASSIVE)");
    shell.sql(&format!(
        "UPDATE t SET text = '{}' WHERE id = 7",
        text(7, 3)
    ));
    shell.sql(&format!(
        "UPDATE t SET text = '{}' WHERE id = 300",
        text(300, 3)
    ));
    shell.kill();
    let _ = std::fs::remove_file(side_file(&path, "-shm"));
    path
}

/// Rows are all of one state there was: each of a round, and the last two not without the others.
fn check(rows: &str, context: &str) {
    let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
    for row in rows.lines() {
        let (id, found) = row
            .split_once('|')
            .unwrap_or_else(|| panic!("{context}: {row}"));
        let id: u32 = id.parse().unwrap_or_else(|_| panic!("{context}: {row}"));
        let round = (1..=4).find(|round| found == text(id, *round));
        let round = round.unwrap_or_else(|| panic!("{context}: row {id} is {found}"));
        seen.insert(id, round);
    }
    assert_eq!(seen.len() as u32, ROWS, "{context}");
    let rounds = |id| seen[&id];
    let common = rounds(1);
    for (id, round) in &seen {
        let late = [7, 300].contains(id) && *round == common + 1;
        assert!(
            *round == common || late,
            "{context}: row {id} is of round {round}"
        );
    }
    assert!(rounds(300) <= rounds(7), "{context}");
}

const QUERY: &str = "SELECT id || '|' || text FROM t ORDER BY id";

/// What a host reads; an error is an answer too, but the host goes on.
fn read(host: &mut Host, path: &Path, context: &str) -> bool {
    if host.try_open("main", &uri(path, &raw())).is_err() {
        return false;
    }
    let answer = host.try_sql("main", QUERY);
    host.close_connection("main");
    if let Ok(rows) = &answer {
        check(rows, context);
    }
    answer.is_ok()
}

fn copy(path: &Path, to: &Path) {
    for suffix in ["", "-swal"] {
        std::fs::copy(side_file(path, suffix), side_file(to, suffix)).expect("copy");
    }
    let _ = std::fs::remove_file(side_file(to, "-shm"));
}

#[test]
fn the_matrix() {
    for cipher in CIPHERS {
        matrix(cipher);
    }
}

fn matrix(cipher: &str) {
    let directory = directory();
    let path = victim(directory.path(), "app.db", cipher);
    let twin = victim(directory.path(), "twin.db", cipher);
    let target = directory.path().join("target.db");
    let mut host = Host::python();
    let (page, frame) = (4136, 4216);
    for suffix in ["", "-swal"] {
        let (mut read_well, mut refused) = (0, 0);
        let whole = std::fs::read(side_file(&path, suffix)).expect("file");
        let other = std::fs::read(side_file(&twin, suffix)).expect("file");
        let (start, size) = if suffix.is_empty() {
            (8192, page)
        } else {
            (80, frame)
        };
        let units = (whole.len() - start) / size;
        let unit = |n: usize| start + n * size..start + (n + 1) * size;
        let mut changes: Vec<(String, Vec<u8>)> = Vec::new();
        for n in 0..units {
            for at in [0, 30, 50, 70, 90, 130, size - 1] {
                let mut bytes = whole.clone();
                bytes[start + n * size + at] ^= 0x20;
                changes.push((format!("flip {n} at {at}"), bytes));
            }
            let mut bytes = whole.clone();
            bytes[unit(n)].fill(0);
            changes.push((format!("zero {n}"), bytes));
            let mut bytes = whole.clone();
            bytes[unit(n)].copy_from_slice(&other[unit(n.min(other.len() / size - 1))]);
            changes.push((format!("from another database {n}"), bytes));
            if n + 1 < units {
                let mut bytes = whole.clone();
                let (a, b) = bytes.split_at_mut(start + (n + 1) * size);
                a[start + n * size..].swap_with_slice(&mut b[..size]);
                changes.push((format!("swap {n}"), bytes));
                let mut bytes = whole.clone();
                bytes.drain(unit(n));
                changes.push((format!("drop {n}"), bytes));
            }
            changes.push((format!("cut at {n}"), whole[..start + n * size].to_vec()));
            changes.push((
                format!("cut in {n}"),
                whole[..start + n * size + 99].to_vec(),
            ));
        }
        for at in (0..start).step_by(3) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            changes.push((format!("header byte {at}"), bytes));
        }
        for more in [1, 100, size, 3 * size + 7] {
            changes.push((
                format!("{more} more"),
                [whole.as_slice(), &vec![7; more]].concat(),
            ));
        }
        for (what, bytes) in changes {
            copy(&path, &target);
            std::fs::write(side_file(&target, suffix), bytes).expect("write");
            match read(&mut host, &target, &format!("{cipher}{suffix}: {what}")) {
                true => read_well += 1,
                false => refused += 1,
            }
        }
        println!("{cipher}{suffix}: {read_well} changes were harmless, {refused} refused");
        // The header has a twin, and unused bytes. A damaged frame ends the log.
        assert!(read_well > 0, "{suffix}");
        assert!(refused > 300 || !suffix.is_empty(), "{suffix}");
    }
    assert!(read(&mut host, &path, "untouched"));
}

/// What a hot rollback journal says is played back whole, or refused.
#[test]
fn a_journal_that_the_database_needs_cannot_be_changed_or_taken_away() {
    for cipher in CIPHERS {
        change_journal(cipher);
    }
}

fn change_journal(cipher: &str) {
    let directory = directory();
    let path = directory.path().join("app.db");
    let mut shell = Shell::replica(&path, &raw_with(cipher));
    shell.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT)");
    write(&mut shell, 1);
    shell.sql("PRAGMA cache_size = 5; BEGIN");
    for id in 1..=ROWS {
        shell.sql(&format!("REPLACE INTO t VALUES ({id}, '{}')", text(id, 2)));
    }
    shell.kill();
    let journal = std::fs::read(side_file(&path, "-sjournal")).expect("a hot journal");
    let database = std::fs::read(&path).expect("database");
    let target = directory.path().join("target.db");
    let mut host = Host::python();
    let mut answer = |bytes: Option<Vec<u8>>, what: &str| {
        std::fs::write(&target, &database).expect("write");
        match bytes {
            Some(bytes) => std::fs::write(side_file(&target, "-sjournal"), bytes).expect("write"),
            None => drop(std::fs::remove_file(side_file(&target, "-sjournal"))),
        }
        read(&mut host, &target, what)
    };
    assert!(answer(Some(journal.clone()), "untouched"));
    assert!(!answer(None, "taken away"));
    assert!(!answer(Some(Vec::new()), "empty"));
    let blocks = journal.len() / 554;
    let (mut harmless, mut refused) = (0, 0);
    let mut count = |read: bool| if read { harmless += 1 } else { refused += 1 };
    for n in (0..blocks).step_by(3).chain(blocks - 20..blocks) {
        let block = n * 554..(n + 1) * 554;
        for at in [0, 24, 40, 551] {
            let mut bytes = journal.clone();
            bytes[block.start + at] ^= 1;
            count(answer(Some(bytes), &format!("flip {n} at {at}")));
        }
        let mut bytes = journal.clone();
        bytes[block.clone()].fill(0);
        count(answer(Some(bytes), &format!("zero {n}")));
        count(answer(
            Some(journal[..block.start].to_vec()),
            &format!("cut at {n}"),
        ));
        if n > 0 {
            let mut bytes = journal.clone();
            bytes.copy_within(block.start - 554..block.start, block.start);
            count(answer(Some(bytes), &format!("the one before for {n}")));
        }
    }
    println!("{cipher}, {blocks} blocks: {harmless} changes were harmless, {refused} refused");
    // Only behind what was synced before the database was written.
    assert!(
        refused > 2 * harmless,
        "{refused} refused, {harmless} harmless"
    );
}

/// A checkpoint copies a part and is interrupted, or stops before a reader: then the log cannot be missed.
#[test]
fn a_log_that_was_copied_in_part_cannot_be_cut_or_taken_away() {
    let directory = directory();
    let path = directory.path().join("app.db");
    let mut shell = Shell::replica(&path, &raw());
    shell.sql("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT)");
    write(&mut shell, 1);
    shell.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    for round in [2, 3] {
        write(&mut shell, round);
    }
    let mut reader = Shell::replica(&path, &raw());
    reader.sql("BEGIN; SELECT count(*) FROM t");
    shell.sql(&format!(
        "UPDATE t SET text = '{}' WHERE id = 7",
        text(7, 4)
    ));
    let copied = shell.sql("PRAGMA wal_checkpoint(PASSIVE)");
    println!("busy|frames of the log|copied = {copied}");
    shell.kill();
    reader.kill();
    let log = std::fs::read(side_file(&path, "-swal")).expect("log");
    let target = directory.path().join("target.db");
    let mut host = Host::python();
    let (mut harmless, mut refused) = (0, 0);
    for n in 0..=(log.len() - 80) / 4216 {
        std::fs::copy(&path, &target).expect("copy");
        let _ = std::fs::remove_file(side_file(&target, "-shm"));
        std::fs::write(side_file(&target, "-swal"), &log[..80 + n * 4216]).expect("write");
        match read(&mut host, &target, &format!("cut at {n}")) {
            true => harmless += 1,
            false => refused += 1,
        }
    }
    println!("{harmless} cuts were harmless, {refused} refused");
    assert!(refused > 10 && harmless > 0);
    std::fs::copy(&path, &target).expect("copy");
    let _ = std::fs::remove_file(side_file(&target, "-shm"));
    let _ = std::fs::remove_file(side_file(&target, "-swal"));
    assert!(!read(&mut host, &target, "taken away"));
}

#[test]
fn ten_thousand_random_changes() {
    let directory = directory();
    let target = directory.path().join("target.db");
    let mut random = StdRng::seed_from_u64(harness::seed("random changes", 3));
    let victims = CIPHERS.map(|cipher| {
        let path = victim(directory.path(), "app.db", cipher);
        ["", "-swal"].map(|suffix| std::fs::read(side_file(&path, suffix)).expect("file"))
    });
    let mut host = Host::python();
    let (mut read_well, mut refused) = (0, 0);
    for round in 0..MUTATIONS {
        let _ = std::fs::remove_file(side_file(&target, "-shm"));
        let files = &victims[round as usize % victims.len()];
        for (suffix, whole) in ["", "-swal"].into_iter().zip(files) {
            let mut bytes = whole.clone();
            for _ in 0..random.random_range(0..3) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..4) {
                    0 => bytes[at] ^= 1 << random.random_range(0..8),
                    1 => {
                        let length = random.random_range(0..5000.min(bytes.len() - at));
                        bytes[at..at + length].fill(random.random_range(0..2) * 255);
                    }
                    2 => {
                        let length = random.random_range(0..5000.min(bytes.len() - at));
                        let from = random.random_range(0..bytes.len() - length);
                        bytes.copy_within(from..from + length, at);
                    }
                    _ if at > 8192 => bytes.truncate(at),
                    _ => {}
                }
            }
            std::fs::write(side_file(&target, suffix), bytes).expect("write");
        }
        match read(&mut host, &target, &format!("round {round}")) {
            true => read_well += 1,
            false => refused += 1,
        }
    }
    println!("{read_well} of {MUTATIONS} random changes were harmless, {refused} refused");
}

/// An older image of a page at its own place opens, and is found by comparing with the remote.
#[test]
fn an_older_image_of_a_page_is_named_by_verify() {
    let files = harness::Files::new();
    let mut primary: Primary = files.primary();
    let parameters = format!("sync_url={}&{}", primary.url(), raw());
    let mut replica = Shell::replica(&files.copy, &parameters);
    replica.sync();
    assert!(replica.close().code().is_some());
    let old = std::fs::read(&files.copy).expect("replica");
    primary.sql("UPDATE note SET extra = zeroblob(1000) WHERE id = 500");
    let mut replica = Shell::replica(&files.copy, &raw());
    replica.sync();
    assert!(replica.close().code().is_some());
    let mut new = std::fs::read(&files.copy).expect("replica");
    let changed: Vec<usize> = (1..old.len() / 4136)
        .filter(|page| {
            let record = 8192 + page * 4136..8192 + (page + 1) * 4136;
            record.end <= old.len() && old[record.clone()] != new[record]
        })
        .collect();
    assert!(!changed.is_empty());
    let page = changed[0];
    let record = 8192 + page * 4136..8192 + (page + 1) * 4136;
    new[record.clone()].copy_from_slice(&old[record]);
    std::fs::write(&files.copy, new).expect("write");
    let mut replica = Shell::replica(&files.copy, &raw());
    let verified = replica.sql("SELECT replica_verify()");
    println!("{verified}");
    assert_eq!(json(&verified, "$.ok"), "0", "{verified}");
    assert_eq!(
        json(&verified, "$.bad_pages[0]"),
        (page + 1).to_string(),
        "{verified}"
    );
    replica.sql("SELECT replica_discard()");
    let verified = replica.sql("SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "{verified}");
    assert_eq!(
        image::value(&files.app, "SELECT count(*) FROM note"),
        "1000"
    );
}

/// The state store of an encrypted replica: what is read is right, or refused.
#[test]
fn a_changed_state_store_is_harmless_or_refused() {
    let files = harness::Files::new();
    let primary = files.primary();
    let parameters = format!("sync_url={}&{}", primary.url(), raw());
    let mut replica = Shell::replica(&files.copy, &parameters);
    replica.sync();
    replica.close();
    let store = side_file(&files.copy, "-replica");
    let whole = std::fs::read(&store).expect("state store");
    let mut random = StdRng::seed_from_u64(harness::seed("state store", 11));
    let mut host = Host::python();
    let (mut read_well, mut refused) = (0, 0);
    for round in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[at] ^= 1 << random.random_range(0..8),
                1 => {
                    let count = 300.min(bytes.len() - at);
                    bytes.copy_within(0..count, at);
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        std::fs::write(&store, bytes).expect("write");
        let _ = std::fs::remove_file(side_file(&store, "-swal"));
        if host.try_open("main", &uri(&files.copy, &raw())).is_err() {
            refused += 1;
            continue;
        }
        match host.try_sql("main", "SELECT count(*), sum(length(extra)) FROM note") {
            Ok(rows) => {
                assert_eq!(rows, "1000|1000000", "round {round}");
                let _ = host.try_sql("main", "SELECT replica_sync()");
                read_well += 1;
            }
            Err(_) => refused += 1,
        }
        host.close_connection("main");
    }
    println!("{read_well} changes were harmless, {refused} refused");
    assert!(refused > 0);
}
