//! What programs were told, and whether it is true.
//!
//! No two transactions make the same content: each writes a number of its own. So a content names the
//! transaction that made it, and that one the content it was computed from, back to the first one. A
//! content that nobody made is a torn one, or one in which a transaction is missing.

use std::collections::{BTreeMap, BTreeSet};

use crate::page::ContentDigest;
use crate::position::Position;

/// A content, as a key.
pub(super) type Key = [u8; 16];

/// What a program was told of its transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// Nothing: the program was killed.
    Nothing,
    /// That it is committed, then.
    Committed(u64),
    /// That it is not, and never will be.
    Refused,
    /// That it is not known.
    Unknown,
}

/// How many transactions a reader has to see at least.
#[derive(Clone, Copy)]
pub(super) struct Floor(u32);

/// A transaction that somebody tried.
struct Attempt {
    base: Key,
    /// The content whose transactions it holds as well, beside those that led to `base`.
    carries: Option<Key>,
    /// How many transactions led to it, itself included.
    depth: u32,
    /// When its program began to read.
    begun: u64,
    told: Told,
    machine: usize,
    /// Its program does not ask that it outlives a power loss.
    careless: bool,
}

/// All that was tried, told and seen.
#[derive(Default)]
pub(super) struct Ledger {
    first: Option<Key>,
    attempts: BTreeMap<Key, Attempt>,
    /// The deepest content each machine has shown, since its last power loss.
    shown: BTreeMap<usize, (u32, Key)>,
    /// The machine on which a power loss may take what was shown, beside the primary: SQLite shows a
    /// commit of a process that was killed before it synced.
    pub(super) careless: Option<usize>,
    /// What replicas have shown.
    followed: BTreeMap<Key, usize>,
    /// The content of each position.
    positions: BTreeMap<u64, (Position, Key)>,
    lsns: BTreeMap<Key, u64>,
    /// What processes have merged that are about to rebase.
    merging: BTreeMap<u64, Option<Key>>,
    /// How many merges there were.
    pub(super) merges: u64,
    /// How often the primary could not tell which transactions led to its content.
    pub(super) gaps: u64,
}

impl Ledger {
    /// The content before all transactions.
    pub(super) fn begin(&mut self, content: ContentDigest) {
        self.first = Some(content.to_bytes());
    }

    fn depth(&self, key: &Key) -> Option<u32> {
        match self.first == Some(*key) {
            true => Some(0),
            false => self.attempts.get(key).map(|attempt| attempt.depth),
        }
    }

    /// What a program that begins to read on a machine now has to see at least.
    pub(super) fn floor(&self, machine: usize) -> Floor {
        Floor(self.shown.get(&machine).map_or(0, |(depth, _)| *depth))
    }

    /// A program of a machine reads a content, all of one snapshot.
    pub(super) fn show(
        &mut self,
        machine: usize,
        floor: Floor,
        content: ContentDigest,
    ) -> Result<(), String> {
        let key = content.to_bytes();
        let depth = self
            .depth(&key)
            .ok_or("a reader saw a content that no transaction made")?;
        if depth < floor.0 {
            let before = floor.0;
            return Err(format!(
                "machine {machine} went back from {before} transactions to {depth}"
            ));
        }
        let newest = self.shown.entry(machine).or_insert((depth, key));
        if newest.0 == depth && newest.1 != key {
            return Err(format!(
                "machine {machine} showed two contents of {depth} transactions"
            ));
        }
        if newest.0 < depth {
            *newest = (depth, key);
        }
        if machine != super::PRIMARY && Some(machine) != self.careless {
            self.followed.insert(key, machine);
        }
        Ok(())
    }

    /// A position, and the content it stands for.
    pub(super) fn place(
        &mut self,
        position: Position,
        content: ContentDigest,
    ) -> Result<(), String> {
        let key = content.to_bytes();
        self.depth(&key)
            .ok_or("a position has a content that no transaction made")?;
        let lsn = position.lsn.0;
        let known = *self.positions.entry(lsn).or_insert((position, key));
        if known != (position, key) {
            return Err(format!(
                "there are two positions, or two contents, {lsn}: {} and {position}",
                known.0
            ));
        }
        let first = *self.lsns.entry(key).or_insert(lsn);
        match first == lsn {
            true => Ok(()),
            false => Err(format!(
                "the same content is at {first} and at {lsn}: a transaction was applied twice"
            )),
        }
    }

    /// The primary has lost track of positions it gave: others may take their place.
    pub(super) fn begin_history(&mut self) {
        self.gaps += 1;
        self.positions.clear();
        self.lsns.clear();
    }

    /// A program is about to commit.
    pub(super) fn attempt(
        &mut self,
        (machine, careless): (usize, bool),
        begun: u64,
        base: ContentDigest,
        after: ContentDigest,
    ) -> Result<(), String> {
        let base = base.to_bytes();
        let depth = self
            .depth(&base)
            .ok_or("a transaction is computed from a content that no transaction made")?;
        let attempt = Attempt {
            base,
            carries: None,
            depth: depth + 1,
            begun,
            told: Told::Nothing,
            machine,
            careless,
        };
        self.attempts.insert(after.to_bytes(), attempt);
        Ok(())
    }

    /// A process begins a rebase.
    pub(super) fn begin_merging(&mut self, process: u64) {
        self.merging.insert(process, None);
    }

