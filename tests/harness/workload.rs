//! Random transactions of every kind that SQLite has a special way to write: the same seed makes the same statements.

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::hex;

/// Rows a table may keep.
const ROWS: i64 = 60;

struct Table {
    name: String,
    columns: Vec<String>,
    indexes: Vec<String>,
    next: i64,
}

/// One step: its statements, and what kind it is.
pub struct Step {
    /// The kind, for messages and counts.
    pub kind: &'static str,
    /// The statements.
    pub sql: String,
}

/// A generator that knows the schema it has made.
pub struct Workload {
    random: StdRng,
    page_size: usize,
    tables: Vec<Table>,
    names: u32,
    documents: i64,
    view: bool,
    trigger: bool,
}

impl Workload {
    /// A workload for databases of this page size.
    pub fn new(seed: u64, page_size: usize) -> Workload {
        Workload {
            random: StdRng::seed_from_u64(seed),
            page_size,
            tables: Vec::new(),
            names: 0,
            documents: 0,
            view: false,
            trigger: false,
        }
    }

    /// The statements that make the first schema; FTS5 is part of every host here.
    pub fn begin(&mut self) -> String {
        let mut sql = format!(
            "PRAGMA page_size = {}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;\n\
             CREATE VIRTUAL TABLE document USING fts5(title, body);\n\
             CREATE TABLE fixed(id INTEGER PRIMARY KEY AUTOINCREMENT, word TEXT);\n\
             CREATE TABLE record(id INTEGER, what TEXT);\n",
            self.page_size
        );
        for _ in 0..3 {
            sql += &self.create_table();
        }
        for index in 0..3 {
            sql += &self.insert(index, 20);
        }
        sql
    }

    /// The next step.
    pub fn step(&mut self) -> Step {
        let kinds: [(&'static str, u32); 16] = [
            ("autocommit", 30),
            ("transaction", 22),
            ("several commits", 6),
            ("savepoints", 6),
            ("rolled back", 4),
            ("spilled", 5),
            ("spilled, rolled back to", 3),
            ("delete all", 2),
            ("schema", 10),
            ("full text", 8),
            ("VACUUM", 2),
            ("VACUUM, auto_vacuum changed", 2),
            ("incremental_vacuum", 4),
            ("header", 3),
            ("wal_checkpoint", 3),
            ("grow, shrink", 3),
        ];
        let all: u32 = kinds.iter().map(|(_, weight)| weight).sum();
        let mut draw = self.random.random_range(0..all);
        let mut kind = "";
        for (name, weight) in kinds {
            if draw < weight {
                kind = name;
                break;
            }
            draw -= weight;
        }
        let sql = match kind {
            "autocommit" => self.change(),
            "transaction" => {
                let mut sql = "BEGIN IMMEDIATE;\n".to_string();
                for _ in 0..self.random.random_range(2..6) {
                    sql += &self.change();
                }
                if self.random.random_ratio(1, 4) {
                    sql += &self.schema();
                }
                if self.random.random_ratio(1, 4) {
                    sql += &self.full_text();
                }
                sql + "COMMIT;"
            }
            "several commits" => (0..self.random.random_range(2..8))
                .map(|_| self.change())
                .collect(),
            "savepoints" => self.savepoints(),
            "rolled back" => format!(
                "BEGIN IMMEDIATE;\n{}{}ROLLBACK;",
                self.scalar(),
                self.fill()
            ),
            "spilled" => self.spilled(false),
            "spilled, rolled back to" => self.spilled(true),
            "delete all" => {
                let index = self.some_table();
                format!("DELETE FROM {};", self.tables[index].name)
            }
            "schema" => self.schema(),
            "full text" => self.full_text(),
            "VACUUM" => "VACUUM;".to_string(),
            "VACUUM, auto_vacuum changed" => {
                format!(
                    "PRAGMA auto_vacuum = {}; VACUUM;",
                    self.random.random_range(0..3)
                )
            }
            "incremental_vacuum" => {
                let pages = self.random.random_range(1..40);
                // The pragma works one page per row that is asked for; the shell asks for all.
                format!("PRAGMA incremental_vacuum({pages});")
            }
            "header" => format!(
                "PRAGMA user_version = {}; PRAGMA application_id = {};",
                self.random.random_range(0..1_000_000),
                self.random.random_range(0..1_000_000)
            ),
            "wal_checkpoint" => {
                let mode =
                    ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.random.random_range(0..4)];
                format!("PRAGMA wal_checkpoint({mode});")
            }
            _ => self.grow_and_shrink(),
        };
        Step { kind, sql }
    }

