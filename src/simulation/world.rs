//! Everything there is in a run, and who goes on when.
//!
//! Actors are threads of which exactly one runs at a time: at each step the seed decides whether
//! another one goes on. Nothing else is left to chance: the clock counts steps, and what waits for it
//! moves it on.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;

use super::faults::{Fault, Faults};
use super::ledger::Ledger;
use super::machine::Machine;
use super::network::Network;
use super::plan::Plan;
use super::process::{Killed, Process};
use super::random::Random;
use super::trace::Trace;
use crate::page::ContentDigest;

/// Nobody runs.
const NOBODY: usize = usize::MAX;

/// Steps after which faults stop, whatever is left to do.
const MOST_STEPS: u64 = 400_000;

/// Steps after which a run does not end.
const ENDLESS: u64 = 2_000_000;

/// The world.
pub(super) struct World {
    pub(super) state: Mutex<State>,
    running: AtomicUsize,
    threads: OnceLock<Vec<Thread>>,
}

/// Somebody who runs one process after the other.
struct Actor {
    name: String,
    /// When it wants to go on.
    wakes: u64,
    ended: bool,
}

/// What the world holds. Times are microseconds.
pub(super) struct State {
    pub(super) plan: Plan,
    pub(super) now: u64,
    pub(super) steps: u64,
    actors: Vec<Actor>,
    schedule: Random,
    pub(super) entropy: Random,
    pub(super) faults: Faults,
    pub(super) machines: Vec<Machine>,
    pub(super) network: Network,
    pub(super) ledger: Ledger,
    pub(super) trace: Trace,
    /// What went wrong.
    pub(super) failure: Option<String>,
    /// While it is not 0 nobody dies.
    pub(super) shields: usize,
    /// Programs that have not done all they were to do.
    pub(super) busy: usize,
    /// Replicas' programs that have not found out what became of all they did.
    pub(super) unsettled: usize,
    /// Replicas' programs that run.
    pub(super) programs: usize,
    /// What each machine holds in the end.
    pub(super) last: Vec<(usize, ContentDigest)>,
    /// How many transactions there are in the end.
    pub(super) transactions: u64,
    next_process: u64,
}

impl State {
    /// Whether faults have stopped.
    pub(super) fn is_calm(&self) -> bool {
        self.busy == 0 || self.steps > MOST_STEPS
    }

    /// Writes a line of the trace.
    pub(super) fn note(&mut self, actor: usize, line: impl FnOnce() -> String) {
        let (now, name) = (self.now, &self.actors[actor].name);
        self.trace.note(self.plan.traced, now, name, line);
    }

    /// Wakes an actor at a time, if it sleeps longer.
    pub(super) fn wake(&mut self, actor: usize, at: u64) {
        let actor = &mut self.actors[actor];
        actor.wakes = actor.wakes.min(at);
    }

    /// Whether a fault of a kind happens now, that happens once in so many times.
    pub(super) fn happens(&mut self, once_in: u64) -> Option<u64> {
        match self.is_calm() || self.failure.is_some() {
            true => None,
            false => self.faults.happens(&self.plan, once_in),
        }
    }

    /// Who goes on. Where all sleep, time passes.
    fn pick(&mut self) -> usize {
        let awake = |actor: &Actor, now| !actor.ended && actor.wakes <= now;
        let mut count = self
            .actors
            .iter()
            .filter(|actor| awake(actor, self.now))
            .count();
        if count == 0 {
            let sleepers = self.actors.iter().filter(|actor| !actor.ended);
            let Some(first) = sleepers.map(|actor| actor.wakes).min() else {
                return NOBODY;
            };
            self.now = self.now.max(first);
            count = self
                .actors
                .iter()
                .filter(|actor| awake(actor, self.now))
                .count();
        }
        let chosen = self.schedule.below(count as u64) as usize;
        let mut numbers = (0..self.actors.len()).filter(|n| awake(&self.actors[*n], self.now));
        numbers.nth(chosen).unwrap_or(NOBODY)
    }

    fn step(&mut self, actor: usize, what: &'static str) -> Option<usize> {
        self.steps += 1;
        self.now += 1 + self.schedule.below(10);
        self.trace.step(actor, what, self.now);
        let switches = self.plan.switch;
        self.schedule.once_in(switches).then(|| self.pick())
    }
}

impl World {
    /// A world of some machines and some actors.
    pub(super) fn new(plan: Plan, machines: usize, actors: Vec<String>) -> Arc<Self> {
        let actor = |name| Actor {
            name,
            wakes: 0,
            ended: false,
        };
        Arc::new(Self {
            state: Mutex::new(State {
                now: 0,
                steps: 0,
                actors: actors.into_iter().map(actor).collect(),
                schedule: plan.stream(2),
                entropy: plan.stream(3),
                faults: Faults::new(plan.stream(4)),
                machines: (0..machines).map(|_| Machine::default()).collect(),
                network: Network::new(plan.stream(5)),
                ledger: Ledger::default(),
                trace: Trace::default(),
                failure: None,
                shields: 0,
                busy: 0,
                unsettled: 0,
                programs: 0,
                last: Vec::new(),
                transactions: 0,
                next_process: 0,
                plan,
            }),
            running: AtomicUsize::new(NOBODY),
            threads: OnceLock::new(),
        })
    }

