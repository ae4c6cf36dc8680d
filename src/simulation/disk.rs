//! The files of a machine: what programs see, and what a power loss leaves of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::random::Random;

/// Bytes that are written as a whole or not at all.
const SECTOR: u64 = 512;

/// A change that is not durable yet.
enum Change {
    Write(u64, Vec<u8>),
    Size(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(offset, data) => put(bytes, data, *offset),
            Change::Size(size) => bytes.resize(*size as usize, 0),
        }
    }
}

fn put(bytes: &mut Vec<u8>, data: &[u8], offset: u64) {
    let offset = offset as usize;
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
}

/// What a power loss does to changes that were not synced.
#[derive(Clone, Copy)]
enum Loss {
    All,
    Nothing,
    /// Those from some moment on.
    Later,
    /// Each on its own.
    Some,
    /// Each sector on its own.
    Torn,
}

impl File {
    fn lose_power(&mut self, random: &mut Random) {
        let loss = random.of(&[
            Loss::All,
            Loss::Nothing,
            Loss::Later,
            Loss::Some,
            Loss::Torn,
        ]);
        let kept = random.below(self.changes.len() as u64 + 1);
        for (n, change) in (0..).zip(std::mem::take(&mut self.changes)) {
            match loss {
                Loss::All => {}
                Loss::Nothing => change.apply(&mut self.durable),
                Loss::Later if n < kept => change.apply(&mut self.durable),
                Loss::Later => {}
                Loss::Some if random.once_in(2) => change.apply(&mut self.durable),
                Loss::Some => {}
                Loss::Torn => tear(&change, &mut self.durable, random),
            }
        }
        self.bytes = self.durable.clone();
    }
}

fn tear(change: &Change, bytes: &mut Vec<u8>, random: &mut Random) {
    let Change::Write(offset, data) = change else {
        return change.apply(bytes);
    };
    let mut at = 0;
    while at < data.len() {
        let start = offset + at as u64;
        let length = ((SECTOR - start % SECTOR) as usize).min(data.len() - at);
        if random.once_in(2) {
            put(bytes, &data[at..at + length], start);
        }
        at += length;
    }
}

/// A change of a name, in the order of the file system's journal.
enum Naming {
    Given(PathBuf, usize),
    Taken(PathBuf),
}

/// All files of a machine.
#[derive(Default)]
pub(super) struct Disk {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    changes: Vec<Naming>,
}

fn apply(change: &Naming, names: &mut BTreeMap<PathBuf, usize>) {
    match change {
        Naming::Given(name, file) => names.insert(name.clone(), *file),
        Naming::Taken(name) => names.remove(name),
    };
}

impl Disk {
    /// The file of a name.
    pub(super) fn find(&self, name: &Path) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// A file without a name.
    pub(super) fn create(&mut self) -> usize {
        self.files.push(File::default());
        self.files.len() - 1
    }

    /// Gives a file a name; false where it is taken.
    pub(super) fn name(&mut self, name: &Path, file: usize) -> bool {
        if self.names.contains_key(name) {
            return false;
        }
        self.change(Naming::Given(name.to_owned(), file));
        true
    }

    /// Takes a name away.
    pub(super) fn remove(&mut self, name: &Path) {
        if self.names.contains_key(name) {
            self.change(Naming::Taken(name.to_owned()));
        }
    }

    fn change(&mut self, change: Naming) {
        apply(&change, &mut self.names);
        self.changes.push(change);
    }

    /// Makes all names durable.
    pub(super) fn sync_names(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            apply(&change, &mut self.durable);
        }
    }

    /// Reads; how much there was.
    pub(super) fn read(&self, file: usize, buffer: &mut [u8], offset: u64) -> usize {
        let bytes = &self.files[file].bytes;
        let start = bytes.len().min(offset as usize);
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        count
    }

    /// Writes.
    pub(super) fn write(&mut self, file: usize, data: &[u8], offset: u64) {
        let change = Change::Write(offset, data.to_vec());
        change.apply(&mut self.files[file].bytes);
        self.files[file].changes.push(change);
    }

    /// Sets the size.
    pub(super) fn resize(&mut self, file: usize, size: u64) {
        let change = Change::Size(size);
        change.apply(&mut self.files[file].bytes);
        self.files[file].changes.push(change);
    }

    /// Makes a file durable.
    pub(super) fn sync(&mut self, file: usize) {
        let file = &mut self.files[file];
        for change in std::mem::take(&mut file.changes) {
            change.apply(&mut file.durable);
        }
    }

    /// The size of a file.
    pub(super) fn size(&self, file: usize) -> u64 {
        self.files[file].bytes.len() as u64
    }

    /// What is not durable is lost, or not.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        for file in &mut self.files {
            file.lose_power(random);
        }
        let kept = random.below(self.changes.len() as u64 + 1) as usize;
        let changes = std::mem::take(&mut self.changes);
        for change in changes.iter().take(kept) {
            apply(change, &mut self.durable);
        }
        self.names = self.durable.clone();
    }
}
