//! What was written offline is put on top of what others wrote, row by row: single cases.

use harness::{
    Files, Host, Primary, Relay, Shell, assert_intact, assert_same, image, json, lsn_of, number,
};

/// Notes of two columns.
const NOTES: &str = "DROP TABLE note; CREATE TABLE note(id INTEGER PRIMARY KEY, text);
    WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000)
      INSERT INTO note SELECT n, 'note ' || n FROM c;";

/// A replica with changes of its own, and a primary that has moved on.
struct Both {
    files: Files,
    primary: Primary,
    replica: Shell,
}

impl Both {
    fn new(schema: &str) -> Both {
        let files = Files::new();
        Shell::plain(&files.app).sql(schema);
        let primary = Primary::start(&files.app);
        let parameters = format!("sync_url={}&offline=1", primary.url());
        let replica = Shell::replica(&files.copy, &parameters);
        let mut both = Both {
            files,
            primary,
            replica,
        };
        both.replica.sql("SELECT count(*) FROM note");
        both
    }

    fn here(&mut self, sql: &str) -> &mut Both {
        self.replica.sql(sql);
        self
    }

    fn there(&mut self, sql: &str) -> &mut Both {
        self.primary.sql(sql);
        self
    }

    /// Refused: the sentence, and nothing was changed.
    #[track_caller]
    fn refused(&mut self, policy: &str) -> String {
        let sum = self.replica.sha3sum();
        let position = self.primary.shell().position();
        let told = self
            .replica
            .refused(&format!("SELECT replica_rebase('{policy}')"));
        println!("{told}");
        assert_eq!(self.replica.sha3sum(), sum, "{told}");
        assert_eq!(self.primary.shell().position(), position, "{told}");
        assert!(told.contains("nothing was changed"), "{told}");
        told
    }

    #[track_caller]
    fn rebase(&mut self, policy: &str) -> String {
        let report = self
            .replica
            .sql(&format!("SELECT replica_rebase('{policy}')"));
        println!("{report}");
        report
    }

    /// Both are the same, and in order.
    #[track_caller]
    fn end(mut self) {
        assert_eq!(
            self.replica
                .sql("SELECT state || pending_transactions FROM replica_status"),
            "ok0"
        );
        let verified = self.replica.sql("SELECT replica_verify()");
        assert_eq!(json(&verified, "$.ok"), "1", "{verified}");
        self.replica.close();
        assert_same(&self.files.app, &self.files.copy, "at the end");
        assert_intact(&self.files.copy, "at the end");
    }
}

#[test]
fn rows_of_both_sides_come_together() {
    let mut both = Both::new(&format!("{NOTES} CREATE TABLE other(a PRIMARY KEY, b)"));
    let position = both.replica.position();
    both.here("UPDATE note SET text = 'here' WHERE id = 1")
        .here("DELETE FROM note WHERE id = 2")
        .here("INSERT INTO note VALUES (2001, 'here')")
        .here("INSERT INTO other VALUES ('x', 1)")
        .there("UPDATE note SET text = 'there' WHERE id = 3")
        .there("INSERT INTO note VALUES (2002, 'there')")
        .there("INSERT INTO other VALUES ('y', 2)");
    let changes = both
        .replica
        .sql("SELECT tbl_name, key, change, old, new FROM replica_changes ORDER BY tbl_name, key");
    assert_eq!(
        changes.lines().collect::<Vec<_>>(),
        [
            r#"note|{"id":1}|update|{"id":1,"text":"note 1"}|{"id":1,"text":"here"}"#,
            r#"note|{"id":2001}|insert||{"id":2001,"text":"here"}"#,
            r#"note|{"id":2}|delete|{"id":2,"text":"note 2"}|"#,
            r#"other|{"a":"x"}|insert||{"a":"x","b":1}"#,
        ]
    );
    assert_eq!(
        both.replica.sql(&format!(
            "SELECT count(*) FROM replica_changes('{position}')"
        )),
        "4"
    );
    both.replica
        .refused("SELECT * FROM replica_changes('7-00000000000000000000000000000000')");
    let sql = "SELECT pending_rows FROM replica_status";
    assert_eq!(both.replica.sql(sql), "4");
    let before = lsn_of(&both.primary.shell().position());
    let report = both.rebase("fail");
    assert_eq!(json(&report, "$.rows"), "4", "{report}");
    assert_eq!(json(&report, "$.conflicts"), "0", "{report}");
    assert_eq!(json(&report, "$.scanned"), "0", "{report}");
    // One transaction there.
    assert_eq!(lsn_of(&both.primary.shell().position()), before + 1);
    let all = "SELECT group_concat(id || text) FROM note WHERE id IN (1, 2, 3, 2001, 2002)";
    assert_eq!(both.primary.sql(all), "1here,3there,2001here,2002there");
    assert_eq!(
        both.replica.sql("SELECT group_concat(a || b) FROM other"),
        "y2,x1"
    );
    both.end();
}

