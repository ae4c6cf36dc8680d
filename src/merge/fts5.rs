//! Full-text tables of the module FTS5 (<https://www.sqlite.org/fts5.html>): their rows are read where
//! FTS5 keeps them, and written through FTS5 alone.

use rusqlite::Connection;

use super::row::Reader;
use super::schema::{Kind, Object, Schema, unquoted};
use super::sql::{self, list, place, quoted};
use super::table::Table;
use crate::error::Result;
use crate::rows::record::Value;

/// Where the text lies that is indexed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// In a table of its own.
    Own,
    /// In another table, or view, whose column `rowid` tells the rows apart.
    Elsewhere {
        /// The table.
        table: String,
        /// The column.
        rowid: String,
    },
    /// Nowhere, or in a form that is not read here.
    Nowhere,
}

/// A full-text table.
#[derive(Clone, Debug)]
pub struct Fts5 {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// Where the text lies.
    pub content: Content,
    /// Whether it notes which rows are indexed.
    has_sizes: bool,
}

impl Fts5 {
    /// What a virtual table of this module is; `None` for one of another module.
    pub fn of(object: &Object) -> Option<Self> {
        let (module, arguments) = object.module();
        if object.kind != Kind::Virtual || module != "fts5" {
            return None;
        }
        let mut columns = Vec::new();
        let mut content = None;
        let (mut rowid, mut has_sizes, mut is_strange) = ("rowid".to_owned(), true, false);
        for argument in &arguments {
            let Some((option, value)) = argument.split_once(" = ") else {
                let name = argument.split(' ').next().unwrap_or_default();
                // A quoted name may have spaces.
                let name = match name.starts_with(['"', '\'', '`', '[']) {
                    true => argument.strip_suffix(" UNINDEXED").unwrap_or(argument),
                    false => name,
                };
                columns.push(unquoted(name));
                continue;
            };
            match option.to_ascii_lowercase().as_str() {
                "content" => content = Some(unquoted(value)),
                "content_rowid" => rowid = unquoted(value),
                "columnsize" => has_sizes = unquoted(value) != "0",
                "locale" | "contentless_unindexed" => is_strange |= unquoted(value) != "0",
                _ => {}
            }
        }
        let content = match content {
            _ if is_strange => Content::Nowhere,
            None => Content::Own,
            Some(table) if table.is_empty() => Content::Nowhere,
            Some(table) => Content::Elsewhere { table, rowid },
        };
        Some(Self {
            name: object.name.clone(),
            columns,
            content,
            has_sizes,
        })
    }

    /// Its rows as those of a table, where it has them.
    pub fn table(&self) -> Option<Table> {
        (self.content == Content::Own).then(|| Table::of_fts5(self))
    }

    /// Whether a row is indexed in a schema.
    fn has(&self, connection: &Connection, schema: &str, rowid: &Value) -> Result<bool> {
        if !self.has_sizes {
            return Ok(true);
        }
        let sizes = place(schema, &format!("{}_docsize", self.name));
        let sql = format!("SELECT 1 FROM {sizes} WHERE id = ?1");
        sql::exists(connection, &sql, [rowid])
    }

    /// Makes the index anew from the text.
    pub fn rebuild(&self, connection: &Connection) -> Result<()> {
        let (table, name) = (place("main", &self.name), quoted(&self.name));
        let sql = format!("INSERT INTO {table}({name}) VALUES ('rebuild')");
        sql::run(connection, &sql, [])
    }

    /// Whether anything is indexed.
    pub fn is_empty(&self, connection: &Connection, schema: &str) -> Result<bool> {
        let name = match self.has_sizes {
            true => format!("{}_docsize", self.name),
            false => format!("{}_idx", self.name),
        };
        let sql = format!("SELECT 1 FROM {} LIMIT 1", place(schema, &name));
        Ok(!sql::exists(connection, &sql, [])?)
    }
}

/// A full-text index over the rows of another table, to be kept right where these change.
pub struct Mirror {
    fts5: Fts5,
    /// Reads rowid and text of a row by the key of its table, in `main` and in `local`.
    before: Reader,
    after: Reader,
}

impl Mirror {
    /// The indexes in `main` over the rows of a table.
    pub fn all(main: &Schema, local: &Schema, here: &Table, there: &Table) -> Vec<Self> {
        let indexes = main.all(Kind::Virtual).filter_map(Fts5::of);
        let mirror = |fts5: Fts5| {
            let Content::Elsewhere { table, rowid } = &fts5.content else {
                return None;
            };
            let is_there = local.find(Kind::Virtual, &fts5.name).is_some();
            if !table.eq_ignore_ascii_case(&there.name) || !is_there {
                return None;
            }
            let mut columns = vec![rowid.clone()];
            columns.extend(fts5.columns.iter().cloned());
            Some(Self {
                before: Reader::new("main", there, &columns),
                after: Reader::new("local", here, &columns),
                fts5,
            })
        };
        indexes.filter_map(mirror).collect()
    }

    /// A row is about to go from its table.
    pub fn remove(&self, connection: &Connection, key: &[Value]) -> Result<()> {
        match self.before.row(connection, key)? {
            Some(row) if self.fts5.has(connection, "main", &row[0])? => {
                let table = place("main", &self.fts5.name);
                let mut columns = vec![self.fts5.name.clone(), "rowid".to_owned()];
                columns.extend(self.fts5.columns.iter().cloned());
                let sql = format!(
                    "INSERT INTO {table}({}) VALUES ('delete', {})",
                    list(&columns),
                    sql::parameters(row.len())
                );
                sql::run(connection, &sql, rusqlite::params_from_iter(row))
            }
            _ => Ok(()),
        }
    }

    /// A row has come to its table.
    pub fn add(&self, connection: &Connection, key: &[Value]) -> Result<()> {
        let is_indexed = match self.after.row(connection, key)? {
            Some(row) => self.fts5.has(connection, "local", &row[0])?,
            None => false,
        };
        // As it is there now: without a declared key the rowid may be another one.
        match self.before.row(connection, key)? {
            Some(row) if is_indexed => {
                let mut columns = vec!["rowid".to_owned()];
                columns.extend(self.fts5.columns.iter().cloned());
                let sql = format!(
                    "INSERT INTO {}({}) VALUES ({})",
                    place("main", &self.fts5.name),
                    list(&columns),
                    sql::parameters(row.len())
                );
                sql::run(connection, &sql, rusqlite::params_from_iter(row))
            }
            _ => Ok(()),
        }
    }
}
