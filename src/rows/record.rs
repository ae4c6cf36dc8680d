//! The first columns of a row (SQLite file format, section 2.1).
//!
//! ```text
//! varint         bytes of the header, this one included
//! varint each    serial types: 0 NULL, 1 to 6 integers of 1, 2, 3, 4, 6, 8 bytes, 7 IEEE 754 number,
//!                8 and 9 the integers 0 and 1, even from 12 BLOB of (n-12)/2 bytes, odd from 13 text
//!                of (n-13)/2 bytes
//! bytes          the values
//! ```

use super::varint;
use crate::error::{Error, Result};

/// A value as it is stored. A whole number may stand for one of a column with the affinity REAL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Value {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A floating-point number, as its bits.
    Real(u64),
    /// Text in the encoding of the database.
    Text(Vec<u8>),
    /// A BLOB.
    Blob(Vec<u8>),
}

/// The first `count` columns of a record.
pub fn first_columns(record: &[u8], count: usize) -> Result<Vec<Value>> {
    let (header, mut at) = varint::read(record).ok_or_else(cut)?;
    let mut place = usize::try_from(header).map_err(|_| cut())?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let (kind, length) = varint::read(record.get(at..).ok_or_else(cut)?).ok_or_else(cut)?;
        at += length;
        let bytes = bytes(kind)?;
        let end = place.checked_add(bytes).ok_or_else(cut)?;
        values.push(value(kind, record.get(place..end).ok_or_else(cut)?));
        place = end;
    }
    Ok(values)
}

fn bytes(kind: u64) -> Result<usize> {
    Ok(match kind {
        0 | 8 | 9 => 0,
        1..=4 => kind as usize,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return Err(Error::Corrupt(format!("serial type {kind}"))),
        kind => usize::try_from((kind - 12) / 2).map_err(|_| cut())?,
    })
}

fn value(kind: u64, bytes: &[u8]) -> Value {
    match kind {
        0 => Value::Null,
        1..=6 => {
            let sign = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
            let start = if sign { -1 } else { 0 };
            let integer = bytes
                .iter()
                .fold(start, |value: i64, byte| value << 8 | i64::from(*byte));
            Value::Integer(integer)
        }
        7 => Value::Real(
            bytes
                .iter()
                .fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
        ),
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        kind if kind % 2 == 0 => Value::Blob(bytes.to_vec()),
        _ => Value::Text(bytes.to_vec()),
    }
}

fn cut() -> Error {
    Error::Corrupt("a record is cut off".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_types() {
        let record = [
            &[10, 0, 1, 2, 6, 7, 8, 9, 16, 15][..],
            &[0x80],
            &[0x01, 0x00],
            &[0xff; 8],
            &1.5_f64.to_be_bytes(),
            b"ab",
            b"c",
        ]
        .concat();
        let expected = [
            Value::Null,
            Value::Integer(-128),
            Value::Integer(256),
            Value::Integer(-1),
            Value::Real(1.5_f64.to_bits()),
            Value::Integer(0),
            Value::Integer(1),
            Value::Blob(b"ab".to_vec()),
            Value::Text(b"c".to_vec()),
        ];
        assert_eq!(first_columns(&record, 9).unwrap(), expected);
        assert_eq!(first_columns(&record, 3).unwrap(), expected[..3]);
        for length in 0..record.len() {
            assert!(first_columns(&record[..length], 9).is_err(), "{length}");
        }
    }
}