/// Where nobody has written meanwhile it is a push; where nothing was written here, a pull.
#[test]
fn one_side_alone() {
    let mut both = Both::new("");
    both.there("UPDATE note SET text = 'there' WHERE id = 3");
    let report = both.rebase("fail");
    assert_eq!(json(&report, "$.transactions"), "1");
    both.here("UPDATE note SET text = 'here' WHERE id = 3");
    both.rebase("fail");
    assert_eq!(
        both.primary.sql("SELECT text FROM note WHERE id = 3"),
        "here"
    );
    // Both wrote the same.
    both.here("UPDATE note SET text = 'equal' WHERE id = 4")
        .there("UPDATE note SET text = 'equal' WHERE id = 4");
    let position = both.primary.shell().position();
    let report = both.rebase("fail");
    assert_eq!(json(&report, "$.rows"), "0", "{report}");
    assert_eq!(both.primary.shell().position(), position);
    both.end();
}

#[test]
fn each_policy_decides_every_kind_of_conflict() {
    for (policy, expected) in [
        ("local", "1here,3here,5here,2001here"),
        ("remote", "1there,2there,5there,2001there"),
    ] {
        let mut both = Both::new(NOTES);
        both.here("UPDATE note SET text = 'here' WHERE id = 1")
            .there("UPDATE note SET text = 'there' WHERE id = 1")
            .here("DELETE FROM note WHERE id = 2")
            .there("UPDATE note SET text = 'there' WHERE id = 2")
            .here("UPDATE note SET text = 'here' WHERE id = 3")
            .there("DELETE FROM note WHERE id = 3")
            // No conflict.
            .here("DELETE FROM note WHERE id = 4")
            .there("DELETE FROM note WHERE id = 4")
            .here("REPLACE INTO note VALUES (5, 'here')")
            .there("REPLACE INTO note VALUES (5, 'there')")
            .here("INSERT INTO note VALUES (2001, 'here')")
            .there("INSERT INTO note VALUES (2001, 'there')");
        let told = both.refused("fail");
        assert!(told.contains("5 rows"), "{told}");
        assert_eq!(
            both.replica.sql("SELECT state FROM replica_status"),
            "diverged"
        );
        let listed = both.replica.sql(
            "SELECT key, base ->> 'text', local ->> 'text', remote ->> 'text' FROM replica_conflicts",
        );
        assert_eq!(
            listed.lines().collect::<Vec<_>>(),
            [
                r#"{"id":1}|note 1|here|there"#,
                r#"{"id":2}|note 2||there"#,
                r#"{"id":3}|note 3|here|"#,
                r#"{"id":5}|note 5|here|there"#,
                r#"{"id":2001}||here|there"#,
            ]
        );
        let report = both.rebase(policy);
        assert_eq!(json(&report, "$.conflicts"), "5");
        let all = "SELECT group_concat(id || text) FROM note WHERE id IN (1, 2, 3, 4, 5, 2001)";
        assert_eq!(both.primary.sql(all), expected);
        assert_eq!(
            both.replica.sql("SELECT count(*) FROM replica_conflicts"),
            "0"
        );
        both.end();
    }
}

