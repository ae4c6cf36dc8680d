//! Doing what happened to rows here on top of what the remote has.
//!
//! A row that is there stays where it is, so that pages stay alike. Where others are in its way that go,
//! or change as well, it has to wait: those that are left go all, then come all.

use rusqlite::{Connection, Params, params_from_iter};

use super::fts5::Mirror;
use super::row::Reader;
use super::schema::Schema;
use super::sql::{self, list, parameters, place, quoted};
use super::table::{Key, Table};
use crate::error::{Error, Result};
use crate::rows::record::Value;

/// What is to be done to one table.
pub struct Plan {
    /// The keys of the rows that are to be as they are here.
    pub keys: Vec<Vec<Value>>,
    /// The table here.
    pub local: Table,
    /// The table in `main`.
    pub main: Table,
    /// Full-text indexes over it.
    mirrors: Vec<Mirror>,
    /// Columns that only `main` has: a row keeps what it has there.
    kept: Vec<String>,
}

/// What is kept of a row that is written anew.
struct Kept {
    rowid: Option<Value>,
    values: Vec<Value>,
}

impl Plan {
    /// Nothing yet.
    pub fn new(main_schema: &Schema, local_schema: &Schema, local: &Table, main: &Table) -> Self {
        let is_new = |column: &&String| {
            let mut columns = local.columns.iter();
            !columns.any(|other| other.eq_ignore_ascii_case(column))
        };
        Self {
            keys: Vec::new(),
            mirrors: Mirror::all(main_schema, local_schema, local, main),
            kept: main.columns.iter().filter(is_new).cloned().collect(),
            local: local.clone(),
            main: main.clone(),
        }
    }

    /// Takes away rows that are gone here, and changes others in place; the keys of those that are left.
    fn change(&self, connection: &Connection) -> Result<Vec<&[Value]>> {
        let reader = Reader::new("local", &self.local, &self.local.columns);
        let update = self.update();
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        for key in &self.keys {
            match (reader.row(connection, key)?, &update) {
                (None, _) => gone.push(&key[..]),
                (Some(row), Some(update)) if self.change_row(connection, update, key, &row)? => {}
                _ => left.push(&key[..]),
            }
        }
        self.delete(connection, &gone)?;
        Ok(left)
    }

    /// The statement that changes a row, by its columns and its key; `None` without columns.
    fn update(&self) -> Option<String> {
        let columns = self.written();
        let set = columns.iter().zip(1..);
        let set: Vec<_> = set
            .map(|(column, n)| format!("{} = ?{n}", quoted(column)))
            .collect();
        let update = || {
            format!(
                "UPDATE OR ABORT {} SET {} WHERE {}",
                place("main", &self.main.name),
                set.join(", "),
                self.is_row(columns.len() + 1)
            )
        };
        (!columns.is_empty()).then(update)
    }

    /// Whether the row is there and could be changed.
    fn change_row(
        &self,
        connection: &Connection,
        update: &str,
        key: &[Value],
        row: &[Value],
    ) -> Result<bool> {
        let values = row.iter().chain(key);
        if self.mirrors.is_empty() {
            return changes(connection, update, params_from_iter(values));
        }
        sql::run(connection, "SAVEPOINT replica_row", [])?;
        for mirror in &self.mirrors {
            mirror.remove(connection, key)?;
        }
        let is_done = changes(connection, update, params_from_iter(values))?;
        if !is_done {
            sql::run(connection, "ROLLBACK TO replica_row", [])?;
        }
        for mirror in self.mirrors.iter().filter(|_| is_done) {
            mirror.add(connection, key)?;
        }
        sql::run(connection, "RELEASE replica_row", [])?;
        Ok(is_done)
    }

    /// What the table's own columns are called where it is written.
    fn written(&self) -> &[String] {
        match &self.main.fts5 {
            Some(fts5) => &fts5.columns,
            None => &self.local.columns,
        }
    }

    /// Whether a row of `main` has the key that parameters hold, from one on.
    fn is_row(&self, first: usize) -> String {
        match &self.main.fts5 {
            Some(_) => format!("rowid = ?{first}"),
            None => sql::equals(self.main.key.columns(), first),
        }
    }

    /// Takes away the rows with these keys.
    fn delete(&self, connection: &Connection, keys: &[&[Value]]) -> Result<Vec<Option<Kept>>> {
        let columns: Vec<_> = self.beside().cloned().chain(self.kept.clone()).collect();
        let has_rowid = self.beside().next().is_some();
        let reader = Reader::new("main", &self.main, &columns);
        let delete = format!(
            "DELETE FROM {} WHERE {}",
            place("main", &self.main.name),
            self.is_row(1)
        );
        let mut all = Vec::with_capacity(keys.len());
        for key in keys {
            let kept = reader.row(connection, key)?.map(|mut values| Kept {
                rowid: has_rowid.then(|| values.remove(0)),
                values: match self.kept.is_empty() {
                    true => Vec::new(),
                    false => values,
                },
            });
            if kept.is_some() {
                for mirror in &self.mirrors {
                    mirror.remove(connection, key)?;
                }
                sql::run(connection, &delete, params_from_iter(key.iter()))
                    .map_err(|error| self.about(key, error))?;
            }
            all.push(kept);
        }
        Ok(all)
    }

