//! Two replicas change thousands of rows offline, of tables of every kind, and are put on top of each other: what comes out
//! is what a merge of their rows, computed here, says.

use std::collections::{BTreeMap, BTreeSet};

use harness::full::amount;
use harness::{Files, Primary, Shell, assert_intact, assert_same, json, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
DROP TABLE note;
CREATE TABLE note(id INTEGER PRIMARY KEY, title TEXT NOT NULL, body BLOB, n INTEGER DEFAULT 7,
  size INTEGER AS (length(title)) STORED, twice AS (n * 2), CHECK (n < 1000000));
CREATE INDEX note_title ON note(title);
CREATE INDEX note_even ON note(n) WHERE n % 2 = 0;
CREATE INDEX note_length ON note(length(body));
CREATE VIRTUAL TABLE note_text USING fts5(title, content = 'note', content_rowid = 'id');
CREATE TRIGGER note_insert AFTER INSERT ON note BEGIN
  INSERT INTO note_text(rowid, title) VALUES (new.id, new.title); END;
CREATE TRIGGER note_delete AFTER DELETE ON note BEGIN
  INSERT INTO note_text(note_text, rowid, title) VALUES ('delete', old.id, old.title); END;
CREATE TRIGGER note_update AFTER UPDATE ON note BEGIN
  INSERT INTO note_text(note_text, rowid, title) VALUES ('delete', old.id, old.title);
  INSERT INTO note_text(rowid, title) VALUES (new.id, new.title); END;
CREATE TABLE tag(note INTEGER REFERENCES note(id) ON DELETE CASCADE, word TEXT COLLATE NOCASE, weight REAL,
  PRIMARY KEY (note, word)) WITHOUT ROWID;
CREATE TABLE item(uuid TEXT PRIMARY KEY, code TEXT UNIQUE, data BLOB);
CREATE TABLE log(line, at);
CREATE TABLE counter(id INTEGER PRIMARY KEY AUTOINCREMENT, v);
CREATE VIRTUAL TABLE document USING fts5(title, body);
CREATE TABLE changed(what, n INTEGER, PRIMARY KEY (what)) WITHOUT ROWID;
CREATE TRIGGER log_insert AFTER INSERT ON log BEGIN
  INSERT INTO changed VALUES ('log', 1) ON CONFLICT DO UPDATE SET n = n + 1; END;
WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000)
  INSERT INTO note(id, title, body) SELECT n, 'title of ' || n, zeroblob(n * 31 % 1000) FROM c;
UPDATE note SET body = zeroblob(20000 + id) WHERE id % 97 = 0;
INSERT INTO tag SELECT id, 'word', 0.5 FROM note WHERE id <= 1000;
INSERT INTO item SELECT 'item' || id, 'code' || id, NULL FROM note;
INSERT INTO log SELECT 'line ' || id, id FROM note;
INSERT INTO counter(v) SELECT id FROM note LIMIT 500;
INSERT INTO document SELECT title, 'body ' || id FROM note LIMIT 1000;";

/// What is compared: a table, its key and its columns, as SQL.
const TABLES: [(&str, &str, &str); 8] = [
    ("note", "id", "title, body, n, size, twice"),
    ("tag", "note || '/' || lower(word)", "note, word, weight"),
    ("item", "uuid", "code, data"),
    ("log", "rowid", "line, at"),
    ("counter", "id", "v"),
    ("document", "rowid", "title, body"),
    ("changed", "what", "n"),
    ("sqlite_schema", "name", "sql"),
];

type Rows = BTreeMap<(usize, String), String>;

fn rows(shell: &mut Shell) -> Rows {
    let mut rows = Rows::new();
    // A column that one replica adds.
    let who = shell.sql("SELECT count(*) FROM pragma_table_info('log') WHERE name = 'who'");
    for (number, (table, key, columns)) in TABLES.iter().enumerate() {
        let added = match (*table, who.as_str()) {
            ("log", "0") => ", 'nobody'",
            ("log", _) => ", who",
            _ => "",
        };
        let columns = format!("{columns}{added}");
        let quoted: Vec<_> = columns
            .split(", ")
            .map(|column| {
                format!("iif(typeof({column}) = 'blob', hex(sha3({column})), replace(quote({column}), char(10), ' '))")
            })
            .collect();
        let condition = match *table {
            "sqlite_schema" => "WHERE name NOT LIKE 'sqlite%'",
            _ => "",
        };
        let dump = shell.sql(&format!(
            "SELECT {key} || ':' || {} FROM {table} {condition}",
            quoted.join(" || ',' || ")
        ));
        for line in dump.lines() {
            let (key, row) = line.split_once(':').expect("key and row");
            rows.insert((number, key.to_owned()), row.to_owned());
        }
    }
    rows
}