#[test]
fn a_broken_constraint_fails_the_whole_and_names_the_row() {
    let mut both = Both::new(
        "CREATE TABLE person(id INTEGER PRIMARY KEY, mail TEXT UNIQUE, boss REFERENCES person(id));
         CREATE TABLE pet(name TEXT PRIMARY KEY, owner INTEGER REFERENCES person ON DELETE CASCADE);
         CREATE INDEX pet_owner ON pet(owner);
         CREATE TABLE loan(what, owner INTEGER, FOREIGN KEY (owner) REFERENCES person(id));
         INSERT INTO person VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', 1), (4, 'd', NULL)",
    );
    both.here("UPDATE note SET text = 'here'")
        .here("INSERT INTO person VALUES (5, 'e', 4)")
        .here("UPDATE note SET text = 'here too' WHERE id > 900")
        .there("INSERT INTO person VALUES (6, 'e', NULL)");
    let told = both.refused("local");
    assert!(
        told.contains("UNIQUE constraint failed: person.mail")
            && told.contains(r#"{"id":5}"#)
            && told.contains("table person"),
        "{told}"
    );
    // A push is refused before: the remote has moved on.
    both.replica.refused("SELECT replica_push()");
    assert_eq!(
        both.replica.sql("SELECT mail FROM person WHERE id = 5"),
        "e"
    );
    assert_eq!(
        both.replica
            .sql("SELECT count(*) FROM note WHERE text LIKE 'here%'"),
        "1000"
    );
    both.here("UPDATE person SET mail = 'mine' WHERE id = 5");
    both.rebase("local");

    // A row that refers to one that is gone there, and one there to a row that is gone here.
    both.here("INSERT INTO pet VALUES ('dog', 5)")
        .there("DELETE FROM person WHERE id = 5");
    let told = both.refused("local");
    assert!(
        told.contains("FOREIGN KEY constraint failed") && told.contains(r#"{"name":"dog"}"#),
        "{told}"
    );
    both.here("DELETE FROM pet");
    both.rebase("local");
    for (row, key) in [
        ("pet VALUES ('cat', 3)", r#"{"name":"cat"}"#),
        ("loan VALUES ('book', 3)", r#"{"rowid":1}"#),
        ("person VALUES (9, 'i', 3)", r#"{"id":9}"#),
    ] {
        both.here("DELETE FROM person WHERE id = 3")
            .there(&format!("INSERT INTO {row}"));
        let told = both.refused("local");
        assert!(
            told.contains("FOREIGN KEY constraint failed") && told.contains(key),
            "{told}"
        );
        both.here("SELECT replica_discard()");
        both.rebase("fail");
        let table = row.split(' ').next().unwrap_or_default();
        both.there(&format!(
            "DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})"
        ));
        both.rebase("fail");
    }
    // Values that change places are in nobody's way; nor is a key that was broken before.
    both.here(
        "UPDATE person SET mail = 'x' WHERE id = 1; UPDATE person SET mail = 'a' WHERE id = 2",
    )
    .here("UPDATE person SET mail = 'b' WHERE id = 1")
    .here("INSERT INTO pet VALUES ('stray', 77)")
    .there("UPDATE note SET text = 'there' WHERE id = 1");
    both.rebase("fail");
    assert_eq!(
        both.primary
            .sql("SELECT group_concat(mail, '') FROM person WHERE id < 3"),
        "ba"
    );
    both.end();
}

/// Triggers made their changes when the rows were written, and make none again.
#[test]
fn triggers_and_cascades_are_not_run_again() {
    let mut both = Both::new(
        "CREATE TABLE owner(id INTEGER PRIMARY KEY); CREATE TABLE thing(id INTEGER PRIMARY KEY,
           owner REFERENCES owner ON DELETE CASCADE, n INTEGER UNIQUE ON CONFLICT REPLACE);
         CREATE TABLE audit(id INTEGER PRIMARY KEY, what);
         CREATE TRIGGER t AFTER INSERT ON thing BEGIN INSERT INTO audit(what) VALUES (new.id); END;
         INSERT INTO owner VALUES (1), (2); INSERT INTO thing VALUES (1, 1, 1), (2, 2, 2); DELETE FROM audit",
    );
    both.here("PRAGMA foreign_keys = ON; INSERT INTO thing VALUES (10, 2, 10); DELETE FROM owner WHERE id = 1")
        .there("UPDATE note SET text = 'there' WHERE id = 1");
    both.rebase("fail");
    assert_eq!(
        both.primary.sql("SELECT group_concat(what) FROM audit"),
        "10"
    );
    assert_eq!(
        both.primary.sql("SELECT group_concat(id) FROM thing"),
        "2,10"
    );
    // A constraint that would replace a row of the remote's fails.
    both.here("INSERT INTO thing VALUES (11, 2, 99)")
        .there("INSERT INTO thing VALUES (12, 2, 99)");
    let told = both.refused("local");
    assert!(told.contains("thing"), "{told}");
    both.here("DELETE FROM thing WHERE id = 11; DELETE FROM audit WHERE what = 11");
    both.rebase("remote");
    both.end();
}

#[test]
fn tables_without_a_declared_key() {
    let mut both = Both::new(
        "CREATE TABLE plain(a); INSERT INTO plain VALUES ('one'), ('two'), ('three');
         CREATE TABLE named(k TEXT PRIMARY KEY, v); INSERT INTO named VALUES ('a', 1), ('b', 2);
         CREATE TABLE hidden(rowid, _rowid_ INTEGER, v); INSERT INTO hidden VALUES (7, 7, 'v')",
    );
    // The same rowid for different rows.
    both.here("INSERT INTO plain VALUES ('here')")
        .there("INSERT INTO plain VALUES ('there')");
    let told = both.refused("fail");
    assert!(told.contains("1 rows"), "{told}");
    assert_eq!(
        both.replica
            .sql("SELECT tbl_name, key, base IS NULL, local, remote FROM replica_conflicts"),
        r#"plain|{"rowid":4}|1|{"a":"here"}|{"a":"there"}"#
    );
    both.rebase("local");
    // With a declared key the rowid is nobody's business.
    both.here("INSERT INTO named VALUES ('here', 3)")
        .there("INSERT INTO named VALUES ('there', 4)")
        .here("UPDATE hidden SET v = 'here'");
    both.rebase("fail");
    assert_eq!(
        both.primary.sql("SELECT group_concat(k || v) FROM named"),
        "a1,b2,there4,here3"
    );
    // VACUUM gives rows other rowids.
    both.here("DELETE FROM plain WHERE a = 'one'; VACUUM")
        .there("UPDATE note SET text = 'there' WHERE id = 1");
    let told = both.refused("local");
    assert!(told.contains("plain") && told.contains("VACUUM"), "{told}");
    both.here("SELECT replica_discard()");
    both.rebase("fail");
    both.there("DELETE FROM plain WHERE a = 'one'; VACUUM")
        .here("UPDATE plain SET a = 'here' WHERE a = 'two'");
    let told = both.refused("local");
    assert!(told.contains("plain"), "{told}");
    both.here("SELECT replica_discard()");
    both.rebase("fail");
    // With one it does not matter.
    both.here("VACUUM; UPDATE named SET v = 9 WHERE k = 'a'")
        .there("UPDATE named SET v = 8 WHERE k = 'b'; VACUUM");
    both.rebase("fail");
    assert_eq!(
        both.replica
            .sql("SELECT group_concat(k || v) FROM (SELECT * FROM named ORDER BY k)"),
        "a9,b8,here3,there4"
    );
    both.end();
}

#[test]
fn a_schema_that_one_side_changed_is_carried_over() {
    let mut both = Both::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b DEFAULT 5); INSERT INTO t VALUES (1, 'x', 1), (2, 'y', 2);
         CREATE INDEX t_a ON t(a); CREATE TABLE gone(a); CREATE VIEW w AS SELECT a FROM t;
         CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END; INSERT INTO gone VALUES (1)",
    );
    // Here, in many ways; rows there.
    both.here("ALTER TABLE t ADD COLUMN c DEFAULT 'new'; UPDATE t SET c = 'set' WHERE id = 1")
        .here("CREATE TABLE made(id INTEGER PRIMARY KEY AUTOINCREMENT, v UNIQUE); INSERT INTO made(v) VALUES (1), (2)")
        .here("DROP VIEW w; CREATE VIEW w AS SELECT c FROM t; DROP INDEX t_a; CREATE UNIQUE INDEX t_a ON t(a, b)")
        .here("DROP TABLE gone; DROP TRIGGER tr; PRAGMA user_version = 3")
        .there("INSERT INTO t VALUES (3, 'z', 3); UPDATE t SET b = 20 WHERE id = 2");
    both.rebase("fail");
    assert_eq!(
        both.primary
            .sql("SELECT group_concat(id || a || b || c) FROM t"),
        "1x1set,2y20new,3z3new"
    );
    assert_eq!(
        both.primary
            .sql("PRAGMA user_version; SELECT count(*) FROM made"),
        "3\n2"
    );
    // A column is renamed and another one dropped, here; rows there.
    both.here("ALTER TABLE t RENAME COLUMN a TO title; UPDATE t SET title = 'mine' WHERE id = 1")
        .there("UPDATE t SET a = 'theirs', b = 30 WHERE id = 2; INSERT INTO t VALUES (4, 'new', 4, 'c')");
    both.rebase("fail");
    assert_eq!(
        both.primary
            .sql("SELECT group_concat(id || title || b || c) FROM t"),
        "1mine1set,2theirs30new,3z3new,4new4c"
    );
    both.here(
        "DROP VIEW w; ALTER TABLE t DROP COLUMN c; UPDATE t SET title = 'again' WHERE id = 1",
    )
    .there("UPDATE t SET b = 31 WHERE id = 2");
    both.rebase("fail");
    assert_eq!(
        both.primary
            .sql("SELECT group_concat(id || title || b) FROM t"),
        "1again1,2theirs31,3z3,4new4"
    );
    // There; rows here.
    both.there("ALTER TABLE t ADD COLUMN d DEFAULT 'there'; UPDATE t SET d = 'set' WHERE id = 3")
        .here("UPDATE t SET title = 'here' WHERE id = 3; INSERT INTO t VALUES (5, 'five', 5)");
    both.rebase("fail");
    assert_eq!(
        both.primary
            .sql("SELECT group_concat(id || title || b || d) FROM t"),
        "1again1there,2theirs31there,3here3set,4new4there,5five5there"
    );
    // Both did the same.
    let same = "CREATE TABLE same(id INTEGER PRIMARY KEY, v)";
    both.here(&format!("{same}; INSERT INTO same VALUES (1, 'here')"))
        .there(&format!("{same}; INSERT INTO same VALUES (2, 'there')"));
    both.rebase("fail");
    assert_eq!(
        both.replica.sql("SELECT group_concat(id || v) FROM same"),
        "1here,2there"
    );
    both.end();
}

/// Every row has changed then, though no row was written.
#[test]
fn columns_whose_names_changed_places() {
    let mut both = Both::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2')",
    );
    both.here(
        "ALTER TABLE t RENAME COLUMN a TO x; ALTER TABLE t RENAME COLUMN b TO a;
         ALTER TABLE t RENAME COLUMN x TO b",
    )
    .there("INSERT INTO t VALUES (3, 'a3', 'b3')");
    let all = "SELECT group_concat(id || a || b) FROM t";
    assert_eq!(both.replica.sql(all), "1b1a1,2b2a2");
    let changes = "SELECT new FROM replica_changes WHERE tbl_name = 't' AND key = '{\"id\":1}'";
    assert_eq!(both.replica.sql(changes), r#"{"id":1,"b":"a1","a":"b1"}"#);
    both.rebase("fail");
    assert_eq!(both.primary.sql(all), "1b1a1,2b2a2,3a3b3");
    both.end();
}

#[test]
fn a_schema_that_both_sides_changed_is_refused_by_its_statement() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 'x')";
    for (here, there, named) in [
        (
            "ALTER TABLE t ADD COLUMN b",
            "ALTER TABLE t ADD COLUMN c",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)",
        ),
        (
            "CREATE INDEX i ON t(a)",
            "CREATE INDEX i ON t(id, a)",
            "CREATE INDEX i ON t(a)",
        ),
        (
            "DROP TABLE t",
            "ALTER TABLE t ADD COLUMN c",
            "CREATE TABLE t",
        ),
        ("UPDATE t SET a = 'here'", "DROP TABLE t", "table t"),
        (
            "DROP TABLE t",
            "INSERT INTO t VALUES (2, 'y')",
            "DROP TABLE t",
        ),
        (
            "UPDATE t SET a = 'here'",
            "ALTER TABLE t RENAME COLUMN a TO c",
            "table t",
        ),
        (
            "CREATE INDEX i ON t(a)",
            "ALTER TABLE t RENAME COLUMN a TO c",
            "CREATE INDEX i",
        ),
        (
            "PRAGMA user_version = 1",
            "PRAGMA user_version = 2",
            "user_version",
        ),
    ] {
        let mut both = Both::new(schema);
        both.here(here).there(there);
        let told = both.refused("fail");
        assert!(told.contains(named), "{here}; {there}: {told}");
        both.here("SELECT replica_discard()");
        both.rebase("fail");
        both.end();
    }
}

