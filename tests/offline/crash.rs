//! The process of a replica that is written offline ends at each call of a file that a commit, a push, a discard or a
//! rebase makes, one after the other: afterwards the file is what it was before or what it was to become, nothing that was acknowledged
//! is lost, and what is pushed later is on the primary once.

use std::collections::BTreeMap;
use std::path::Path;

use harness::full::amount;
use harness::image::copy_with_log;
use harness::{
    Client, Kind, Primary, Shell, Trouble, assert_intact, assert_same, directory, image, json,
};

/// What is interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Commit,
    Push,
    Discard,
    Rebase,
}

/// Whoever comes next.
const NEXT: [Kind; 3] = [Kind::Shell, Kind::Python, Kind::Bundled];

/// The number of the newest transaction, and whether all pages are of one transaction; then the same of what the primary
/// writes.
const CONTENT: &str =
    "SELECT (SELECT max(id) FROM word) || ' ' || group_concat(DISTINCT n) || '; ' ||
    (SELECT group_concat(DISTINCT n) FROM there) FROM other";

fn create(app: &Path) {
    Shell::plain(app).sql(
        "CREATE TABLE word(id INTEGER PRIMARY KEY);
         INSERT INTO word VALUES (0);
         CREATE TABLE other(id INTEGER PRIMARY KEY, n INTEGER, text TEXT);
         WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 400)
           INSERT INTO other SELECT n, 0, printf('%.200c', 'x') FROM c;
         CREATE TABLE there(id INTEGER PRIMARY KEY, n INTEGER, text TEXT);
         INSERT INTO there SELECT * FROM other;
         CREATE TABLE growth(bytes)",
    );
}

/// One transaction that changes most pages, and adds some.
fn transaction(number: u64) -> [String; 5] {
    [
        "BEGIN IMMEDIATE".to_string(),
        format!("INSERT INTO word VALUES ({number})"),
        format!("UPDATE other SET n = {number}"),
        match number % 3 {
            0 => "DELETE FROM growth".to_string(),
            _ => "INSERT INTO growth VALUES (randomblob(9000))".to_string(),
        },
        "COMMIT".to_string(),
    ]
}

/// How many kinds there are, with what follows each.
const KINDS: usize = 6;

fn run(client: &mut Client, number: u64) -> Result<(), Trouble> {
    transaction(number)
        .iter()
        .try_for_each(|statement| client.sql(statement).map(drop))
}

fn expected(number: u64, there: u64) -> String {
    format!("{number} {number}; {there}")
}

#[test]
fn the_process_ends_at_each_call_of_a_commit_a_push_a_discard_and_a_rebase() {
    let stride = amount("REPLICA_STRIDE", 5, 1);
    let directory = directory();
    let aside = harness::directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    create(&app);
    let mut primary = Primary::start(&app);
    let parameters = format!("sync_url={}&sync_timeout=5&offline=1", primary.url());
    let mut first = Client::on(Kind::Shell, &copy, &parameters);
    first.done("SELECT replica_sync()");
    first.close();
    let mut ends = BTreeMap::new();
    let (mut number, mut there) = (0, 0);
    for step in [Step::Commit, Step::Push, Step::Discard, Step::Rebase] {
        let mut nth = 1;
        // Transactions of one kind or another make more calls or fewer.
        let mut whole = 0;
        while whole < KINDS {
            // What the remote has.
            let base = image::value(&app, CONTENT);
            let mut client = Client::faulty();
            client.open(&copy, "").expect("a replica");
            assert_eq!(client.done(CONTENT), base, "{step:?} {nth}: at the start");
            number += 1;
            let before = match step {
                Step::Commit => base.clone(),
                _ => {
                    run(&mut client, number).expect("a transaction");
                    expected(number, there)
                }
            };
            if step == Step::Rebase {
                there = number;
                primary.sql(&format!("UPDATE there SET n = {there}"));
            }
            client.command("arm", &["death", &nth.to_string(), "1"]);
            let (answer, after) = match step {
                Step::Commit => (run(&mut client, number), expected(number, there)),
                Step::Push => (
                    client.sql("SELECT replica_push()").map(drop),
                    expected(number, there),
                ),
                Step::Rebase => (
                    client.sql("SELECT replica_rebase()").map(drop),
                    expected(number, there),
                ),
                Step::Discard => (
                    client.sql("SELECT replica_discard()").map(drop),
                    base.clone(),
                ),
            };
            let context = format!("{step:?}, call {nth}");
            let was_killed = match answer {
                Err(Trouble::Gone) => true,
                Ok(()) => false,
                Err(trouble) => panic!("{context}: {trouble:?}"),
            };
            client.kill();
            whole = if was_killed { 0 } else { whole + 1 };

            // As SQLite alone finds it.
            let as_left = copy_with_log(&copy, aside.path());
            assert_intact(&as_left, &context);
            let left = image::value(&as_left, CONTENT);
            assert!(
                left == before || left == after,
                "{context}: {left}, not {before} or {after}"
            );
            if !was_killed {
                assert_eq!(left, after, "{context}");
            }
            let which = if left == after { "after" } else { "before" };
            *ends.entry(format!("{step:?}: {which}")).or_insert(0) += 1;
            if number % 3 == 0 {
                // Plain SQLite recovers, looks, and closes as the last one.
                Client::on(Kind::PlainPython, &copy, "").close();
            }
            let mut next = Client::on(NEXT[number as usize % 3], &copy, "");
            let verified = next.done("SELECT replica_verify()");
            assert_eq!(json(&verified, "$.ok"), "1", "{context}: {verified}");
            assert_eq!(next.done(CONTENT), left, "{context}");
            assert_eq!(
                next.done("SELECT state FROM replica_status"),
                "ok",
                "{context}"
            );
            if step == Step::Commit && number % 2 == 0 {
                // It goes back to what the remote has, whatever was under way.
                next.done("SELECT replica_discard()");
                assert_eq!(next.done(CONTENT), base, "{context}");
            }
            match step {
                Step::Rebase => next.done("SELECT replica_rebase()"),
                _ => next.done("SELECT replica_sync()"),
            };
            if step == Step::Rebase {
                assert_eq!(next.done(CONTENT), after, "{context}");
            }
            assert_eq!(
                next.done(
                    "SELECT pending_transactions || ' ' || pending_pages FROM replica_status"
                ),
                "0 0",
                "{context}"
            );
            next.close();
            assert_same(&app, &copy, &context);
            nth += stride;
        }
        println!("{step:?}: {nth} calls");
    }
    println!("{ends:?}");
    assert_eq!(ends.len(), 7, "the moments were not met: {ends:?}");
    let verified = primary.sql("SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "{verified}");
}
