//! What a replica takes of its process: descriptors and threads, as long as it is open. `scripts/limits.sh` prints memory too.

use harness::{Files, Host, uri, wait_for};

/// Replicas in one process.
const REPLICAS: usize = 20;

/// Descriptors of a replica that follows: SQLite's own three, as many of the engine, three of the state store, a connection
/// to the primary for the thread and one for statements.
const DESCRIPTORS: usize = 14;

/// Descriptors and threads of a process.
fn taken(host: &mut Host) -> (usize, usize) {
    let process = format!("/proc/{}", host.process().pid());
    let count = |what: &str| {
        std::fs::read_dir(format!("{process}/{what}"))
            .expect("a process")
            .count()
    };
    (count("fd"), count("task"))
}

#[test]
fn a_replica_takes_one_thread_and_a_few_descriptors_and_gives_them_back() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut host = Host::bundled();
    let url = primary.url().to_string();
    let name = |number: usize, parameters: &str| {
        let path = files.path(&format!("copy{number}.db"));
        uri(&path, &format!("sync_url={url}{parameters}"))
    };
    // What the process keeps for all.
    host.open("0", &name(0, "&live=1"));
    host.sql("0", "SELECT count(*) FROM note");
    host.close_connection("0");
    let before = taken(&mut host);

    for (parameters, threads) in [
        ("&live=0", 0),
        ("&live=1", 1),
        ("&live=0&sync_interval=0.1", 1),
    ] {
        for number in 0..REPLICAS {
            let slot = number.to_string();
            host.open(&slot, &name(number, parameters));
            host.sql(&slot, "SELECT count(*) FROM note");
        }
        let text = parameters.replace('&', " ");
        primary.sql(&format!("UPDATE note SET text = '{text}' WHERE id = 1"));
        if threads > 0 {
            for number in 0..REPLICAS {
                let newest = "SELECT text FROM note WHERE id = 1";
                wait_for("the change", || {
                    host.sql(&number.to_string(), newest) == text
                });
            }
        }
        let open = taken(&mut host);
        let descriptors = open.0 - before.0;
        println!(
            "{text}: {descriptors} descriptors, {} threads",
            open.1 - before.1
        );
        assert_eq!(open.1 - before.1, threads * REPLICAS, "{text}: threads");
        assert!(
            descriptors <= DESCRIPTORS * REPLICAS,
            "{text}: {descriptors} descriptors"
        );
        // A second connection to each shares all of it but SQLite's own.
        if threads > 0 {
            for number in 0..REPLICAS {
                let slot = format!("second {number}");
                host.open(&slot, &name(number, ""));
                host.sql(&slot, "SELECT count(*) FROM note");
            }
            let more = taken(&mut host);
            assert_eq!(more.1, open.1, "{text}: threads");
            assert!(
                more.0 - before.0 <= (DESCRIPTORS + 3) * REPLICAS,
                "{text}: {} descriptors",
                more.0 - before.0
            );
            for number in 0..REPLICAS {
                host.close_connection(&format!("second {number}"));
            }
        }
        for number in 0..REPLICAS {
            host.close_connection(&number.to_string());
        }
        // A thread that was asked to end may take a moment.
        wait_for("all to be given back", || taken(&mut host) == before);
    }
}