#[test]
fn virtual_tables() {
    let mut both = Both::new(
        "CREATE VIRTUAL TABLE text USING fts5(\"the title\", body UNINDEXED, tokenize = 'porter');
         CREATE VIRTUAL TABLE bare USING fts5(x, content = '');
         CREATE VIRTUAL TABLE place USING rtree(id, low, high);
         CREATE VIRTUAL TABLE old USING fts4(x);
         INSERT INTO text VALUES ('running', 'one'), ('walking', 'two'); INSERT INTO place VALUES (1, 0, 1)",
    );
    both.here("UPDATE text SET body = 'here' WHERE rowid = 1; INSERT INTO text VALUES ('swimming', 'three')")
        .here("CREATE VIRTUAL TABLE mine USING fts5(a); INSERT INTO mine VALUES ('mine alone')")
        .here("CREATE VIRTUAL TABLE over USING fts5(text, content = 'note', content_rowid = 'id')")
        .here("INSERT INTO over(over) VALUES ('rebuild')")
        .there("UPDATE text SET \"the title\" = 'sleeping' WHERE rowid = 2; INSERT INTO place VALUES (2, 0, 1)")
        .there("INSERT INTO bare(rowid, x) VALUES (1, 'there'); INSERT INTO old VALUES ('there')")
        .there("UPDATE note SET text = 'unheard of' WHERE id = 5");
    both.rebase("fail");
    let found = "SELECT (SELECT group_concat(rowid || body) FROM text WHERE text MATCH 'swim OR run OR sleep') ||
        (SELECT count(*) FROM mine WHERE mine MATCH 'alone') || (SELECT rowid FROM over WHERE over MATCH 'unheard')";
    assert_eq!(both.primary.sql(found), "1here,2two,3three15");
    for (table, sql) in [
        ("bare", "INSERT INTO bare(rowid, x) VALUES (2, 'here')"),
        ("place", "UPDATE place SET high = 9 WHERE id = 1"),
        ("old", "INSERT INTO old VALUES ('here')"),
        ("new", "CREATE VIRTUAL TABLE new USING rtree(id, low, high)"),
    ] {
        both.here(sql)
            .there("UPDATE note SET text = text || '.' WHERE id = 1");
        let told = both.refused("local");
        assert!(told.contains(&format!("table {table} ")), "{told}");
        both.here("SELECT replica_discard()");
        both.rebase("fail");
    }
    both.end();
}

