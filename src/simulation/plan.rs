//! What a seed stands for: who takes part, how often what goes wrong. The rest of a run is drawn as it
//! goes on.

use std::collections::BTreeSet;

use super::random::Random;
use crate::database::settings::WriteMode;
use crate::merge::Policy;
use crate::planted::Bug;

/// The parameters of one run.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Draws everything else anew, where a failing run is made smaller.
    pub(super) variation: u64,
    /// Machines with a replica.
    pub(super) replicas: usize,
    /// Processes that have each replica open.
    pub(super) processes: usize,
    /// Programs on the primary's machine that write without the extension.
    pub(super) writers: usize,
    /// What each program does before the faults stop.
    pub(super) operations: u64,
    /// The processor goes to another program once in so many steps.
    pub(super) switch: u64,
    /// A process is killed, or a machine loses its power, once in so many steps; never for 0.
    pub(super) crash: u64,
    /// Of those, how many in a hundred are power losses.
    pub(super) power: u64,
    /// A call of the disk fails once in so many; never for 0.
    pub(super) disk: u64,
    /// A message is lost, delayed or sent twice once in so many; never for 0.
    pub(super) network: u64,
    /// SQLite has no memory for a commit once in so many; never for 0.
    pub(super) memory: u64,
    /// Whether one replica is written offline, and nothing else is written; the primary stays up. (But
    /// for what follows.)
    pub(super) offline: bool,
    /// Whether others write meanwhile after all, so that it has to put what it wrote on top of that.
    pub(super) rebases: bool,
    /// What it decides unasked, where it has to.
    pub(super) on_conflict: Option<Policy>,
    /// Whether commits of SQLite are synced (`synchronous=FULL`).
    pub(super) synced: bool,
    pub(super) write_mode: WriteMode,
    /// `sync_timeout`, in seconds.
    pub(super) timeout: u64,
    /// Faults that do not happen after all, by their number: how a failing run is made smaller.
    pub(super) skipped: BTreeSet<u64>,
    /// From this fault on none happens.
    pub(super) faults: u64,
    /// What is wrong with the engine on purpose.
    pub(super) bug: Option<Bug>,
    /// Whether the trace is kept in words.
    pub(super) traced: bool,
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 1);
        Self {
            seed,
            variation: 0,
            replicas: random.of(&[2, 2, 3]),
            processes: random.of(&[1, 1, 2]),
            writers: random.of(&[0, 1, 1, 2]),
            operations: random.of(&[6, 12, 30]),
            switch: random.of(&[2, 8, 30, 100]),
            crash: random.of(&[0, 300, 1_000, 1_000, 3_000, 10_000]),
            power: random.of(&[0, 30, 30, 100]),
            disk: random.of(&[0, 0, 0, 100, 500]),
            network: random.of(&[0, 4, 10]),
            memory: random.of(&[0, 0, 5]),
            offline: false,
            rebases: false,
            on_conflict: None,
            synced: random.once_in(2),
            write_mode: random.of(&[
                WriteMode::Auto,
                WriteMode::Auto,
                WriteMode::Exclusive,
                WriteMode::Optimistic,
            ]),
            timeout: random.of(&[1, 2, 10]),
            skipped: BTreeSet::new(),
            faults: u64::MAX,
            bug: None,
            traced: false,
        }
    }

    /// The same of a run in which one replica is written offline.
    pub(super) fn offline(seed: u64) -> Self {
        Self {
            offline: true,
            writers: 0,
            replicas: 2,
            ..Self::new(seed)
        }
    }

    /// The same of a run in which one replica is written offline, and everything else as well.
    pub(super) fn rebase(seed: u64) -> Self {
        let mut random = Random::new(seed, 6);
        Self {
            rebases: true,
            on_conflict: random.of(&[None, None, Some(Policy::Local), Some(Policy::Remote)]),
            writers: random.of(&[0, 1]),
            ..Self::offline(seed)
        }
    }

    /// One of the streams of random numbers of the run.
    pub(super) fn stream(&self, number: u64) -> Random {
        Random::new(self.seed ^ self.variation << 32, number)
    }
}
