//! Pragmas that a replicated database refuses: they would take the log away from under it.

use crate::crypt::key::Secret;
use crate::error::Result;

/// How the value of a pragma that gives a key is read; `None` for other pragmas. `key` and `hexkey`
/// are what the encryption extensions of the field know.
pub fn secret(name: &str) -> Option<fn(&str) -> Result<Secret>> {
    match name.to_ascii_lowercase().as_str() {
        "key" => Some(Secret::parse),
        "hexkey" => Some(Secret::from_hex),
        _ => None,
    }
}

/// What a replicated database says to `PRAGMA name = value`; `None` lets SQLite go on.
pub fn refusal(name: &str, value: Option<&str>, page_size: Option<u32>) -> Option<String> {
    let value = value?;
    match name.to_ascii_lowercase().as_str() {
        "journal_mode" if !value.eq_ignore_ascii_case("wal") => Some(format!(
            "journal_mode={value} is refused: a replicated database stays in WAL mode"
        )),
        "locking_mode" if value.eq_ignore_ascii_case("exclusive") => Some(
            "locking_mode=EXCLUSIVE is refused: others must be able to read a replicated database"
                .to_owned(),
        ),
        "page_size" if value.parse() != Ok(page_size.unwrap_or(0)) => Some(format!(
            "page_size={value} is refused: a replicated database keeps its page size"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_that_harm_are_refused() {
        for (name, value) in [
            ("journal_mode", "delete"),
            ("JOURNAL_MODE", "off"),
            ("locking_mode", "Exclusive"),
            ("page_size", "512"),
        ] {
            assert!(refusal(name, Some(value), Some(4096)).is_some(), "{name}");
        }
        for (name, value) in [
            ("journal_mode", Some("WAL")),
            ("journal_mode", None),
            ("locking_mode", Some("normal")),
            ("page_size", Some("4096")),
            ("cache_size", Some("10")),
        ] {
            assert!(refusal(name, value, Some(4096)).is_none(), "{name}");
        }
    }
}
