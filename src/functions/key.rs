//! The function of an encrypted database.

use zeroize::Zeroizing;

use super::call::{Call, json};
use crate::crypt::key::Secret;
use crate::database::rekey;
use crate::error::Result;
use crate::vfs::register;

/// `replica_rekey(key [, schema])`
pub fn rekey(call: &Call<'_>) -> Result<Option<String>> {
    call.refuse_in_write("replica_rekey")?;
    let text = Zeroizing::new(call.text(0)?);
    let secret = Secret::parse(&text)?;
    let (_, path) = call.schema(1)?;
    rekey::rekey(&*register::host()?, &path, &secret)?;
    json(&serde_json::json!({ "file": path.to_string_lossy() }))
}
