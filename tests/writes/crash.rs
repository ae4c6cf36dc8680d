//! The replica's process ends at each call of a file that a COMMIT makes, one after the other: the file is whole and
//! understood, and the transaction is there once or not at all.

use std::collections::BTreeMap;

use harness::full::amount;
use harness::image::copy_with_log;
use harness::{
    Client, Image, Kind, Primary, Relay, Trouble, assert_intact, assert_same, directory, image,
    json,
};

#[path = "machine/shapes.rs"]
mod shapes;

use shapes::{Shape, create};

/// Three kinds of whoever comes next.
const NEXT: [Kind; 3] = [Kind::Shell, Kind::Python, Kind::Bundled];

#[test]
fn the_process_ends_at_each_call_of_a_commit() {
    let stride = amount("REPLICA_STRIDE", 6, 1);
    let directory = directory();
    let aside = harness::directory();
    let app = directory.path().join("app.db");
    let copy = directory.path().join("replica.db");
    create(&app);
    let mut primary = Primary::start(&app);
    let relay = Relay::to(primary.address());
    let parameters = format!("sync_url={}&sync_timeout=5", relay.url("app"));
    let mut first = Client::on(Kind::Shell, &copy, &parameters);
    first.done("SELECT replica_sync()");
    first.close();
    let whole = relay.take_received();
    let mut ends = BTreeMap::new();
    let mut id = 0;
    for shape in Shape::ALL {
        let mut nth = 1 + id % stride;
        loop {
            id += 1;
            let context = format!("{shape:?}, call {nth}");
            let there = format!("SELECT count(*) FROM word WHERE id = {id}");
            let mut client = Client::faulty();
            client.open(&copy, "").expect("a replica");
            client.done("SELECT count(*) FROM word");
            if shape == Shape::Whole {
                // There is something to be entered first.
                primary.sql("UPDATE other SET text = randomblob(300) WHERE id % 20 = 0");
                client.command("arm", &["death", &nth.to_string(), "1"]);
            } else {
                shape.prepare(&mut client, id);
                client.command("arm", &["death", &nth.to_string(), "1"]);
            }
            let mut answer = Ok(String::new());
            if shape == Shape::Whole {
                answer = shape
                    .statements(id)
                    .iter()
                    .map(|statement| client.sql(statement))
                    .find(Result::is_err)
                    .unwrap_or(answer);
            }
            let answer = answer.and_then(|_| client.sql("COMMIT"));
            let was_killed = match answer {
                Err(Trouble::Gone) => true,
                Ok(_) => false,
                Err(trouble) => panic!("{context}: {trouble:?}"),
            };
            client.kill();
            let on_primary = image::value(&app, &there);
            let as_left = copy_with_log(&copy, aside.path());
            assert_intact(&as_left, &context);
            let as_left = image::value(&as_left, &there);
            assert!(
                as_left <= on_primary,
                "{context}: here and not on the primary"
            );
            if !was_killed {
                assert_eq!(
                    (as_left.as_str(), on_primary.as_str()),
                    ("1", "1"),
                    "{context}"
                );
                break;
            }
            *ends
                .entry(format!("here {as_left}, on the primary {on_primary}"))
                .or_insert(0) += 1;
            if id % 3 == 0 {
                // Plain SQLite recovers, looks, and closes as the last one.
                Client::on(Kind::PlainPython, &copy, "").close();
            }
            let before = Image::read(&copy);
            relay.take_received();
            let mut next = Client::on(NEXT[id as usize % 3], &copy, "");
            if id % 2 == 0 {
                next.insist(&format!("INSERT INTO word(id) VALUES ({})", 1_000_000 + id));
            } else {
                next.done("SELECT replica_sync()");
            }
            assert_eq!(
                next.done("SELECT state FROM replica_status"),
                "ok",
                "{context}"
            );
            assert_eq!(next.done(&there), on_primary, "{context}");
            assert_eq!(image::value(&app, &there), on_primary, "{context}");
            assert_same(&app, &copy, &context);
            let received = relay.take_received();
            let differing = before.differing_pages(&Image::read(&app)).len() as u64;
            assert!(
                received <= 2 * 4096 * differing + 10_000 && received < whole,
                "{context}: {received} bytes for {differing} changed pages; the whole is {whole}"
            );
            next.close();
            nth += stride;
        }
        println!("{shape:?}: {nth} calls");
    }
    println!("{ends:?}");
    // Between the two is one call or another of each shape: only the full run meets it for sure.
    let met = if stride == 1 { 3 } else { 2 };
    assert!(ends.len() >= met, "the moments were not met: {ends:?}");
    let verified = primary.sql("SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "{verified}");
}
