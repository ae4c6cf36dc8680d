//! Statements that run one after the other, each on a condition.

use serde::{Deserialize, Serialize};

use super::{Error, Stmt, StmtResult};

/// A batch.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Batch {
    /// Its steps, in order.
    pub steps: Vec<BatchStep>,
}

/// A step.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct BatchStep {
    /// It runs where this is true, or absent.
    #[serde(default)]
    pub condition: Option<BatchCond>,
    /// The statement.
    pub stmt: Stmt,
}

/// A condition; steps are counted from 0.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(try_from = "Any")]
pub enum BatchCond {
    /// The step ran and succeeded.
    Ok(usize),
    /// The step ran and failed.
    Error(usize),
    /// It is false.
    Not(Box<BatchCond>),
    /// All are true.
    And(Vec<BatchCond>),
    /// One is true.
    Or(Vec<BatchCond>),
    /// No transaction is open.
    IsAutocommit,
}

impl BatchCond {
    /// The last step it looks at.
    pub fn last_step(&self) -> Option<usize> {
        match self {
            BatchCond::Ok(step) | BatchCond::Error(step) => Some(*step),
            BatchCond::Not(cond) => cond.last_step(),
            BatchCond::And(conds) | BatchCond::Or(conds) => {
                conds.iter().filter_map(BatchCond::last_step).max()
            }
            BatchCond::IsAutocommit => None,
        }
    }
}

/// What a batch came to. A step that did not run has neither a result nor an error.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct BatchResult {
    /// The results of the steps that succeeded.
    pub step_results: Vec<Option<StmtResult>>,
    /// The errors of those that failed.
    pub step_errors: Vec<Option<Error>>,
}

/// Any condition, as it is written.
#[derive(Deserialize)]
struct Any {
    r#type: String,
    step: Option<u32>,
    cond: Option<Box<BatchCond>>,
    conds: Option<Vec<BatchCond>>,
}

impl TryFrom<Any> for BatchCond {
    type Error = String;

    fn try_from(any: Any) -> Result<Self, String> {
        let step = |step: Option<u32>| step.and_then(|step| usize::try_from(step).ok());
        let cond = match any.r#type.as_str() {
            "ok" => step(any.step).map(BatchCond::Ok),
            "error" => step(any.step).map(BatchCond::Error),
            "not" => any.cond.map(BatchCond::Not),
            "and" => any.conds.map(BatchCond::And),
            "or" => any.conds.map(BatchCond::Or),
            "is_autocommit" => Some(BatchCond::IsAutocommit),
            other => return Err(format!("'{other}' is no type of a condition")),
        };
        cond.ok_or_else(|| format!("the condition '{}' is not complete", any.r#type))
    }
}