/// What becomes of the rows both began with, and the keys of those that both changed in different ways. `first` was pushed
/// before.
fn merged(base: &Rows, first: &Rows, second: &Rows, local: bool) -> (Rows, BTreeSet<String>) {
    let keys: BTreeSet<_> = base
        .keys()
        .chain(first.keys())
        .chain(second.keys())
        .collect();
    let (mut merged, mut conflicts) = (Rows::new(), BTreeSet::new());
    for key in keys {
        let (base, there, here) = (base.get(key), first.get(key), second.get(key));
        let row = if here == base || here == there {
            there
        } else if there == base {
            here
        } else {
            conflicts.insert(format!("{} {}", TABLES[key.0].0, key.1));
            if local { here } else { there }
        };
        if let Some(row) = row {
            merged.insert(key.clone(), row.clone());
        }
    }
    (merged, conflicts)
}

/// Changes of single rows. `side` names what only one replica makes.
struct Changes {
    random: StdRng,
    side: char,
    made: u32,
}

impl Changes {
    fn next(&mut self) -> String {
        self.made += 1;
        let (side, n) = (self.side, self.made);
        let id = self.random.random_range(1..3000);
        // Rows with tags stay: a foreign key that breaks is a test of its own.
        let untagged = self.random.random_range(1001..3000);
        let number = self.random.random_range(0..100_000);
        match self.random.random_range(0..26) {
            0 | 1 => format!("UPDATE note SET title = 'title {side} {number}' WHERE id = {id}"),
            2 => format!("UPDATE note SET body = randomblob({number} % 5000) WHERE id = {id}"),
            3 => {
                format!("UPDATE note SET body = randomblob(length(body)) WHERE id = {id} / 97 * 97")
            }
            4 => format!("UPDATE note SET n = {number} WHERE id = {id}"),
            5 => format!("DELETE FROM note WHERE id = {untagged}"),
            6 | 7 => format!(
                "INSERT INTO note(title, body) VALUES ('new {side} {n}', zeroblob({number} % 300))"
            ),
            8 => format!("UPDATE note SET title = 'the same' WHERE id = {id}"),
            9 => format!(
                "REPLACE INTO tag VALUES ({id} % 1000 + 1, 'Word{}', {number}.25)",
                number % 3
            ),
            10 => format!("DELETE FROM tag WHERE note = {id} % 1000 + 1"),
            11 => format!("UPDATE tag SET weight = {number} WHERE note = {id} % 1000 + 1"),
            12 | 13 => format!("INSERT INTO item VALUES ('{side}{n}', 'code {side} {n}', x'00')"),
            14 => format!("UPDATE item SET code = 'other {side} {n}' WHERE uuid = 'item{id}'"),
            15 => format!("UPDATE item SET data = randomblob(50) WHERE uuid = 'item{id}'"),
            16 => format!("DELETE FROM item WHERE uuid = 'item{id}'"),
            17 => format!(
                "UPDATE item SET uuid = '{side}' || uuid, code = 'moved {side} {n}' WHERE uuid = 'item{id}'"
            ),
            18 => format!("INSERT INTO log VALUES ('line {side} {n}', {number})"),
            19 => format!("UPDATE log SET at = {number} WHERE rowid = {id}"),
            20 => format!("DELETE FROM log WHERE rowid = {id}"),
            21 => format!("INSERT INTO counter(v) VALUES ({number})"),
            22 => format!("DELETE FROM counter WHERE id = {id} % 600"),
            23 => format!("INSERT INTO document VALUES ('document {side} {n}', 'words {number}')"),
            24 => format!(
                "UPDATE document SET body = 'body {side} {number}' WHERE rowid = {id} % 1000"
            ),
            _ => format!("DELETE FROM document WHERE rowid = {id} % 1000"),
        }
    }

    fn make(&mut self, files: &Files, shell: &mut Shell, count: u64) {
        let script = files.path(&format!("{}.sql", self.side));
        let mut sql = String::from("PRAGMA foreign_keys = ON;\n");
        for n in 0..count {
            if n % 100 == 0 {
                sql.push_str(if n > 0 { "COMMIT;BEGIN;\n" } else { "BEGIN;\n" });
            }
            sql.push_str(&self.next());
            sql.push_str(";\n");
        }
        sql.push_str("COMMIT;\n");
        std::fs::write(&script, sql).expect("write");
        shell.feed(&format!(".read \"{}\"", script.display()));
        shell.settle();
        assert_eq!(shell.fed_errors(), [""; 0]);
    }
}

fn check_indexes(shell: &mut Shell, context: &str) {
    for sql in ["PRAGMA integrity_check", "PRAGMA foreign_key_check"] {
        let found = shell.sql(sql);
        assert!(found == "ok" || found.is_empty(), "{context}: {found}");
    }
    // Wrong ones are an error. (Those of rows in another table are compared with it.)
    shell.sql("INSERT INTO note_text(note_text, rank) VALUES ('integrity-check', 1)");
    shell.sql("INSERT INTO document(document) VALUES ('integrity-check')");
}

