//! What a database holds, as one number that any host can find out.
use crate::host::Host;
use rusqlite::Connection;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Every row and every schema entry, hashed.
pub type Content = u64;

/// Anything that answers a query by lines.
pub trait Source {
    fn lines(&mut self, sql: &str) -> Result<Vec<String>, String>;
}

impl Source for Host {
    fn lines(&mut self, sql: &str) -> Result<Vec<String>, String> {
        self.run(sql)
    }
}

impl Source for Connection {
    fn lines(&mut self, sql: &str) -> Result<Vec<String>, String> {
        let work = || -> rusqlite::Result<Vec<String>> {
            self.prepare(sql)?
                .query_map([], |row| row.get(0))?
                .collect()
        };
        work().map_err(|e: rusqlite::Error| format!("{sql}: {e}"))
    }
}

/// The content by full read. The tests keep their rows in `t(k, g, v)`.
pub fn content(source: &mut (impl Source + ?Sized)) -> Result<Content, String> {
    let mut hasher = DefaultHasher::new();
    let schema = source
        .lines("SELECT replace(name || ' ' || sql, char(10), ' ') FROM sqlite_schema ORDER BY 1")?;
    schema.hash(&mut hasher);
    if schema.iter().any(|entry| entry.starts_with("t ")) {
        source
            .lines("SELECT k || '|' || g || '|' || v FROM t ORDER BY k")?
            .hash(&mut hasher);
    }
    Ok(hasher.finish())
}
