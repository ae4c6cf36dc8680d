//! One stream: a thread with a connection, which waits for requests and ends when none come.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use tokio::sync::oneshot;

use super::control::Control;
use super::pipeline;
use super::question::{Answer, Asker, Question};
use super::session::Session;
use super::streams::{Idle, Shared};
use crate::database::fork;
use crate::error::Error;
use crate::last_error;
use crate::primary::server::Service;
use crate::wire::hrana;

/// How long a stream may be idle.
const IDLE: Duration = Duration::from_secs(10);

/// The same in a transaction, which may hold up others.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// A question, and where its answer goes.
pub struct Job {
    pub question: Question,
    pub answer: oneshot::Sender<Answer>,
}

/// A stream, in its thread.
pub struct Stream {
    pub number: u64,
    pub asker: Asker,
    pub control: Arc<Control>,
    pub shared: Arc<Shared>,
}

impl Stream {
    /// Answers `first` and what comes after it, until the stream is closed, abandoned or ended.
    pub fn run(self, first: Job) {
        // Whatever ends this thread; after the connection is closed.
        let _leaving = Leaving(&self);
        let _working = fork::working();
        let shared = &self.shared;
        let (host, path) = (&*shared.host, shared.primary.path());
        let mut session = match Session::open(host, path, self.asker.scope, &self.control) {
            Ok(session) => session,
            Err(error) => {
                last_error::note(&error);
                // Nobody may wait for it any more.
                let _ = first.answer.send(Err(cannot_open(&error)));
                return;
            }
        };
        let mut job = first;
        while let Some((baton, jobs)) = self.answer(&mut session, job) {
            let idle = match session.in_transaction() {
                true => IDLE_IN_TRANSACTION,
                false => IDLE,
            };
            match self.next(&jobs, &baton, idle) {
                Some(next) => job = next,
                None => return,
            }
        }
    }

    /// Answers one question; the baton of the next, and where it comes, if there may be one.
    fn answer(&self, session: &mut Session, job: Job) -> Option<(String, Receiver<Job>)> {
        session.begin();
        let baton = self.shared.new_baton();
        let (body, baton) = self.body(session, job.question, baton);
        let Some(baton) = baton else {
            // Nobody may wait for it any more.
            let _ = job.answer.send(body);
            return None;
        };
        // Of this sender there is no other: without it the thread waits for nothing.
        let (sender, jobs) = bounded(1);
        let idle = Idle::new(self, sender, session.in_transaction());
        // Before the answer: its reader may ask again at once.
        self.shared.put(&baton, idle);
        if job.answer.send(body).is_err() {
            self.shared.take_back(&baton);
            return None;
        }
        Some((baton, jobs))
    }

    /// Runs a question. The stream is closed where it says so, and where it has to end.
    fn body(
        &self,
        session: &mut Session,
        question: Question,
        baton: Option<String>,
    ) -> (Answer, Option<String>) {
        let baton_of = |session: &Session| {
            baton.filter(|_| !session.is_closed() && !self.control.is_cancelled())
        };
        let (written, baton) = match question {
            Question::Pipeline(request) => {
                let want_position = request.want_position;
                let results = session.pipeline(request);
                let position = want_position.then(|| self.position()).flatten();
                let baton = baton_of(session);
                (pipeline::body(baton.clone(), results, position), baton)
            }
            Question::Cursor(request) => {
                let entries = session.cursor(&request);
                let baton = baton_of(session);
                (pipeline::lines(baton.clone(), &entries), baton)
            }
        };
        // They are no connections of the host, which tell by themselves.
        self.shared.primary.followers().commits.tell();
        let body =
            written.map_err(|error| hrana::Error::new("INTERNAL_ERROR", format!("JSON: {error}")));
        (body, baton)
    }

    /// A position that holds all that was committed so far. The statements have run, whether it is to
    /// be had or not.
    fn position(&self) -> Option<String> {
        match self.shared.primary.head() {
            Ok(head) => Some(head.position.to_string()),
            Err(error) => {
                last_error::note(&error);
                None
            }
        }
    }

    /// Waits for the next question.
    fn next(&self, jobs: &Receiver<Job>, baton: &str, idle: Duration) -> Option<Job> {
        match fork::aside(|| jobs.recv_timeout(idle)) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Disconnected) => None,
            // Whoever has taken the baton just now is about to ask.
            Err(RecvTimeoutError::Timeout) => match self.shared.take_back(baton) {
                true => None,
                false => jobs.recv().ok(),
            },
        }
    }
}

/// The place of a stream, until its thread ends.
struct Leaving<'a>(&'a Stream);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.shared.leave(self.0.number);
    }
}

fn cannot_open(error: &Error) -> hrana::Error {
    hrana::Error::sqlite(error.code(), error.to_string())
}
