//! What a user may set on a replica, and where each value comes from.

use std::path::{self, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::store::Store;
use crate::crypt::cipher::Algorithm;
use crate::crypt::key::Secret;
use crate::error::{Error, Result};
use crate::merge::Policy;

/// Names a URI, `replica_configure` or the environment may give.
pub const NAMES: [&str; 15] = [
    "sync_url",
    "auth_token",
    "sync_timeout",
    "sync_interval",
    "live",
    "offline",
    "read_your_writes",
    "encryption_key",
    "key_file",
    "cipher",
    "write_mode",
    "on_conflict",
    "ca_file",
    "storage",
    "progress",
];

/// The longest `sync_timeout`, in seconds.
const LONGEST_TIMEOUT: u64 = 3600;

/// The longest `sync_interval`, in seconds.
const LONGEST_INTERVAL: f64 = 30.0 * 86400.0;

/// Who may be in the way of a write.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum WriteMode {
    /// A lease is asked for after a conflict.
    #[default]
    Auto,
    /// A lease is asked for at the start of each write: there are no conflicts.
    Exclusive,
    /// No lease is ever asked for.
    Optimistic,
}

impl WriteMode {
    /// The word in settings.
    pub fn word(self) -> &'static str {
        match self {
            WriteMode::Auto => "auto",
            WriteMode::Exclusive => "exclusive",
            WriteMode::Optimistic => "optimistic",
        }
    }

    fn parse(word: &str) -> Result<Self> {
        [WriteMode::Auto, WriteMode::Exclusive, WriteMode::Optimistic]
            .into_iter()
            .find(|mode| mode.word() == word)
            .ok_or_else(|| {
                Error::Misuse(format!(
                    "write_mode={word}: auto, exclusive or optimistic is wanted"
                ))
            })
    }
}

/// Where a replica is kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Storage {
    /// In files.
    #[default]
    File,
    /// In the memory of one process.
    Memory,
}

impl Storage {
    /// The word in settings.
    pub fn word(self) -> &'static str {
        match self {
            Storage::File => "file",
            Storage::Memory => "memory",
        }
    }

    fn parse(word: &str) -> Result<Self> {
        [Storage::File, Storage::Memory]
            .into_iter()
            .find(|storage| storage.word() == word)
            .ok_or_else(|| Error::Misuse(format!("storage={word}: file or memory is wanted")))
    }
}

/// Settings as far as one source gives them.
#[derive(Clone, Default)]
pub struct Settings {
    /// The remote to follow.
    pub sync_url: Option<String>,
    /// The bearer token. A secret: never stored, never shown.
    pub auth_token: Option<String>,
    /// The key the files are encrypted with. A secret as well.
    pub key: Option<Secret>,
    /// What a database that is made now is encrypted with.
    pub cipher: Option<Algorithm>,
    /// To connect, and to wait for the next byte.
    pub sync_timeout: Option<Duration>,
    /// Between two syncs in the background; zero for none.
    pub sync_interval: Option<Duration>,
    /// Whether commits of the remote are followed as they happen.
    pub live: Option<bool>,
    /// Whether commits are to be made here first: a wish, the mode itself belongs to the file.
    pub offline: Option<bool>,
    /// PEM file of the authority to trust in place of the system's. No secret.
    pub ca_file: Option<PathBuf>,
    /// Where the replica is kept. Not stored: where it is found says it.
    pub storage: Option<Storage>,
    /// Who may be in the way of a write.
    pub write_mode: Option<WriteMode>,
    /// What becomes of rows that both sides changed, where local changes are put on top of newer ones of
    /// the remote; without it that is never done unasked.
    pub on_conflict: Option<Policy>,
    /// Whether `replica_exec` returns only when the local file holds what it did.
    pub read_your_writes: Option<bool>,
    /// Whether a long transfer shows on the terminal how far it is.
    pub progress: Option<bool>,
}

