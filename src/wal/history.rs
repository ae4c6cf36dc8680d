//! Random histories of one database: writers, readers, checkpoints, failures and power losses,
//! compared with what each commit must hold.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::anchor::{Anchor, Relation};
use super::frames::{read_frame, transactions};
use super::memory::MemoryIndex;
use super::oracle::{State, World, page, recover, truncate};
use super::read_lock::{Keep, ReadLock};
use crate::error::Error;

#[derive(Clone, Debug)]
enum Step {
    Append {
        pages: Vec<u32>,
        size: u32,
    },
    Fail {
        pages: Vec<u32>,
        size: u32,
        after: u32,
    },
    Checkpoint,
    Truncate,
    Open(Keep),
    Advance(usize),
    Close(usize),
    Record,
    PowerLoss {
        survivors: u64,
    },
}

fn step(most: u32) -> impl Strategy<Value = Step> {
    let transaction = (
        prop::collection::btree_set(1..=most, 1..=most as usize),
        1..=most,
    )
        .prop_map(|(pages, size)| {
            let largest = pages.iter().next_back().copied().unwrap_or(1);
            (pages.into_iter().collect::<Vec<_>>(), size.max(largest))
        });
    prop_oneof![
        8 => transaction.clone().prop_map(|(pages, size)| Step::Append { pages, size }),
        2 => (transaction, 0..6u32)
            .prop_map(|((pages, size), after)| Step::Fail { pages, size, after }),
        4 => Just(Step::Checkpoint),
        1 => Just(Step::Truncate),
        2 => prop_oneof![Just(Keep::Snapshot), Just(Keep::Log)].prop_map(Step::Open),
        3 => (0..4usize).prop_map(Step::Advance),
        3 => (0..4usize).prop_map(Step::Close),
        2 => Just(Step::Record),
        1 => any::<u64>().prop_map(|survivors| Step::PowerLoss { survivors }),
    ]
}

/// A reader on a connection of its own, and the number of the state it reads.
struct Reader {
    index: MemoryIndex,
    lock: ReadLock,
    keep: Keep,
    at: usize,
}

struct History {
    world: World,
    readers: Vec<Reader>,
    recorded: Vec<(Anchor, usize)>,
    /// States whose append failed since the last commit: a power loss may still bring one.
    perhaps: Vec<State>,
}

