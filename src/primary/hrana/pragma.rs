//! The pragmas a stream may use: those that tell something, and those that hurt nobody. Whatever is
//! not listed is refused: new versions of SQLite bring new ones.

use super::policy::{Policy, Refusal};

/// Questions, whose value is the name of what they ask about.
const QUESTIONS: &[&str] = &[
    "collation_list",
    "compile_options",
    "foreign_key_check",
    "foreign_key_list",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "module_list",
    "pragma_list",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// What may be read, but not set.
const READ_ONLY: &[&str] = &[
    "auto_vacuum",
    "busy_timeout",
    "cache_size",
    "cache_spill",
    "data_version",
    "encoding",
    "freelist_count",
    "journal_mode",
    "journal_size_limit",
    "locking_mode",
    "max_page_count",
    "page_count",
    "page_size",
    "query_only",
    "schema_version",
    "secure_delete",
    "synchronous",
    "temp_store",
    "trusted_schema",
    "wal_autocheckpoint",
];

/// What may be set as well: it concerns nobody but the stream.
const OWN: &[&str] = &[
    "analysis_limit",
    "automatic_index",
    "case_sensitive_like",
    "defer_foreign_keys",
    "foreign_keys",
    "legacy_alter_table",
    "recursive_triggers",
    "reverse_unordered_selects",
];

/// What writes to the database.
const WRITES: &[&str] = &[
    "application_id",
    "incremental_vacuum",
    "optimize",
    "user_version",
];

/// Of those, what without a value only tells.
const TELLS: &[&str] = &["application_id", "user_version"];

/// The longest busy time-out a stream may set, in milliseconds.
pub const LONGEST_BUSY: u32 = 5000;

/// Whether `PRAGMA name = value` is allowed.
pub fn allow(policy: &Policy, name: &str, value: Option<&str>) -> Result<(), Refusal> {
    let name = name.to_ascii_lowercase();
    let name = name.as_str();
    let value = value.map(str::to_ascii_lowercase);
    let value = value.as_deref();
    if QUESTIONS.contains(&name) || OWN.contains(&name) {
        return Ok(());
    }
    if WRITES.contains(&name) {
        return match value {
            None if TELLS.contains(&name) => Ok(()),
            _ => policy.may_write(),
        };
    }
    let harmless = match value {
        None => READ_ONLY.contains(&name),
        Some(value) => changes_nothing(name, value),
    };
    match harmless {
        true => Ok(()),
        false => Err(Refusal::Forbidden(match value {
            None => format!("PRAGMA {name} is not allowed over the network"),
            Some(_) => format!("PRAGMA {name} may not be set over the network"),
        })),
    }
}

/// Values that leave things as they must be.
fn changes_nothing(name: &str, value: &str) -> bool {
    match name {
        "busy_timeout" => value.parse::<u32>().is_ok_and(|time| time <= LONGEST_BUSY),
        "journal_mode" => value == "wal",
        "locking_mode" => value == "normal",
        "synchronous" => matches!(value, "full" | "extra" | "2" | "3"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tokens::Scope;

    #[test]
    fn what_hurts_is_refused() {
        let policy = Policy::new(Scope::Write);
        for (name, value) in [
            ("journal_mode", Some("delete")),
            ("JOURNAL_MODE", Some("OFF")),
            ("locking_mode", Some("EXCLUSIVE")),
            ("synchronous", Some("off")),
            ("busy_timeout", Some("60000")),
            ("busy_timeout", Some("-1")),
            ("page_size", Some("512")),
            ("cache_size", Some("-100000000")),
            ("query_only", Some("0")),
            ("trusted_schema", Some("1")),
            ("schema_version", Some("7")),
            ("key", Some("x")),
            ("hexkey", Some("00")),
            ("rekey", Some("x")),
            ("key", None),
            ("writable_schema", Some("1")),
            ("writable_schema", None),
            ("mmap_size", Some("1")),
            ("wal_checkpoint", None),
            ("wal_checkpoint", Some("truncate")),
            ("wal_autocheckpoint", Some("0")),
            ("hard_heap_limit", Some("1")),
            ("temp_store_directory", Some("/")),
            ("database_list", None),
            ("of_tomorrow", None),
        ] {
            let refused = allow(&policy, name, value);
            assert!(
                matches!(refused, Err(Refusal::Forbidden(_))),
                "{name} {value:?}"
            );
        }
    }

    #[test]
    fn what_is_harmless_is_allowed() {
        for scope in [Scope::Read, Scope::Write] {
            let policy = Policy::new(scope);
            for (name, value) in [
                ("table_info", Some("t")),
                ("user_version", None),
                ("foreign_keys", Some("on")),
                ("busy_timeout", Some("5000")),
                ("journal_mode", None),
                ("journal_mode", Some("WAL")),
                ("integrity_check", None),
            ] {
                assert_eq!(allow(&policy, name, value), Ok(()), "{name} {value:?}");
            }
        }
        assert_eq!(
            allow(&Policy::new(Scope::Write), "user_version", Some("7")),
            Ok(())
        );
    }

    #[test]
    fn a_reader_writes_nothing() {
        let policy = Policy::new(Scope::Read);
        for (name, value) in [("user_version", Some("7")), ("optimize", None)] {
            let refused = allow(&policy, name, value);
            assert!(matches!(refused, Err(Refusal::ReadOnly(_))), "{name}");
        }
    }
}
