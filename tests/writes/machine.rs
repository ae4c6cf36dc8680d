//! Every call of a file, and every allocation, that SQLite and the extension make in a COMMIT fails in turn, once or from
//! then on: what the primary has is never reported as something to be run again, and everything goes on by itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use harness::full::amount;
use harness::{
    Client, Image, Primary, Trouble, assert_intact, assert_same, directory, image, json,
};
use tempfile::TempDir;

#[path = "machine/shapes.rs"]
mod shapes;

use shapes::{Shape, create};

const SQLITE_BUSY: i32 = 5;
const SQLITE_NOMEM: i32 = 7;
const SQLITE_IOERR: i32 = 10;

/// One COMMIT whose `nth` call fails. What it ended with; `None` where it makes fewer calls than that.
fn attempt(
    client: &mut Client,
    shape: Shape,
    id: u64,
    what: &str,
    (nth, count): (u64, u64),
) -> Option<Result<(), i32>> {
    let arguments = [what, &nth.to_string(), &count.to_string()];
    let committed = if let Shape::Whole = shape {
        client.command("arm", &arguments);
        let statements = shape.statements(id);
        let all = statements.iter().map(String::as_str).chain(["COMMIT"]);
        all.map(|statement| client.sql(statement))
            .find(|answer| answer.is_err())
            .unwrap_or(Ok(String::new()))
    } else {
        shape.prepare(client, id);
        client.command("arm", &arguments);
        client.sql("COMMIT")
    };
    let counts = client.command("disarm", &[what]);
    let committed = match committed {
        Ok(_) => Ok(()),
        Err(Trouble::Refused(failure)) => Err(failure.code),
        Err(Trouble::Gone) => panic!("{shape:?}, {what} {nth}: the process is gone"),
    };
    if counts.ends_with("|0") {
        assert_eq!(committed, Ok(()), "{shape:?}, {what} {nth}: nothing failed");
        return None;
    }
    Some(committed)
}

/// A replica whose machine fails, and its primary.
struct Machine {
    directory: TempDir,
    app: PathBuf,
    copy: PathBuf,
    primary: Primary,
    client: Client,
}

impl Machine {
    fn new(shape: Shape) -> Machine {
        let directory = directory();
        let app = directory.path().join("app.db");
        let copy = directory.path().join("replica.db");
        create(&app);
        let primary = Primary::start(&app);
        let mut client = Client::faulty();
        let mode = match shape {
            // It asks at the start.
            Shape::Whole => "exclusive",
            _ => "auto",
        };
        let parameters = format!(
            "sync_url={}&sync_timeout=5&write_mode={mode}",
            primary.url()
        );
        client.open(&copy, &parameters).expect("a replica");
        client.done("SELECT replica_sync()");
        Machine {
            directory,
            app,
            copy,
            primary,
            client,
        }
    }

    /// One COMMIT with a fault: how it ended, `None` where there was none; `Err` says what is wrong.
    fn commit(
        &mut self,
        shape: Shape,
        id: u64,
        what: &str,
        fault: (u64, u64),
    ) -> Result<Option<String>, String> {
        let (app, copy, client) = (&self.app, &self.copy, &mut self.client);
        if let Shape::Whole = shape {
            // There is something to be entered first.
            self.primary
                .sql("UPDATE other SET text = randomblob(300) WHERE id % 20 = 0");
        }
        let Some(committed) = attempt(client, shape, id, what, fault) else {
            return Ok(None);
        };
        let there = format!("SELECT count(*) FROM word WHERE id = {id}");
        let on_primary = image::value(app, &there);
        let sentence = client.done("SELECT replica_last_error()");
        let end = format!("{committed:?}, on the primary {on_primary}");
        let here = || image::value(copy, &there);
        match committed {
            Ok(()) if on_primary != "1" => {
                return Err("acknowledged, and not on the primary".to_string());
            }
            Ok(()) if here() != "1" || client.done(&there) != "1" => {
                return Err("acknowledged, and not here".to_string());
            }
            Err(code)
                if on_primary == "1" && ![SQLITE_IOERR, SQLITE_NOMEM].contains(&(code & 0xff)) =>
            {
                return Err(format!("on the primary, and told as {code}: {sentence}"));
            }
            _ => {}
        }
        let _ = client.sql("ROLLBACK");
        // The next write goes through by itself: at most SQLite says "busy" meanwhile.
        let next = format!("INSERT INTO word(id) VALUES ({})", 1_000_000 + id);
        let mut refusals = Vec::new();
        while let Err(trouble) = client.sql(&next) {
            let is_expected = matches!(&trouble, Trouble::Refused(failure)
                if [SQLITE_BUSY, SQLITE_IOERR].contains(&(failure.code & 0xff)));
            refusals.push(format!("{trouble:?}"));
            if !is_expected || refusals.len() > 10 {
                let reason = client.sql("SELECT replica_last_error()");
                return Err(format!("{end} ({sentence}); then {refusals:?}; {reason:?}"));
            }
        }
        let seen = (client.done(&there), image::value(app, &there));
        if seen != (on_primary.clone(), on_primary) {
            return Err(format!("{end}; and later, here and there: {seen:?}"));
        }
        let state = client.done("SELECT state FROM replica_status");
        if state != "ok" {
            return Err(format!("{end}; the state is {state}"));
        }
        client.done("SELECT replica_sync()");
        match Image::read(app) == Image::read(copy) {
            true => Ok(Some(end)),
            false => Err(format!("{end}; the pages differ")),
        }
    }

    /// All is well in the end.
    fn assert_whole(mut self, context: &str) {
        let verified = self.client.done("SELECT replica_verify()");
        assert_eq!(json(&verified, "$.ok"), "1", "{context}: {verified}");
        self.client.close();
        assert_intact(&self.copy, context);
        assert_same(&self.app, &self.copy, context);
        drop(self.directory);
    }
}

fn sweep(what: &str, count: u64) {
    let stride = amount("REPLICA_STRIDE", 3, 1);
    let (mut ends, mut wrong) = (BTreeMap::new(), Vec::new());
    let mut id = 0;
    for shape in Shape::ALL {
        let mut machine = Machine::new(shape);
        let mut nth = 1 + id % stride;
        loop {
            id += 1;
            match machine.commit(shape, id, what, (nth, count)) {
                Ok(Some(end)) => *ends.entry(end).or_insert(0) += 1,
                Ok(None) => break,
                Err(sentence) => {
                    wrong.push(format!("{shape:?}, {what}, call {nth}: {sentence}"));
                    machine = Machine::new(shape);
                }
            }
            nth += stride;
        }
        println!("{shape:?}: {what} {nth}");
        machine.assert_whole(&format!("{shape:?}, {what}"));
    }
    println!("{what}, {count} times: {ends:?}");
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(!ends.is_empty(), "nothing failed");
}

#[test]
fn a_call_of_a_file_fails() {
    sweep("files", 1);
}

#[test]
fn all_calls_of_files_fail_from_some_point_on() {
    sweep("files", 1_000_000);
}

#[test]
fn an_allocation_fails() {
    sweep("memory", 1);
}

#[test]
fn all_allocations_fail_from_some_point_on() {
    sweep("memory", 1_000_000);
}
