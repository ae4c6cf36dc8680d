//! Running a batch: each step on its condition.

use super::Outcome;
use super::session::Session;
use crate::wire::hrana::{self, Batch, BatchCond, BatchResult};

/// Steps in a batch.
const STEPS: usize = 50_000;

impl Session {
    /// Runs a batch. Nothing of it runs where a condition looks at a step that comes no earlier.
    pub(super) fn batch(&mut self, batch: &Batch) -> Outcome<BatchResult> {
        check(batch)?;
        let mut result = BatchResult::default();
        for step in &batch.steps {
            let (mut done, mut failed) = (None, None);
            let condition = step.condition.as_ref();
            if condition.is_none_or(|condition| self.holds(condition, &result)) {
                match self.execute(&step.stmt) {
                    Ok(ran) => done = Some(ran),
                    Err(error) => failed = Some(error),
                }
            }
            result.step_results.push(done);
            result.step_errors.push(failed);
        }
        Ok(result)
    }

    fn holds(&self, condition: &BatchCond, so_far: &BatchResult) -> bool {
        match condition {
            BatchCond::Ok(step) => matches!(so_far.step_results.get(*step), Some(Some(_))),
            BatchCond::Error(step) => matches!(so_far.step_errors.get(*step), Some(Some(_))),
            BatchCond::Not(condition) => !self.holds(condition, so_far),
            BatchCond::And(all) => all.iter().all(|condition| self.holds(condition, so_far)),
            BatchCond::Or(any) => any.iter().any(|condition| self.holds(condition, so_far)),
            BatchCond::IsAutocommit => self.connection.is_autocommit(),
        }
    }
}

fn check(batch: &Batch) -> Outcome<()> {
    if batch.steps.len() > STEPS {
        return Err(hrana::Error::protocol(format!(
            "a batch has at most {STEPS} steps"
        )));
    }
    for (number, step) in batch.steps.iter().enumerate() {
        let last = step.condition.as_ref().and_then(BatchCond::last_step);
        if let Some(last) = last.filter(|last| *last >= number) {
            return Err(hrana::Error::protocol(format!(
                "the condition of step {number} looks at step {last}, which comes no earlier"
            )));
        }
    }
    Ok(())
}
