//! Every byte that hosts of encrypted databases write below their folder is recorded, files that are removed at once
//! included: no known string of the content is in it, nor the key. The same work in the clear shows that the recording
//! would have found them.

#[path = "power/dice.rs"]
#[allow(dead_code)]
mod dice;
#[path = "power/image.rs"]
#[allow(dead_code)]
mod image;
#[path = "power/trace.rs"]
#[allow(dead_code)]
mod trace;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::shell::SQLITE3;
use harness::{Primary, Shell, library, notes, uri};
use trace::Recorder;

const KEY: &str = "hex:c0ffee0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d";
const PASSPHRASE: &str = "xylophone-passphrase";

/// What is looked for: parts of rows, index keys, overflow pages, full-text terms, names of the schema, sorted rows,
/// temporary tables, transactions that were given up.
const NEEDLES: [&str; 9] = [
    "needlerow",
    "needlekey",
    "needleoverflow",
    "needleterm",
    "needletable",
    "needlesort",
    "needletemp",
    "needleaborted",
    "needlecrash",
];

const WORK: &str = "
PRAGMA cache_size = 10; PRAGMA temp_store = FILE;
CREATE TABLE IF NOT EXISTS needletable(id INTEGER PRIMARY KEY, a TEXT, b TEXT);
CREATE INDEX IF NOT EXISTS needletable_b ON needletable(b);
CREATE VIRTUAL TABLE IF NOT EXISTS document USING fts5(body);
BEGIN;
WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 4000)
  INSERT INTO needletable(a, b) SELECT 'needlerow' || n || hex(randomblob(40)), 'needlekey' || n FROM c;
INSERT INTO needletable(a, b) VALUES ('x' || hex(zeroblob(9000)) || 'needleoverflow' || hex(zeroblob(9000)), 'b');
INSERT INTO document SELECT 'needleterm word' || id FROM needletable;
COMMIT;
CREATE TEMP TABLE kept AS SELECT 'needletemp' || hex(randomblob(100)) AS t FROM needletable;
UPDATE kept SET t = t || 'more';
SELECT count(*) FROM (SELECT DISTINCT 'needlesort' || a || hex(randomblob(200)) AS s FROM needletable ORDER BY s);
BEGIN; UPDATE needletable SET a = 'needleaborted' || hex(randomblob(100)); ROLLBACK;
SAVEPOINT one; UPDATE needletable SET a = a || 'needleaborted' WHERE id % 2; ROLLBACK TO one; RELEASE one;
VACUUM;
";

