//! Writers that stop half-way: what they held is free again, for others on the same replica, on other replicas and on
//! the primary.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::{Client, Kind, Primary, Trouble, assert_same, directory, image};
use tempfile::TempDir;

/// Much less than a lease lasts.
const SOON: Duration = Duration::from_millis(2500);

const SQLITE_BUSY_SNAPSHOT: i32 = 517;

struct Setup {
    directory: TempDir,
    app: PathBuf,
    primary: Primary,
}

impl Setup {
    fn new() -> Setup {
        let directory = directory();
        let app = directory.path().join("app.db");
        image::create(&app)
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE word(text);")
            .expect("words");
        let primary = Primary::start(&app);
        Setup {
            directory,
            app,
            primary,
        }
    }

    fn replica(&self, kind: Kind, name: &str, mode: &str) -> Client {
        let path = self.directory.path().join(name);
        let parameters = format!("sync_url={}&write_mode={mode}", self.primary.url());
        let mut client = Client::on(kind, &path, &parameters);
        client.done("SELECT replica_sync()");
        client
    }

    /// Another replica, and a program on the primary, write soon.
    #[track_caller]
    fn assert_free(&self, other: &mut Client, context: &str) {
        let begun = Instant::now();
        other.insist("INSERT INTO word VALUES ('another replica')");
        let replica = begun.elapsed();
        let mut plain = Client::on(Kind::PlainPython, &self.app, "");
        plain.done("PRAGMA busy_timeout = 20000");
        plain.done("INSERT INTO word VALUES ('on the primary')");
        let took = begun.elapsed();
        println!("{context}: another replica wrote after {replica:?}, the primary after {took:?}");
        assert!(took < SOON, "{context}: others waited for {took:?}");
    }
}

#[track_caller]
fn assert_code(refused: Trouble, code: i32) {
    match refused {
        Trouble::Refused(failure) => assert_eq!(failure.code, code, "{failure:?}"),
        Trouble::Gone => panic!("the process is gone"),
    }
}

#[test]
fn a_lease_ends_with_its_transaction() {
    let setup = Setup::new();
    let mut holder = setup.replica(Kind::Python, "holder.db", "exclusive");
    let mut other = setup.replica(Kind::Bundled, "other.db", "exclusive");
    for end in ["COMMIT", "ROLLBACK"] {
        holder.insist("BEGIN IMMEDIATE");
        holder.done("INSERT INTO word VALUES ('mine')");
        // Held, for real: a program on the primary waits.
        let mut plain = Client::on(Kind::PlainPython, &setup.app, "");
        plain.done("PRAGMA busy_timeout = 0");
        let refused = plain
            .sql("INSERT INTO word VALUES ('now')")
            .expect_err("locked");
        assert!(refused.is_busy(), "{refused:?}");
        holder.done(end);
        setup.assert_free(&mut other, end);
    }
}

#[test]
fn a_lease_ends_with_its_connection() {
    let setup = Setup::new();
    let mut other = setup.replica(Kind::Bundled, "other.db", "exclusive");
    let mut holder = setup.replica(Kind::Python, "holder.db", "exclusive");
    holder.insist("BEGIN IMMEDIATE");
    holder.done("INSERT INTO word VALUES ('mine')");
    holder.close();
    setup.assert_free(&mut other, "closed");
    assert_eq!(
        image::value(&setup.app, "SELECT count(*) FROM word WHERE text = 'mine'"),
        "0"
    );
}

#[test]
fn a_lease_ends_with_its_holder() {
    let setup = Setup::new();
    let mut other = setup.replica(Kind::Bundled, "other.db", "auto");
    let mut holder = setup.replica(Kind::Python, "holder.db", "exclusive");
    holder.insist("BEGIN IMMEDIATE");
    holder.kill();
    setup.assert_free(&mut other, "killed");
}

/// A transaction that has read cannot be brought up to date: it ends, and whoever ran it need not come back.
#[test]
fn a_lease_does_not_stay_with_whoever_gave_up() {
    let setup = Setup::new();
    let mut holder = setup.replica(Kind::Python, "holder.db", "exclusive");
    let mut other = setup.replica(Kind::Bundled, "other.db", "auto");
    holder.done("BEGIN");
    holder.done("SELECT count(*) FROM word");
    other.insist("INSERT INTO word VALUES ('meanwhile')");
    let refused = holder
        .sql("INSERT INTO word VALUES ('too late')")
        .expect_err("it read an older state");
    assert_code(refused, SQLITE_BUSY_SNAPSHOT);
    holder.done("ROLLBACK");
    setup.assert_free(&mut other, "given up");
}