/// The remote moves on again and again, and another process writes here: all of it comes together.
#[test]
fn everybody_goes_on() {
    let mut both = Both::new("CREATE TABLE tally(who, n INTEGER, PRIMARY KEY (who, n))");
    let mut second = Shell::replica(&both.files.copy, "");
    for round in 0..20 {
        both.here(&format!("INSERT INTO tally VALUES ('here', {round})"))
            .there(&format!("INSERT INTO tally VALUES ('there', {round})"));
        second.sql(&format!("INSERT INTO tally VALUES ('second', {round})"));
        let report = match round % 2 {
            0 => both.rebase("fail"),
            _ => second.sql("SELECT replica_rebase('fail')"),
        };
        assert_eq!(json(&report, "$.rows"), "2", "{report}");
    }
    second.close();
    assert_eq!(
        both.primary.sql("SELECT group_concat(who || n, ' ') FROM (SELECT who, count(*) AS n FROM tally GROUP BY who)"),
        "here20 second20 there20"
    );
    both.end();
}

/// Another program writes to the primary, with hardly a pause: whoever rebases gets its turn.
#[test]
fn a_rebase_beside_a_writer_that_hardly_pauses() {
    let mut both = Both::new("CREATE TABLE tally(who, n INTEGER, PRIMARY KEY (who, n))");
    let mut plain = Host::plain_on(&both.files.app);
    plain.repeat_with_pauses("main", "INSERT INTO tally VALUES ('plain', random())", 1);
    for round in 0..10 {
        // It takes longer than from one commit there to the next.
        both.here("UPDATE note SET text = text || '.'")
            .here(&format!("INSERT INTO tally VALUES ('here', {round})"));
        both.rebase("local");
    }
    println!("transactions of the other program: {}", plain.stop());
    let count = "SELECT count(*) FROM tally WHERE who = 'here'";
    assert_eq!(both.primary.sql(count), "10");
    both.rebase("fail");
    both.end();
}

