//! The harness itself, without the extension: a comparison that cannot fail would make every other test worthless.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use harness::bank::{self, Bank};
use harness::workload::Workload;
use harness::{Host, Image, Relay, Shell, assert_intact, directory, json, seed};

#[test]
fn workload_runs_on_plain_sqlite_and_makes_every_kind() {
    let seed = seed("workload", 1);
    for page_size in [512, 4096, 65536] {
        let directory = directory();
        let path = directory.path().join("app.db");
        let mut shell = Shell::plain(&path);
        let mut workload = Workload::new(seed, page_size);
        shell.sql(&workload.begin());
        let mut kinds = std::collections::BTreeMap::new();
        for _ in 0..500 {
            let step = workload.step();
            shell.sql(&step.sql);
            *kinds.entry(step.kind).or_insert(0) += 1;
        }
        assert_eq!(kinds.len(), 16, "{kinds:?}");
        assert_intact(&path, "workload");
        let image = Image::read(&path);
        assert_eq!(image.page_size(), page_size);
        println!("page size {page_size}: {} pages, {kinds:?}", image.pages());
    }
}

#[test]
fn bank_states_are_whole_and_a_torn_one_is_seen() {
    let directory = directory();
    let path = directory.path().join("bank.db");
    bank::create(&path, 4096);
    let mut bank = Bank::new(seed("bank", 2));
    let mut writer = Shell::plain(&path);
    let mut python = Host::plain_python();
    python.open("main", path.to_str().expect("UTF-8"));
    python.watch("main", bank::CHECK);
    let mut bundled = Host::plain_bundled();
    bundled.open("main", path.to_str().expect("UTF-8"));
    bundled.watch("main", bank::CHECK);
    for number in 1..=300 {
        writer.sql(&bank.transaction());
        if number % 20 == 0 {
            assert_eq!(bank::assert_whole(&path, "bank"), number);
        }
    }
    println!("python {}, bundled {}", python.stop(), bundled.stop());

    // What a torn application of a transaction would leave: one page's change without the other's.
    python.watch("main", bank::CHECK);
    writer.sql("UPDATE account SET balance = balance + 1 WHERE id = 1");
    let failure = python.stopped_by_itself();
    assert!(
        failure.message.contains("not one transaction"),
        "{failure:?}"
    );
    bundled.watch("main", "SELECT 1, 1");
    bundled.stop();
    let refused = std::panic::catch_unwind(|| bank::assert_whole(&path, "must be torn"));
    assert!(refused.is_err());
}

#[test]
fn images_tell_which_pages_differ() {
    let directory = directory();
    let one = directory.path().join("one.db");
    let two = directory.path().join("two.db");
    for path in [&one, &two] {
        Shell::plain(path).sql(
            "PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, zeroblob(9000))",
        );
    }
    assert!(
        Image::read(&one)
            .differing_pages(&Image::read(&two))
            .is_empty()
    );
    let mut shell = Shell::plain(&two);
    // Stays in the log: what is compared is what SQLite reads, not what the file holds.
    shell.sql("UPDATE t SET b = zeroblob(8999) || x'01'");
    let differing = Image::read(&one).differing_pages(&Image::read(&two));
    assert!(
        !differing.is_empty() && differing.len() < 5,
        "{differing:?}"
    );
    harness::assert_same(&one, &one, "itself");
    let different = std::panic::catch_unwind(|| harness::assert_same(&one, &two, "must differ"));
    assert!(different.is_err());
}

#[test]
fn relay_counts_both_directions_and_can_be_pointed_elsewhere() {
    let server = TcpListener::bind("127.0.0.1:0").expect("port");
    let address = server.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let mut question = [0; 5];
            stream.read_exact(&mut question).expect("question");
            stream.write_all(&[7; 1000]).expect("answer");
        }
    });
    let relay = Relay::to(&address);
    let url = relay.url("x");
    let through = url
        .strip_prefix("http://")
        .and_then(|rest| rest.strip_suffix("/x"))
        .expect("address");
    let mut stream = TcpStream::connect(through).expect("relay");
    stream.write_all(b"hello").expect("question");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answer");
    assert_eq!(answer.len(), 1000);
    assert_eq!((relay.take_sent(), relay.take_received()), (5, 1000));
    relay.point(None);
    let mut stream = TcpStream::connect(through).expect("relay");
    assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0);
}

#[test]
fn hosts_report_results_errors_and_codes() {
    for mut host in [Host::plain_python(), Host::plain_bundled()] {
        host.open("main", ":memory:");
        assert_eq!(
            host.sql("main", "SELECT 1, 'two', NULL, x'03'"),
            "1|two||03"
        );
        let failure = host.refused("main", "SELECT * FROM nothing");
        assert_eq!(failure.code, 1);
        assert!(failure.message.contains("nothing"), "{failure:?}");
        host.sql("main", "CREATE TABLE t(a UNIQUE)");
        host.sql("main", "INSERT INTO t VALUES (1)");
        let failure = host.refused("main", "INSERT INTO t VALUES (1)");
        assert_eq!(failure.code, 2067, "the extended code: {failure:?}");
    }
    let mut shell = Shell::plain(":memory:");
    assert_eq!(shell.sql("SELECT 1; SELECT 2"), "1\n2");
    assert!(shell.refused("SELECT * FROM nothing").contains("nothing"));
    assert_eq!(shell.sql("SELECT 3"), "3");
    assert_eq!(json(r#"{"a": {"b": 5}}"#, "$.a.b"), "5");
}
