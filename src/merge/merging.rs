//! The merge itself: what changed here is found, compared with what the remote has, and done there.

use rusqlite::Connection;

use super::apply::{Plan, apply};
use super::carry::{self, Carried, Schemas};
use super::changes::Comparison;
use super::foreign_keys;
use super::fts5::{Content, Fts5};
use super::json;
use super::policy::Policy;
use super::row::Reader;
use super::schema::{Kind, Object, Schema};
use super::sequence;
use super::sql;
use super::states::States;
use super::table::Table;
use crate::error::{Error, Result};
use crate::rows::record::Value;

/// A row that both sides changed in different ways. Keys and rows are objects of JSON.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The table.
    pub table: String,
    /// What tells the row apart.
    pub key: String,
    /// The row both began with; `None` where there was none.
    pub base: Option<String>,
    /// The local row.
    pub local: Option<String>,
    /// That of the remote.
    pub remote: Option<String>,
}

/// What came of a merge.
pub struct Merged {
    /// Rows that both sides changed in different ways. With [`Policy::Fail`] and any of them nothing
    /// was merged.
    pub conflicts: Vec<Conflict>,
    /// Rows that were changed on top of what the remote has.
    pub rows: usize,
    /// Whether all rows with overflow pages had to be looked at.
    pub is_scan: bool,
}

/// Merges on a connection whose schema `main` is the remote's state, to be written to.
pub fn merge(connection: &Connection, states: &States, policy: Policy) -> Result<Merged> {
    set_up(connection)?;
    let (base, local, remote) = (
        Schema::read(connection, "base")?,
        Schema::read(connection, "local")?,
        Schema::read(connection, "remote")?,
    );
    let schemas = Schemas {
        base: &base,
        local: &local,
        remote: &remote,
    };
    let pages = (&*states.base, &*states.local, &*states.remote);
    let here = Comparison::new(
        connection,
        (&base, pages.0),
        (&local, pages.1),
        &states.changed_here,
    )?;
    let there = Comparison::new(
        connection,
        (&base, pages.0),
        (&remote, pages.2),
        &states.changed_there,
    )?;
    Merge {
        connection,
        schemas,
        here,
        there,
        policy,
        retired: states.retired.into(),
    }
    .run()
}

/// Nothing but what is asked for happens, and it is undone by forgetting it.
fn set_up(connection: &Connection) -> Result<()> {
    use rusqlite::config::DbConfig;
    connection.set_prepared_statement_cache_capacity(512);
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
        .map_err(|error| Error::Internal(format!("switch triggers off: {error}")))?;
    for setting in [
        "PRAGMA journal_mode = MEMORY",
        "PRAGMA synchronous = OFF",
        "PRAGMA temp_store = MEMORY",
        "PRAGMA foreign_keys = OFF",
        "PRAGMA ignore_check_constraints = OFF",
        // Names in other objects stay what they are while a table is made anew.
        "PRAGMA legacy_alter_table = ON",
        "BEGIN IMMEDIATE",
    ] {
        sql::run(connection, setting, [])?;
    }
    Ok(())
}

struct Merge<'a> {
    connection: &'a Connection,
    schemas: Schemas<'a>,
    here: Comparison<'a>,
    there: Comparison<'a>,
    policy: Policy,
    retired: i64,
}

impl Merge<'_> {
    fn run(&self) -> Result<Merged> {
        let connection = self.connection;
        self.refuse_unknown_modules()?;
        let mut carried = carry::find(&self.schemas)?;
        self.settle_dropped(&mut carried)?;
        carried.run(connection, &self.schemas)?;
        carry::carry_numbers(connection)?;
        let (mut plans, mut conflicts) = (Vec::new(), Vec::new());
        self.plan(&mut plans, &mut conflicts)?;
        let mut merged = Merged {
            conflicts,
            rows: plans.iter().map(|plan| plan.keys.len()).sum(),
            is_scan: self.here.is_scan(),
        };
        if self.policy == Policy::Fail && !merged.conflicts.is_empty() {
            merged.rows = 0;
            sql::run(connection, "ROLLBACK", [])?;
            return Ok(merged);
        }
        apply(connection, &plans)?;
        carried.fill_indexes(connection)?;
        sequence::raise(connection, self.schemas.base, self.schemas.local)?;
        foreign_keys::check(connection, &plans)?;
        carry::raise_version(connection, &self.schemas, self.retired)?;
        sql::run(connection, "COMMIT", [])?;
        Ok(merged)
    }

    /// What a module keeps can only be merged where its rows are known.
    fn refuse_unknown_modules(&self) -> Result<()> {
        let (base, local) = (self.schemas.base, self.schemas.local);
        for table in local.all(Kind::Virtual) {
            let is_known = Fts5::of(table).is_some_and(|fts5| match &fts5.content {
                Content::Own => true,
                Content::Elsewhere { table, .. } => local.find(Kind::Table, table).is_some(),
                Content::Nowhere => false,
            });
            if is_known || base.find(Kind::Virtual, &table.name).is_none() {
                continue;
            }
            for shadow in local.shadows(table) {
                if self.here.has_changed(&shadow.name)? {
                    return Err(Error::Misuse(format!(
                        "virtual table {} was changed, and its rows are not known here ({}): it \
                         cannot be merged, and nothing was changed",
                        table.name,
                        table.statement()
                    )));
                }
            }
        }
        Ok(())
    }

    /// A table that was dropped here takes rows with it that the remote changed since.
    fn settle_dropped(&self, carried: &mut Carried<'_>) -> Result<()> {
        let dropped: Vec<_> = carried.dropped_tables().collect();
        for object in dropped {
            let describe = |schema: &Schema| {
                let found = schema.find(Kind::Table, &object.name);
                found
                    .map(|object| Table::describe(self.connection, schema, object))
                    .transpose()
            };
            let (before, now) = (describe(self.schemas.base)?, describe(self.schemas.remote)?);
            if self.there.keys(before.as_ref(), now.as_ref())?.is_empty() {
                continue;
            }
            match self.policy {
                Policy::Local => {}
                Policy::Remote => carried.keep(object),
                Policy::Fail => return Err(dropped_and_changed(object)),
            }
        }
        Ok(())
    }

    /// Finds what is to be done to each table, and the conflicts.
    fn plan(&self, plans: &mut Vec<Plan>, conflicts: &mut Vec<Conflict>) -> Result<()> {
        let connection = self.connection;
        let main = Schema::read(connection, "main")?;
        let all = |schema: &Schema| Table::all(connection, schema);
        let (base, local) = (all(self.schemas.base)?, all(self.schemas.local)?);
        let (there, now) = (all(self.schemas.remote)?, all(&main)?);
        for table in &local {
            let before = Table::find(&base, &table.name);
            if before.is_some_and(|before| !table.has_key_of(before)) {
                return Err(refused(table, "has another PRIMARY KEY here than before"));
            }
            let keys = self.here.keys(before, Some(table))?;
            if keys.is_empty() {
                continue;
            }
            let Some(target) = Table::find(&now, &table.name) else {
                match self.policy {
                    Policy::Remote => continue,
                    _ => return Err(refused(table, "was dropped on the remote")),
                }
            };
            if !is_contained(table, target) || !target.has_key_of(table) {
                return Err(refused(table, "has other columns on the remote"));
            }
            if let Some(before) = before {
                let remote = Table::find(&there, &table.name);
                let is_renumbered = self.here.may_be_renumbered(before, table)?
                    || remote.map_or(Ok(false), |remote| {
                        self.there.may_be_renumbered(before, remote)
                    })?;
                if is_renumbered {
                    return Err(refused(
                        table,
                        "has no PRIMARY KEY, and VACUUM may have given its rows other rowids",
                    ));
                }
            }
            let mut plan = Plan::new(&main, self.schemas.local, table, target);
            let sides = Sides::new(before, table, target);
            for key in keys {
                if sides.is_to_be_done(connection, self.policy, &key, conflicts)? {
                    plan.keys.push(key);
                }
            }
            plans.push(plan);
        }
        Ok(())
    }
}

