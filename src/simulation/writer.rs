//! A program on the primary's machine: plain SQLite, which knows nothing of replicas.

use std::path::Path;
use std::time::Duration;

use super::actor::End;
use super::process::Process;
use super::program::Program;
use super::replica::Task;
use super::server::{PATH, check};
use super::sqlite::Sqlite;
use crate::error::Result;

/// One process.
pub(super) fn live(process: &Process, task: &mut Task) -> End {
    match lived(process, task) {
        Ok(end) => end,
        Err(error) => {
            check(process, "an open", &error);
            End::Again
        }
    }
}

fn lived(process: &Process, task: &mut Task) -> Result<End> {
    let mut program = Program {
        process,
        sqlite: Sqlite::open(process, Path::new(PATH), true)?,
        replica: None,
        random: &mut task.random,
    };
    while task.left > 0 && !process.with(|state| state.is_calm()) {
        task.left -= 1;
        if program.random.once_in(10) {
            return Ok(End::Again);
        }
        let done = match program.random.below(10) {
            0..4 => program.write(),
            4 | 5 => program.read().map(drop),
            6 => program.sqlite.copy(),
            _ => {
                let time = program.random.below(1_500_000);
                process.sleep(Duration::from_micros(time))
            }
        };
        if let Err(error) = &done {
            check(process, "an operation", error);
        }
    }
    if !std::mem::replace(&mut task.is_done, true) {
        process.with(|state| state.busy -= 1);
    }
    Ok(End::Done)
}