#[test]
fn a_statement_that_fails_holds_nothing() {
    let setup = Setup::new();
    let mut holder = setup.replica(Kind::Python, "holder.db", "exclusive");
    let mut other = setup.replica(Kind::Bundled, "other.db", "auto");
    holder.insist("CREATE TABLE single(n INTEGER PRIMARY KEY)");
    holder.insist("INSERT INTO single VALUES (1)");
    assert_code(
        holder
            .sql("INSERT INTO single VALUES (1)")
            .expect_err("twice"),
        1555,
    );
    setup.assert_free(&mut other, "a constraint");
    // It changes nothing.
    holder.insist("UPDATE word SET text = 'x' WHERE 0");
    setup.assert_free(&mut other, "nothing changed");
}

/// What two processes on one replica hold (the file's lock, and a lease) never makes them wait for each other.
#[test]
fn two_processes_on_one_replica_do_not_stop_each_other() {
    let setup = Setup::new();
    let each = 60;
    let places = [
        (Kind::Python, "one.db", "auto"),
        (Kind::Bundled, "one.db", "auto"),
        (Kind::Python, "two.db", "auto"),
    ];
    let mut clients: Vec<Client> = places
        .iter()
        .map(|(kind, name, mode)| setup.replica(*kind, name, mode))
        .collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || {
                for _ in 0..each {
                    client.insist("INSERT INTO word VALUES ('x')");
                }
                println!("{:?}: {:?}", client.kind(), begun.elapsed());
            });
        }
    });
    let took = begun.elapsed();
    println!("{} writes in {took:?}", each * clients.len());
    let expected = (each * clients.len()).to_string();
    assert_eq!(
        image::value(&setup.app, "SELECT count(*) FROM word"),
        expected
    );
    // Some seconds; a lease that nobody can use lasts for five, and there would be many.
    assert!(took < Duration::from_secs(45), "they stood still: {took:?}");
}

/// Two processes on one replica: one writes at a time, and who was refused is not in the way of anything else.
#[test]
fn a_write_that_was_refused_leaves_the_connection_free_for_another_replica() {
    let setup = Setup::new();
    let mut holder = setup.replica(Kind::Python, "one.db", "auto");
    let mut client = setup.replica(Kind::Bundled, "one.db", "auto");
    drop(setup.replica(Kind::Bundled, "two.db", "auto"));
    let two = harness::uri(&setup.directory.path().join("two.db"), "");
    client.done(&format!("ATTACH '{two}' AS two"));
    client.done("PRAGMA busy_timeout = 0");
    holder.insist("BEGIN IMMEDIATE");
    holder.done("INSERT INTO word VALUES ('mine')");
    let refused = client
        .sql("INSERT INTO main.word VALUES ('now')")
        .expect_err("locked");
    assert!(refused.is_busy(), "{refused:?}");
    client.insist("INSERT INTO two.word VALUES ('through the other one')");
    // What was computed before that is refused at its COMMIT.
    assert_code(
        holder.sql("COMMIT").expect_err("a conflict"),
        SQLITE_BUSY_SNAPSHOT,
    );
    // Both in one transaction: never.
    client.insist("BEGIN");
    client.insist("INSERT INTO two.word VALUES ('first')");
    let refused = client
        .sql("INSERT INTO main.word VALUES ('second')")
        .expect_err("two replicas");
    assert_code(refused, 6);
    let sentence = client.done("SELECT replica_last_error()");
    assert!(
        sentence.contains("two replicas") || sentence.contains("already"),
        "{sentence}"
    );
    client.done("ROLLBACK");
    client.insist("INSERT INTO main.word VALUES ('alone')");
    assert_eq!(
        image::value(&setup.app, "SELECT group_concat(text) FROM word"),
        "through the other one,alone"
    );
    for (name, schema) in [("one.db", "main"), ("two.db", "two")] {
        client.done(&format!("SELECT replica_sync('{schema}')"));
        assert_same(&setup.app, &setup.directory.path().join(name), name);
    }
}
