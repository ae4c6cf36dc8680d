//! What the server hands to a stream, and what it waits for.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Outcome;
use super::control::Control;
use super::pipeline::REQUESTS;
use crate::database::tokens::Scope;
use crate::primary::server::Key;
use crate::wire::hrana::{self, CursorRequest, PipelineRequest};

/// A request for a stream.
pub enum Question {
    /// `/v2/pipeline`, `/v3/pipeline`
    Pipeline(PipelineRequest),
    /// `/v3/cursor`
    Cursor(CursorRequest),
}

impl Question {
    /// Reads the body of a pipeline.
    pub fn pipeline(body: &[u8]) -> Outcome<Self> {
        let request: PipelineRequest = read(body)?;
        match request.requests.len() {
            0..=REQUESTS => Ok(Question::Pipeline(request)),
            _ => Err(hrana::Error::protocol(format!(
                "a pipeline has at most {REQUESTS} requests"
            ))),
        }
    }

    /// Reads the body of a cursor.
    pub fn cursor(body: &[u8]) -> Outcome<Self> {
        read(body).map(Question::Cursor)
    }

    /// The stream it is for.
    pub(super) fn baton(&self) -> Option<&str> {
        match self {
            Question::Pipeline(request) => request.baton.as_deref(),
            Question::Cursor(request) => request.baton.as_deref(),
        }
    }
}

fn read<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Outcome<T> {
    serde_json::from_slice(body)
        .map_err(|error| hrana::Error::protocol(format!("the request is not valid: {error}")))
}

/// Who asks.
#[derive(Clone, Copy)]
pub struct Asker {
    /// The token, or where there are none the address.
    pub key: Option<Key>,
    /// What that allows.
    pub scope: Scope,
}

/// What becomes of a question: a body.
pub(super) type Answer = Outcome<Vec<u8>>;

/// How often a statement that has to stop is interrupted.
const TICK: Duration = Duration::from_millis(50);

/// A question on its way. Whoever drops it no longer wants the answer.
pub struct Pending {
    receiver: Option<oneshot::Receiver<Answer>>,
    control: Arc<Control>,
}

impl Pending {
    pub(super) fn new(receiver: oneshot::Receiver<Answer>, control: Arc<Control>) -> Self {
        Self {
            receiver: Some(receiver),
            control,
        }
    }

    /// Waits for the answer, a body of JSON; `None` where the stream failed on the way.
    pub async fn answer(mut self) -> Option<Outcome<Vec<u8>>> {
        let answer = watch(self.receiver.as_mut()?, &self.control).await;
        self.receiver = None;
        answer
    }
}

/// Waits for an answer, and stops what takes too long.
async fn watch(receiver: &mut oneshot::Receiver<Answer>, control: &Control) -> Option<Answer> {
    loop {
        match timeout(TICK, &mut *receiver).await {
            Ok(answer) => return answer.ok(),
            Err(_) => control.interrupt_if_due(),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else {
            return;
        };
        self.control.cancel();
        let control = Arc::clone(&self.control);
        // Without a runtime the server has stopped, and whoever stopped it sees to the rest.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { watch(&mut receiver, &control).await });
        }
    }
}
