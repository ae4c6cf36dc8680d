//! Single cases that runs have found, without chance.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::host::SimulatedHost;
use super::plan::Plan;
use super::process::Process;
use super::program::Program;
use super::random::Random;
use super::run::make_database;
use super::sqlite::Sqlite;
use super::world::World;
use super::{PRIMARY, replica, server};
use crate::database::body::Body;
use crate::database::settings::Settings;
use crate::error::{Error, Result};
use crate::primary::answer::Primary;
use crate::primary::commits::Commits;
use crate::primary::server::Service;
use crate::remote::{PushFailure, Remote, Traffic};
use crate::replica::follower::Replica;
use crate::replica::writing::Writing;
use crate::wal::frame::Salts;
use crate::wal::{Lock, SharedIndex};
use crate::wire::{PushReader, PushRequest, PushResponse, Request, Response};

/// A primary without a network before it, and the last push it had.
#[derive(Clone, Default)]
struct Near {
    primary: Arc<Mutex<Option<Primary>>>,
    last: Arc<Mutex<Vec<u8>>>,
}

impl Near {
    fn push_again(&self) -> PushResponse {
        let bytes = self.last.lock().clone();
        let request = *PushReader::start(&mut &bytes[..]).unwrap().request();
        let answer = self.answer_push(&bytes).unwrap();
        PushResponse::decode(&mut &answer[..], &request).unwrap()
    }

    fn answer_push(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let primary = self.primary.lock();
        let primary = primary.as_ref().expect("a primary");
        let turn = primary.turns().try_wait(None).expect("a turn");
        Ok(primary.push(&mut &bytes[..], turn)?.encode())
    }
}

impl Remote for Near {
    fn ask(&self, request: &Request) -> Result<(Response, Traffic)> {
        let primary = self.primary.lock();
        let primary = primary.as_ref().expect("a primary");
        Ok((primary.answer(request.clone(), None)?, Traffic::default()))
    }

    fn push(
        &self,
        push: &PushRequest,
        body: &Body,
        _: Duration,
    ) -> std::result::Result<(PushResponse, Traffic), PushFailure> {
        let mut bytes = Vec::new();
        body.reader().read_to_end(&mut bytes).expect("a body");
        *self.last.lock() = bytes.clone();
        let answer = self.answer_push(&bytes).map_err(PushFailure::Unknown)?;
        let response = PushResponse::decode(&mut &answer[..], push).expect("an answer");
        Ok((response, Traffic::default()))
    }

    fn url(&self) -> &str {
        "http://near/app"
    }
}

/// A primary and a replica, at which nothing goes wrong by itself.
struct Case {
    world: Arc<World>,
    near: Near,
}

impl Case {
    fn new(seed: u64) -> Self {
        let world = World::new(Plan::new(seed), 2, vec!["test".to_owned()]);
        world.start(vec![thread::current()]);
        make_database(&mut world.state.lock());
        Self {
            world,
            near: Near::default(),
        }
    }

    fn process(&self, machine: usize) -> Process {
        self.world.start_process(0, machine)
    }

    /// Starts the primary.
    fn serve(&self) -> Process {
        let process = self.process(PRIMARY);
        let host = Arc::new(SimulatedHost(process.clone()));
        let primary = Primary::begin(host, Path::new(server::PATH), Commits::new()).unwrap();
        *self.near.primary.lock() = Some(primary);
        process
    }

    /// Commits transactions on the replica.
    fn write(&self, count: usize) {
        let process = self.process(1);
        let path = Path::new(replica::PATH);
        let host = Arc::new(SimulatedHost(process.clone()));
        let store = crate::database::host::Host::open_store(&*host, path).unwrap();
        let settings = Settings::default();
        let made = Replica::new(host, path.to_owned(), settings, Some(store)).unwrap();
        let replica = Arc::new(made.with_remote(Arc::new(self.near.clone())));
        replica.sync().unwrap();
        let mut program = Program {
            process: &process,
            sqlite: Sqlite::open(&process, path, false).unwrap(),
            replica: Some((&replica, Writing::new(Arc::clone(&replica)))),
            random: &mut Random::new(7, 7),
        };
        let mut done = 0;
        while done < count {
            // Others may be in the way of a transaction that does not wait for them.
            match program.write() {
                Ok(()) => done += 1,
                Err(error) => assert!(matches!(error, Error::Busy(_)), "{error}"),
            }
        }
        program.read().unwrap();
    }

