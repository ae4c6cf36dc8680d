//! A host for the tests with the current SQLite bundled; the same protocol as `host.py`, which describes it.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::Mutex;

use harness::{faulty, hex};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error};

/// Why a command failed: SQLite's extended code (0: a watcher saw a broken state) and the message.
struct Failure(i32, String);

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::SqliteFailure(code, message) => Failure(
                code.extended_code,
                message.unwrap_or_else(|| code.to_string()),
            ),
            other => Failure(1, other.to_string()),
        }
    }
}

type Answer = Result<String, Failure>;

fn main() {
    let mut connections = HashMap::new();
    let mut line = String::new();
    loop {
        line.clear();
        // Unlocked between lines: the loops poll the same descriptor.
        if std::io::stdin().lock().read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let arguments: Vec<String> = words[1..].iter().map(|word| hex::decode(word)).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if words[0] == "stop" {
            continue;
        }
        match run(&mut connections, words[0], &arguments) {
            Ok(answer) => say(&format!("ok {}", hex::encode(&answer))),
            Err(Failure(code, message)) => say(&format!("err {code} {}", hex::encode(&message))),
        }
    }
}

fn run(connections: &mut HashMap<String, Connection>, name: &str, arguments: &[&str]) -> Answer {
    match (name, arguments) {
        ("load", [library]) => {
            let connection = Connection::open_in_memory()?;
            // SAFETY: the library under test is an SQLite extension; running its code is the test.
            unsafe {
                connection.load_extension_enable()?;
                connection.load_extension(library, None::<&str>)?;
            }
            connections.insert("memory".to_string(), connection);
            Ok(String::new())
        }
        ("open", [slot, uri]) => {
            connections.insert(slot.to_string(), Connection::open(uri)?);
            Ok(String::new())
        }
        ("close", [slot]) => {
            let connection = connections.remove(*slot).expect("open slot");
            connection.close().map_err(|(_, error)| error)?;
            Ok(String::new())
        }
        ("close-at-exit", [slot]) => {
            let connection = connections.remove(*slot).expect("open slot");
            AT_EXIT.lock().expect("no panic").push(connection);
            // SAFETY: the function stays, and unwinds into nobody.
            assert_eq!(unsafe { libc::atexit(close_at_exit) }, 0);
            Ok(String::new())
        }
        ("sql", [slot, sql]) => rows(find(connections, slot)?, sql),
        ("watch", [slot, query]) => watch(find(connections, slot)?, query),
        ("checkpoint", [slot, pause]) => checkpoint(
            find(connections, slot)?,
            pause.parse().expect("milliseconds"),
        ),
        ("repeat", [slot, sql]) => repeat(find(connections, slot)?, sql, 0),
        ("repeat", [slot, sql, pause]) => {
            let pause = pause.parse().expect("milliseconds");
            repeat(find(connections, slot)?, sql, pause)
        }
        ("faulty", []) => {
            faulty::register();
            Ok(String::new())
        }
        ("slow-syncs", [milliseconds]) => {
            faulty::slow_syncs(milliseconds.parse().expect("a number"));
            Ok(String::new())
        }
        ("arm", [what, nth, count]) => {
            let number = |text: &str| text.parse().expect("a number");
            faulty::arm(what, number(nth), number(count));
            Ok(String::new())
        }
        ("disarm", [what]) => {
            let (calls, hits) = faulty::disarm(what);
            Ok(format!("{calls}|{hits}"))
        }
        ("version", []) => Ok(rusqlite::version().to_string()),
        _ => panic!("unknown command {name} {arguments:?}"),
    }
}

/// Connections that an `atexit` handler closes: later than anything of Rust, thread-local variables included.
static AT_EXIT: Mutex<Vec<Connection>> = Mutex::new(Vec::new());

extern "C" fn close_at_exit() {
    AT_EXIT.lock().expect("no panic").clear();
}

fn find<'a>(
    connections: &'a HashMap<String, Connection>,
    slot: &str,
) -> Result<&'a Connection, Failure> {
    let missing = || Failure(1, format!("no connection {slot}"));
    connections.get(slot).ok_or_else(missing)
}

fn rows(connection: &Connection, sql: &str) -> Answer {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut lines = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut values = Vec::new();
        for column in 0..columns {
            values.push(match row.get_ref(column)? {
                ValueRef::Null => String::new(),
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Real(number) => number.to_string(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                ValueRef::Blob(bytes) => hex::encode_bytes(bytes),
            });
        }
        lines.push(values.join("|"));
    }
    Ok(lines.join("\n"))
}

fn watch(connection: &Connection, query: &str) -> Answer {
    let (mut reads, mut checks, mut first, mut last) = (0u64, 0u64, None, None);
    let mut statement = connection.prepare(query)?;
    loop {
        connection.execute_batch("BEGIN")?;
        let mut state = || -> rusqlite::Result<(i64, i64, String)> {
            statement.query_row([], |row| {
                let mut shown = String::new();
                for column in 0..row.as_ref().column_count() {
                    shown += &format!("{:?} ", row.get_ref(column)?);
                }
                Ok((row.get(0)?, row.get(1)?, shown))
            })
        };
        let (transaction, whole, shown) = state()?;
        if whole != 1 {
            return broken(format!(
                "read {reads}: not one transaction's state: {shown}"
            ));
        }
        if last.is_some_and(|last| transaction < last) {
            return broken(format!(
                "read {reads}: went back from {last:?} to {transaction}"
            ));
        }
        if reads % 25 == 0 {
            let answer = rows(connection, "PRAGMA integrity_check")?;
            if answer != "ok" {
                return broken(format!("integrity_check at {shown}: {answer}"));
            }
            checks += 1;
        }
        let again = state()?.2;
        if again != shown {
            return broken(format!(
                "the snapshot moved inside a transaction: {shown}, then {again}"
            ));
        }
        connection.execute_batch("COMMIT")?;
        first.get_or_insert(transaction);
        last = Some(transaction);
        reads += 1;
        if reads == 1 {
            say("started");
        }
        if told_to_stop(0) {
            let first = first.unwrap_or_default();
            return Ok(format!("{reads}|{checks}|{first}|{transaction}"));
        }
    }
}

fn checkpoint(connection: &Connection, pause: i32) -> Answer {
    let (mut done, mut busy) = (0u64, 0u64);
    let modes = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];
    loop {
        let mode = modes[(done + busy) as usize % 4];
        let blocked: i64 =
            connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
                row.get(0)
            })?;
        if blocked == 0 {
            done += 1;
        } else {
            busy += 1;
        }
        if done + busy == 1 {
            say("started");
        }
        if told_to_stop(pause) {
            return Ok(format!("{done}|{busy}"));
        }
    }
}

fn repeat(connection: &Connection, sql: &str, pause: i32) -> Answer {
    let mut count = 0u64;
    loop {
        let answer = rows(connection, sql)?;
        count += 1;
        if count == 1 {
            say("started");
        }
        if told_to_stop(pause) {
            return Ok(format!("{count}|{answer}"));
        }
    }
}

fn broken(message: String) -> Answer {
    Err(Failure(0, message))
}

fn told_to_stop(milliseconds: i32) -> bool {
    let mut input = libc::pollfd {
        fd: 0,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd is passed, and its count.
    unsafe { libc::poll(&mut input, 1, milliseconds) > 0 }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .expect("the test is gone");
}