fn host(recorder: &Recorder, uri: &str, sql: &str, key: &str) {
    let library = library();
    let mut command = Command::new(SQLITE3);
    command
        .args(["-batch", "-init", "/dev/null"])
        .env("SQLITE_TMPDIR", recorder.dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    recorder.watch(&mut command);
    let mut child = command.spawn().expect("shell");
    let text = format!(
        ".load \"{}\"\n.open \"{uri}\"\n{key}{sql}",
        library.with_extension("").display()
    );
    let mut input = child.stdin.take().expect("piped");
    let _ = input.write_all(text.as_bytes());
    drop(input);
    child.wait().expect("ends");
}

/// What of the needles is in the recording, or in a file that is left.
fn found(directory: &Path, trace: &Path, key: &[u8]) -> Vec<String> {
    let mut contents = vec![std::fs::read(trace).expect("trace")];
    for entry in std::fs::read_dir(directory).expect("folder") {
        contents.push(std::fs::read(entry.expect("entry").path()).unwrap_or_default());
    }
    let holds = |needle: &[u8]| {
        contents
            .iter()
            .any(|content| content.windows(needle.len()).any(|window| window == needle))
    };
    let mut found: Vec<String> = NEEDLES
        .iter()
        .filter(|needle| holds(needle.as_bytes()))
        .map(|needle| (*needle).to_owned())
        .collect();
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    if holds(key) || holds(digits.as_bytes()) || holds(PASSPHRASE.as_bytes()) {
        found.push("the key".to_owned());
    }
    found
}

fn key_bytes() -> Vec<u8> {
    let digits = &KEY[4..];
    (0..32)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hex"))
        .collect()
}

fn work(parameters: &str, key: &str, mode: &str) -> Vec<String> {
    let space = harness::directory();
    let trace = space.path().join("trace");
    let recorder = Recorder::new(&space.path().join("files"), &trace);
    let path = recorder.dir().join("app.db");
    let mode = format!("PRAGMA journal_mode = {mode};\n");
    host(
        &recorder,
        &uri(&path, parameters),
        &format!("{mode}{WORK}"),
        key,
    );
    // Ends in the middle of a transaction whose pages did not fit the cache.
    let crash = "PRAGMA cache_size = 5; BEGIN; UPDATE needletable SET a = 'needlecrash' || hex(randomblob(200));
.shell kill -9 $PPID\n";
    host(&recorder, &uri(&path, parameters), crash, key);
    host(
        &recorder,
        &uri(&path, parameters),
        &format!("SELECT * FROM needletable;{WORK}"),
        key,
    );
    found(recorder.dir(), &trace, &key_bytes())
}

#[test]
fn nothing_of_the_content_reaches_a_file() {
    for mode in ["wal", "delete"] {
        let raw = format!("encryption_key={KEY}");
        assert_eq!(work(&raw, "", mode), [""; 0], "{mode}");
        let passphrase = format!("PRAGMA key = '{PASSPHRASE}';\n");
        assert_eq!(work("", &passphrase, mode), [""; 0], "{mode}");
        let plain = work("", "", mode);
        assert_eq!(plain, NEEDLES, "{mode}: the recording finds what is there");
    }
}

/// The journals of one transaction over two databases are named in a file that is gone with it.
#[test]
fn a_super_journal_names_no_journal_in_the_clear() {
    for (parameters, named) in [
        (format!("encryption_key={KEY}"), false),
        (String::new(), true),
    ] {
        let space = harness::directory();
        let trace = space.path().join("trace");
        let recorder = Recorder::new(&space.path().join("files"), &trace);
        let [app, other] =
            ["app.db", "other.db"].map(|name| uri(&recorder.dir().join(name), &parameters));
        let sql = format!(
            "ATTACH '{other}' AS other; CREATE TABLE main.t(x); CREATE TABLE other.t(x);
             BEGIN; INSERT INTO main.t VALUES (1); INSERT INTO other.t VALUES (1); COMMIT;"
        );
        host(&recorder, &app, &sql, "");
        let recorded = std::fs::read(&trace).expect("trace");
        let holds = |needle: &[u8]| {
            recorded
                .windows(needle.len())
                .any(|window| window == needle)
        };
        assert!(holds(b"app.db-mj"), "a super-journal was written");
        assert_eq!(holds(b"other.db-journal"), named);
    }
}

/// A replica that is made, synced and killed, and its state store.
#[test]
fn nothing_of_a_replica_reaches_a_file() {
    let files = harness::directory();
    let app = files.path().join("app.db");
    notes(&app);
    Shell::plain(&app).sql(WORK);
    let mut primary = Primary::start(&app);
    for (parameters, needles) in [
        (format!("encryption_key={KEY}"), false),
        (String::new(), true),
    ] {
        let space = harness::directory();
        let trace = space.path().join("trace");
        let recorder = Recorder::new(&space.path().join("files"), &trace);
        let path = recorder.dir().join("copy.db");
        let parameters = format!("sync_url={}&{parameters}", primary.url());
        let uri = uri(&path, parameters.trim_end_matches('&'));
        host(&recorder, &uri, "SELECT count(*) FROM needletable;", "");
        primary.sql(
            "INSERT INTO needletable(a, b) SELECT 'needlerow again', b FROM needletable LIMIT 2000",
        );
        host(
            &recorder,
            &uri,
            "SELECT replica_sync();\nSELECT replica_verify();\n.shell kill -9 $PPID\n",
            "",
        );
        // More than fits in memory: a scratch file.
        primary.sql("UPDATE note SET text = 'needlerow' || hex(randomblob(9000))");
        host(
            &recorder,
            &uri,
            "SELECT replica_sync();\nSELECT replica_discard();",
            "",
        );
        let found = found(recorder.dir(), &trace, &key_bytes());
        assert_eq!(
            found.contains(&"needlerow".to_owned()),
            needles,
            "{found:?}"
        );
        assert_eq!(found.is_empty(), !needles, "{found:?}");
    }
}