impl Settings {
    /// Takes one value; refuses names and values that are unknown.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "sync_url" => self.sync_url = Some(value.trim_end_matches('/').to_owned()),
            "auth_token" => self.auth_token = Some(value.to_owned()),
            "encryption_key" => self.key = Some(Secret::parse(value)?),
            // Of two in one source the key itself counts.
            "key_file" if self.key.is_some() => {}
            "key_file" => self.key = Some(key_in(value)?),
            "cipher" => self.cipher = Some(cipher(value)?),
            "sync_timeout" => self.sync_timeout = Some(timeout(value)?),
            "ca_file" => self.ca_file = Some(ca_file(value)?),
            "write_mode" => self.write_mode = Some(WriteMode::parse(value)?),
            "sync_interval" => self.sync_interval = Some(interval(value)?),
            "live" => self.live = Some(switch(name, value)?),
            "offline" => self.offline = Some(switch(name, value)?),
            "read_your_writes" => self.read_your_writes = Some(switch(name, value)?),
            "progress" => self.progress = Some(switch(name, value)?),
            "storage" => self.storage = Some(Storage::parse(value)?),
            "on_conflict" => self.on_conflict = Some(Policy::parse(value)?),
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    /// Whether nothing is given but a key.
    pub fn is_key_only(&self) -> bool {
        let Self {
            sync_url: None,
            auth_token: None,
            key: Some(_),
            cipher: _,
            sync_timeout: None,
            sync_interval: None,
            live: None,
            offline: None,
            ca_file: None,
            storage: None,
            write_mode: None,
            on_conflict: None,
            read_your_writes: None,
            progress: None,
        } = self
        else {
            return false;
        };
        true
    }

