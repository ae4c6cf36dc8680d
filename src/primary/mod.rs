//! The role primary: a database that others follow. Its own log is the source; every commit in
//! it, whoever made it, becomes one lsn.

pub mod answer;
pub mod capture;
mod checkpointer;
pub mod commits;
pub mod followers;
pub mod history;
pub mod hrana;
mod images;
pub mod newest;
pub mod peers;
pub mod push;
mod resume;
mod ring;
pub mod serve;
pub mod server;
pub mod signals;
pub mod tokens;
pub mod turns;
mod worker;

pub use serve::served_page_size;
