//! An actor: runs one process after the other, as each of them may be killed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::process::{Killed, Process};
use super::world::World;

/// How a process ended by itself.
pub(super) enum End {
    /// It is started again.
    Again,
    /// The actor has done all it was to do.
    Done,
}

/// Runs processes on a machine until one says that all is done.
pub(super) fn run(
    world: &Arc<World>,
    actor: usize,
    machine: usize,
    mut life: impl FnMut(&Process) -> End,
) {
    let mut random = world.state.lock().plan.stream(100 + actor as u64);
    while !world.is_over() {
        let lived = catch_unwind(AssertUnwindSafe(|| {
            let process = world.start_process(actor, machine);
            let end = life(&process);
            process.machine(|machine| machine.kill(process.id()));
            end
        }));
        match lived {
            Ok(End::Done) => break,
            Ok(End::Again) => {}
            Err(reason) if reason.is::<Killed>() => {}
            Err(reason) => world.fail(Some(actor), format!("a panic: {}", words(&*reason))),
        }
        world.sleep(actor, Duration::from_micros(1 + random.below(300_000)));
    }
    world.end(actor);
}

fn words(reason: &(dyn Any + Send)) -> String {
    match (
        reason.downcast_ref::<String>(),
        reason.downcast_ref::<&str>(),
    ) {
        (Some(text), _) => text.clone(),
        (None, Some(text)) => (*text).to_owned(),
        (None, None) => "without words".to_owned(),
    }
}
