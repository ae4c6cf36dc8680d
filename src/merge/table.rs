//! Tables whose rows are compared and merged.

use rusqlite::Connection;

use super::fts5::Fts5;
use super::schema::{Kind, Object, Schema};
use super::sql::{self, quoted, text};
use crate::error::{Error, Result};
use crate::rows::record::Value;

/// What tells rows apart.
#[derive(Clone, Debug)]
pub enum Key {
    /// The rowid, under this name.
    Rowid(String),
    /// The columns of the PRIMARY KEY.
    Columns(Vec<String>),
}

impl Key {
    /// The columns it is asked for by.
    pub fn columns(&self) -> &[String] {
        match self {
            Key::Rowid(name) => std::slice::from_ref(name),
            Key::Columns(names) => names,
        }
    }
}

/// A table in one state.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The table its rows are read from: itself, but for full-text tables.
    pub stored: String,
    /// The columns that are stored, not generated.
    pub columns: Vec<String>,
    /// The expressions of their defaults.
    defaults: Vec<Option<String>>,
    /// What users call them.
    pub shown: Vec<String>,
    /// What tells its rows apart.
    pub key: Key,
    /// A name of the rowid, in tables that have one beside their key.
    pub rowid: Option<String>,
    /// Whether its rowid has no name of its own: VACUUM may give rows others.
    pub is_anonymous: bool,
    /// Whether it has rowids at all.
    pub has_rowids: bool,
    /// What it is written through.
    pub fts5: Option<Fts5>,
}

impl Table {
    /// The tables of a state with rows of their own: ordinary ones, and full-text tables with text.
    pub fn all(connection: &Connection, schema: &Schema) -> Result<Vec<Self>> {
        let mut tables = Vec::new();
        for object in &schema.objects {
            match object.kind {
                Kind::Table => tables.push(Self::describe(connection, schema, object)?),
                Kind::Virtual => tables.extend(Fts5::of(object).and_then(|fts5| fts5.table())),
                _ => {}
            }
        }
        Ok(tables)
    }

