//! What the extension costs, measured against a baseline in the same run: rounds of A B A B, medians with extremes.
//! Nothing is asserted on time. Run by scripts/bench.sh with the folder in which it has made `debian.db`.

mod figures;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use figures::{Figure, heading, line};
use harness::shell::SQLITE3;
use harness::{Primary, Relay, image, json, library, number, uri};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;

const READ_ROUNDS: usize = 101;
const POINT_READS: usize = 1000;
const SCAN_ROUNDS: usize = 41;
const BOOTSTRAPS: usize = 7;
const SYNCS: usize = 2000;
const ONE_ROW_SYNCS: usize = 200;
const COMMIT_ROUNDS: usize = 21;
const COMMITS: usize = 50;

fn main() {
    let work = PathBuf::from(std::env::args().nth(1).expect("a folder with debian.db"));
    load();
    let debian = work.join("debian.db");
    let size = std::fs::metadata(&debian).expect("debian.db").len();
    println!(
        "SQLite {}; the demo database has {} bytes",
        rusqlite::version(),
        size
    );
    heading();
    let bytes = std::fs::metadata(library()).expect("library").len();
    line(
        "the stripped library",
        &Figure::new(vec![bytes as f64 / 1048576.0]),
        "MiB",
        "<= 8",
    );

    let plain = work.join("plain.db");
    let unserved = work.join("unserved.db");
    for copy in [&plain, &unserved] {
        std::fs::copy(&debian, copy).expect("copy");
    }
    let mut primary = Primary::start(&debian);
    bootstraps(&work, &primary, &plain, size);
    let copy = work.join("replica.db");
    let replica = open(&uri(&copy, &format!("sync_url={}", primary.url())));
    text(&replica, "SELECT replica_sync()");
    // The replica stays open meanwhile, as it does in a program that uses one.
    let plain = plain.to_str().expect("UTF-8").to_string();
    reads(&[plain.clone(), uri(&unserved, ""), uri(&copy, ""), plain]);
    syncs(&mut primary, &replica);
    one_row(&work, &mut primary);
    commits(&work);
}

fn load() {
    let loader = Connection::open_in_memory().expect("memory");
    // SAFETY: the library that is measured is an SQLite extension.
    unsafe {
        loader.load_extension_enable().expect("allowed");
        loader
            .load_extension(library(), None::<&str>)
            .expect("loads");
    }
}

