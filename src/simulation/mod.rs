//! A deterministic simulation of a primary and its replicas.
//!
//! The engine's own code runs in it: `wal`, `replica` and `primary`, over simulated machines. A machine
//! has a disk, whose files keep what was synced and, after a power loss, any part of the rest; shared
//! indexes that live as long as a process has them open; state stores that are as durable as [`Store`]
//! says. What SQLite does in between is a model of its wal.c (`sqlite`, `transaction`), which calls the
//! engine as the VFS does. The network loses, delays, repeats and reorders messages.
//!
//! Programs are threads of which one runs at a time (`world`). Each call of the engine to the outside is
//! a step, at which others may go on, and the process, or its machine, may die. One seed is one exact
//! run. What programs were told is kept in a `ledger` and compared with what is there.
//!
//! `REPLICA_SEED=n cargo test --lib simulation::tests::invariants_hold` prints the trace of one seed;
//! `scripts/simulation.sh` runs many.
//!
//! [`Store`]: crate::database::store::Store

mod actor;
mod cases;
mod disk;
mod faults;
mod file;
mod host;
mod ledger;
mod machine;
mod memory;
mod merging;
mod network;
mod offline_store;
mod plan;
mod planted;
mod process;
mod program;
mod random;
mod replica;
mod run;
mod server;
mod shrink;
mod sqlite;
mod store;
mod tests;
mod totals;
mod trace;
mod transaction;
mod world;
mod writer;

pub(crate) use self::planted::is_planted;

/// The number of the primary's machine.
const PRIMARY: usize = 0;
