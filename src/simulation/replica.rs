//! A program that uses a replica.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::actor::End;
use super::host::SimulatedHost;
use super::network::SimulatedRemote;
use super::process::Process;
use super::program::Program;
use super::random::Random;
use super::server::check;
use super::sqlite::Sqlite;
use crate::database::host::Host;
use crate::database::settings::Settings;
use crate::error::{Error, Result};
use crate::merge::Policy;
use crate::replica::follower::Replica;
use crate::replica::writing::Writing;

/// Where a replica lies on its machine.
pub(super) const PATH: &str = "/replica.db";

/// The machine whose replica is written, where that is done offline.
pub(super) const WRITER: usize = 1;

/// What a program does with its replica.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It writes on the primary.
    Online,
    /// It writes in the file, and pushes later.
    Offline,
    /// It does not write.
    Follower,
}

/// How often a sync may fail once nothing goes wrong any more.
const MOST_FAILURES: usize = 60;

/// How far a program has come, whatever becomes of its processes.
pub(super) struct Task {
    pub(super) left: u64,
    /// Whether it was counted as done.
    pub(super) is_done: bool,
    pub(super) is_settled: bool,
    pub(super) random: Random,
}

/// One process.
pub(super) fn live(process: &Process, task: &mut Task) -> End {
    match lived(process, task) {
        Ok(end) => end,
        Err(error) => {
            check_replica(process, "an open", &error);
            End::Again
        }
    }
}

fn lived(process: &Process, task: &mut Task) -> Result<End> {
    let path = Path::new(PATH);
    if task.random.once_in(4) {
        look(process, task.random.once_in(2))?;
    }
    let host: Arc<dyn Host> = Arc::new(SimulatedHost(process.clone()));
    let (timeout, write_mode, on_conflict) = process.with(|state| {
        (
            Duration::from_secs(state.plan.timeout),
            state.plan.write_mode,
            state.plan.on_conflict,
        )
    });
    let settings = Settings {
        sync_url: Some("http://primary/app".to_owned()),
        sync_timeout: Some(timeout),
        write_mode: Some(write_mode),
        on_conflict,
        ..Settings::default()
    };
    let store = host.open_store(path)?;
    let remote = Arc::new(SimulatedRemote::new(process, timeout));
    let replica = Replica::new(host, path.to_owned(), settings, Some(store))?.with_remote(remote);
    let replica = Arc::new(replica);
    replica.make()?;
    let role = match process.with(|state| (state.plan.offline, state.plan.rebases)) {
        (false, _) => Role::Online,
        (true, _) if process.machine_number() == WRITER => Role::Offline,
        (true, false) => Role::Follower,
        (true, true) => Role::Online,
    };
    if role == Role::Offline {
        replica.set_offline(true)?;
    }
    process.note(|| "has made its replica".to_owned());
    let mut program = Program {
        process,
        sqlite: Sqlite::open(process, path, false)?,
        replica: Some((&replica, Writing::new(Arc::clone(&replica)))),
        random: &mut task.random,
    };
    while task.left > 0 && !process.with(|state| state.is_calm()) {
        task.left -= 1;
        if program.random.once_in(15) {
            return Ok(End::Again);
        }
        let done = step(&mut program, &replica, role);
        if let Err(error) = &done {
            check_replica(process, "an operation", error);
        }
    }
    if !std::mem::replace(&mut task.is_done, true) {
        process.with(|state| state.busy -= 1);
    }
    settle(process, &replica, &mut program, &mut task.is_settled);
    Ok(End::Done)
}

/// A plain shell looks at the replica, perhaps copies its log, and closes it.
fn look(process: &Process, copies: bool) -> Result<()> {
    if process.machine(|machine| machine.disk.find(Path::new(PATH)).is_none()) {
        return Ok(());
    }
    let mut random = Random::new(0, 0);
    let mut program = Program {
        process,
        sqlite: Sqlite::open(process, Path::new(PATH), true)?,
        replica: None,
        random: &mut random,
    };
    process.note(|| "looks without the extension".to_owned());
    program.read()?;
    match copies {
        true => program.sqlite.copy(),
        false => Ok(()),
    }
}

