//! Transactions that write the log in different ways.

use std::path::Path;

use harness::{Client, image};

/// How a transaction writes the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// A few frames behind others.
    Small,
    /// The first ones of the log.
    Restart,
    /// Frames are spilled, and written over.
    Spilled,
    /// The database grows by some pages.
    Growing,
    /// Small, with everything that comes before its COMMIT.
    Whole,
}

/// A database for them.
pub fn create(path: &Path) {
    image::create(path)
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE word(number INTEGER PRIMARY KEY, id INTEGER NOT NULL, text BLOB);
             CREATE TABLE other(id INTEGER PRIMARY KEY, text BLOB);
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200)
               INSERT INTO other SELECT n, randomblob(300) FROM c;",
        )
        .expect("words");
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 5] = [
        Shape::Small,
        Shape::Restart,
        Shape::Spilled,
        Shape::Growing,
        Shape::Whole,
    ];

    /// What comes before the COMMIT of transaction `id`.
    pub fn statements(self, id: u64) -> Vec<String> {
        let insert = format!("INSERT INTO word(id, text) VALUES ({id}, randomblob(50))");
        let change = "UPDATE other SET text = randomblob(300)".to_string();
        let begin = "BEGIN IMMEDIATE".to_string();
        match self {
            Shape::Small | Shape::Restart | Shape::Whole => vec![begin, insert],
            Shape::Spilled => vec![
                "PRAGMA cache_size = 4".to_string(),
                begin,
                insert,
                change.clone(),
                change,
                "PRAGMA cache_size = 200".to_string(),
            ],
            Shape::Growing => {
                let large = format!("INSERT INTO word(id, text) VALUES ({id}, randomblob(20000))");
                vec![begin, large]
            }
        }
    }

    /// Runs it up to its COMMIT.
    #[track_caller]
    pub fn prepare(self, client: &mut Client, id: u64) {
        if self == Shape::Restart {
            client.done("PRAGMA wal_checkpoint(PASSIVE)");
        }
        for statement in self.statements(id) {
            client.insist(&statement);
        }
    }
}
