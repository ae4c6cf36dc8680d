//! Replicas that are written offline: commits are made in the local file, and pushed later.

mod beyond;
mod changes;
mod commit;
mod discard;
mod entry;
mod mode;
mod push;
mod rebase;
mod version;
mod view;

pub use changes::Counted;