/// Rows that change stay where they are, in a table of a megabyte whose rows have all changed.
#[test]
fn what_was_merged_is_as_small_as_what_was_changed() {
    let mut both = Both::new("");
    both.here("UPDATE note SET text = replace(text, 'note', 'here')")
        .there("UPDATE note SET text = 'there' WHERE id = 700");
    let report = both.rebase("local");
    assert_eq!(json(&report, "$.rows"), "1000", "{report}");
    assert!(number(&report, "$.bytes_sent") < 50_000, "{report}");
    both.end();
}

/// What the local changes began with is no part of the history any more: the pages are compared.
#[test]
fn a_primary_that_was_restored_from_a_backup() {
    let files = Files::new();
    let backup = files.path("backup");
    files.primary().close();
    image::copy_all(&files.app, &backup);
    let mut primary = files.primary();
    let relay = Relay::to(primary.address());
    let parameters = format!("sync_url={}&offline=1", relay.url("app"));
    let mut replica = Shell::replica(&files.copy, &parameters);
    replica.sync();
    let whole = relay.take_received();
    primary.sql("UPDATE note SET text = 'lost' WHERE id < 30; CREATE TABLE lost(a)");
    replica.sync();
    replica.sql(
        "UPDATE note SET text = 'here' WHERE id IN (2, 500, 501); INSERT INTO note VALUES (2001, 'here', NULL)",
    );
    primary.close();
    image::remove_database(&files.app);
    image::copy_all(&backup.join("app.db"), &files.path(""));
    let mut primary = files.primary();
    relay.point(Some(primary.address()));
    primary.sql("UPDATE note SET text = 'there' WHERE id IN (3, 500); CREATE TABLE new(b)");
    let told = replica.refused("SELECT replica_sync()");
    assert!(told.contains("has moved on"), "{told}");
    replica.refused("SELECT replica_rebase()");
    // The backup has another row 2 than the local change began with.
    assert_eq!(
        replica.sql("SELECT group_concat(key) FROM replica_conflicts"),
        r#"{"id":2},{"id":500}"#
    );
    relay.take_received();
    let report = replica.sql("SELECT replica_rebase('local')");
    let received = relay.take_received();
    println!("{report}; {received} bytes received, the whole is {whole}");
    assert!(
        received < whole / 4,
        "{received} bytes, the whole is {whole}"
    );
    let rows = "SELECT group_concat(text) FROM note WHERE id IN (1, 2, 3, 500, 501, 2001)";
    assert_eq!(primary.sql(rows), "note 1,here,there,here,here,here");
    assert_eq!(
        replica.sql("SELECT group_concat(name) FROM sqlite_schema WHERE type = 'table'"),
        "note,new"
    );
    primary.sql("INSERT INTO new VALUES (1)");
    replica.sync();
    replica.close();
    assert_same(&files.app, &files.copy, "at the end");
    assert_intact(&files.copy, "at the end");
}