    /// Settings given as a JSON object.
    pub fn from_json(text: &str) -> Result<Self> {
        let object: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            Error::Misuse(format!("the settings are not a JSON object: {error}"))
        })?;
        let mut settings = Self::default();
        for (name, value) in &object {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Bool(on) => u8::from(*on).to_string(),
                Value::Number(number) => number.to_string(),
                _ => {
                    return Err(Error::Misuse(format!(
                        "'{name}' must be text, a number or a boolean"
                    )));
                }
            };
            settings.set(name, &value)?;
        }
        Ok(settings)
    }

    /// Settings the environment gives.
    pub fn from_environment() -> Self {
        let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let key = given("REPLICA_ENCRYPTION_KEY").map(Zeroizing::new);
        Self {
            auth_token: given("REPLICA_AUTH_TOKEN"),
            // A raw key that is none opens nothing, and says so.
            key: key.map(|key| Secret::parse(&key).unwrap_or_else(|_| Secret::of_text(&key))),
            ..Self::default()
        }
    }

    /// Settings remembered in the state store.
    pub fn from_store(store: &dyn Store) -> Result<Self> {
        let mut settings = Self::default();
        for (name, value) in store.settings()? {
            settings.set(&name, &value)?;
        }
        Ok(settings)
    }

    /// Writes what is not a secret to the state store.
    pub fn save(&self, store: &dyn Store) -> Result<()> {
        let stored = [
            "sync_url",
            "sync_timeout",
            "sync_interval",
            "live",
            "ca_file",
            "write_mode",
            "on_conflict",
            "read_your_writes",
            "progress",
        ];
        for name in stored {
            if let Some(value) = self.given(name) {
                store.set_setting(name, &value)?;
            }
        }
        Ok(())
    }

    /// One value as [`set`](Settings::set) takes it; of a secret only that it is there.
    fn given(&self, name: &str) -> Option<String> {
        let switch = |on: bool| u8::from(on).to_string();
        let file = |file: &PathBuf| file.to_str().map(str::to_owned);
        match name {
            "sync_url" => self.sync_url.clone(),
            "sync_timeout" => self.sync_timeout.map(|time| time.as_secs().to_string()),
            "sync_interval" => self
                .sync_interval
                .map(|time| time.as_secs_f64().to_string()),
            "live" => self.live.map(switch),
            "offline" => self.offline.map(switch),
            "ca_file" => self.ca_file.as_ref().and_then(file),
            "write_mode" => self.write_mode.map(|mode| mode.word().to_owned()),
            "on_conflict" => self.on_conflict.map(|policy| policy.word().to_owned()),
            "read_your_writes" => self.read_your_writes.map(switch),
            "progress" => self.progress.map(switch),
            "cipher" => self.cipher.map(|cipher| cipher.name().to_owned()),
            "auth_token" => self.auth_token.as_ref().map(|_| "…".to_owned()),
            _ => None,
        }
    }

    /// One value in force, as text; of a secret only whether it is there.
    pub fn in_force(&self, name: &str) -> Result<Option<String>> {
        let given = self.given(name);
        Ok(match name {
            "sync_timeout" => Some(self.timeout().as_secs().to_string()),
            "sync_interval" | "live" | "offline" => given.or(Some("0".to_owned())),
            "write_mode" => Some(self.write_mode().word().to_owned()),
            "read_your_writes" | "progress" => given.or(Some("1".to_owned())),
            "storage" => Some(self.storage.unwrap_or_default().word().to_owned()),
            name if NAMES.contains(&name) => given,
            _ => return Err(unknown(name)),
        })
    }

    /// These settings, and where they say nothing, the other's.
    pub fn or(self, other: Settings) -> Settings {
        Settings {
            sync_url: self.sync_url.or(other.sync_url),
            auth_token: self.auth_token.or(other.auth_token),
            key: self.key.or(other.key),
            cipher: self.cipher.or(other.cipher),
            sync_timeout: self.sync_timeout.or(other.sync_timeout),
            sync_interval: self.sync_interval.or(other.sync_interval),
            live: self.live.or(other.live),
            offline: self.offline.or(other.offline),
            ca_file: self.ca_file.or(other.ca_file),
            storage: self.storage.or(other.storage),
            write_mode: self.write_mode.or(other.write_mode),
            on_conflict: self.on_conflict.or(other.on_conflict),
            read_your_writes: self.read_your_writes.or(other.read_your_writes),
            progress: self.progress.or(other.progress),
        }
    }

    /// Whether no file is to be touched.
    pub fn in_memory(&self) -> bool {
        self.storage == Some(Storage::Memory)
    }

    /// The write mode in force.
    pub fn write_mode(&self) -> WriteMode {
        self.write_mode.unwrap_or_default()
    }

    /// Whether `replica_exec` returns only when the local file holds what it did.
    pub fn read_your_writes(&self) -> bool {
        self.read_your_writes.unwrap_or(true)
    }

    /// Whether a long transfer shows on the terminal how far it is.
    pub fn shows_progress(&self) -> bool {
        self.progress.unwrap_or(true)
    }

    /// The time between two syncs in the background; `None` for none.
    pub fn interval(&self) -> Option<Duration> {
        self.sync_interval.filter(|interval| !interval.is_zero())
    }

    /// Whether commits of the remote are followed as they happen.
    pub fn is_live(&self) -> bool {
        self.live.unwrap_or(false)
    }

    /// The time-out in force.
    pub fn timeout(&self) -> Duration {
        self.sync_timeout.unwrap_or(Duration::from_secs(10))
    }
}

fn unknown(name: &str) -> Error {
    Error::Misuse(format!("'{name}' is not a setting"))
}

/// A setting that is on or off.
fn switch(name: &str, value: &str) -> Result<bool> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(Error::Misuse(format!("{name}={value}: 0 or 1 is wanted"))),
    }
}

fn timeout(value: &str) -> Result<Duration> {
    match value.parse() {
        Ok(seconds @ 1..=LONGEST_TIMEOUT) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::Misuse(format!(
            "sync_timeout={value}: seconds from 1 to {LONGEST_TIMEOUT} are wanted"
        ))),
    }
}