    /// It was told that it is done: what it merged, if it did, is on the primary.
    pub(super) fn end_merging(&mut self, process: u64, now: u64) {
        let merged = self.merging.remove(&process).flatten();
        if let Some(attempt) = merged.and_then(|key| self.attempts.get_mut(&key)) {
            (attempt.told, attempt.careless) = (Told::Committed(now), false);
        }
    }

    /// A program is about to enter a merge of the remote's content and the local one, which began with
    /// the same `base`.
    pub(super) fn merge(
        &mut self,
        (process, machine, careless): (u64, usize, bool),
        begun: u64,
        (base, local): (ContentDigest, ContentDigest),
        remote: ContentDigest,
        after: ContentDigest,
    ) -> Result<(), String> {
        let [base, local, remote] = [base, local, remote].map(|content| content.to_bytes());
        for (key, name) in [(local, "local"), (remote, "remote's")] {
            if !self.comes_from(key, base) {
                return Err(format!(
                    "the {name} content of a merge did not begin with its base"
                ));
            }
        }
        let depth = self.depth(&local).max(self.depth(&remote)).unwrap_or(0) + 1;
        let attempt = Attempt {
            base: remote,
            carries: Some(local),
            depth,
            begun,
            told: Told::Nothing,
            machine,
            careless,
        };
        self.attempts.insert(after.to_bytes(), attempt);
        self.merges += 1;
        if let Some(merged) = self.merging.get_mut(&process) {
            *merged = Some(after.to_bytes());
        }
        Ok(())
    }

    /// Whether `base` is among the contents that led to one.
    fn comes_from(&self, mut key: Key, base: Key) -> bool {
        while key != base {
            match self.attempts.get(&key) {
                Some(attempt) => key = attempt.base,
                None => return false,
            }
        }
        true
    }

    /// The contents whose transactions are in one, without those that led to it.
    fn carried(&self, chain: &[(Key, &Attempt)]) -> BTreeSet<Key> {
        let mut left: Vec<Key> = chain.iter().filter_map(|(_, it)| it.carries).collect();
        let mut carried = BTreeSet::new();
        while let Some(key) = left.pop() {
            if let (true, Some(attempt)) = (carried.insert(key), self.attempts.get(&key)) {
                left.push(attempt.base);
                left.extend(attempt.carries);
            }
        }
        carried
    }

    /// What the program was told.
    pub(super) fn tell(&mut self, after: ContentDigest, told: Told) {
        if let Some(attempt) = self.attempts.get_mut(&after.to_bytes()) {
            attempt.told = told;
        }
    }

    /// A machine lost its power: what its programs did not ask to keep may be gone.
    pub(super) fn lose_power(&mut self, machine: usize) {
        self.shown.remove(&machine);
        for attempt in self.attempts.values_mut() {
            if attempt.machine == machine && attempt.careless && attempt.told != Told::Refused {
                attempt.told = Told::Unknown;
            }
        }
    }

    /// How many transactions led to a content.
    pub(super) fn transactions(&self, content: ContentDigest) -> u32 {
        self.depth(&content.to_bytes()).unwrap_or(0)
    }

    /// Everything, once it is over: `last` is what all have now.
    pub(super) fn check(&self, last: ContentDigest) -> Result<(), String> {
        let mut chain = Vec::new();
        let mut key = last.to_bytes();
        while self.first != Some(key) {
            let attempt = self
                .attempts
                .get(&key)
                .ok_or("the end has a content that no transaction made")?;
            chain.push((key, attempt));
            key = attempt.base;
        }
        chain.reverse();
        let number: BTreeMap<Key, usize> = chain
            .iter()
            .zip(1..)
            .map(|((key, _), n)| (*key, n))
            .collect();
        let carried = self.carried(&chain);
        for (key, attempt) in &self.attempts {
            match (attempt.told, number.get(key)) {
                (Told::Committed(_), None) if !carried.contains(key) => {
                    return Err(format!(
                        "transaction {} of machine {} was acknowledged and is lost",
                        attempt.depth, attempt.machine
                    ));
                }
                (Told::Refused, Some(n)) => {
                    return Err(format!(
                        "transaction {n} is there, and its program was told that it is not"
                    ));
                }
                (Told::Refused, None) if carried.contains(key) => {
                    return Err(format!(
                        "transaction {} of machine {} was merged, and its program was told that it is \
                         not there",
                        attempt.depth, attempt.machine
                    ));
                }
                _ => {}
            }
        }
        let is_there = |key: &Key| self.first == Some(*key) || number.contains_key(key);
        if let Some((_, machine)) = self.followed.iter().find(|(key, _)| !is_there(key)) {
            return Err(format!(
                "machine {machine} showed a content that is no part of the history"
            ));
        }
        if let Some(position) = self.positions.values().find(|(_, key)| !is_there(key)) {
            return Err(format!("position {} is no part of the history", position.0));
        }
        // Whoever begins after another one was acknowledged comes after it.
        let mut newest = 0;
        for (n, (_, attempt)) in chain.iter().enumerate() {
            if let Told::Committed(at) = attempt.told
                && at < newest
            {
                return Err(format!(
                    "transaction {} was acknowledged before one in front of it began",
                    n + 1
                ));
            }
            newest = newest.max(attempt.begun);
        }
        Ok(())
    }
}