    /// The primary's machine loses its power.
    fn lose_power(&self, random: &mut Random) {
        self.world.state.lock().machines[PRIMARY].lose_power(random);
        self.bury();
    }

    /// The primary was killed.
    fn bury(&self) {
        let dead = self.near.primary.lock().take();
        // Whatever it tries now ends it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(dead)));
    }

    fn head(&self) -> crate::position::Position {
        let primary = self.near.primary.lock();
        primary.as_ref().unwrap().head().unwrap().position
    }
}

#[test]
fn a_primary_knows_its_history_after_a_power_loss() {
    for seed in 0..20 {
        let case = Case::new(seed);
        case.serve();
        case.write(3);
        let before = case.head();
        case.lose_power(&mut Random::new(seed, 9));
        case.serve();
        assert_eq!(case.head(), before, "seed {seed}");
        assert!(matches!(case.near.push_again(), PushResponse::Accepted(_)));
    }
}

#[test]
fn a_primary_knows_what_was_pushed_into_a_log_begun_anew() {
    for seed in 0..20 {
        let case = Case::new(seed);
        case.serve();
        case.write(8);
        let primary = Arc::clone(&case.near.primary);
        let captured = primary
            .lock()
            .as_ref()
            .map(Primary::capture_and_checkpoint)
            .unwrap();
        captured.unwrap();
        case.write(2);
        let before = case.head();
        case.lose_power(&mut Random::new(seed, 9));
        case.serve();
        assert_eq!(case.head(), before, "seed {seed}");
    }
}

#[test]
fn a_primary_knows_what_one_that_was_killed_had_captured() {
    for seed in 0..20 {
        let case = Case::new(seed);
        let process = case.serve();
        case.write(3);
        let before = case.head();
        process.machine(|machine| machine.kill(process.id()));
        case.bury();
        // It ends by itself: the log goes, the store stays.
        case.serve();
        drop(case.near.primary.lock().take());
        case.lose_power(&mut Random::new(seed, 9));
        case.serve();
        assert_eq!(case.head(), before, "seed {seed}");
    }
}

#[test]
fn a_push_is_not_refused_where_the_history_was_lost() {
    let mut lost = 0;
    for seed in 0..20 {
        let case = Case::new(seed);
        case.serve();
        case.write(4);
        let before = case.head();
        case.lose_power(&mut Random::new(seed, 9));
        // Plain SQLite, the last one to close the database, removes the log.
        let process = case.process(PRIMARY);
        let mut sqlite = Sqlite::open(&process, Path::new(server::PATH), true).unwrap();
        sqlite.copy().unwrap();
        drop(sqlite);
        case.serve();
        let answer = case.near.push_again();
        match case.head() == before {
            true => assert!(matches!(answer, PushResponse::Accepted(_))),
            false => {
                lost += 1;
                assert!(matches!(answer, PushResponse::Unknown(_)), "{answer:?}");
            }
        }
    }
    assert!(lost > 0);
}

#[test]
fn a_restart_cut_off_half_way_hides_no_transaction_of_sqlite() {
    let case = Case::new(1);
    case.serve();
    case.write(1);
    // As long as this is open, nobody removes the log.
    let process = case.process(1);
    let path = Path::new(replica::PATH);
    let mut sqlite = Sqlite::open(&process, path, false).unwrap();
    case.write(3);
    let mut header = sqlite.header().unwrap();
    sqlite.copy().unwrap();
    // Whoever begins the log anew is killed after the header.
    assert!(sqlite.index.lock_exclusive(Lock::Write).unwrap());
    header.mx_frame = 0;
    header.salts = header.salts.restarted(Salts([7; 8]));
    header.publish(&sqlite.index).unwrap();
    sqlite.index.unlock_exclusive(Lock::Write);
    // Each of these reads, and compares.
    case.write(4);
}