    /// Lets the first actor go on. Their threads wait for it.
    pub(super) fn start(&self, threads: Vec<Thread>) {
        if self.threads.set(threads).is_ok() {
            let first = self.state.lock().pick();
            self.hand_to(first);
        }
    }

    fn hand_to(&self, actor: usize) {
        self.running.store(actor, Ordering::Release);
        if let Some(thread) = self.threads.get().and_then(|threads| threads.get(actor)) {
            thread.unpark();
        }
    }

    /// Waits until it is this actor's turn.
    pub(super) fn wait(&self, actor: usize) {
        while self.running.load(Ordering::Acquire) != actor {
            thread::park();
        }
    }

    /// One step of an actor: perhaps others go on first.
    pub(super) fn step(&self, actor: usize, what: &'static str) {
        let next = self.state.lock().step(actor, what);
        if let Some(next) = next.filter(|next| *next != actor) {
            self.hand_to(next);
            self.wait(actor);
        }
        if self.state.lock().steps > ENDLESS {
            self.fail(None, "the run does not end".to_owned());
        }
    }

    /// Lets time pass for an actor.
    pub(super) fn sleep(&self, actor: usize, time: Duration) {
        let next = {
            let mut state = self.state.lock();
            if state.failure.is_some() {
                return;
            }
            state.steps += 1;
            state.actors[actor].wakes = state.now + time.as_micros() as u64;
            state.pick()
        };
        if next != actor {
            self.hand_to(next);
            self.wait(actor);
        }
    }

    /// An actor has nothing more to do.
    pub(super) fn end(&self, actor: usize) {
        let next = {
            let mut state = self.state.lock();
            state.actors[actor].ended = true;
            state.pick()
        };
        self.hand_to(next);
    }

    /// Whether the run ends before its time.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().failure.is_some()
    }

    /// Starts a process, once its machine is up.
    pub(super) fn start_process(self: &Arc<Self>, actor: usize, machine: usize) -> Process {
        loop {
            let wait = {
                let mut state = self.state.lock();
                if state.failure.is_some() {
                    drop(state);
                    resume_unwind(Box::new(Killed));
                }
                let now = state.now;
                let wait = state.machines[machine].up_at.saturating_sub(now);
                if wait == 0 {
                    state.next_process += 1;
                    let (id, dead) = (state.next_process, Arc::new(AtomicBool::new(false)));
                    let processes = &mut state.machines[machine].processes;
                    processes.insert(id, Arc::clone(&dead));
                    state.note(actor, || format!("starts as process {id}"));
                    return Process::new(Arc::clone(self), actor, machine, id, dead);
                }
                wait
            };
            self.sleep(actor, Duration::from_micros(wait));
        }
    }

    /// Whether a process, or a machine, dies at this step.
    pub(super) fn strike(&self, process: &Process) {
        let state = &mut *self.state.lock();
        // A replica that does not rebase has nothing to push to once that has lost its history.
        let spares_primary = state.plan.offline && !state.plan.rebases;
        if state.shields > 0 || spares_primary && process.machine_number() == super::PRIMARY {
            return;
        }
        let crash = state.plan.crash;
        let Some(number) = state.happens(crash) else {
            return;
        };
        let (actor, own) = (process.actor(), process.machine_number());
        let is_power = state.faults.random.below(100) < state.plan.power;
        let other = state.faults.random.once_in(3);
        let machine = match other {
            true => state.faults.random.below(state.machines.len() as u64) as usize,
            false => own,
        };
        let machine = match spares_primary && machine == super::PRIMARY {
            true => own,
            false => machine,
        };
        if is_power {
            state.note(actor, || {
                format!("fault {number}: machine {machine} loses its power")
            });
            state.lose_power(machine);
            return;
        }
        let running: Vec<u64> = state.machines[machine].processes.keys().copied().collect();
        let (machine, victim) = match other && !running.is_empty() {
            true => (machine, state.faults.random.of(&running)),
            false => (own, process.id()),
        };
        state.note(actor, || {
            format!("fault {number}: process {victim} is killed")
        });
        state.faults.count(Fault::Kill);
        state.machines[machine].kill(victim);
        state.network.end_process(victim);
        state.wake_all();
    }

    /// Ends the run, with what went wrong.
    pub(super) fn fail(&self, actor: Option<usize>, reason: String) {
        let mut state = self.state.lock();
        if state.failure.is_some() {
            return;
        }
        if let Some(actor) = actor {
            state.note(actor, || format!("FAILURE: {reason}"));
        }
        state.failure = Some(reason);
        for machine in &mut state.machines {
            let running: Vec<u64> = machine.processes.keys().copied().collect();
            running
                .into_iter()
                .for_each(|process| machine.kill(process));
        }
        state.wake_all();
    }
}

impl State {
    fn lose_power(&mut self, machine: usize) {
        self.faults.count(Fault::Power);
        let running: Vec<u64> = self.machines[machine].processes.keys().copied().collect();
        self.machines[machine].lose_power(&mut self.faults.random);
        for process in running {
            self.network.end_process(process);
        }
        self.machines[machine].up_at = self.now + 1 + self.faults.random.below(3_000_000);
        self.ledger.lose_power(machine);
        self.wake_all();
    }

    /// Whoever was killed in its sleep has to find out.
    fn wake_all(&mut self) {
        for actor in &mut self.actors {
            actor.wakes = actor.wakes.min(self.now);
        }
    }
}
