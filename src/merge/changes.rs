//! The rows that are others in one state of a database than in another.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::json;
use super::row::Reader;
use super::schema::{Kind, Schema};
use super::sql;
use super::states::Two;
use super::table::{Key, Table};
use crate::error::{Error, Result};
use crate::page::PageNumber;
use crate::rows::difference::{Difference, Extent};
use crate::rows::record::Value;
use crate::rows::view::View;

/// One row that changed. Keys and rows are objects of JSON.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The table.
    pub table: String,
    /// What tells the row apart.
    pub key: String,
    /// The row before; `None` where it was not there.
    pub old: Option<String>,
    /// The row afterwards; `None` where it is not there.
    pub new: Option<String>,
}

impl Change {
    /// What happened to the row.
    pub fn word(&self) -> &'static str {
        match (&self.old, &self.new) {
            (None, _) => "insert",
            (_, None) => "delete",
            _ => "update",
        }
    }
}

/// Two states on a connection.
pub struct Comparison<'a> {
    connection: &'a Connection,
    old: &'a Schema,
    new: &'a Schema,
    rows: Difference<'a>,
}

impl<'a> Comparison<'a> {
    /// Compares two schemas, each with its pages. Those outside `changed` are the same in both.
    pub fn new(
        connection: &'a Connection,
        (old, old_view): (&'a Schema, &'a dyn View),
        (new, new_view): (&'a Schema, &'a dyn View),
        changed: &BTreeSet<PageNumber>,
    ) -> Result<Self> {
        let (old_roots, new_roots) = (old.roots(), new.roots());
        let old_pages = (old_view, old_roots.as_slice());
        let new_pages = (new_view, new_roots.as_slice());
        Ok(Self {
            connection,
            old,
            new,
            rows: Difference::new(old_pages, new_pages, changed)?,
        })
    }

    /// Whether all rows with overflow pages had to be looked at.
    pub fn is_scan(&self) -> bool {
        self.rows.is_scan()
    }

