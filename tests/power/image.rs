//! What a disk may hold after a power loss.
//!
//! Pure: a [`Disk`] takes the steps of a trace one by one, and builds an [`Image`] of what could be
//! left if the power failed now. The rules are those of a journalling file system over a page cache:
//!
//! - What was synced stays. Of everything written to a file since, each 512-byte sector holds any of
//!   its versions: writes are lost, torn and reordered independently, but a sector that reached the
//!   disk after a write has that write in it.
//! - The size of a file is metadata: the journal keeps a prefix of its changes. Space that the size
//!   covers and no surviving write filled reads as zeros.
//! - Names are metadata of one journal: a prefix of their changes survives. A sync of the directory
//!   makes all durable, a sync of a file the *creation* of its name (and what came before), but no
//!   link, rename or unlink of it.
use crate::dice::Dice;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

pub const SECTOR: u64 = 512;

/// Name to content, of every file that is left. Names that share one content are links to one file.
pub type Image = BTreeMap<String, Arc<Vec<u8>>>;

/// One recorded step. Files are known by inode number: names come and go.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// An empty name creates a file that has none yet.
    Create {
        inode: u64,
        name: String,
    },
    Write {
        inode: u64,
        offset: u64,
        data: Arc<[u8]>,
    },
    Resize {
        inode: u64,
        size: u64,
    },
    /// Allocation: the size becomes at least this.
    Grow {
        inode: u64,
        size: u64,
    },
    Sync {
        inode: u64,
    },
    SyncDirectory,
    Link {
        inode: u64,
        name: String,
    },
    Rename {
        name: String,
        to: String,
    },
    Unlink {
        name: String,
    },
    /// Said by the test, not done by the host.
    Mark(String),
    /// Something left the process through a socket.
    Send,
}

/// Which of the unsynced changes of a file survive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    Everything,
    Nothing,
    /// The first changes survive, the last ones do not; the end of the one between is torn off.
    Late,
    /// The last changes survive, the first ones do not; the start of the one between is torn off.
    Early,
    /// Each write is kept, lost or torn for itself.
    Scattered,
}

/// A whole crash: how names and files fare.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crash {
    /// Only what was synced is left.
    Bare,
    /// Everything is left: the process died, the machine did not.
    Whole,
    /// Every name, no unsynced content (the zero-length file after a rename).
    Names,
    /// Unsynced content in files whose names may be lost.
    Content,
    /// The same loss for every file, names by chance.
    Every(Loss),
    /// A loss by chance for each file.
    Any,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, data: Arc<[u8]> },
    Resize(u64),
    Grow(u64),
}

#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Naming {
    Add {
        name: String,
        file: usize,
        created: bool,
    },
    Move {
        name: String,
        to: String,
    },
    Drop {
        name: String,
    },
}

/// The state of a directory: what is durable, and what is on its way.
#[derive(Clone, Default)]
pub struct Disk {
    files: Vec<File>,
    by_inode: BTreeMap<u64, usize>,
    names: BTreeMap<String, usize>,
    naming: Vec<Naming>,
}

impl Disk {
    /// Takes one step. An error means that the trace is not the whole story.
    pub fn apply(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Create { inode, name } => {
                // The number may have been another file's before that one was unlinked.
                self.by_inode.insert(*inode, self.files.len());
                if !name.is_empty() {
                    self.naming.push(Naming::Add {
                        name: name.clone(),
                        file: self.files.len(),
                        created: true,
                    });
                }
                self.files.push(File::default());
            }
            Step::Write {
                inode,
                offset,
                data,
            } => {
                self.change(
                    *inode,
                    Change::Write {
                        offset: *offset,
                        data: data.clone(),
                    },
                )?;
            }
            Step::Resize { inode, size } => self.change(*inode, Change::Resize(*size))?,
            Step::Grow { inode, size } => self.change(*inode, Change::Grow(*size))?,
            Step::Sync { inode } => {
                let file = self.file(*inode)?;
                let all = &mut self.files[file];
                all.durable = all.survivors(Loss::Nothing, &mut Dice::new(0));
                all.pending.clear();
                let made = |n: &Naming| matches!(n, Naming::Add { file: f, created: true, .. } if *f == file);
                if let Some(last) = self.naming.iter().rposition(made) {
                    self.settle(last + 1);
                }
            }
            Step::SyncDirectory => self.settle(self.naming.len()),
            Step::Link { inode, name } => {
                let file = self.file(*inode)?;
                self.naming.push(Naming::Add {
                    name: name.clone(),
                    file,
                    created: false,
                });
            }
            Step::Rename { name, to } => self.naming.push(Naming::Move {
                name: name.clone(),
                to: to.clone(),
            }),
            Step::Unlink { name } => self.naming.push(Naming::Drop { name: name.clone() }),
            Step::Mark(_) | Step::Send => {}
        }
        Ok(())
    }

    /// What is left after the crash.
    pub fn image(&self, crash: Crash, dice: &mut Dice) -> Image {
        let whole = self.naming.len();
        let kept = match crash {
            Crash::Bare | Crash::Content => 0,
            Crash::Whole | Crash::Names => whole,
            Crash::Every(_) | Crash::Any => dice.mostly(whole),
        };
        let mut names = self.names.clone();
        self.naming[..kept].iter().for_each(|n| n.apply(&mut names));
        let mut built: BTreeMap<usize, Arc<Vec<u8>>> = BTreeMap::new();
        for file in names.values() {
            built.entry(*file).or_insert_with(|| {
                let loss = match crash {
                    Crash::Bare | Crash::Names => Loss::Everything,
                    Crash::Whole | Crash::Content => Loss::Nothing,
                    Crash::Every(loss) => loss,
                    Crash::Any => dice.one_of(&[
                        Loss::Everything,
                        Loss::Nothing,
                        Loss::Late,
                        Loss::Early,
                        Loss::Scattered,
                        Loss::Scattered,
                    ]),
                };
                Arc::new(self.files[*file].survivors(loss, dice))
            });
        }
        names
            .into_iter()
            .map(|(name, file)| (name, built[&file].clone()))
            .collect()
    }

    fn file(&self, inode: u64) -> Result<usize, String> {
        self.by_inode
            .get(&inode)
            .copied()
            .ok_or(format!("file {inode} was there before the trace began"))
    }

    fn change(&mut self, inode: u64, change: Change) -> Result<(), String> {
        let file = self.file(inode)?;
        self.files[file].pending.push(change);
        Ok(())
    }

    fn settle(&mut self, count: usize) {
        for naming in self.naming.drain(..count) {
            naming.apply(&mut self.names);
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Naming::Add { name, file, .. } => {
                names.insert(name.clone(), *file);
            }
            Naming::Move { name, to } => {
                if let Some(file) = names.remove(name) {
                    names.insert(to.clone(), file);
                }
            }
            Naming::Drop { name } => {
                names.remove(name);
            }
        }
    }
}