/// The setting makes a sync do it, in the background as well.
#[test]
fn a_policy_that_is_set_does_it_unasked() {
    let mut both = Both::new("");
    both.here("UPDATE note SET text = 'here' WHERE id IN (1, 2)")
        .there("UPDATE note SET text = 'there' WHERE id IN (2, 3)");
    both.replica.refused("SELECT replica_sync()");
    both.replica
        .sql("SELECT replica_config('on_conflict', 'fail')");
    let told = both.replica.refused("SELECT replica_sync()");
    assert!(told.contains("1 rows"), "{told}");
    both.replica
        .sql("SELECT replica_config('on_conflict', 'remote')");
    both.replica.sql("SELECT replica_sync()");
    let all = "SELECT group_concat(text) FROM note WHERE id < 4";
    assert_eq!(both.primary.sql(all), "here,there,there");
    // It is remembered, and the thread does it.
    both.replica.close();
    // A commit breaks off the waiting for news, and nothing else: whatever is sent over a line that was
    // broken off is not answered within the time-out.
    both.replica = Shell::replica(&both.files.copy, "live=1&sync_timeout=600");
    assert_eq!(
        both.replica.sql("SELECT replica_config('on_conflict')"),
        "remote"
    );
    for round in 0..30 {
        both.here(&format!("UPDATE note SET text = 'h{round}' WHERE id = 1"))
            .there(&format!("UPDATE note SET text = 't{round}' WHERE id = 2"));
        harness::wait_for("both changes on both sides", || {
            let expected = format!("h{round},t{round},there");
            both.primary.sql(all) == expected && both.replica.sql(all) == expected
        });
    }
    both.replica
        .refused("SELECT replica_config('on_conflict', 'mine')");
    both.end();
}

