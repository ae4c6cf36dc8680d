//! Changing settings of a replica while it is in use.

use super::follower::Replica;
use crate::database::settings::Settings;
use crate::error::{Error, Result};
use crate::remote;

impl Replica {
    /// Sets one setting from here on, and for the next open unless it is a secret.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let fixed = ["encryption_key", "key_file", "cipher", "storage"];
        if fixed.contains(&name) {
            return Err(Error::Misuse(format!(
                "{name} cannot be changed while the database is open"
            )));
        }
        let mut given = Settings::default();
        given.set(name, value)?;
        match given.offline {
            Some(true) => self.set_offline(true),
            // What was written here goes first.
            Some(false) => {
                self.raise_version()?;
                self.push()?;
                self.set_offline(false)
            }
            None => self.update(given),
        }
    }

    /// One setting in force, as text.
    pub fn setting(&self, name: &str) -> Result<Option<String>> {
        match name {
            "offline" => Ok(Some(u8::from(self.is_offline()?).to_string())),
            _ => self.settings().in_force(name),
        }
    }

    /// Goes by what is given from here on, and for the rest by what it went by.
    pub fn update(&self, given: Settings) -> Result<()> {
        if let Some(url) = &given.sync_url {
            remote::check(url, given.ca_file.as_deref())?;
        }
        let connects = given.sync_url.is_some()
            || given.auth_token.is_some()
            || given.ca_file.is_some()
            || given.sync_timeout.is_some();
        self.change_settings(given);
        if connects {
            self.disconnect();
        }
        if self.recorded_state()?.is_some() {
            self.local()
                .store()?
                .transaction(|store| self.settings().save(store))?;
        }
        self.worker().look(connects);
        Ok(())
    }
}