fn open(name: &str) -> Connection {
    Connection::open(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(connection: &Connection, sql: &str) -> String {
    connection
        .query_row(sql, [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Milliseconds of one call.
fn timed(call: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    call();
    begun.elapsed().as_secs_f64() * 1000.0
}

/// Milliseconds of this thread on a core: what a busy machine does to the clock is left out.
fn worked(call: impl FnOnce()) -> f64 {
    let now = || {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the structure lives across the call.
        let code = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        assert_eq!(code, 0, "the clock");
        time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
    };
    let begun = now();
    call();
    now() - begun
}

/// The time of each way in each round; the ways take turns, and each round begins with another one.
fn rounds(
    count: usize,
    ways: usize,
    mut measure: impl FnMut(usize, usize) -> f64,
) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); ways];
    // The first round warms caches and is not counted.
    for round in 0..=count {
        for turn in 0..ways {
            let way = (round + turn) % ways;
            let time = measure(way, round);
            if round > 0 {
                times[way].push(time);
            }
        }
    }
    times
}

/// Plain SQLite, the VFS without a role, a replica, and plain SQLite once more: how far that ratio is from 1 is what
/// this machine's figures are worth. One connection at a time: in this SQLite all share one page cache.
fn reads(names: &[String; 4]) {
    let newest: i64 = open(&names[0])
        .query_row("SELECT max(rowid) FROM package", [], |row| row.get(0))
        .expect("rows");
    // Each read is a transaction of its own, with the locks it takes.
    let times = rounds(READ_ROUNDS, 4, |way, round| {
        let connection = open(&names[way]);
        let mut statement = connection
            .prepare("SELECT name, description FROM package WHERE rowid = ?1")
            .expect("prepares");
        let mut random = StdRng::seed_from_u64(round as u64);
        let mut read = || {
            let id = random.random_range(1..=newest);
            let mut rows = statement.query([id]).expect("reads");
            let row = rows.next().expect("reads").expect("a row");
            std::hint::black_box(row.get_ref(1).expect("a text"));
        };
        (0..POINT_READS).for_each(|_| read());
        worked(|| (0..POINT_READS).for_each(|_| read())) * 1e3 / POINT_READS as f64
    });
    compare("point read", "us", &times);

    let scan = "SELECT sum(length(description)) + (SELECT count(kind || relation) FROM dependency) FROM package";
    let times = rounds(SCAN_ROUNDS, 4, |way, _| {
        let connection = open(&names[way]);
        text(&connection, "SELECT name FROM package LIMIT 1");
        worked(|| {
            let answer: i64 = connection
                .query_row(scan, [], |row| row.get(0))
                .expect("scans");
            std::hint::black_box(answer);
        })
    });
    compare("full scan", "ms", &times);
}

fn compare(what: &str, unit: &str, times: &[Vec<f64>]) {
    let plain = &times[0];
    line(
        &format!("{what} (CPU time): plain SQLite"),
        &Figure::new(plain.clone()),
        unit,
        "",
    );
    for (name, way, target) in [
        ("VFS, not served", 1, "<= 1.02"),
        ("replica", 2, "<= 1.02"),
        ("plain SQLite again", 3, ""),
    ] {
        let ratio = Figure::ratio(&times[way], plain);
        line(&format!("{what}: {name} / plain"), &ratio, "x", target);
    }
}

fn bootstraps(work: &Path, primary: &Primary, plain: &Path, size: u64) {
    let copy = work.join("bootstrap.db");
    let times = rounds(BOOTSTRAPS, 2, |way, _| {
        let time = match way {
            0 => timed(|| {
                let status = Command::new(SQLITE3)
                    .args(["-batch", "-init", "/dev/null"])
                    .arg(plain)
                    .arg(format!(".backup '{}'", copy.display()))
                    .status()
                    .expect("sqlite3 runs");
                assert!(status.success(), "{status}");
            }),
            _ => {
                let mut replica = None;
                let time = timed(|| {
                    let connection = open(&uri(&copy, &format!("sync_url={}", primary.url())));
                    text(&connection, "SELECT name FROM package LIMIT 1");
                    replica = Some(connection);
                });
                drop(replica);
                time
            }
        };
        image::remove_database(&copy);
        time
    });
    line(
        "bootstrap: sqlite3 .backup",
        &Figure::new(times[0].clone()),
        "ms",
        "",
    );
    line(
        "bootstrap: replica",
        &Figure::new(times[1].clone()),
        "ms",
        "",
    );
    line(
        "bootstrap: replica / .backup",
        &Figure::ratio(&times[1], &times[0]),
        "x",
        "<= 3",
    );

    let relay = Relay::to(primary.address());
    let connection = open(&uri(&copy, &format!("sync_url={}", relay.url("debian"))));
    text(&connection, "SELECT name FROM package LIMIT 1");
    let travelled = relay.take_received() + relay.take_sent();
    drop(connection);
    image::remove_database(&copy);
    line(
        "bootstrap: bytes on the wire / database",
        &Figure::new(vec![travelled as f64 / size as f64]),
        "x",
        "<= 0.6",
    );
}

/// A sync that finds nothing new, and what the loopback alone takes.
fn syncs(primary: &mut Primary, replica: &Connection) {
    let address = primary.address().to_string();
    let mut bare = BufReader::new(TcpStream::connect(address).expect("connects"));
    bare.get_ref().set_nodelay(true).expect("set");
    let mut statement = replica.prepare("SELECT replica_sync()").expect("prepares");
    let times = rounds(SYNCS, 2, |way, _| match way {
        0 => timed(|| health(&mut bare)),
        _ => timed(|| {
            let answer: String = statement.query_row([], |row| row.get(0)).expect("syncs");
            assert!(answer.contains(r#""transactions":0"#), "{answer}");
        }),
    });
    line(
        "no-op sync: a bare HTTP round trip to the primary",
        &Figure::new(times[0].clone()),
        "ms",
        "",
    );
    line("no-op sync", &Figure::new(times[1].clone()), "ms", "<= 0.5");
}

/// One request that costs the primary nothing.
fn health(stream: &mut BufReader<TcpStream>) {
    stream
        .get_mut()
        .write_all(b"GET /health HTTP/1.1\r\nhost: primary\r\n\r\n")
        .expect("sends");
    let (mut text, mut length) = (String::new(), 0);
    while !text.ends_with("\r\n\r\n") {
        let start = text.len();
        assert!(
            stream.read_line(&mut text).expect("answers") > 0,
            "the primary hung up"
        );
        if let Some(value) = text[start..]
            .to_ascii_lowercase()
            .strip_prefix("content-length:")
        {
            length = value.trim().parse().expect("a length");
        }
    }
    stream.read_exact(&mut vec![0; length]).expect("answers");
}

/// Syncs of one changed row, through a relay that counts everything.
fn one_row(work: &Path, primary: &mut Primary) {
    let relay = Relay::to(primary.address());
    let copy = work.join("counted.db");
    let replica = open(&uri(&copy, &format!("sync_url={}", relay.url("debian"))));
    text(&replica, "SELECT replica_sync()");
    let (mut bodies, mut wire, mut times) = (Vec::new(), Vec::new(), Vec::new());
    let mut random = StdRng::seed_from_u64(1);
    for round in 0..ONE_ROW_SYNCS {
        let id = random.random_range(1..20_000);
        primary.sql(&format!(
            "UPDATE package SET size = size + {round} WHERE rowid = {id}"
        ));
        relay.take_received();
        relay.take_sent();
        let answer = text(&replica, "SELECT replica_sync()");
        if number(&answer, "$.transactions") == 0 {
            continue;
        }
        bodies.push((number(&answer, "$.bytes_received") + number(&answer, "$.bytes_sent")) as f64);
        wire.push((relay.take_received() + relay.take_sent()) as f64);
        times.push(json(&answer, "$.milliseconds").parse().expect("a number"));
    }
    line(
        "one-row sync: bytes of both bodies",
        &Figure::new(bodies),
        "bytes",
        "<= 500",
    );
    line(
        "one-row sync: bytes on the wire, HTTP included",
        &Figure::new(wire),
        "bytes",
        "",
    );
    line(
        "one-row sync: time, through a relay",
        &Figure::new(times),
        "ms",
        "",
    );
}

/// Commits of one row each: plain SQLite, and the same by a program that serves the database, with a follower.
fn commits(work: &Path) {
    let make = |name: &str| {
        let path = work.join(name);
        harness::notes(&path);
        path
    };
    let plain = open(make("commit-plain.db").to_str().expect("UTF-8"));
    let served = open(&uri(&make("commit-served.db"), ""));
    let unserved = open(&uri(&make("commit-vfs.db"), ""));
    let url = json(
        &text(&served, "SELECT replica_serve('127.0.0.1:0')"),
        "$.url",
    );
    let replica = open(&uri(
        &work.join("commit-replica.db"),
        &format!("sync_url={url}"),
    ));
    text(&replica, "SELECT replica_sync()");
    let connections = [&plain, &unserved, &served];
    let mut statements = connections.map(|connection| {
        connection
            .prepare("INSERT INTO note(text, extra) VALUES ('committed', randomblob(200))")
            .expect("prepares")
    });
    let times = rounds(COMMIT_ROUNDS, 3, |way, _| {
        timed(|| {
            for _ in 0..COMMITS {
                statements[way].execute([]).expect("commits");
            }
        }) / COMMITS as f64
    });
    line(
        "commit: plain SQLite",
        &Figure::new(times[0].clone()),
        "ms",
        "",
    );
    line(
        "commit: VFS, not served / plain",
        &Figure::ratio(&times[1], &times[0]),
        "x",
        "",
    );
    line(
        "commit: served / plain",
        &Figure::ratio(&times[2], &times[0]),
        "x",
        "",
    );
    text(&replica, "SELECT replica_sync()");
    text(&served, "SELECT replica_stop()");
}
