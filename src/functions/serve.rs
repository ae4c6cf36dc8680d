//! Functions of a primary.

use std::path::{Path, PathBuf};

use super::call::{Call, json};
use crate::database::tokens::Scope;
use crate::error::{Error, Result};
use crate::ffi;
use crate::primary::serve::{self, Options};
use crate::primary::signals::EndSignals;
use crate::replica::registry;
use crate::vfs::register;

/// `replica_serve(address [, json])`
pub fn serve(call: &Call<'_>) -> Result<Option<String>> {
    let address = call.text(0)?;
    let options: Options = match call.optional_text(1)? {
        Some(text) => serde_json::from_str(&text)
            .map_err(|error| Error::Misuse(format!("the options of replica_serve: {error}")))?,
        None => Options::default(),
    };
    call.refuse_in_write("replica_serve")?;
    let schema = options.schema.as_deref().unwrap_or("main");
    let path = may_serve(call, schema)?;
    if !ffi::is_thread_safe() {
        return Err(Error::Misuse(
            "this SQLite is built for one thread: it cannot serve, but it can follow".to_owned(),
        ));
    }
    call.connection.ensure_busy_timeout()?;
    // Before anybody can see that the database is served: whoever does may send a signal.
    let signals = match options.wait {
        true => Some(catch_signals(&path)?),
        false => None,
    };
    let serving = serve::serve(&register::host()?, &path, &address, &options)?;
    if let Some(signals) = signals {
        serve::wait(&path, &signals);
    }
    json(&serving)
}

fn catch_signals(path: &Path) -> Result<EndSignals> {
    EndSignals::catch().map_err(|source| Error::File {
        action: "handle signals for",
        path: path.display().to_string(),
        source,
    })
}

/// The file of a schema that can be a primary.
fn may_serve(call: &Call<'_>, schema: &str) -> Result<PathBuf> {
    let path = call
        .connection
        .path(schema)
        .ok_or_else(|| Error::Misuse(format!("schema '{schema}' has no file to serve")))?;
    if !call.connection.uses_our_vfs(schema) {
        return Err(Error::Misuse(format!(
            "schema '{schema}' was not opened with vfs=replica: .open file:{}?vfs=replica",
            path.display()
        )));
    }
    call.connection.prepare(schema)?;
    if registry::find(&path).is_some() {
        return Err(Error::Misuse(format!(
            "{} is a replica: its primary serves it",
            path.display()
        )));
    }
    if call.connection.is_read_only(schema) {
        return Err(Error::ReadOnly(format!(
            "{} is open for reading only, and serving keeps a log: open it without mode=ro and \
             immutable=1",
            path.display()
        )));
    }
    Ok(path)
}

/// `replica_stop([schema])`
pub fn stop(call: &Call<'_>) -> Result<Option<String>> {
    let (schema, path) = call.schema(0)?;
    match serve::stop(&path) {
        true => json(&serde_json::json!({ "stopped": path.to_string_lossy() })),
        false => Err(Error::Misuse(format!(
            "schema '{schema}' is not served by this process"
        ))),
    }
}

/// `replica_token(scope, seconds [, schema])`
pub fn token(call: &Call<'_>) -> Result<Option<String>> {
    let scope = Scope::from_word(&call.text(0)?)?;
    // What a transaction makes must be undone with it; a token would stay.
    call.refuse_in_write("replica_token")?;
    let path = may_serve(call, &call.schema(2)?.0)?;
    let token = serve::tokens(&register::host()?, &path)?.make(scope, call.integer(1))?;
    json(&token)
}

/// `replica_revoke(id [, schema])`
pub fn revoke(call: &Call<'_>) -> Result<Option<String>> {
    let id = call.integer(0);
    call.refuse_in_write("replica_revoke")?;
    let path = may_serve(call, &call.schema(1)?.0)?;
    let host = register::host()?;
    if !host.store_exists(&path)? {
        return Err(Error::Misuse(format!("there is no token {id} to revoke")));
    }
    serve::tokens(&host, &path)?.revoke(id)?;
    json(&serde_json::json!({ "revoked": id }))
}