    fn change(&mut self) -> String {
        let index = self.some_table();
        match self.random.random_range(0..10) {
            0..4 => {
                let rows = self.random.random_range(1..8);
                self.insert(index, rows)
            }
            4..6 => self.scalar(),
            6..8 => self.blob(index),
            8 => format!(
                "DELETE FROM {} WHERE id % {} = 0;\n",
                self.tables[index].name,
                self.random.random_range(2..9)
            ),
            _ => format!(
                "INSERT INTO fixed(word) VALUES ('{}');\nDELETE FROM fixed WHERE id % 7 = 3;\n",
                self.words(12)
            ),
        }
    }

    fn insert(&mut self, index: usize, rows: i64) -> String {
        let mut sql = String::new();
        for _ in 0..rows {
            let number = self.random.random_range(-1_000_000..1_000_000i64);
            let letters = self.random.random_range(0..self.page_size / 4);
            let text = self.words(letters);
            let blob = self.bytes();
            let table = &mut self.tables[index];
            table.next += 1;
            sql += &format!(
                "INSERT INTO {}(id, a, b, c) VALUES ({}, {number}, '{text}', x'{blob}');\n",
                table.name, table.next
            );
        }
        let table = &self.tables[index];
        sql + &format!(
            "DELETE FROM {} WHERE id <= {};\n",
            table.name,
            table.next - ROWS
        )
    }

    fn scalar(&mut self) -> String {
        let index = self.some_table();
        let modulus = self.random.random_range(1..6);
        let add = self.random.random_range(1..1000);
        let letters = self.random.random_range(0..self.page_size / 3);
        let text = self.words(letters);
        let name = &self.tables[index].name;
        format!("UPDATE {name} SET a = a + {add}, b = '{text}' WHERE id % {modulus} = 0;\n")
    }

    fn blob(&mut self, index: usize) -> String {
        let blob = self.bytes();
        let table = &self.tables[index];
        format!(
            "UPDATE {} SET c = x'{blob}' WHERE id = {};\n",
            table.name,
            table.next - self.random.random_range(0..20)
        )
    }

    fn fill(&mut self) -> String {
        let index = self.some_table();
        let table = &self.tables[index];
        format!(
            "UPDATE {} SET c = zeroblob({}), b = b || 'x';\n",
            table.name,
            self.random.random_range(0..self.page_size * 2)
        )
    }

    fn savepoints(&mut self) -> String {
        let mut sql = "BEGIN IMMEDIATE;\n".to_string();
        sql += &self.change();
        sql += "SAVEPOINT one;\n";
        sql += &self.scalar();
        sql += "SAVEPOINT two;\n";
        sql += &self.fill();
        sql += "ROLLBACK TO two;\n";
        sql += &self.scalar();
        sql += if self.random.random() {
            "RELEASE one;\n"
        } else {
            "ROLLBACK TO one; RELEASE one;\n"
        };
        sql += &self.change();
        sql + "COMMIT;"
    }

    /// A cache too small for the transaction: pages reach the log before the commit and are overwritten there.
    fn spilled(&mut self, rolled_back: bool) -> String {
        let mut sql = "PRAGMA cache_size = 3;\nBEGIN IMMEDIATE;\n".to_string();
        for round in 0..3 {
            for table in &self.tables {
                sql += &format!("UPDATE {} SET a = a + 1, b = b || 'y';\n", table.name);
            }
            if rolled_back && round == 0 {
                sql += "SAVEPOINT spill;\n";
            }
        }
        if rolled_back {
            sql += "ROLLBACK TO spill;\n";
        }
        for table in &self.tables {
            sql += &format!(
                "UPDATE {} SET b = substr(b, 1, 20) WHERE id % 2;\n",
                table.name
            );
        }
        sql + "COMMIT;\nPRAGMA cache_size = -2000;"
    }

    /// Grows the file by many pages in one commit and cuts them off again in the next.
    fn grow_and_shrink(&mut self) -> String {
        let bytes = self.page_size * self.random.random_range(5..30);
        format!(
            "CREATE TABLE ballast AS SELECT zeroblob({bytes}) AS c;\n\
             DROP TABLE ballast;\nPRAGMA incremental_vacuum;\n"
        )
    }

    fn create_table(&mut self) -> String {
        self.names += 1;
        let name = format!("t{}", self.names);
        let suffix = if self.random.random_ratio(1, 3) {
            " WITHOUT ROWID"
        } else {
            ""
        };
        self.tables.push(Table {
            name: name.clone(),
            columns: Vec::new(),
            indexes: Vec::new(),
            next: 0,
        });
        format!("CREATE TABLE {name}(id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c BLOB){suffix};\n")
    }