fn step(program: &mut Program<'_>, replica: &Replica, role: Role) -> Result<()> {
    match program.random.below(32) {
        0..16 if role == Role::Follower => sync(program.process, replica),
        0..4 if role == Role::Offline => push(program.process, replica),
        4..8 if role == Role::Offline && program.process.with(|state| state.plan.rebases) => {
            let policy = [Policy::Fail, Policy::Local, Policy::Remote];
            rebase(program.process, replica, program.random.of(&policy))
        }
        0..16 => program.write(),
        16..20 => program.read().map(drop),
        20..24 => sync(program.process, replica),
        24..27 => program.sqlite.copy(),
        27 => verify(program.process, replica),
        // What was acknowledged is not thrown away.
        28 if role != Role::Offline => replica.discard().map(drop),
        _ => {
            let time = program.random.below(1_500_000);
            program.process.sleep(Duration::from_micros(time))
        }
    }
}

fn push(process: &Process, replica: &Replica) -> Result<()> {
    let report = replica.push()?;
    process.note(|| format!("has pushed from {} to {}", report.from, report.to));
    Ok(())
}

fn rebase(process: &Process, replica: &Replica, policy: Policy) -> Result<()> {
    process.with(|state| state.ledger.begin_merging(process.id()));
    let report = replica.rebase(Some(policy))?.report;
    process.note(|| format!("has rebased from {} to {}", report.from, report.to));
    process.with(|state| state.ledger.end_merging(process.id(), state.now));
    Ok(())
}

fn sync(process: &Process, replica: &Replica) -> Result<()> {
    let report = match replica.sync() {
        // Nothing goes wrong any more: so nobody decides otherwise.
        Err(Error::Diverged(_)) if process.with(|state| state.is_calm() && state.plan.rebases) => {
            rebase(process, replica, Policy::Local)?;
            replica.sync()?
        }
        done => done?,
    };
    process.note(|| format!("has synced from {} to {}", report.from, report.to));
    if replica.is_offline()? {
        // The content on record may be a newer one.
        return Ok(());
    }
    if let Some(recorded) = replica.recorded_state()? {
        let placed = process.with(|state| state.ledger.place(recorded.position, recorded.content));
        if let Err(reason) = placed {
            process.fail(reason);
        }
    }
    Ok(())
}

fn verify(process: &Process, replica: &Replica) -> Result<()> {
    let found = replica.verify()?;
    match found.ok {
        true => Ok(()),
        false => process.fail(format!(
            "pages {:?} of position {} are not what they should be",
            found.bad_pages, found.position
        )),
    }
}

/// Nothing goes wrong any more: waits for the others, and holds what the primary has.
fn settle(process: &Process, replica: &Replica, program: &mut Program<'_>, is_settled: &mut bool) {
    while !process.with(|state| state.is_calm()) {
        pause(process);
    }
    surely(process, "a sync", || sync(process, replica));
    if !std::mem::replace(is_settled, true) {
        process.with(|state| state.unsettled -= 1);
    }
    while !process.with(|state| state.unsettled == 0 && state.network.is_quiet()) {
        pause(process);
    }
    surely(process, "the last sync", || sync(process, replica));
    surely(process, "the last look", || verify(process, replica));
    surely(process, "the last read", || {
        let digest = program.read()?.digest();
        process.with(|state| state.last.push((process.machine_number(), digest)));
        Ok(())
    });
    process.with(|state| state.programs -= 1);
}

fn pause(process: &Process) {
    // Dead or alive: the next step tells.
    let _ = process.sleep(Duration::from_millis(50));
}

pub(super) fn surely(process: &Process, what: &str, mut work: impl FnMut() -> Result<()>) {
    for _ in 0..MOST_FAILURES {
        match work() {
            Ok(()) => return,
            Err(error) => check_replica(process, what, &error),
        }
        let _ = process.sleep(Duration::from_millis(500));
    }
    process.fail(format!(
        "{what} does not succeed though nothing goes wrong any more"
    ));
}

/// Errors that only a bug makes.
fn check_replica(process: &Process, what: &str, error: &Error) {
    check(process, what, error);
    let has_to_rebase =
        process.machine_number() == WRITER && process.with(|state| state.plan.rebases);
    if has_to_rebase && matches!(error, Error::Diverged(_)) {
        return;
    }
    if let Error::Misuse(_)
    | Error::ReadOnly(_)
    | Error::CannotOpen(_)
    | Error::Diverged(_)
    | Error::NotADatabase(_) = error
    {
        process.fail(format!("{what}: {error}"));
    }
}