#[test]
fn two_replicas_that_changed_thousands_of_rows() {
    let changes = amount("REPLICA_CHANGES", 10_000, 10_000);
    let seed = seed("model", 7);
    for policy in ["local", "remote", "fail"] {
        let files = Files::new();
        Shell::plain(&files.app).sql(SCHEMA);
        let mut primary = Primary::start(&files.app);
        let parameters = format!("sync_url={}&offline=1", primary.url());
        let copies = [files.path("first.db"), files.path("second.db")];
        let [mut first, mut second] = [0, 1].map(|n| Shell::replica(&copies[n], &parameters));
        let base = rows(&mut first);
        assert_eq!(rows(&mut second), base);
        for (side, shell) in [('a', &mut first), ('b', &mut second)] {
            let random = StdRng::seed_from_u64(seed + u64::from(u32::from(side)));
            let made = 0;
            let mut changer = Changes { random, side, made };
            changer.make(&files, shell, changes);
        }
        // One side has a schema of its own.
        second.sql(
            "CREATE TABLE mine(id INTEGER PRIMARY KEY, v); INSERT INTO mine VALUES (1, 'v');
             CREATE INDEX item_data ON item(data); DROP INDEX note_even;
             CREATE VIEW short AS SELECT id FROM note WHERE size < 10;
             ALTER TABLE log ADD COLUMN who DEFAULT 'nobody'; UPDATE log SET who = 'me' WHERE rowid % 500 = 0",
        );
        let (there, here) = (rows(&mut first), rows(&mut second));
        let of = |shell: &mut Shell| {
            let count =
                |table: &str| format!("(SELECT seq FROM sqlite_sequence WHERE name = '{table}')");
            shell.sql(&format!("SELECT {}", count("counter")))
        };
        let highest = of(&mut first)
            .parse::<u64>()
            .expect("a number")
            .max(of(&mut second).parse().expect("a number"));
        let counted = second.sql("SELECT pending_rows FROM replica_status");
        assert_eq!(counted, second.sql("SELECT count(*) FROM replica_changes"));
        let report = first.sql("SELECT replica_sync()");
        println!("first: {report}");

        let (mut expected, conflicts) = merged(&base, &there, &here, policy == "local");
        assert!(conflicts.len() > 100, "{}", conflicts.len());
        second.sql(&format!("SELECT replica_config('on_conflict', '{policy}')"));
        if policy == "fail" {
            let told = second.refused("SELECT replica_sync()");
            assert!(
                told.contains(&format!(": {} rows were", conflicts.len())),
                "{told}"
            );
            assert_eq!(rows(&mut second), here, "nothing was changed");
            let listed = second.sql(
                "SELECT tbl_name || ' ' || coalesce(key ->> 'id', key ->> 'uuid', key ->> 'rowid', key ->> 'what',
                   (key ->> 'note') || '/' || lower(key ->> 'word')) FROM replica_conflicts",
            );
            let listed: BTreeSet<_> = listed.lines().map(str::to_owned).collect();
            assert_eq!(listed, conflicts);
            // The user has looked, and decides.
            (expected, _) = merged(&base, &there, &here, true);
            second.sql("SELECT replica_config('on_conflict', 'local')");
        }
        let report = second.sql("SELECT replica_sync()");
        println!(
            "{policy}: {report}; {} conflicts, {counted} rows changed",
            conflicts.len()
        );
        let found = rows(&mut second);
        for (key, row) in &expected {
            assert_eq!(found.get(key), Some(row), "{policy}: {key:?}");
        }
        let more: Vec<_> = found
            .keys()
            .filter(|key| !expected.contains_key(*key))
            .collect();
        assert!(more.is_empty(), "{policy}: {more:?}");
        assert_eq!(of(&mut second), highest.to_string(), "{policy}");
        first.sql("SELECT replica_sync()");
        assert_eq!(first.position(), second.position(), "{policy}");
        // A connection that knew another schema goes by the new one.
        assert_eq!(first.sha3sum(), second.sha3sum(), "{policy}");
        assert_eq!(
            json(&second.sql("SELECT replica_verify()"), "$.ok"),
            "1",
            "{policy}"
        );
        for shell in [&mut first, &mut second] {
            assert_eq!(
                shell.sql("SELECT state || ' ' || pending_rows || ' ' || pending_transactions FROM replica_status"),
                "ok 0 0"
            );
        }
        assert_eq!(primary.sql("SELECT count(*) FROM mine"), "1");
        assert_eq!(first.sql("SELECT count(*) FROM replica_conflicts"), "0");
        first.close();
        second.close();
        for copy in &copies {
            assert_same(&files.app, copy, policy);
            assert_intact(copy, policy);
        }
        primary.close();
        check_indexes(&mut Shell::plain(&files.app), policy);
    }
}
