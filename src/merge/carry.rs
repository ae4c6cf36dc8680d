//! Changes of the schema that were made here, made once more on top of the remote's.
//!
//! An object that only one side changed is carried over; one that both changed in different ways is
//! refused by its statement. A table whose definition changed is made anew where adding a column does
//! not do: SQLite's own procedure (<https://www.sqlite.org/lang_altertable.html>, section 7).

use rusqlite::Connection;

use super::fts5::{Content, Fts5};
use super::schema::{Kind, Object, Schema};
use super::sql::{self, list, quoted};
use super::table::Table;
use crate::error::{Error, Result};

/// Under this name the old form of a table waits to be copied.
const ASIDE: &str = "replica_rebase_aside";

/// The schemas of all three states.
pub struct Schemas<'a> {
    /// That of the base.
    pub base: &'a Schema,
    /// The local one.
    pub local: &'a Schema,
    /// The remote's.
    pub remote: &'a Schema,
}

/// What was done to the schema here, as it is to be done to `main`.
#[derive(Default)]
pub struct Carried<'a> {
    dropped: Vec<&'a Object>,
    altered: Vec<&'a Object>,
    created: Vec<&'a Object>,
}

/// What is carried over; an error names the statement that cannot be.
pub fn find<'a>(schemas: &Schemas<'a>) -> Result<Carried<'a>> {
    let mut carried = Carried::default();
    let kinds = [
        Kind::Table,
        Kind::Virtual,
        Kind::Index,
        Kind::View,
        Kind::Trigger,
    ];
    for kind in kinds {
        for object in schemas.base.all(kind) {
            if schemas.local.find(kind, &object.name).is_none() {
                match schemas.remote.find(kind, &object.name) {
                    None => {}
                    Some(remote) if remote.sql == object.sql => carried.dropped.push(object),
                    Some(remote) => return Err(both_changed(object, Some(remote))),
                }
            }
        }
        for object in schemas.local.all(kind) {
            let base = schemas.base.find(kind, &object.name);
            let remote = schemas.remote.find(kind, &object.name);
            let sql = |object: Option<&'a Object>| object.map(|object| &object.sql);
            if sql(base) == Some(&object.sql) || sql(remote) == Some(&object.sql) {
                continue;
            }
            match (base, remote) {
                (Some(_), Some(_)) if sql(base) == sql(remote) => carried.altered.push(object),
                (None, None) => carried.created.push(object),
                _ => return Err(both_changed(object, remote)),
            }
        }
    }
    carried.refuse_unknown()?;
    Ok(carried)
}

fn both_changed(object: &Object, remote: Option<&Object>) -> Error {
    let there = match remote {
        Some(remote) => format!("there is: {}", remote.statement()),
        None => "is gone there".to_owned(),
    };
    Error::Diverged(format!(
        "the schema was changed on both sides: {} here, and {} {there}: nothing was changed",
        object.statement(),
        object.name
    ))
}

impl<'a> Carried<'a> {
    /// A table of a module holds what nobody can read here.
    fn refuse_unknown(&self) -> Result<()> {
        let tables = self.created.iter().chain(&self.altered);
        for object in tables.filter(|object| object.kind == Kind::Virtual) {
            let is_known = Fts5::of(object).is_some_and(|fts5| fts5.content != Content::Nowhere);
            if !is_known
                || self
                    .altered
                    .iter()
                    .any(|other| other.is_called(&object.name))
            {
                return Err(not_carried(object));
            }
        }
        Ok(())
    }

