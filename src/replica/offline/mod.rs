//! Replicas that are written offline: commits are made in the local file, and pushed later.

mod commit;
mod discard;
mod mode;
mod push;
