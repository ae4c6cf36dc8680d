//! The VFS `replica`, a thin layer over the host's default VFS, and the handles of that VFS which
//! the layers below use. Together with `ffi.rs` the only place with `unsafe`.

pub mod base;
pub mod file;
pub mod files;
pub mod host;
mod log_file;
mod main_file;
pub mod memory;
mod pragma;
pub mod register;
mod sealed;
mod stamp;
mod super_file;
mod temporary;
mod unlock;
