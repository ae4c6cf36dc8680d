//! What both roles stand on: the host's files, the state store, the settings.

pub mod body;
pub mod clock;
pub mod connection;
pub mod fingerprint;
pub mod fork;
pub mod handle;
pub mod host;
pub mod keys;
pub mod lock_file;
pub mod offline;
pub mod pages;
pub mod paths;
pub mod rekey;
pub mod scan;
pub mod settings;
pub mod sqlite_connection;
pub mod sqlite_store;
pub mod store;
pub mod tokens;
pub mod unchanged;
pub mod views;