    fn schema(&mut self) -> String {
        let index = self.some_table();
        let name = self.tables[index].name.clone();
        match self.random.random_range(0..11) {
            0..2 if self.tables.len() < 6 => {
                let sql = self.create_table();
                let last = self.tables.len() - 1;
                sql + &self.insert(last, 10)
            }
            2 if self.tables.len() > 2 => {
                self.tables.remove(index);
                format!("DROP TABLE {name};\n")
            }
            3..5 => {
                self.names += 1;
                let made = format!("i{}", self.names);
                let on = ["a", "b", "a, b", "b, id DESC"][self.random.random_range(0..4)];
                let only = if self.random.random() {
                    " WHERE a > 0"
                } else {
                    ""
                };
                self.tables[index].indexes.push(made.clone());
                format!("CREATE INDEX {made} ON {name}({on}){only};\n")
            }
            5..7 => match self.tables[index].indexes.pop() {
                Some(made) => format!("DROP INDEX {made};\n"),
                None => format!("REINDEX {name};\n"),
            },
            7 => {
                self.names += 1;
                let column = format!("x{}", self.names);
                self.tables[index].columns.push(column.clone());
                format!("ALTER TABLE {name} ADD COLUMN {column} TEXT DEFAULT 'added';\n")
            }
            8 => match self.tables[index].columns.pop() {
                // Dropping a column rewrites every row.
                Some(column) => format!("ALTER TABLE {name} DROP COLUMN {column};\n"),
                None => {
                    self.names += 1;
                    let renamed = format!("t{}", self.names);
                    self.tables[index].name = renamed.clone();
                    format!("ALTER TABLE {name} RENAME TO {renamed};\n")
                }
            },
            9 => {
                self.view = !self.view;
                if self.view {
                    "CREATE VIEW shown AS SELECT word, count(*) FROM fixed GROUP BY word;\n"
                        .to_string()
                } else {
                    "DROP VIEW shown;\n".to_string()
                }
            }
            10 => {
                self.trigger = !self.trigger;
                if self.trigger {
                    "CREATE TRIGGER recorded AFTER INSERT ON fixed BEGIN\n\
                       INSERT INTO record VALUES (new.id, new.word);\n\
                       DELETE FROM record WHERE id < new.id - 50;\n\
                     END;\n"
                        .to_string()
                } else {
                    "DROP TRIGGER recorded;\n".to_string()
                }
            }
            _ => "ANALYZE;\n".to_string(),
        }
    }

    fn full_text(&mut self) -> String {
        match self.random.random_range(0..8) {
            0..4 => {
                let mut sql = String::new();
                for _ in 0..self.random.random_range(1..6) {
                    self.documents += 1;
                    let title = self.words(20);
                    let body = self.words(400);
                    sql += &format!(
                        "INSERT INTO document(rowid, title, body) VALUES ({}, '{title}', '{body}');\n",
                        self.documents
                    );
                }
                sql + &format!(
                    "DELETE FROM document WHERE rowid <= {};\n",
                    self.documents - 200
                )
            }
            4..6 => {
                let body = self.words(300);
                format!(
                    "UPDATE document SET body = '{body}' WHERE rowid % {} = 0;\n",
                    self.random.random_range(2..9)
                )
            }
            6 => "INSERT INTO document(document) VALUES ('optimize');\n".to_string(),
            _ => "INSERT INTO document(document) VALUES ('rebuild');\n".to_string(),
        }
    }

    fn some_table(&mut self) -> usize {
        self.random.random_range(0..self.tables.len())
    }

    /// About `letters` letters of words that repeat, as text does.
    fn words(&mut self, letters: usize) -> String {
        const WORDS: [&str; 16] = [
            "page",
            "frame",
            "log",
            "checkpoint",
            "commit",
            "reader",
            "writer",
            "snapshot",
            "salt",
            "index",
            "lock",
            "mark",
            "primary",
            "replica",
            "position",
            "batch",
        ];
        let mut text = String::new();
        while text.len() < letters {
            text += WORDS[self.random.random_range(0..WORDS.len())];
            text.push(' ');
        }
        text
    }

    /// A blob in hex: mostly small, now and then one that needs overflow pages.
    fn bytes(&mut self) -> String {
        let size = if self.random.random_ratio(1, 8) {
            self.random.random_range(self.page_size..self.page_size * 3)
        } else {
            self.random.random_range(0..self.page_size / 8)
        };
        let mut bytes = vec![0; size];
        self.random.fill_bytes(&mut bytes);
        hex::encode_bytes(&bytes)
    }
}