    /// The keys of the rows of a table that differ; without a description it is not there.
    pub fn keys(&self, old: Option<&Table>, new: Option<&Table>) -> Result<Vec<Vec<Value>>> {
        let Some(table) = new.or(old) else {
            return Ok(Vec::new());
        };
        let mut found = BTreeSet::new();
        let comparer = Comparer::new(self, old, new)?;
        for candidate in self.candidates(table, old, new)? {
            if let Some(key) = comparer.differing(self.connection, candidate)? {
                found.insert(key);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Whether any row differs in a table that a module keeps.
    pub fn has_changed(&self, table: &str) -> Result<bool> {
        let describe = |schema: &Schema| {
            schema
                .find(Kind::Shadow, table)
                .map(|object| Table::describe(self.connection, schema, object))
                .transpose()
        };
        let (old, new) = (describe(self.old)?, describe(self.new)?);
        Ok(!self.keys(old.as_ref(), new.as_ref())?.is_empty())
    }

    /// Keys of rows that may differ.
    fn candidates(
        &self,
        table: &Table,
        old: Option<&Table>,
        new: Option<&Table>,
    ) -> Result<BTreeSet<Vec<Value>>> {
        let root = |schema: &Schema, table: Option<&Table>| {
            table.and_then(|table| Some(schema.stored(&table.stored)?.root))
        };
        let (old_root, new_root) = (root(self.old, old), root(self.new, new));
        let extent = self.extent(old, new);
        let columns = match &table.key {
            Key::Columns(columns) if !table.has_rowids => {
                let keys = self.rows.keys(old_root, new_root, columns.len(), extent)?;
                let decode = |value| self.new.encoding.decode(value);
                let decoded = |key: Vec<Value>| key.into_iter().map(decode).collect();
                return Ok(keys.into_iter().map(decoded).collect());
            }
            Key::Columns(columns) => Some(columns),
            Key::Rowid(_) => None,
        };
        let rowids = self.rows.rowids(old_root, new_root, extent)?;
        if columns.is_none() {
            let key = |rowid| vec![Value::Integer(rowid)];
            return Ok(rowids.into_iter().map(key).collect());
        }
        let mut keys = BTreeSet::new();
        for (schema, table) in [(self.old, old), (self.new, new)] {
            let Some(table) = table else { continue };
            let columns = table.key.columns();
            let reader = Reader::by_rowid(schema.name, table, columns).ok_or_else(|| {
                Error::Misuse(format!(
                    "table {} has columns that hide its rowid: its rows cannot be found",
                    table.name
                ))
            })?;
            for rowid in &rowids {
                let key = reader.row(self.connection, &[Value::Integer(*rowid)])?;
                if let Some(key) = key {
                    no_null(table, &key)?;
                    keys.insert(key);
                }
            }
        }
        Ok(keys)
    }

    /// Which rows may differ by the definitions of their table.
    fn extent(&self, old: Option<&Table>, new: Option<&Table>) -> Extent {
        let (Some(old), Some(new)) = (old, new) else {
            return Extent::Pages;
        };
        let sql = |schema: &'a Schema, table: &Table| {
            let object = schema.stored(&table.stored)?;
            Some(&object.sql)
        };
        if new.has_moved_columns(old) {
            Extent::Table
        } else if sql(self.old, old) == sql(self.new, new) && self.old.encoding == self.new.encoding
        {
            Extent::Cells
        } else {
            Extent::Pages
        }
    }

    /// Whether VACUUM may have given the rows of a table other rowids.
    pub fn may_be_renumbered(&self, old: &Table, new: &Table) -> Result<bool> {
        if !new.is_anonymous || self.old.cookie == self.new.cookie {
            return Ok(false);
        }
        let sql = format!(
            "SELECT max(rowid) = count(*) AND min(rowid) = 1 FROM {}",
            sql::place(self.new.name, &new.stored)
        );
        if sql::integer(self.connection, &sql)? == 0 {
            return Ok(false);
        }
        // Rows that were added at the end changed none of the others.
        let before = Reader::new(self.old.name, old, &[]);
        for key in self.keys(Some(old), Some(new))? {
            if before.row(self.connection, &key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn no_null(table: &Table, key: &[Value]) -> Result<()> {
    match key.contains(&Value::Null) {
        true => Err(Error::Misuse(format!(
            "table {} has a row with NULL in its PRIMARY KEY: it cannot be told apart from others",
            table.name
        ))),
        false => Ok(()),
    }
}

/// Compares single rows of a table.
struct Comparer {
    old: Option<Reader>,
    new: Option<Reader>,
    /// Where the columns of the key are among those that are read.
    key: Option<Vec<usize>>,
    /// What the columns that only the new state has hold where nothing was written to them; they are
    /// read behind the others.
    defaults: Vec<Value>,
}

impl Comparer {
    fn new(comparison: &Comparison<'_>, old: Option<&Table>, new: Option<&Table>) -> Result<Self> {
        let (mut before, mut after, mut added) = (Vec::new(), Vec::new(), Vec::new());
        match (old, new) {
            (Some(old), Some(new)) => {
                for (column, counterpart) in new.columns.iter().zip(new.counterparts(old)) {
                    match counterpart {
                        Some(counterpart) => {
                            before.push(counterpart);
                            after.push(column.clone());
                        }
                        None => added.push(column.clone()),
                    }
                }
            }
            (Some(table), None) => before.clone_from(&table.columns),
            (None, Some(table)) => after.clone_from(&table.columns),
            (None, None) => {}
        }
        let default = |column: &String| match new {
            Some(table) => table.default(comparison.connection, column),
            None => Ok(Value::Null),
        };
        let defaults = added.iter().map(default).collect::<Result<_>>()?;
        after.extend(added);
        let table = new.or(old);
        let columns = if new.is_some() { &after } else { &before };
        let key = table.and_then(|table| match &table.key {
            Key::Rowid(_) => None,
            Key::Columns(names) => names
                .iter()
                .map(|name| columns.iter().position(|column| column == name))
                .collect(),
        });
        let reader = |schema: &Schema, table: Option<&Table>, columns: &[String]| {
            table.map(|table| Reader::new(schema.name, table, columns))
        };
        Ok(Self {
            old: reader(comparison.old, old, &before),
            new: reader(comparison.new, new, &after),
            key,
            defaults,
        })
    }

    /// The key of a row that differs. Where two keys mean one row, as `a` and `A` do with `COLLATE
    /// NOCASE`, it is that of the row before.
    fn differing(
        &self,
        connection: &Connection,
        candidate: Vec<Value>,
    ) -> Result<Option<Vec<Value>>> {
        let read = |reader: &Option<Reader>| match reader {
            Some(reader) => reader.row(connection, &candidate),
            None => Ok(None),
        };
        let (old, new) = (read(&self.old)?, read(&self.new)?);
        let is_same = match (&old, &new) {
            (Some(old), Some(new)) => {
                let (common, added) = new.split_at(old.len().min(new.len()));
                old == common && added == self.defaults
            }
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return Ok(None);
        }
        Ok(match (&self.key, old.or(new)) {
            (Some(places), Some(row)) => Some(places.iter().map(|at| row[*at].clone()).collect()),
            _ => Some(candidate),
        })
    }
}

/// All rows that changed, on a connection whose schema `main` is the new state and `base` the old
/// one. What the schemas themselves hold comes first, as rows of `sqlite_schema`.
pub fn changes(connection: &Connection, two: &Two) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    each(connection, two, |change| changes.push(change))?;
    Ok(changes)
}

/// How many rows changed.
pub fn count_changes(connection: &Connection, two: &Two) -> Result<u64> {
    let mut count = 0;
    each(connection, two, |_| count += 1)?;
    Ok(count)
}

fn each(connection: &Connection, two: &Two, mut visit: impl FnMut(Change)) -> Result<()> {
    connection.set_prepared_statement_cache_capacity(256);
    let (old, new) = (
        Schema::read(connection, "base")?,
        Schema::read(connection, "main")?,
    );
    of_schema(&old, &new, &mut visit);
    let comparison = Comparison::new(
        connection,
        (&old, &*two.old),
        (&new, &*two.new),
        &two.changed,
    )?;
    if comparison.is_scan() {
        log::info!(
            target: "replica",
            "a value was written over in place: all rows with overflow pages are looked at"
        );
    }
    let (before, after) = (Table::all(connection, &old)?, Table::all(connection, &new)?);
    let gone = |table: &&Table| Table::find(&after, &table.name).is_none();
    let names = after.iter().chain(before.iter().filter(gone));
    for table in names {
        let pair = (
            Table::find(&before, &table.name),
            Table::find(&after, &table.name),
        );
        let rows = |schema: &Schema, table: Option<&Table>| {
            table.map(|table| {
                (
                    Reader::new(schema.name, table, &table.columns),
                    table.clone(),
                )
            })
        };
        let (old_rows, new_rows) = (rows(&old, pair.0), rows(&new, pair.1));
        for key in comparison.keys(pair.0, pair.1)? {
            let json =
                |rows: &Option<(Reader, Table)>| match rows {
                    Some((reader, table)) => {
                        let row = reader.row(connection, &key)?;
                        Ok::<_, Error>(row.map(|row| {
                            json::object(table.shown.iter().map(String::as_str).zip(&row))
                        }))
                    }
                    None => Ok(None),
                };
            visit(Change {
                table: table.name.clone(),
                key: table.key_json(&key),
                old: json(&old_rows)?,
                new: json(&new_rows)?,
            });
        }
    }
    Ok(())
}

fn of_schema(old: &Schema, new: &Schema, visit: &mut impl FnMut(Change)) {
    let is_shown = |kind: Kind| !matches!(kind, Kind::Shadow | Kind::Internal | Kind::AutoIndex);
    let sql = |schema: &Schema, kind, name: &str| {
        let object = schema.find(kind, name)?;
        let sql = Value::Text(object.sql.clone().into_bytes());
        Some(json::object([("sql", &sql)]))
    };
    let mut seen = BTreeSet::new();
    for object in old.objects.iter().chain(&new.objects) {
        let (kind, name) = (object.kind, &object.name);
        if !is_shown(kind) || !seen.insert((kind as u8, name.to_ascii_lowercase())) {
            continue;
        }
        let (before, after) = (sql(old, kind, name), sql(new, kind, name));
        if before != after {
            let name = Value::Text(name.clone().into_bytes());
            visit(Change {
                table: "sqlite_schema".to_owned(),
                key: json::object([("name", &name)]),
                old: before,
                new: after,
            });
        }
    }
}
