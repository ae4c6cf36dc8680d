//! The role replica: a local file that follows a remote.

mod bases;
pub mod batch;
mod begin;
pub mod bootstrap;
pub mod enter;
mod execute;
pub mod fetch;
pub mod follower;
pub mod heal;
mod offline;
mod push;
mod reconfigure;
pub mod registry;
pub mod resolve;
mod spooled;
pub mod status;
pub mod sync;
mod transaction;
pub mod transfer;
mod verify;
mod wait;
pub mod worker;
mod writes;
pub mod writing;