fn dropped_and_changed(object: &Object) -> Error {
    Error::Diverged(format!(
        "DROP TABLE {}: rows of it were changed on the remote: nothing was changed",
        object.name
    ))
}

fn refused(table: &Table, why: &str) -> Error {
    Error::Diverged(format!(
        "rows of table {} were changed here, and it {why}: nothing was changed",
        table.name
    ))
}

/// Whether the remote has every column of the local table.
fn is_contained(local: &Table, remote: &Table) -> bool {
    let has = |column: &String| {
        let mut columns = remote.columns.iter();
        columns.any(|other| other.eq_ignore_ascii_case(column))
    };
    local.columns.iter().all(has)
}

/// One table on all sides.
struct Sides {
    name: String,
    shown: Vec<String>,
    table: Table,
    /// The base's columns, and their places among the local ones.
    base: Option<(Reader, Vec<usize>)>,
    local: Reader,
    remote: Reader,
}

impl Sides {
    fn new(base: Option<&Table>, local: &Table, remote: &Table) -> Self {
        let base = base.map(|base| {
            let counterparts = local.counterparts(base);
            let found = counterparts.into_iter().enumerate();
            let (places, columns): (Vec<_>, Vec<_>) = found
                .filter_map(|(place, name)| Some((place, name?)))
                .unzip();
            (Reader::new("base", base, &columns), places)
        });
        Self {
            name: local.name.clone(),
            shown: local.shown.clone(),
            table: local.clone(),
            base,
            local: Reader::new("local", local, &local.columns),
            remote: Reader::new("main", remote, &local.columns),
        }
    }

    /// Whether what happened to a row here is to be done there.
    fn is_to_be_done(
        &self,
        connection: &Connection,
        policy: Policy,
        key: &[Value],
        conflicts: &mut Vec<Conflict>,
    ) -> Result<bool> {
        let base = match &self.base {
            Some((reader, _)) => reader.row(connection, key)?,
            None => None,
        };
        let local = self.local.row(connection, key)?;
        let remote = self.remote.row(connection, key)?;
        if local == remote {
            return Ok(false);
        }
        if self.is_base(&base, &remote) {
            return Ok(true);
        }
        let json = |row: &Option<Vec<Value>>| {
            let named =
                |row: &Vec<Value>| json::object(self.shown.iter().map(String::as_str).zip(row));
            row.as_ref().map(named)
        };
        conflicts.push(Conflict {
            table: self.name.clone(),
            key: self.table.key_json(key),
            base: base.map(|row| self.base_json(&row)),
            local: json(&local),
            remote: json(&remote),
        });
        Ok(policy == Policy::Local)
    }

    /// Whether the remote has the row as it was, as far as it was there.
    fn is_base(&self, base: &Option<Vec<Value>>, remote: &Option<Vec<Value>>) -> bool {
        match (base, remote, &self.base) {
            (None, None, _) => true,
            (Some(base), Some(remote), Some((_, places))) => {
                let same = |(value, place): (&Value, &usize)| *value == remote[*place];
                base.iter().zip(places).all(same)
            }
            _ => false,
        }
    }

    fn base_json(&self, row: &[Value]) -> String {
        let places = self.base.as_ref().map_or(&[][..], |(_, places)| places);
        let names = places.iter().map(|place| self.shown[*place].as_str());
        json::object(names.zip(row))
    }
}
