//! Functions of a replica.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::call::{Call, json};
use crate::database::host::Host;
use crate::database::paths;
use crate::database::settings::Settings;
use crate::database::store::Role;
use crate::error::{Error, Result};
use crate::merge::Policy;
use crate::primary::serve;
use crate::replica::follower::Replica;
use crate::replica::registry;
use crate::vfs::register;

/// The replica of the schema that argument `at` names.
fn replica(call: &Call<'_>, at: usize) -> Result<Arc<Replica>> {
    let (schema, path) = call.schema(at)?;
    registry::find(&path).ok_or_else(|| {
        Error::Misuse(format!(
            "schema '{schema}' is not a replica: open it with vfs=replica and sync_url"
        ))
    })
}

/// `replica_sync([schema])`
pub fn sync(call: &Call<'_>) -> Result<Option<String>> {
    call.refuse_in_write("replica_sync")?;
    json(&replica(call, 0)?.sync()?)
}

/// `replica_pull([schema])`
pub fn pull(call: &Call<'_>) -> Result<Option<String>> {
    call.refuse_in_write("replica_pull")?;
    json(&replica(call, 0)?.pull()?)
}

/// `replica_push([schema])`
pub fn push(call: &Call<'_>) -> Result<Option<String>> {
    call.refuse_in_write("replica_push")?;
    json(&replica(call, 0)?.push()?)
}

/// What `replica_wait` returns.
#[derive(Serialize)]
struct Waited {
    reached: u8,
    position: String,
}

/// `replica_wait(position, seconds [, schema])`
pub fn wait(call: &Call<'_>) -> Result<Option<String>> {
    let position = call.text(0)?.parse()?;
    let seconds = call.real(1)?;
    let time = Duration::try_from_secs_f64(seconds)
        .map_err(|_| Error::Misuse(format!("{seconds} is no time to wait, in seconds")))?;
    call.refuse_in_transaction("replica_wait")?;
    let (now, reached) = replica(call, 2)?.wait(position, time)?;
    json(&Waited {
        reached: reached.into(),
        position: now.to_string(),
    })
}

/// `replica_discard([schema])`
pub fn discard(call: &Call<'_>) -> Result<Option<String>> {
    call.refuse_in_write("replica_discard")?;
    json(&replica(call, 0)?.discard()?)
}

/// `replica_rebase([policy [, schema]])`
pub fn rebase(call: &Call<'_>) -> Result<Option<String>> {
    call.refuse_in_write("replica_rebase")?;
    let policy = call.optional_text(0)?;
    let policy = policy.map(|word| Policy::parse(&word)).transpose()?;
    json(&replica(call, 1)?.rebase(policy)?)
}

/// `replica_position([schema])`
pub fn position(call: &Call<'_>) -> Result<Option<String>> {
    let (_, path) = call.schema(0)?;
    if let Some(served) = serve::find(&path) {
        let mut capture = served.primary.capture();
        capture.run()?;
        return Ok(Some(capture.state().position.to_string()));
    }
    let state = replica(call, 0)?.recorded_state()?;
    Ok(state.map(|state| state.position.to_string()))
}

/// `replica_verify([schema])`
pub fn verify(call: &Call<'_>) -> Result<Option<String>> {
    call.refuse_in_write("replica_verify")?;
    let (_, path) = call.schema(0)?;
    match serve::find(&path) {
        Some(served) => json(&served.primary.verify()?),
        None => json(&replica(call, 0)?.verify()?),
    }
}

/// `replica_config(name [, value [, schema]])`: the value in force, afterwards.
pub fn config(call: &Call<'_>) -> Result<Option<String>> {
    let name = call.text(0)?;
    let replica = replica(call, 2)?;
    if call.count() > 1 {
        replica.set(&name, &call.text(1)?)?;
        replica.worker().start(&replica);
    }
    replica.setting(&name)
}

/// `replica_configure(file, json)`
pub fn configure(call: &Call<'_>) -> Result<Option<String>> {
    let path = register::full_path(&call.text(0)?)?;
    let settings = Settings::from_json(&call.text(1)?)?;
    registry::configure(&*register::host()?, &path, settings)?;
    json(&serde_json::json!({ "file": path.to_string_lossy() }))
}

/// `replica_default_vfs(on)`
pub fn default_vfs(call: &Call<'_>) -> Result<Option<String>> {
    let on = call.integer(0) != 0;
    register::set_default(on)?;
    json(&serde_json::json!({ "default": on }))
}

/// `replica_forget(file)`
pub fn forget(call: &Call<'_>) -> Result<Option<String>> {
    let path = register::full_path(&call.text(0)?)?;
    if registry::find(&path).is_some() || serve::find(&path).is_some() {
        return Err(Error::Misuse(format!(
            "{} is open as a replica or served: close it, or stop serving, first",
            path.display()
        )));
    }
    let host = register::host()?;
    if !host.store_exists(&path)? {
        return Err(Error::Misuse(format!(
            "{} is not a replica",
            path.display()
        )));
    }
    let Some(_lock) = host.lock_process(&path)? else {
        return Err(Error::Misuse(format!(
            "{} is served, or being made, by another process",
            path.display()
        )));
    };
    let known = registry::secrets(&path).or(Settings::from_environment());
    let _keys = host
        .unlock(&path, known.key.as_ref(), None)
        .map_err(|error| match (&known.key, error) {
            (None, Error::NotADatabase(_)) => Error::NotADatabase(format!(
                "{} is encrypted: give its key before, by SELECT replica_configure(file, \
                 '{{\"encryption_key\": \"…\"}}') or REPLICA_ENCRYPTION_KEY",
                path.display()
            )),
            (_, error) => error,
        })?;
    let role = forgotten_role(&*host, &path)?;
    for file in paths::all(&path) {
        host.remove(&file)?;
    }
    json(&serde_json::json!({ "file": path.to_string_lossy(), "role": role }))
}

/// The role that is being forgotten; the store is closed again afterwards.
fn forgotten_role(host: &dyn Host, path: &std::path::Path) -> Result<Option<&'static str>> {
    let store = host.open_store(path)?;
    Ok(store.identity()?.map(|(role, _): (Role, _)| role.word()))
}
