//! A simulated process: what every call of the engine goes through, and where it may die.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::machine::Machine;
use super::world::{State, World};
use crate::error::{Error, Result};

/// What unwinds a process that was killed.
pub(super) struct Killed;

/// A process of a machine, run by one of the actors.
#[derive(Clone)]
pub(super) struct Process {
    world: Arc<World>,
    actor: usize,
    machine: usize,
    id: u64,
    dead: Arc<AtomicBool>,
}

impl Process {
    /// A process that was started.
    pub(super) fn new(
        world: Arc<World>,
        actor: usize,
        machine: usize,
        id: u64,
        dead: Arc<AtomicBool>,
    ) -> Self {
        Self {
            world,
            actor,
            machine,
            id,
            dead,
        }
    }

    /// Its number: no other process ever has it.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Who runs it.
    pub(super) fn actor(&self) -> usize {
        self.actor
    }

    /// The number of its machine.
    pub(super) fn machine_number(&self) -> usize {
        self.machine
    }

    /// Whether it was killed.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Comes before every call that others can see: they may go on here, and the process may die here.
    pub(super) fn step(&self, what: &'static str) -> Result<()> {
        if !self.is_dead() {
            self.world.step(self.actor, what);
        }
        if !self.is_dead() {
            self.world.strike(self);
        }
        match self.is_dead() {
            true => self.die(),
            false => Ok(()),
        }
    }

    /// A dead process does nothing any more; what its destructors try comes to nothing.
    fn die(&self) -> Result<()> {
        match thread::panicking() {
            false => resume_unwind(Box::new(Killed)),
            true => Err(Error::Internal("the process is dead".to_owned())),
        }
    }

    /// Lets time pass.
    pub(super) fn sleep(&self, time: Duration) -> Result<()> {
        if self.is_dead() {
            return self.die();
        }
        self.world.sleep(self.actor, time);
        self.step("sleep")
    }

    /// Uses the state of the world.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.world.state.lock())
    }

    /// Uses the process's own machine.
    pub(super) fn machine<T>(&self, work: impl FnOnce(&mut Machine) -> T) -> T {
        self.with(|state| work(&mut state.machines[self.machine]))
    }

    /// Writes a line of the trace.
    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        self.with(|state| state.note(self.actor, line));
    }

    /// Ends the run: an invariant does not hold.
    pub(super) fn fail(&self, reason: String) -> ! {
        self.world.fail(Some(self.actor), reason);
        resume_unwind(Box::new(Killed))
    }
}
