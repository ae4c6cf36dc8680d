//! The role replica: a local file that follows a remote.

mod bases;
pub mod batch;
pub mod bootstrap;
pub mod enter;
mod execute;
pub mod fetch;
pub mod follower;
pub mod heal;
pub mod registry;
pub mod resolve;
mod spooled;
pub mod status;
pub mod sync;
mod verify;
