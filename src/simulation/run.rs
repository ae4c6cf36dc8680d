//! One run: a seed from its first step to its last check.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use super::faults::KINDS;
use super::plan::Plan;
use super::process::Process;
use super::program::set_header;
use super::replica::Task;
use super::sqlite::{Content, Sqlite};
use super::world::{State, World};
use super::{PRIMARY, actor, planted, replica, server, writer};
use crate::page::PageSize;
use crate::wal::read_lock::Keep;

/// Pages of the database in the beginning.
const PAGES: u32 = 4;

/// What a run came to.
pub(super) struct Outcome {
    /// What went wrong.
    pub(super) failure: Option<String>,
    /// The same for the same run.
    pub(super) hash: u64,
    /// What happened, where it was asked for.
    pub(super) lines: Vec<String>,
    pub(super) steps: u64,
    pub(super) transactions: u64,
    pub(super) messages: u64,
    pub(super) merges: u64,
    /// Times the primary lost track of its history.
    pub(super) gaps: u64,
    /// Faults drawn.
    pub(super) drawn: u64,
    pub(super) faults: [u64; KINDS.len()],
}

/// Who takes part.
enum Role {
    Server,
    Writer,
    Replica(usize),
}

/// Runs a plan.
pub(super) fn run(plan: Plan) -> Outcome {
    let (machines, roles) = cast(&plan);
    let names = roles.iter().map(|(name, _)| name.clone()).collect();
    let world = World::new(plan.clone(), machines, names);
    begin(&world, roles.len());
    thread::scope(|scope| {
        let threads: Vec<_> = roles
            .iter()
            .enumerate()
            .map(|(number, (_, role))| {
                let (world, bug) = (Arc::clone(&world), plan.bug);
                let task = Task {
                    left: plan.operations,
                    is_done: false,
                    is_settled: false,
                    random: plan.stream(1000 + number as u64),
                };
                let act = move || {
                    planted::plant(bug);
                    world.wait(number);
                    play(&world, number, role, task);
                };
                thread::Builder::new()
                    .stack_size(512 << 10)
                    .spawn_scoped(scope, act)
                    .expect("a thread")
            })
            .collect();
        let threads = threads.iter().map(|thread| thread.thread().clone());
        world.start(threads.collect());
    });
    outcome(&world)
}

fn cast(plan: &Plan) -> (usize, Vec<(String, Role)>) {
    let mut roles = vec![("primary".to_owned(), Role::Server)];
    for n in 1..=plan.writers {
        roles.push((format!("writer {n}"), Role::Writer));
    }
    for machine in 1..=plan.replicas {
        for process in 1..=plan.processes {
            roles.push((
                format!("replica {machine}.{process}"),
                Role::Replica(machine),
            ));
        }
    }
    (plan.replicas + 1, roles)
}

/// Counts who takes part, and makes the primary's database.
fn begin(world: &World, actors: usize) {
    let mut state = world.state.lock();
    state.busy = actors - 1;
    state.unsettled = actors - 1 - state.plan.writers;
    state.programs = state.unsettled;
    state.ledger.careless = state.plan.offline.then_some(replica::WRITER);
    make_database(&mut state);
}

/// The database of the primary as it is before the run.
pub(super) fn make_database(state: &mut State) {
    let size = PageSize::new(512).expect("a page size");
    let mut pages = vec![vec![0; size.bytes()]; PAGES as usize];
    pages[0][16..18].copy_from_slice(&size.to_u16().to_be_bytes());
    set_header(&mut pages[0], PAGES);
    let content = Content { size, pages };
    state.ledger.begin(content.digest());
    let disk = &mut state.machines[PRIMARY].disk;
    let file = disk.create();
    disk.name(Path::new(server::PATH), file);
    disk.write(file, &content.pages.concat(), 0);
    disk.sync(file);
    disk.sync_names();
}

fn play(world: &Arc<World>, number: usize, role: &Role, mut task: Task) {
    match role {
        Role::Server => actor::run(world, number, PRIMARY, |process| {
            let end = server::serve(process, &mut task.random);
            if matches!(end, actor::End::Done) {
                check(process);
            }
            end
        }),
        Role::Writer => actor::run(world, number, PRIMARY, |process| {
            writer::live(process, &mut task)
        }),
        Role::Replica(machine) => actor::run(world, number, *machine, |process| {
            replica::live(process, &mut task)
        }),
    }
}

/// Everything, once all is over.
fn check(process: &Process) {
    let read = Sqlite::open(process, Path::new(server::PATH), true).and_then(|mut sqlite| {
        let lock = sqlite.begin_read(Keep::Snapshot)?;
        let content = sqlite.read(&lock);
        lock.release(&sqlite.index);
        content
    });
    let digest = match read {
        Ok(content) => content.digest(),
        Err(error) => process.fail(format!("the primary's database: {error}")),
    };
    let checked = process.with(|state| {
        if let Some((machine, _)) = state.last.iter().find(|(_, last)| *last != digest) {
            return Err(format!(
                "machine {machine} does not hold what the primary has"
            ));
        }
        state.ledger.check(digest)
    });
    if let Err(reason) = checked {
        process.fail(reason);
    }
    process.with(|state| state.transactions = state.ledger.transactions(digest).into());
}

fn outcome(world: &World) -> Outcome {
    let state = world.state.lock();
    Outcome {
        failure: state.failure.clone(),
        hash: state.trace.hash(),
        lines: state.trace.lines().to_vec(),
        steps: state.steps,
        transactions: state.transactions,
        messages: state.network.messages,
        merges: state.ledger.merges,
        gaps: state.ledger.gaps.saturating_sub(1),
        drawn: state.faults.drawn,
        faults: state.faults.counts,
    }
}