    /// The rowid, in tables whose rows are told apart by something else.
    fn beside(&self) -> impl Iterator<Item = &String> {
        let is_beside = matches!(self.main.key, Key::Columns(_));
        self.main.rowid.iter().filter(move |_| is_beside)
    }

    /// Writes the rows with these keys as they are here.
    fn insert(
        &self,
        connection: &Connection,
        keys: &[&[Value]],
        kept: Vec<Option<Kept>>,
    ) -> Result<()> {
        let mut columns = self.local.columns.clone();
        let local_rowid = match (&self.local.key, &self.local.rowid) {
            (Key::Columns(_), Some(rowid)) => Some(rowid.clone()),
            _ => None,
        };
        columns.extend(local_rowid.clone());
        let reader = Reader::new("local", &self.local, &columns);
        for (key, kept) in keys.iter().zip(kept) {
            let Some(mut row) = reader.row(connection, key)? else {
                continue;
            };
            let local_rowid = local_rowid.as_ref().and_then(|_| row.pop());
            let rowid = self.rowid(connection, key, kept.as_ref(), local_rowid)?;
            self.write(connection, row, rowid, kept)
                .map_err(|error| self.about(key, error))?;
            for mirror in &self.mirrors {
                mirror.add(connection, key)?;
            }
        }
        Ok(())
    }

    /// The rowid a row is to have, and its name; `None` where that is one of its columns.
    fn rowid(
        &self,
        connection: &Connection,
        key: &[Value],
        kept: Option<&Kept>,
        local: Option<Value>,
    ) -> Result<Option<(String, Value)>> {
        if self.main.fts5.is_some() {
            return Ok(Some(("rowid".to_owned(), key[0].clone())));
        }
        match (&self.main.key, self.beside().next()) {
            (Key::Rowid(name), _) if self.main.is_anonymous => {
                Ok(Some((name.clone(), key[0].clone())))
            }
            (Key::Columns(_), Some(name)) => {
                let rowid = match (kept.and_then(|kept| kept.rowid.clone()), local) {
                    (Some(rowid), _) => rowid,
                    (None, Some(rowid)) if !self.has_rowid(connection, name, &rowid)? => rowid,
                    // SQLite chooses one.
                    _ => Value::Null,
                };
                Ok(Some((name.clone(), rowid)))
            }
            _ => Ok(None),
        }
    }

    fn has_rowid(&self, connection: &Connection, name: &str, rowid: &Value) -> Result<bool> {
        let table = place("main", &self.main.name);
        let sql = format!("SELECT 1 FROM {table} WHERE {} = ?1", quoted(name));
        sql::exists(connection, &sql, [rowid])
    }

    fn write(
        &self,
        connection: &Connection,
        mut row: Vec<Value>,
        rowid: Option<(String, Value)>,
        kept: Option<Kept>,
    ) -> Result<()> {
        let mut columns = self.written().to_vec();
        if let Some(kept) = kept {
            columns.extend(self.kept.iter().take(kept.values.len()).cloned());
            row.extend(kept.values);
        }
        if let Some((name, rowid)) = rowid {
            columns.push(name);
            row.push(rowid);
        }
        // Whatever the constraints say: no row of the remote's goes for this one.
        let sql = format!(
            "INSERT OR ABORT INTO {}({}) VALUES ({})",
            place("main", &self.main.name),
            list(&columns),
            parameters(columns.len())
        );
        sql::run(connection, &sql, params_from_iter(row))
    }

    fn about(&self, key: &[Value], error: Error) -> Error {
        Error::Constraint(format!(
            "{error}: the row {} of table {}; nothing was changed",
            self.local.key_json(key),
            self.local.name
        ))
    }
}

/// Whether a statement changes anything. Where a row is in its way, that one perhaps is to change as well.
fn changes(connection: &Connection, sql: &str, params: impl Params) -> Result<bool> {
    match sql::run(connection, sql, params) {
        Ok(()) => Ok(connection.changes() > 0),
        Err(Error::Constraint(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Does it all.
pub fn apply(connection: &Connection, plans: &[Plan]) -> Result<()> {
    for plan in plans {
        let left = plan.change(connection)?;
        let kept = plan.delete(connection, &left)?;
        plan.insert(connection, &left, kept)?;
    }
    Ok(())
}