    /// The tables that were dropped here.
    pub fn dropped_tables(&self) -> impl Iterator<Item = &'a Object> {
        let is_table = |object: &&&Object| object.kind == Kind::Table;
        self.dropped.iter().filter(is_table).copied()
    }

    /// Leaves a table where it is.
    pub fn keep(&mut self, table: &Object) {
        self.dropped
            .retain(|object| !object.table.eq_ignore_ascii_case(&table.name));
    }

    /// Does it.
    pub fn run(&self, connection: &Connection, schemas: &Schemas<'_>) -> Result<()> {
        let named = |kind: Kind, objects: &[&'a Object]| -> Vec<&'a Object> {
            let of_kind = objects.iter().filter(|object| object.kind == kind);
            of_kind.copied().collect()
        };
        for (kind, word) in [
            (Kind::Trigger, "TRIGGER"),
            (Kind::View, "VIEW"),
            (Kind::Index, "INDEX"),
            (Kind::Virtual, "TABLE"),
            (Kind::Table, "TABLE"),
        ] {
            for object in named(kind, &self.dropped) {
                drop_object(connection, word, object)?;
            }
            if !matches!(kind, Kind::Table | Kind::Virtual) {
                for object in named(kind, &self.altered) {
                    drop_object(connection, word, object)?;
                }
            }
        }
        for object in named(Kind::Table, &self.altered) {
            alter(connection, schemas, object)?;
        }
        for kind in [
            Kind::Table,
            Kind::Virtual,
            Kind::Index,
            Kind::View,
            Kind::Trigger,
        ] {
            for object in named(kind, &self.created) {
                create(connection, object)?;
            }
            if !matches!(kind, Kind::Table | Kind::Virtual) {
                for object in named(kind, &self.altered) {
                    create(connection, object)?;
                }
            }
        }
        Ok(())
    }

    /// Fills the full-text indexes that were created here over other tables.
    pub fn fill_indexes(&self, connection: &Connection) -> Result<()> {
        for fts5 in self.created.iter().filter_map(|object| Fts5::of(object)) {
            let is_index = matches!(fts5.content, Content::Elsewhere { .. });
            if is_index && !fts5.is_empty(connection, "local")? {
                fts5.rebuild(connection)?;
            }
        }
        Ok(())
    }
}

fn not_carried(object: &Object) -> Error {
    Error::Misuse(format!(
        "{} cannot be carried over: virtual table {} is none whose rows are known here: nothing was \
         changed",
        object.statement(),
        object.name
    ))
}

fn drop_object(connection: &Connection, word: &str, object: &Object) -> Result<()> {
    // With its table it may have gone already.
    let sql = format!("DROP {word} IF EXISTS main.{}", quoted(&object.name));
    sql::run(connection, &sql, [])
}

/// What creates an object does so in `main`: the statement names no schema.
fn create(connection: &Connection, object: &Object) -> Result<()> {
    sql::run(connection, &object.sql, []).map_err(|error| {
        Error::Diverged(format!(
            "{} does not work on top of what the remote has: {error}: nothing was changed",
            object.statement()
        ))
    })
}

/// Gives a table its local definition.
fn alter(connection: &Connection, schemas: &Schemas<'_>, local: &Object) -> Result<()> {
    let base = schemas
        .base
        .find(Kind::Table, &local.name)
        .ok_or_else(|| Error::Internal(format!("{} has no base", local.name)))?;
    sql::run(connection, "SAVEPOINT carry", [])?;
    if let Some(column) = added_column(&base.sql, &local.sql) {
        let table = quoted(&local.name);
        let added = format!("ALTER TABLE main.{table} ADD COLUMN {column}");
        let is_added = sql::run(connection, &added, []).is_ok();
        let now = Schema::read(connection, "main")?;
        let found = now.find(Kind::Table, &local.name);
        if is_added && found.is_some_and(|object| object.sql == local.sql) {
            return sql::run(connection, "RELEASE carry", []);
        }
        sql::run(connection, "ROLLBACK TO carry", [])?;
    }
    make_anew(connection, schemas, base, local)?;
    sql::run(connection, "RELEASE carry", [])
}

/// What `ALTER TABLE … ADD COLUMN` would have been told, where it made the one statement of the other.
fn added_column<'a>(before: &str, after: &'a str) -> Option<&'a str> {
    let is_same = |(a, b): &(char, char)| a == b;
    let same = before.chars().zip(after.chars()).take_while(is_same);
    let common: usize = same.map(|(sign, _)| sign.len_utf8()).sum();
    let rest = &before[common..];
    let added = after[common..].strip_suffix(rest)?.trim_start();
    added.strip_prefix(',').map(str::trim)
}