impl File {
    /// The content after a loss of some of the pending changes.
    fn survivors(&self, loss: Loss, dice: &mut Dice) -> Vec<u8> {
        let count = self.pending.len();
        // The pivot is one of the changes, and the journal has kept the size changes before `sized`.
        let pivot = dice.below(count.max(1));
        let sized = match loss {
            Loss::Everything => 0,
            Loss::Nothing | Loss::Early => count,
            Loss::Late => (pivot + 1).min(count),
            Loss::Scattered => dice.mostly(count),
        };
        let mut cache = self.durable.clone();
        let mut disk = self.durable.clone();
        let mut size = disk.len();
        // Beyond this the file was cut and the cut is lost: what was written there since has no place.
        let mut placeless = u64::MAX;
        for (i, change) in self.pending.iter().enumerate() {
            match change {
                Change::Write { offset, data } => {
                    let end = *offset as usize + data.len();
                    if cache.len() < end {
                        cache.resize(end, 0);
                    }
                    cache[*offset as usize..end].copy_from_slice(data);
                    let touched: Vec<_> = sectors(*offset, end as u64, cache.len()).collect();
                    let fate = loss.of_write(i.cmp(&pivot), touched.len(), dice);
                    for (number, sector) in touched.into_iter().enumerate() {
                        if (sector.start as u64) < placeless && fate.keeps(number, dice) {
                            if disk.len() < sector.end {
                                disk.resize(sector.end, 0);
                            }
                            disk[sector.clone()].copy_from_slice(&cache[sector]);
                        }
                    }
                }
                Change::Resize(to) => {
                    cache.resize(*to as usize, 0);
                    if i < sized {
                        disk.truncate(*to as usize);
                    } else {
                        placeless = placeless.min(*to);
                    }
                }
                Change::Grow(to) => cache.resize(cache.len().max(*to as usize), 0),
            }
            if i < sized {
                size = cache.len();
            }
        }
        disk.resize(size, 0);
        disk
    }
}

/// What becomes of one write: the sectors of it that are kept.
enum Fate {
    Some(Range<usize>),
    Chance,
}

impl Fate {
    fn keeps(&self, sector: usize, dice: &mut Dice) -> bool {
        match self {
            Fate::Some(range) => range.contains(&sector),
            Fate::Chance => dice.coin(),
        }
    }
}

impl Loss {
    /// `side` is where the write stands to the pivot.
    fn of_write(self, side: Ordering, sectors: usize, dice: &mut Dice) -> Fate {
        let (kept, lost) = (Fate::Some(0..sectors), Fate::Some(0..0));
        let edge = dice.below(sectors + 1);
        let (head, tail) = (Fate::Some(0..edge), Fate::Some(edge..sectors));
        match (self, side) {
            (Loss::Everything, _) => lost,
            (Loss::Nothing, _) => kept,
            (Loss::Late, Ordering::Less) | (Loss::Early, Ordering::Greater) => kept,
            (Loss::Late, Ordering::Greater) | (Loss::Early, Ordering::Less) => lost,
            (Loss::Late, Ordering::Equal) => head,
            (Loss::Early, Ordering::Equal) => tail,
            (Loss::Scattered, _) => match dice.below(10) {
                0..4 => kept,
                4..7 => lost,
                7 => head,
                8 => tail,
                _ => Fate::Chance,
            },
        }
    }
}

/// The sectors that a write touches, the last one cut at the end of the file.
fn sectors(start: u64, end: u64, length: usize) -> impl Iterator<Item = Range<usize>> {
    (start / SECTOR..end.div_ceil(SECTOR))
        .map(move |s| (s * SECTOR) as usize..(((s + 1) * SECTOR) as usize).min(length))
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
