//! Reading rows by their key.

use rusqlite::{Connection, params_from_iter};

use super::sql::{self, equals, list, place};
use super::table::Table;
use crate::error::Result;
use crate::rows::record::Value;

/// Reads some columns of one table.
pub struct Reader {
    sql: String,
}

impl Reader {
    /// Reads `columns` of a table in a schema.
    pub fn new(schema: &str, table: &Table, columns: &[String]) -> Self {
        let what = match columns.is_empty() {
            true => "1".to_owned(),
            false => list(columns),
        };
        let from = place(schema, &table.stored);
        let which = equals(table.key.columns(), 1);
        Self {
            sql: format!("SELECT {what} FROM {from} WHERE {which}"),
        }
    }

    /// The same by the rowid.
    pub fn by_rowid(schema: &str, table: &Table, columns: &[String]) -> Option<Self> {
        let from = place(schema, &table.stored);
        let which = equals(std::slice::from_ref(table.rowid.as_ref()?), 1);
        let what = list(columns);
        Some(Self {
            sql: format!("SELECT {what} FROM {from} WHERE {which}"),
        })
    }

    /// The row with a key.
    pub fn row(&self, connection: &Connection, key: &[Value]) -> Result<Option<Vec<Value>>> {
        sql::first(connection, &self.sql, params_from_iter(key))
    }
}