fn make_anew(
    connection: &Connection,
    schemas: &Schemas<'_>,
    base: &Object,
    local: &Object,
) -> Result<()> {
    let before = Table::describe(connection, schemas.base, base)?;
    let after = Table::describe(connection, schemas.local, local)?;
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for (column, counterpart) in after.columns.iter().zip(after.counterparts(&before)) {
        if let Some(counterpart) = counterpart {
            from.push(counterpart);
            to.push(column.clone());
        }
    }
    if let (true, Some(old), Some(new)) = (after.is_anonymous, &before.rowid, &after.rowid) {
        from.push(old.clone());
        to.push(new.clone());
    }
    let table = quoted(&local.name);
    sql::run(
        connection,
        &format!("ALTER TABLE main.{table} RENAME TO {ASIDE}"),
        [],
    )?;
    create(connection, local)?;
    let copy = format!(
        "INSERT INTO main.{table}({}) SELECT {} FROM main.{ASIDE}",
        list(&to),
        list(&from)
    );
    sql::run(connection, &copy, [])?;
    sql::run(connection, &format!("DROP TABLE main.{ASIDE}"), [])?;
    // They went with it. Those that were changed as well are created later.
    let main = Schema::read(connection, "main")?;
    for kind in [Kind::Index, Kind::Trigger] {
        for object in schemas.local.all(kind) {
            let was_there = schemas
                .remote
                .find(kind, &object.name)
                .is_some_and(|remote| remote.sql == object.sql);
            let is_its = object.table.eq_ignore_ascii_case(&local.name);
            if is_its && was_there && main.find(kind, &object.name).is_none() {
                create(connection, object)?;
            }
        }
    }
    Ok(())
}

/// Connections know a schema by its version alone: where the schema was changed here, the merged one
/// gets a version that no state of either side had, nor one that was `retired`.
pub fn raise_version(connection: &Connection, schemas: &Schemas<'_>, retired: i64) -> Result<()> {
    let (base, local) = (schemas.base.cookie, schemas.local.cookie);
    let main = sql::integer(connection, "PRAGMA main.schema_version")?;
    // What was retired had versions beyond the base's.
    let is_known = local != base || (main != base && main <= retired);
    match is_known {
        true => {
            let version = local.max(main).max(retired) + 1;
            let set = format!("PRAGMA main.schema_version = {version}");
            sql::run(connection, &set, [])
        }
        false => Ok(()),
    }
}

/// Numbers in the header of the database that belong to applications.
pub fn carry_numbers(connection: &Connection) -> Result<()> {
    for name in ["user_version", "application_id"] {
        let number = |schema: &str| sql::integer(connection, &format!("PRAGMA {schema}.{name}"));
        let (base, local, remote) = (number("base")?, number("local")?, number("main")?);
        if local == base || local == remote {
            continue;
        }
        if remote != base {
            return Err(Error::Diverged(format!(
                "PRAGMA {name} was changed on both sides, from {base} to {local} here and to {remote} \
                 there: nothing was changed"
            )));
        }
        sql::run(connection, &format!("PRAGMA main.{name} = {local}"), [])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::added_column;

    #[test]
    fn added_columns() {
        let before = "CREATE TABLE t(a, b)";
        assert_eq!(
            added_column(before, "CREATE TABLE t(a, b, c INT)"),
            Some("c INT")
        );
        assert_eq!(added_column(before, "CREATE TABLE t(a, c)"), None);
        assert_eq!(added_column(before, before), None);
        assert_eq!(
            added_column(
                "CREATE TABLE t(a) STRICT",
                "CREATE TABLE t(a, b TEXT DEFAULT ')') STRICT"
            ),
            Some("b TEXT DEFAULT ')'")
        );
    }
}
