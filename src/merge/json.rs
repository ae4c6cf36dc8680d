//! Rows as JSON: an object in the order of the columns. A BLOB is `{"hex": "…"}`; bytes of a text that
//! are no UTF-8 are replaced; infinity is 9e999, as SQLite writes it.

use crate::rows::record::Value;

/// An object.
pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a Value)>) -> String {
    let mut json = String::from("{");
    for (name, value) in members {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&text(name));
        json.push(':');
        push(&mut json, value);
    }
    json.push('}');
    json
}

fn push(json: &mut String, value: &Value) {
    match value {
        Value::Null => json.push_str("null"),
        Value::Integer(integer) => json.push_str(&integer.to_string()),
        Value::Real(bits) => json.push_str(&real(f64::from_bits(*bits))),
        Value::Text(bytes) => json.push_str(&text(&String::from_utf8_lossy(bytes))),
        Value::Blob(bytes) => {
            json.push_str("{\"hex\":\"");
            bytes
                .iter()
                .for_each(|byte| json.push_str(&format!("{byte:02X}")));
            json.push_str("\"}");
        }
    }
}

fn real(real: f64) -> String {
    match real.is_finite() {
        true => format!("{real:?}"),
        false if real < 0.0 => "-9e999".to_owned(),
        false => "9e999".to_owned(),
    }
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_types() {
        let real = |real: f64| Value::Real(real.to_bits());
        let row = [
            ("a\"", Value::Null),
            ("b", Value::Integer(i64::MIN)),
            ("c", real(1.0)),
            ("d", real(f64::INFINITY)),
            ("e", Value::Text(b"x\n\xff".to_vec())),
            ("f", Value::Blob(vec![0, 0xab])),
        ];
        let json = object(row.iter().map(|(name, value)| (*name, value)));
        assert_eq!(
            json,
            "{\"a\\\"\":null,\"b\":-9223372036854775808,\"c\":1.0,\"d\":9e999,\
             \"e\":\"x\\n\u{fffd}\",\"f\":{\"hex\":\"00AB\"}}"
        );
    }
}
