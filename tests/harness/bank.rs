//! A bank: every transaction moves money and keeps the sums, so that any reader can tell a whole state from a torn one.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The number of accounts.
pub const ACCOUNTS: i64 = 1500;
/// The rows of the ledger that are kept.
pub const LEDGER: i64 = 200;

/// One row: the number of the newest transaction, 1 if the state is that of one whole transaction, and what was seen.
pub const CHECK: &str = "WITH seen AS (
  SELECT (SELECT transactions FROM total) AS transactions,
         (SELECT weighted FROM total) AS expected,
         (SELECT sum(balance) FROM account) AS money,
         (SELECT count(*) FROM account) AS accounts,
         (SELECT sum(id * balance) FROM account) AS weighted,
         (SELECT max(number) FROM ledger) AS newest,
         (SELECT count(*) FROM ledger) AS entries,
         (SELECT sum(length(note)) FROM ledger) AS letters,
         (SELECT letters FROM total) AS expected_letters)
SELECT transactions,
       money = 1500 * 1000 AND accounts = 1500 AND weighted = expected
         AND newest = transactions AND entries = min(transactions + 1, 200) AND letters = expected_letters,
       money, accounts, weighted, expected, newest, entries, letters, expected_letters
FROM seen";

/// The state before the first transaction, made by plain SQLite.
pub fn create(path: &Path, page_size: u32) {
    crate::image::create(path)
        .execute_batch(&format!(
            "PRAGMA page_size = {page_size};
             PRAGMA journal_mode = WAL;
             BEGIN;
             CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT NOT NULL, balance INTEGER NOT NULL);
             CREATE INDEX account_balance ON account(balance, owner);
             CREATE TABLE ledger(number INTEGER PRIMARY KEY, note TEXT NOT NULL);
             CREATE TABLE total(transactions INTEGER NOT NULL, weighted INTEGER NOT NULL, letters INTEGER NOT NULL);
             WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < {ACCOUNTS})
               INSERT INTO account SELECT n, printf('owner %d of an account %.60c', n, 'x'), 1000 FROM counter;
             INSERT INTO ledger VALUES (0, 'opened');
             INSERT INTO total SELECT 0, sum(id * balance), 6 FROM account;
             COMMIT;
             PRAGMA wal_checkpoint(TRUNCATE);"
        ))
        .expect("bank");
}

/// The transactions of the bank. They number themselves from what the file holds, so that a crash, or a second writer,
/// leaves the numbers right.
pub struct Bank {
    random: StdRng,
    made: u64,
}

impl Bank {
    /// The same seed makes the same transactions.
    pub fn new(seed: u64) -> Bank {
        Bank {
            random: StdRng::seed_from_u64(seed),
            made: 0,
        }
    }

    /// The SQL of the next transaction.
    pub fn transaction(&mut self) -> String {
        self.made += 1;
        let mut sql = "BEGIN IMMEDIATE;\n".to_string();
        if self.made.is_multiple_of(50) {
            // Touches every account, so that a torn state cannot hide in pages that no transaction shares.
            sql += "UPDATE account SET balance = balance + CASE WHEN id % 2 THEN 1 ELSE -1 END;\n";
        }
        if self.made.is_multiple_of(130) {
            sql += "DROP INDEX account_balance; CREATE INDEX account_balance ON account(balance, owner);\n";
        }
        for _ in 0..self.random.random_range(1..8) {
            let from = self.random.random_range(1..=ACCOUNTS);
            let to = self.random.random_range(1..=ACCOUNTS);
            let amount = self.random.random_range(1..100);
            sql += &format!(
                "UPDATE account SET balance = balance - {amount} WHERE id = {from};\n\
                 UPDATE account SET balance = balance + {amount} WHERE id = {to};\n"
            );
        }
        // Some notes need overflow pages.
        let letters = if self.random.random_ratio(1, 10) {
            self.random.random_range(5_000..30_000)
        } else {
            self.random.random_range(10..300)
        };
        sql += &format!(
            "INSERT INTO ledger SELECT transactions + 1, printf('%.{letters}c', 'n') FROM total;\n\
             DELETE FROM ledger WHERE number <= (SELECT transactions + 1 FROM total) - {LEDGER};\n\
             UPDATE total SET transactions = transactions + 1,\n\
               weighted = (SELECT sum(id * balance) FROM account),\n\
               letters = (SELECT sum(length(note)) FROM ledger);\n\
             COMMIT;"
        );
        sql
    }

    /// The SQL of several transactions.
    pub fn transactions(&mut self, count: usize) -> String {
        (0..count).map(|_| self.transaction() + "\n").collect()
    }
}

/// Fails unless `path` holds one whole transaction's state, as plain SQLite reads it; the number of that transaction.
#[track_caller]
pub fn assert_whole(path: &Path, context: &str) -> i64 {
    let (number, whole): (i64, i64) = crate::image::look(path)
        .query_row(CHECK, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap_or_else(|error| panic!("{context}: {}: {error}", path.display()));
    assert_eq!(
        whole, 1,
        "{context}: transaction {number} is there in part only"
    );
    number
}