fn interval(value: &str) -> Result<Duration> {
    match value.parse::<f64>() {
        Ok(seconds) if (0.0..=LONGEST_INTERVAL).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(Error::Misuse(format!(
            "sync_interval={value}: seconds from 0 to {LONGEST_INTERVAL} are wanted"
        ))),
    }
}

fn cipher(value: &str) -> Result<Algorithm> {
    Algorithm::named(value).ok_or_else(|| {
        let [one, other] = Algorithm::ALL.map(Algorithm::name);
        Error::Misuse(format!("cipher={value}: {one} or {other} is wanted"))
    })
}

/// The key in the first line of a file.
fn key_in(file: &str) -> Result<Secret> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::File {
        action: "read",
        path: format!("the file of key_file={file}"),
        source,
    })?;
    let text = Zeroizing::new(text);
    Secret::parse(text.lines().next().unwrap_or_default())
}

/// A whole path: the next open may come from another directory.
fn ca_file(value: &str) -> Result<PathBuf> {
    path::absolute(value).map_err(|source| Error::File {
        action: "find",
        path: format!("the file of ca_file={value}"),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_gives_settings_and_refuses_what_is_none() {
        let settings =
            Settings::from_json(r#"{"sync_url": "http://127.0.0.1:1/app/", "sync_timeout": 3}"#)
                .unwrap();
        assert_eq!(settings.sync_url.as_deref(), Some("http://127.0.0.1:1/app"));
        assert_eq!(settings.timeout(), Duration::from_secs(3));
        for wrong in [
            r#"{"sync_urll": "x"}"#,
            r#"{"sync_timeout": 0}"#,
            r#"{"live": 2}"#,
            r#"{"sync_interval": -1}"#,
            r#"{"sync_interval": "often"}"#,
            r#"{"offline": 2}"#,
            r#"{"on_conflict": "both"}"#,
            "[]",
        ] {
            assert!(Settings::from_json(wrong).is_err(), "{wrong}");
        }
        let settings = Settings::from_json(r#"{"sync_interval": 0.5, "live": true}"#).unwrap();
        assert_eq!(settings.interval(), Some(Duration::from_millis(500)));
        assert!(settings.is_live());
        let settings = Settings::from_json(r#"{"ca_file": "ca.pem"}"#).unwrap();
        assert!(settings.ca_file.is_some_and(|file| file.is_absolute()));
        let error = Settings::from_json(r#"{"encryption_key": "hex:secret"}"#)
            .err()
            .unwrap();
        assert!(!error.to_string().contains("secret"));
        let settings = Settings::from_json(r#"{"encryption_key": "secret"}"#).unwrap();
        assert!(settings.key.is_some());
    }

    #[test]
    fn the_first_source_wins() {
        let mut uri = Settings::default();
        uri.set("sync_url", "http://a/x").unwrap();
        let mut stored = Settings::default();
        stored.set("sync_url", "http://b/x").unwrap();
        stored.set("sync_timeout", "7").unwrap();
        let merged = uri.or(stored);
        assert_eq!(merged.sync_url.as_deref(), Some("http://a/x"));
        assert_eq!(merged.timeout().as_secs(), 7);
    }

    #[test]
    fn what_is_in_force_can_be_read_and_given_again() {
        let mut settings = Settings::default();
        for name in NAMES {
            let value = settings.in_force(name).unwrap();
            if let Some(value) = value {
                settings.set(name, &value).unwrap();
                assert_eq!(settings.in_force(name).unwrap(), Some(value), "{name}");
            }
        }
        settings.set("auth_token", "secret").unwrap();
        assert_eq!(settings.in_force("auth_token").unwrap().unwrap(), "…");
        settings.set("encryption_key", "secret").unwrap();
        assert_eq!(settings.in_force("encryption_key").unwrap(), None);
        assert!(settings.in_force("lives").is_err());
    }
}