/// A connection that stays open knows a schema by its version: none that is thrown away comes again with other tables.
#[test]
fn no_connection_takes_one_table_for_another() {
    for next in ["there", "here", "here, in a restarted process", "online"] {
        let mut both = Both::new("CREATE TABLE first(a); INSERT INTO first VALUES ('first')");
        let mut idle = Shell::replica(&both.files.copy, "");
        let made = "CREATE TABLE one(a); INSERT INTO one VALUES ('one'); CREATE TABLE two(a);
            INSERT INTO two VALUES ('two')";
        both.here(made);
        assert_eq!(idle.sql("SELECT a FROM two"), "two");
        let version = both.replica.sql("PRAGMA schema_version");
        both.here("SELECT replica_discard()");
        assert_eq!(
            both.replica
                .sql("SELECT pending_pages || state FROM replica_status"),
            "0ok"
        );
        // The same, in another order.
        let other = "CREATE TABLE two(a); INSERT INTO two VALUES ('2'); CREATE TABLE one(a);
            INSERT INTO one VALUES ('1')";
        match next {
            "there" => {
                both.there(other);
                assert_eq!(both.primary.sql("PRAGMA schema_version"), version);
                both.here("SELECT replica_sync()");
            }
            "online" => {
                both.here("SELECT replica_config('offline', 0)").here(other);
            }
            "here" => {
                both.here(other);
            }
            _ => {
                both.replica.close();
                both.replica = Shell::replica(&both.files.copy, "");
                both.here(other);
            }
        }
        assert_eq!(idle.sql("SELECT a FROM two"), "2", "{next}");
        idle.sql("INSERT INTO one VALUES ('more')");
        assert_eq!(
            both.replica.sql("SELECT group_concat(a) FROM one"),
            "1,more",
            "{next}"
        );
        both.rebase("fail");
        assert_eq!(
            both.primary.sql("SELECT group_concat(a) FROM one"),
            "1,more"
        );
        idle.close();
        both.end();
    }
}
