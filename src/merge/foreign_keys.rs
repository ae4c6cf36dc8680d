//! Foreign keys after a merge: what was in order on both sides may not be when both are put together.
//!
//! A row that came from here may refer to one that is gone on the remote, and a row of the remote's to
//! one that went here. What broke a foreign key before the merge already is none of its business.

use rusqlite::{Connection, params_from_iter};

use super::apply::Plan;
use super::schema::{Kind, Schema};
use super::sql::{self, place, quoted, text};
use super::table::{Key, Table};
use crate::error::{Error, Result};
use crate::rows::record::Value;

/// A foreign key.
struct ForeignKey {
    child: Table,
    parent: String,
    /// Columns of the child, and those of the parent they refer to.
    columns: Vec<(String, String)>,
}

/// Refuses a merge that breaks a foreign key; the sentence names the row.
pub fn check(connection: &Connection, plans: &[Plan]) -> Result<()> {
    let main = Schema::read(connection, "main")?;
    let local = Schema::read(connection, "local")?;
    for object in main.all(Kind::Table) {
        for key in foreign_keys(connection, &main, &object.name)? {
            let of = |table: &str| {
                let mut plans = plans.iter();
                plans.find(|plan| plan.main.name.eq_ignore_ascii_case(table))
            };
            if let Some(plan) = of(&key.child.name) {
                key.check_children(connection, &local, plan)?;
            }
            if let Some(plan) = of(&key.parent) {
                key.check_parents(connection, plan)?;
            }
        }
    }
    Ok(())
}

fn foreign_keys(connection: &Connection, main: &Schema, table: &str) -> Result<Vec<ForeignKey>> {
    let list = format!("PRAGMA main.foreign_key_list({})", quoted(table));
    // id, seq, table, from, to, on_update, on_delete, match
    let rows = sql::rows(connection, &list, [])?;
    let Some(object) = main.find(Kind::Table, table).filter(|_| !rows.is_empty()) else {
        return Ok(Vec::new());
    };
    let mut keys: Vec<(Value, ForeignKey)> = Vec::new();
    for row in rows {
        let parent = text(&row[2]);
        let Some(parent_object) = main.find(Kind::Table, &parent) else {
            continue;
        };
        if keys.last().is_none_or(|(id, _)| *id != row[0]) {
            let child = Table::describe(connection, main, object)?;
            let key = ForeignKey {
                child,
                parent: parent_object.name.clone(),
                columns: Vec::new(),
            };
            keys.push((row[0].clone(), key));
        }
        let Some((_, key)) = keys.last_mut() else {
            continue;
        };
        let to = match &row[4] {
            // The PRIMARY KEY of the parent.
            Value::Null => {
                let parent = Table::describe(connection, main, parent_object)?;
                let place = key.columns.len();
                parent.key.columns().get(place).cloned().unwrap_or_default()
            }
            to => text(to),
        };
        key.columns.push((text(&row[3]), to));
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

impl ForeignKey {
    /// `p.a = c.x AND …`: the column of the parent first, whose affinity and collation count.
    fn matches(&self, parent: &str) -> String {
        let equal =
            |(from, to): &(String, String)| format!("{parent}.{} = c.{}", quoted(to), quoted(from));
        let all: Vec<_> = self.columns.iter().map(equal).collect();
        all.join(" AND ")
    }

    /// Whether a row of the child in a schema refers to nothing.
    fn dangling(&self, schema: &str) -> String {
        let not_null = |(from, _): &(String, String)| format!("c.{} IS NOT NULL", quoted(from));
        let not_null: Vec<_> = self.columns.iter().map(not_null).collect();
        format!(
            "{} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {})",
            not_null.join(" AND "),
            place(schema, &self.parent),
            self.matches("p")
        )
    }

    /// Rows that came from here refer to something, unless they did not here.
    fn check_children(&self, connection: &Connection, local: &Schema, plan: &Plan) -> Result<()> {
        let query = |schema: &str, table: &Table| {
            format!(
                "SELECT 1 FROM {} AS c WHERE {} AND {}",
                place(schema, &table.name),
                sql::equals_of("c.", table.key.columns(), 1),
                self.dangling(schema)
            )
        };
        let merged = query("main", &plan.main);
        let has_parent = local.find(Kind::Table, &self.parent).is_some();
        for key in &plan.keys {
            if !sql::exists(connection, &merged, params_from_iter(key))? {
                continue;
            }
            let here = query("local", &plan.local);
            if has_parent && !sql::exists(connection, &here, params_from_iter(key))? {
                return Err(self.broken(&plan.local.key_json(key)));
            }
        }
        Ok(())
    }

    /// Rows that went here, or are others now, were referred to by none that is left.
    fn check_parents(&self, connection: &Connection, plan: &Plan) -> Result<()> {
        let columns = match &self.child.key {
            Key::Rowid(name) => std::slice::from_ref(name),
            Key::Columns(names) => names,
        };
        let shown: Vec<_> = columns
            .iter()
            .map(|name| format!("c.{}", quoted(name)))
            .collect();
        let (shown, dangling) = (shown.join(", "), self.dangling("main"));
        let (child, parent) = (
            place("main", &self.child.name),
            place("remote", &plan.main.name),
        );
        if !self.is_indexed(connection)? {
            // One look at all rows, instead of one for each that went.
            let all = format!(
                "SELECT {shown} FROM {child} AS c WHERE {dangling}
                 AND EXISTS (SELECT 1 FROM {parent} AS q WHERE {})",
                self.matches("q")
            );
            return match plan.keys.is_empty() {
                true => Ok(()),
                false => self.refuse_first(connection, &all, &[]),
            };
        }
        let referring = format!(
            "SELECT {shown} FROM {parent} AS q CROSS JOIN {child} AS c
             WHERE {} AND {} AND {dangling}",
            sql::equals_of("q.", plan.main.key.columns(), 1),
            self.matches("q")
        );
        for key in &plan.keys {
            self.refuse_first(connection, &referring, key)?;
        }
        Ok(())
    }

    fn refuse_first(&self, connection: &Connection, sql: &str, key: &[Value]) -> Result<()> {
        match sql::first(connection, sql, params_from_iter(key))? {
            Some(row) => Err(self.broken(&self.child.key_json(&row))),
            None => Ok(()),
        }
    }

    /// Whether the rows that refer to one are found without looking at all.
    fn is_indexed(&self, connection: &Connection) -> Result<bool> {
        let (first, _) = &self.columns[0];
        if self.child.key.columns()[0].eq_ignore_ascii_case(first) {
            return Ok(true);
        }
        let list = format!("PRAGMA main.index_list({})", quoted(&self.child.name));
        for index in sql::rows(connection, &list, [])? {
            let columns = format!("PRAGMA main.index_info({})", quoted(&text(&index[1])));
            let leading = sql::first(connection, &columns, [])?;
            if leading.is_some_and(|row| text(&row[2]).eq_ignore_ascii_case(first)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn broken(&self, key: &str) -> Error {
        Error::Constraint(format!(
            "FOREIGN KEY constraint failed: the row {key} of table {} refers to a row of table {} that \
             would not be there; nothing was changed",
            self.child.name, self.parent
        ))
    }
}
