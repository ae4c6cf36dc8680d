//! What both roles stand on: the host's files, the state store, the settings.

pub mod handle;
pub mod host;
pub mod keys;
pub mod lock_file;
pub mod paths;
pub mod rekey;
pub mod scan;
pub mod settings;
pub mod store;
pub mod tokens;