impl History {
    fn newest(&self) -> usize {
        self.world.states.len() - 1
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append { pages, size } => {
                self.world.append(pages, *size).unwrap();
                self.perhaps.clear();
            }
            Step::Fail { pages, size, after } => {
                let next = self.world.next_state(pages, *size);
                self.world.log.fail_after(Some(*after));
                match self.world.append(pages, *size) {
                    Ok(_) => self.perhaps.clear(),
                    Err(_) => self.perhaps.push(next),
                }
                self.world.log.fail_after(None);
            }
            Step::Checkpoint => self.world.checkpoint(),
            Step::Truncate => {
                let random = self.world.salts();
                if truncate(&self.world.index, &self.world.log, random) {
                    self.perhaps.clear();
                }
            }
            Step::Open(keep) => {
                if self.readers.len() < 6 {
                    let index = self.world.index.connect();
                    let lock = ReadLock::begin(&index, *keep).unwrap();
                    assert!(*keep == Keep::Snapshot || lock.slot() > 0);
                    let at = self.newest();
                    self.readers.push(Reader {
                        index,
                        lock,
                        keep: *keep,
                        at,
                    });
                }
            }
            Step::Advance(which) => self.advance(*which),
            Step::Close(which) => {
                if *which < self.readers.len() {
                    let reader = self.readers.remove(*which);
                    reader.lock.release(&reader.index);
                    assert_eq!(reader.index.held(), []);
                }
            }
            Step::Record => self.recorded.push((self.world.anchor(), self.newest())),
            Step::PowerLoss { survivors } => self.lose_power(*survivors),
        }
        self.check();
    }

    fn advance(&mut self, which: usize) {
        let newest = self.newest();
        let Some(reader) = self.readers.get_mut(which) else {
            return;
        };
        let before = *reader.lock.header();
        reader.lock.advance(&reader.index).unwrap();
        assert_eq!(reader.index.held().len(), 1);
        let (from, to) = (reader.at, newest);
        reader.at = newest;
        if reader.keep == Keep::Log {
            // Each commit since then is seen, one by one.
            let after = if before.mx_frame > 0 {
                before.anchor()
            } else {
                Anchor::log_start(reader.lock.header().salts)
            };
            self.replay(&after, from, to, true);
        }
    }

    /// Goes through the transactions behind an anchor and compares the states.
    fn replay(&self, after: &Anchor, from: usize, to: usize, each: bool) {
        let (world, header) = (&self.world, self.world.header());
        let mut state = world.states[from].clone();
        let mut found = vec![0; world.page_size.bytes()];
        let mut seen = from;
        for transaction in transactions(&world.log, &header, after).unwrap() {
            let transaction = transaction.unwrap();
            assert!(transaction.intact);
            seen += 1;
            let expected = &world.states[if each { seen } else { to }];
            state.resize(transaction.database_size as usize, u64::MAX);
            for (&number, &frame) in &transaction.pages {
                read_frame(&world.log, world.page_size, frame, &mut found).unwrap();
                let at = number.get() as usize - 1;
                if each {
                    state[at] = expected[at];
                    assert_eq!(found, page(world.page_size, number, expected[at]));
                } else if expected
                    .get(at)
                    .is_some_and(|&from| found == page(world.page_size, number, from))
                {
                    state[at] = expected[at];
                }
            }
            if each {
                assert_eq!(&state, expected);
            }
            if transaction.last_frame.get() == header.mx_frame {
                assert_eq!(transaction.checksum, header.frame_checksum);
            }
        }
        assert_eq!(state, world.states[to]);
        if each {
            assert_eq!(seen, to);
        }
    }

    fn lose_power(&mut self, survivors: u64) {
        self.readers.clear();
        self.world = self.world.crash(|i| survivors >> (i % 64) & 1 == 1);
        let index = self.world.index.connect();
        let lock = ReadLock::begin(&index, Keep::Snapshot).unwrap();
        let mut perhaps = std::mem::take(&mut self.perhaps).into_iter();
        if self
            .world
            .differs(&index, &lock, self.world.state())
            .is_some()
        {
            let came = perhaps.find(|state| self.world.differs(&index, &lock, state).is_none());
            self.world
                .states
                .push(came.expect("the last commit, or one that failed late"));
        }
        lock.release(&index);
    }

    fn check(&self) {
        let world = &self.world;
        world.check_newest();
        for reader in &self.readers {
            world.check(&reader.index, &reader.lock, &world.states[reader.at]);
        }
        // A process that comes after a crash of all others finds the same last commit.
        let header = world.header();
        let (found, _) = recover(&world.log);
        if self.perhaps.is_empty() && header.mx_frame > 0 {
            assert_eq!(found.anchor(), header.anchor());
            assert_eq!(found.database_size, header.database_size);
        }
        for &(anchor, at) in &self.recorded {
            match anchor.relation(&header, &world.log).unwrap() {
                Relation::Equal | Relation::Restarted => {
                    assert_eq!(world.states[at], *world.state());
                }
                Relation::Extended => self.replay(&anchor, at, self.newest(), false),
                Relation::Unknown => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_sees_its_commit(
        size in prop_oneof![8 => Just(9u32), 1 => 10..=13u32, 1 => Just(16)],
        steps in prop::collection::vec(step(12), 1..50),
    ) {
        let world = World::new(1 << size, 3);
        let mut history = History { world, readers: vec![], recorded: vec![], perhaps: vec![] };
        for step in &steps {
            history.run(step);
        }
    }
}

/// Readers, a checkpointer and the writer at once: a reader knows from the change counter which
/// state its snapshot must be.
#[test]
fn threads_see_whole_commits() {
    const COMMITS: usize = 400;
    let mut world = World::new(512, 8);
    let states = Mutex::new(world.states.clone());
    let done = AtomicBool::new(false);
    let restarts = std::thread::scope(|scope| {
        // Also when the writer panics, or the others would read on for ever.
        let _done = Finally(&done);
        for keep in [Keep::Snapshot, Keep::Snapshot, Keep::Log] {
            let view = world.view();
            let (states, done) = (&states, &done);
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    let lock = match ReadLock::begin(&view.index, keep) {
                        Err(Error::Busy(_)) => continue,
                        lock => lock.unwrap(),
                    };
                    let state = states.lock()[lock.header().change_counter as usize].clone();
                    view.check(&view.index, &lock, &state);
                    lock.release(&view.index);
                    std::thread::sleep(Duration::from_micros(300));
                }
            });
        }
        let view = world.view();
        let done_too = &done;
        scope.spawn(move || {
            while !done_too.load(Relaxed) {
                view.checkpoint();
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        let mut restarts = 0;
        for i in 0..COMMITS as u32 {
            let pages = [1 + i % 3, 4 + i % 5];
            let size = 8 + i % 2;
            states.lock().push(world.next_state(&pages, size));
            let header = world.append(&pages, size).unwrap();
            restarts += usize::from(header.mx_frame < 4);
            std::thread::sleep(Duration::from_micros(100));
        }
        restarts
    });
    assert_eq!(world.header().change_counter as usize, COMMITS);
    assert!(restarts > 1, "the log was never written anew");

    world.check_newest();
}

/// Says it is done when it goes.
struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
