//! `UPDATE c SET n = n + 1` from several replicas at once: no increment is lost, none is done twice.

use std::time::Instant;

use harness::full::amount;
use harness::image::value;
use harness::{Client, Kind, Primary, assert_intact, assert_same, directory, image, json};

const KINDS: [Kind; 4] = [Kind::Shell, Kind::Python, Kind::Bundled, Kind::Python];

/// Counts to `each` on one replica for each of `modes`; how often SQLite said "busy".
fn count(modes: &[&str], each: u64) -> u64 {
    let directory = directory();
    let app = directory.path().join("app.db");
    image::create(&app)
        .execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE c(n INTEGER); INSERT INTO c VALUES (0);",
        )
        .expect("a counter");
    let mut primary = Primary::start(&app);
    let paths: Vec<_> = (0..modes.len())
        .map(|replica| directory.path().join(format!("replica-{replica}.db")))
        .collect();
    let begun = Instant::now();
    let (clients, busy): (Vec<Client>, Vec<u64>) = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (replica, (path, mode)) in paths.iter().zip(modes).enumerate() {
            let parameters = format!("sync_url={}&write_mode={mode}", primary.url());
            threads.push(scope.spawn(move || {
                let mut client = Client::on(KINDS[replica % KINDS.len()], path, &parameters);
                let mut busy = 0;
                let mut seen = 0;
                for number in 1..=each {
                    busy += client.insist("UPDATE c SET n = n + 1");
                    if number % 50 == 0 {
                        // What it has committed, it reads.
                        let now: u64 = client.done("SELECT n FROM c").parse().expect("a number");
                        assert!(
                            now >= number && now >= seen + 50,
                            "{now} after {seen}, at {number}"
                        );
                        seen = now;
                    }
                }
                println!(
                    "{:?}, {mode}: busy {busy} times in {each}, {:?}",
                    client.kind(),
                    begun.elapsed()
                );
                (client, busy)
            }));
        }
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a writer"))
            .unzip()
    });
    let total = each * modes.len() as u64;
    let rate = total as f64 / begun.elapsed().as_secs_f64();
    println!("{modes:?}: {total} increments, {rate:.0} each second, busy {busy:?}");
    assert_eq!(
        primary.sql("SELECT n FROM c"),
        total.to_string(),
        "on the primary"
    );
    for (mut client, path) in clients.into_iter().zip(&paths) {
        client.done("SELECT replica_sync()");
        assert_eq!(
            client.done("SELECT n FROM c"),
            total.to_string(),
            "on a replica"
        );
        assert_eq!(client.done("SELECT state FROM replica_status"), "ok");
        let verified = client.done("SELECT replica_verify()");
        assert_eq!(json(&verified, "$.ok"), "1", "{verified}");
        assert_same(&app, path, "in the end");
        client.close();
        assert_intact(path, "closed");
        assert_eq!(value(path, "SELECT n FROM c"), total.to_string());
    }
    busy.into_iter().sum()
}

#[test]
fn four_replicas_count() {
    count(&["auto"; 4], amount("REPLICA_COUNTS", 150, 2000));
}

#[test]
fn four_replicas_count_by_leases() {
    let busy = count(&["exclusive"; 4], amount("REPLICA_COUNTS", 100, 500));
    println!("busy {busy} times by leases");
}

#[test]
fn four_replicas_count_optimistically() {
    let busy = count(&["optimistic"; 4], amount("REPLICA_COUNTS", 60, 300));
    assert!(busy > 0, "they never met");
}

#[test]
fn replicas_of_all_modes_count() {
    let each = amount("REPLICA_COUNTS", 80, 500);
    count(&["auto", "exclusive", "optimistic", "auto"], each);
}

/// Whoever writes on the primary itself takes part, with the extension and without, and nobody starves.
#[test]
fn programs_on_the_primary_count_too() {
    let each = amount("REPLICA_COUNTS", 80, 500);
    let directory = directory();
    let app = directory.path().join("app.db");
    image::create(&app)
        .execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE c(n INTEGER); INSERT INTO c VALUES (0);",
        )
        .expect("a counter");
    let mut primary = Primary::start(&app);
    let url = format!("sync_url={}", primary.url());
    let places = [
        (Kind::Python, "replica-1.db", url.as_str()),
        (Kind::Shell, "replica-2.db", &url),
        (Kind::Bundled, "replica-2.db", &url),
        (Kind::Bundled, "app.db", ""),
        (Kind::PlainPython, "app.db", ""),
    ];
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (kind, name, parameters) in places {
            let path = directory.path().join(name);
            scope.spawn(move || {
                let mut client = Client::on(kind, &path, parameters);
                if kind == Kind::PlainPython {
                    client.done("PRAGMA busy_timeout = 5000");
                }
                let busy: u64 = (0..each)
                    .map(|_| client.insist("UPDATE c SET n = n + 1"))
                    .sum();
                println!(
                    "{kind:?} on {name}: busy {busy} times, {:?}",
                    begun.elapsed()
                );
                client.close();
            });
        }
    });
    let total = (each * places.len() as u64).to_string();
    assert_eq!(primary.sql("SELECT n FROM c"), total);
    for name in ["replica-1.db", "replica-2.db"] {
        let copy = directory.path().join(name);
        let mut client = Client::on(Kind::Shell, &copy, "");
        client.done("SELECT replica_sync()");
        assert_eq!(client.done("SELECT n FROM c"), total, "{name}");
        assert_same(&app, &copy, name);
    }
}

#[test]
fn one_replica_is_never_in_its_own_way() {
    let busy = count(&["auto"], amount("REPLICA_COUNTS", 300, 2000));
    assert_eq!(busy, 0, "nobody else writes");
}
