//! Values between two connections' statements: whatever bytes a text has.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::rows::record::Value;

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(integer) => Value::Integer(integer),
            ValueRef::Real(real) => Value::Real(real.to_bits()),
            ValueRef::Text(text) => Value::Text(text.to_vec()),
            ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(integer) => ValueRef::Integer(*integer),
            Value::Real(bits) => ValueRef::Real(f64::from_bits(*bits)),
            Value::Text(text) => ValueRef::Text(text),
            Value::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}

/// How a database keeps text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// UTF-8.
    Utf8,
    /// UTF-16, the low byte first.
    Utf16Little,
    /// UTF-16, the high byte first.
    Utf16Big,
}

impl Encoding {
    /// By its name in `PRAGMA encoding`.
    pub fn named(name: &str) -> Self {
        match name {
            "UTF-16le" => Encoding::Utf16Little,
            "UTF-16be" => Encoding::Utf16Big,
            _ => Encoding::Utf8,
        }
    }

    /// A value as it is stored, as statements have it.
    pub fn decode(self, value: Value) -> Value {
        let word: fn([u8; 2]) -> u16 = match self {
            Encoding::Utf8 => return value,
            Encoding::Utf16Little => u16::from_le_bytes,
            Encoding::Utf16Big => u16::from_be_bytes,
        };
        match value {
            Value::Text(bytes) => {
                let words = bytes.chunks_exact(2).map(|pair| word([pair[0], pair[1]]));
                let text: String = char::decode_utf16(words)
                    .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
                    .collect();
                Value::Text(text.into_bytes())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_every_encoding() {
        let stored = |bytes: &[u8]| Value::Text(bytes.to_vec());
        let expected = stored("a\u{1f600}".as_bytes());
        let little = stored(&[0x61, 0, 0x3d, 0xd8, 0, 0xde]);
        let big = stored(&[0, 0x61, 0xd8, 0x3d, 0xde, 0]);
        assert_eq!(Encoding::named("UTF-16le").decode(little), expected);
        assert_eq!(Encoding::named("UTF-16be").decode(big), expected);
        assert_eq!(Encoding::named("UTF-8").decode(expected.clone()), expected);
        let blob = Value::Blob(vec![1]);
        assert_eq!(Encoding::Utf16Big.decode(blob.clone()), blob);
    }
}