    /// The table of that name among `tables`.
    pub fn find<'a>(tables: &'a [Self], name: &str) -> Option<&'a Self> {
        tables
            .iter()
            .find(|table| table.name.eq_ignore_ascii_case(name))
    }

    /// What a table with pages of its own looks like.
    pub fn describe(connection: &Connection, schema: &Schema, object: &Object) -> Result<Self> {
        let pragma = |name: &str| {
            let (schema, table) = (quoted(schema.name), quoted(&object.name));
            format!("PRAGMA {schema}.{name}({table})")
        };
        let (mut columns, mut defaults) = (Vec::new(), Vec::new());
        let (mut names, mut primary) = (Vec::new(), Vec::new());
        // cid, name, type, notnull, dflt_value, pk, hidden
        for row in sql::rows(connection, &pragma("table_xinfo"), [])? {
            let name = text(&row[1]);
            if let Value::Integer(place @ 1..) = row[5] {
                primary.push((place, name.clone()));
            }
            names.push(name.clone());
            if row[6] == Value::Integer(0) {
                columns.push(name);
                defaults.push((row[4] != Value::Null).then(|| text(&row[4])));
            }
        }
        primary.sort();
        let primary: Vec<_> = primary.into_iter().map(|(_, name)| name).collect();
        // seq, name, unique, origin, partial
        let has_index = sql::rows(connection, &pragma("index_list"), [])?
            .iter()
            .any(|row| text(&row[3]) == "pk");
        let has_rowids = has_rowids(connection, schema, object)?;
        let free = |name: &&str| !names.iter().any(|other| other.eq_ignore_ascii_case(name));
        let rowid = ["rowid", "_rowid_", "oid"].into_iter().find(free);
        let rowid = rowid.filter(|_| has_rowids).map(str::to_owned);
        let is_alias = has_rowids && primary.len() == 1 && !has_index;
        let key = match (&rowid, is_alias) {
            (_, true) => Key::Rowid(primary[0].clone()),
            _ if !primary.is_empty() => Key::Columns(primary),
            (Some(rowid), _) => Key::Rowid(rowid.clone()),
            (None, _) => {
                return Err(Error::Misuse(format!(
                    "table {} has no PRIMARY KEY, and columns that hide its rowid: its rows cannot be \
                     told apart",
                    object.name
                )));
            }
        };
        Ok(Self {
            name: object.name.clone(),
            stored: object.name.clone(),
            shown: columns.clone(),
            columns,
            defaults,
            is_anonymous: !is_alias && matches!(key, Key::Rowid(_)),
            key,
            rowid,
            has_rowids,
            fts5: None,
        })
    }

    /// The rows of a full-text table.
    pub fn of_fts5(fts5: &Fts5) -> Self {
        let columns = (0..fts5.columns.len()).map(|n| format!("c{n}"));
        Self {
            name: fts5.name.clone(),
            stored: format!("{}_content", fts5.name),
            columns: columns.collect(),
            defaults: vec![None; fts5.columns.len()],
            shown: fts5.columns.clone(),
            key: Key::Rowid("id".to_owned()),
            rowid: None,
            is_anonymous: false,
            has_rowids: true,
            fts5: Some(fts5.clone()),
        }
    }

    /// What a column holds in rows that nothing was written to it in. (A column that was added to a
    /// table has a constant default.)
    pub fn default(&self, connection: &Connection, column: &str) -> Result<Value> {
        let at = self.columns.iter().position(|name| name == column);
        let default = at.and_then(|at| self.defaults[at].as_ref());
        let Some(expression) = default else {
            return Ok(Value::Null);
        };
        let row = sql::first(connection, &format!("SELECT {expression}"), [])?;
        Ok(row
            .and_then(|row| row.into_iter().next())
            .unwrap_or(Value::Null))
    }

    /// For each column of this table, what it is called in an earlier state: by its name, or, where only
    /// names changed, by its place.
    pub fn counterparts(&self, earlier: &Table) -> Vec<Option<String>> {
        let has = |table: &Table, name: &str| {
            let mut columns = table.columns.iter();
            columns.any(|column| column.eq_ignore_ascii_case(name))
        };
        let is_renamed = self.columns.len() == earlier.columns.len();
        let counterpart = |(n, name): (usize, &String)| {
            if has(earlier, name) {
                return Some(name.clone());
            }
            let other = earlier.columns.get(n)?;
            (is_renamed && !has(self, other)).then(|| other.clone())
        };
        self.columns.iter().enumerate().map(counterpart).collect()
    }

    /// Whether a column that both have has another place here: what a row holds under a name may be
    /// different then though nobody wrote to it.
    pub fn has_moved_columns(&self, earlier: &Table) -> bool {
        let place = |name: String| earlier.columns.iter().position(|column| *column == name);
        let counterparts = self.counterparts(earlier).into_iter().enumerate();
        let mut places = counterparts.filter_map(|(n, name)| Some((n, place(name?)?)));
        places.any(|(here, before)| here != before)
    }

    /// Whether rows of both have the same keys.
    pub fn has_key_of(&self, earlier: &Table) -> bool {
        match (&self.key, &earlier.key) {
            (Key::Rowid(_), Key::Rowid(_)) => self.is_anonymous == earlier.is_anonymous,
            (Key::Columns(new), Key::Columns(old)) => {
                let counterparts = self.counterparts(earlier);
                let before = |name: &String| {
                    let at = self.columns.iter().position(|column| column == name)?;
                    counterparts[at].clone()
                };
                let same = |(new, old): (&String, &String)| {
                    before(new).is_some_and(|name| name.eq_ignore_ascii_case(old))
                };
                new.len() == old.len() && new.iter().zip(old).all(same)
            }
            _ => false,
        }
    }

    /// A key as an object of JSON.
    pub fn key_json(&self, key: &[Value]) -> String {
        let name = |name: &String| match &self.fts5 {
            Some(_) => "rowid".to_owned(),
            None => name.clone(),
        };
        let names: Vec<_> = self.key.columns().iter().map(name).collect();
        super::json::object(names.iter().map(String::as_str).zip(key))
    }
}

/// Without them `rowid` is no column, whatever is called so.
fn has_rowids(connection: &Connection, schema: &Schema, object: &Object) -> Result<bool> {
    let listed = "SELECT 1 FROM pragma_table_list(?2) WHERE schema = ?1 AND wr = 0";
    match sql::exists(connection, listed, [schema.name, &object.name]) {
        Ok(has) => Ok(has),
        // SQLite before 3.37 has no such table.
        Err(_) => {
            let first = format!(
                "SELECT _rowid_ FROM {}",
                sql::place(schema.name, &object.name)
            );
            Ok(connection.prepare(&first).is_ok())
        }
    }
}
