//! SQLite's values.

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// Written with padding, read with or without: libSQL's servers leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How JSON says infinity, as SQLite's own JSON does: a number that is too large.
const INFINITY: &str = "1e999";

/// A value of SQLite.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(try_from = "Any")]
pub enum Value {
    /// NULL.
    Null,
    /// As a string of decimal digits: JSON's numbers are too small for some peers.
    Integer(i64),
    /// A number.
    Float(f64),
    /// A string.
    Text(String),
    /// In base64.
    Blob(Vec<u8>),
}

impl Value {
    /// How many bytes it takes in a message, about.
    pub fn bytes(&self) -> usize {
        // Names and punctuation.
        24 + match self {
            Value::Null => 0,
            Value::Integer(_) | Value::Float(_) => 20,
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len().div_ceil(3) * 4,
        }
    }

    /// The value as plain JSON: a number, a string, null, and of a blob `{"base64": …}`.
    pub fn plain<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::Float(number) => Float(*number).serialize(serializer),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Blob(bytes) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &BASE64.encode(bytes))?;
                map.end()
            }
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut entry = |name| map.serialize_entry("type", name);
        match self {
            Value::Null => entry("null")?,
            Value::Integer(number) => {
                entry("integer")?;
                map.serialize_entry("value", &number.to_string())?;
            }
            Value::Float(number) => {
                entry("float")?;
                map.serialize_entry("value", &Float(*number))?;
            }
            Value::Text(text) => {
                entry("text")?;
                map.serialize_entry("value", text)?;
            }
            Value::Blob(bytes) => {
                entry("blob")?;
                map.serialize_entry("base64", &BASE64.encode(bytes))?;
            }
        }
        map.end()
    }
}

/// A number that may be infinite.
struct Float(f64);

impl Serialize for Float {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            return serializer.serialize_f64(self.0);
        }
        let sign = if self.0 < 0.0 { "-" } else { "" };
        RawValue::from_string(format!("{sign}{INFINITY}"))
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

/// Any value, as it is written.
#[derive(Deserialize)]
struct Any {
    r#type: String,
    value: Option<Box<RawValue>>,
    base64: Option<String>,
}

impl TryFrom<Any> for Value {
    type Error = String;

    fn try_from(any: Any) -> Result<Self, String> {
        let wrong = || format!("the value of type '{}' is not valid", any.r#type);
        let raw = || any.value.as_deref().map(RawValue::get).ok_or_else(wrong);
        let text = || serde_json::from_str::<String>(raw()?).map_err(|_| wrong());
        match any.r#type.as_str() {
            "null" => Ok(Value::Null),
            "integer" => text()?.parse().map(Value::Integer).map_err(|_| wrong()),
            "float" => raw()?.parse().map(Value::Float).map_err(|_| wrong()),
            "text" => text().map(Value::Text),
            "blob" => {
                let digits = any.base64.as_deref().ok_or_else(wrong)?;
                BASE64.decode(digits).map(Value::Blob).map_err(|_| wrong())
            }
            other => Err(format!("'{other}' is no type of a value")),
        }
    }
}
