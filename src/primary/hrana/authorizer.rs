//! What statements of strangers may do: SQLite asks about each of their parts while it prepares them.

use std::os::raw::c_int;

use libsqlite3_sys as sqlite;

use super::policy::{Policy, Refusal};
use super::pragma;

/// Functions that reach beyond the database.
const FUNCTIONS: &[&str] = &[
    "edit",
    "eval",
    "fts3_tokenizer",
    "load_extension",
    "readfile",
    "sqlite_log",
    "writefile",
];

/// Tables and table modules that do.
const MODULES: &[&str] = &["csv", "fsdir", "sqlite_dbpage", "tclvar", "vsv", "zipfile"];

/// The tables of the schema, by the names SQLite uses here.
const SCHEMAS: &[&str] = &["sqlite_master", "sqlite_temp_master"];

/// What all names of this extension begin with.
const OURS: &str = "replica_";

/// Answers SQLite's question about an action with the names that belong to it, and remembers why.
pub fn authorize(
    policy: &Policy,
    action: c_int,
    first: Option<&str>,
    second: Option<&str>,
) -> bool {
    match decide(policy, action, first, second) {
        Ok(()) => true,
        Err(refusal) => {
            policy.refuse(refusal);
            false
        }
    }
}

fn decide(
    policy: &Policy,
    action: c_int,
    first: Option<&str>,
    second: Option<&str>,
) -> Result<(), Refusal> {
    let (name, other) = (first.unwrap_or_default(), second.unwrap_or_default());
    match action {
        sqlite::SQLITE_SELECT
        | sqlite::SQLITE_RECURSIVE
        | sqlite::SQLITE_TRANSACTION
        | sqlite::SQLITE_SAVEPOINT => Ok(()),
        sqlite::SQLITE_READ => no_module(name),
        sqlite::SQLITE_FUNCTION => function(other),
        sqlite::SQLITE_PRAGMA => pragma::allow(policy, name, second),
        // SQLite asks so when it opens a virtual table, and lets nobody do it: the schema is not
        // writable.
        sqlite::SQLITE_UPDATE if SCHEMAS.contains(&name) => Ok(()),
        sqlite::SQLITE_INSERT | sqlite::SQLITE_DELETE | sqlite::SQLITE_UPDATE => {
            no_module(name)?;
            policy.may_write()
        }
        sqlite::SQLITE_CREATE_VTABLE | sqlite::SQLITE_DROP_VTABLE => {
            no_module(other)?;
            policy.may_write()
        }
        sqlite::SQLITE_CREATE_INDEX
        | sqlite::SQLITE_CREATE_TABLE
        | sqlite::SQLITE_CREATE_TEMP_INDEX
        | sqlite::SQLITE_CREATE_TEMP_TABLE
        | sqlite::SQLITE_CREATE_TEMP_TRIGGER
        | sqlite::SQLITE_CREATE_TEMP_VIEW
        | sqlite::SQLITE_CREATE_TRIGGER
        | sqlite::SQLITE_CREATE_VIEW
        | sqlite::SQLITE_DROP_INDEX
        | sqlite::SQLITE_DROP_TABLE
        | sqlite::SQLITE_DROP_TEMP_INDEX
        | sqlite::SQLITE_DROP_TEMP_TABLE
        | sqlite::SQLITE_DROP_TEMP_TRIGGER
        | sqlite::SQLITE_DROP_TEMP_VIEW
        | sqlite::SQLITE_DROP_TRIGGER
        | sqlite::SQLITE_DROP_VIEW
        | sqlite::SQLITE_ALTER_TABLE
        | sqlite::SQLITE_REINDEX
        | sqlite::SQLITE_ANALYZE => policy.may_write(),
        // VACUUM attaches a temporary file while it runs; VACUUM INTO a file of this name.
        sqlite::SQLITE_ATTACH if first == Some("") && policy.is_running() => policy.may_write(),
        sqlite::SQLITE_ATTACH => Err(forbidden("ATTACH and VACUUM INTO are")),
        sqlite::SQLITE_DETACH => Err(forbidden("DETACH is")),
        _ => Err(forbidden("this statement is")),
    }
}

fn forbidden(what: &str) -> Refusal {
    Refusal::Forbidden(format!("{what} not allowed over the network"))
}

fn is_ours(name: &str) -> bool {
    name.get(..OURS.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(OURS))
}

fn function(name: &str) -> Result<(), Refusal> {
    let listed = FUNCTIONS
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name));
    match listed || is_ours(name) {
        true => Err(forbidden(&format!("the function {name}() is"))),
        false => Ok(()),
    }
}

fn no_module(name: &str) -> Result<(), Refusal> {
    match MODULES.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        true => Err(forbidden(&format!("the table {name} is"))),
        false => Ok(()),
    }
}
