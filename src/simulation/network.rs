//! The network between the replicas and the primary: messages may be lost, come late, twice, or in
//! another order, requests and answers alike.

use std::collections::BTreeMap;
use std::time::Duration;

use super::faults::Fault;
use super::process::Process;
use super::random::Random;
use super::world::State;
use crate::database::body::Body;
use crate::error::{Error, Result};
use crate::planted::{self, Bug};
use crate::remote::{PushFailure, Remote, Traffic};
use crate::wire::{PeerId, PullRequest, PushRequest, PushResponse, Request, Response};

/// What a primary's answer is.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The bytes of a response.
    Response(Vec<u8>),
    /// Refused before anything was done: 400 and 503 of HTTP.
    Refused(bool, String),
    /// Failed: 500.
    Failed(String),
    /// The connection broke off.
    Broken,
}

/// A request on its way.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) exchange: u64,
    pub(super) is_push: bool,
    pub(super) bytes: Vec<u8>,
    arrives: u64,
}

/// The network, with the asker's side of every exchange.
pub(super) struct Network {
    random: Random,
    requests: Vec<Sent>,
    answers: BTreeMap<u64, (u64, Answer)>,
    /// Who waits for which exchange.
    askers: BTreeMap<u64, usize>,
    exchanges: u64,
    /// The process that serves, and its actor.
    pub(super) server: Option<(u64, usize)>,
    /// What it is answering just now.
    answering: Option<u64>,
    /// Messages, for the figures.
    pub(super) messages: u64,
}

impl Network {
    pub(super) fn new(random: Random) -> Self {
        Self {
            random,
            requests: Vec::new(),
            answers: BTreeMap::new(),
            askers: BTreeMap::new(),
            exchanges: 0,
            server: None,
            answering: None,
            messages: 0,
        }
    }

    /// A process ends: nobody hears of what it was answering.
    pub(super) fn end_process(&mut self, process: u64) {
        if self.server.is_some_and(|(server, _)| server == process) {
            self.server = None;
            self.answering = None;
        }
    }

    /// Whether anything is still on its way to the primary.
    pub(super) fn is_quiet(&self) -> bool {
        self.requests.is_empty() && self.answering.is_none()
    }
}

impl State {
    /// Sends a request; `None` where the primary is not there.
    fn send(&mut self, actor: usize, is_push: bool, bytes: Vec<u8>) -> Option<u64> {
        let (_, server) = self.network.server?;
        self.network.exchanges += 1;
        self.network.messages += 1;
        let exchange = self.network.exchanges;
        self.network.askers.insert(exchange, actor);
        let often = self.plan.network;
        if let Some(number) = self.happens(often * 3) {
            self.faults.count(Fault::Lost);
            self.note(actor, || {
                format!("fault {number}: request {exchange} is lost")
            });
            return Some(exchange);
        }
        let late = self.is_late(actor, exchange);
        let arrives = self.now + 200 + self.network.random.below(2_000) + late;
        let sent = Sent {
            exchange,
            is_push,
            bytes,
            arrives,
        };
        if let Some(number) = self.happens(often * 3) {
            self.faults.count(Fault::Twice);
            let arrives = arrives + self.network.random.below(3_000_000);
            self.note(actor, || {
                format!("fault {number}: request {exchange} is sent twice")
            });
            self.wake(server, arrives);
            self.network.requests.push(Sent {
                arrives,
                ..sent.clone()
            });
        }
        self.wake(server, sent.arrives);
        self.network.requests.push(sent);
        Some(exchange)
    }

    /// By how much a message is late.
    fn is_late(&mut self, actor: usize, exchange: u64) -> u64 {
        let often = self.plan.network;
        match self.happens(often * 2) {
            Some(number) => {
                self.faults.count(Fault::Delayed);
                let late = self.network.random.below(8_000_000);
                self.note(actor, || {
                    format!("fault {number}: a message of exchange {exchange} is {late} us late")
                });
                late
            }
            None => 0,
        }
    }

    /// A request that has arrived, whichever.
    pub(super) fn receive(&mut self) -> Option<Sent> {
        let now = self.now;
        let network = &mut self.network;
        let due: Vec<usize> = (0..network.requests.len())
            .filter(|n| network.requests[*n].arrives <= now)
            .collect();
        if due.is_empty() {
            return None;
        }
        let chosen = due[network.random.below(due.len() as u64) as usize];
        let sent = network.requests.swap_remove(chosen);
        network.answering = Some(sent.exchange);
        Some(sent)
    }

    /// When the next request arrives.
    pub(super) fn next_arrival(&self) -> Option<u64> {
        self.network.requests.iter().map(|sent| sent.arrives).min()
    }

    /// Sends an answer back.
    pub(super) fn answer(&mut self, actor: usize, exchange: u64, answer: Answer) {
        self.network.answering = None;
        self.network.messages += 1;
        let often = self.plan.network;
        if let Some(number) = self.happens(often * 3) {
            self.faults.count(Fault::AnswerLost);
            self.note(actor, || {
                format!("fault {number}: the answer of exchange {exchange} is lost")
            });
            return;
        }
        let late = self.is_late(actor, exchange);
        let arrives = self.now + 200 + self.network.random.below(2_000) + late;
        let Some(asker) = self.network.askers.get(&exchange).copied() else {
            return;
        };
        self.network
            .answers
            .entry(exchange)
            .or_insert((arrives, answer));
        self.wake(asker, arrives);
    }

    /// The answer of an exchange, once it is there.
    fn take_answer(&mut self, exchange: u64) -> Option<Answer> {
        let now = self.now;
        let (arrives, _) = self.network.answers.get(&exchange)?;
        if *arrives > now {
            return None;
        }
        self.network
            .answers
            .remove(&exchange)
            .map(|(_, answer)| answer)
    }
}

/// A primary, at the other end of the network.
pub(super) struct SimulatedRemote {
    process: Process,
    timeout: Duration,
}

/// Why there is no answer.
enum NoAnswer {
    /// Nothing was sent.
    Unsent,
    /// Nothing came back.
    Silence,
}

impl SimulatedRemote {
    pub(super) fn new(process: &Process, timeout: Duration) -> Self {
        Self {
            process: process.clone(),
            timeout,
        }
    }

    fn exchange(
        &self,
        is_push: bool,
        bytes: Vec<u8>,
        most: Duration,
    ) -> Result<std::result::Result<Answer, NoAnswer>> {
        self.process.step("send")?;
        let actor = self.process.actor();
        let sent = self.process.with(|state| {
            let exchange = state.send(actor, is_push, bytes)?;
            Some((exchange, state.now + most.as_micros() as u64))
        });
        let Some((exchange, deadline)) = sent else {
            return Ok(Err(NoAnswer::Unsent));
        };
        loop {
            let (answer, left) = self.process.with(|state| {
                let left = deadline.saturating_sub(state.now);
                let next = state.network.answers.get(&exchange);
                let arrives = next.map(|(arrives, _)| arrives.saturating_sub(state.now));
                (
                    state.take_answer(exchange),
                    left.min(arrives.unwrap_or(left)),
                )
            });
            if let Some(answer) = answer {
                return Ok(Ok(answer));
            }
            let is_up = self.process.with(|state| state.network.server.is_some());
            if left == 0 && self.process.with(|state| state.now >= deadline) {
                self.process
                    .with(|state| state.network.askers.remove(&exchange));
                return Ok(Err(NoAnswer::Silence));
            }
            if !is_up && self.process.with(|state| state.network.random.once_in(4)) {
                // The peer is gone, and the network says so.
                return Ok(Ok(Answer::Broken));
            }
            self.process.sleep(Duration::from_micros(left.max(1)))?;
        }
    }

    fn unreachable(&self, reason: &str) -> Error {
        Error::Unreachable {
            url: self.url().to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn refused(&self, busy: bool, reason: String) -> Error {
        match busy {
            true => Error::Busy(reason),
            false => Error::Refused {
                url: self.url().to_owned(),
                reason,
            },
        }
    }

    /// The planted bug: whoever does not know asks for the position.
    fn resolve_by_asking(
        &self,
        push: &PushRequest,
    ) -> std::result::Result<(PushResponse, Traffic), PushFailure> {
        let request = Request::Pull(PullRequest {
            database: Some(push.database),
            since: Some(push.target()),
            after: None,
            deltas: false,
            wait_milliseconds: 0,
            peer: PeerId::UNKNOWN,
        });
        let answer = self.ask(&request).map_err(PushFailure::Unknown)?;
        let response = match answer.0 {
            Response::UpToDate(head) | Response::Pages { head, .. } => PushResponse::Accepted(head),
            Response::Diverged(head) => PushResponse::Conflict(head),
            other => return Err(PushFailure::Unknown(Error::Protocol(format!("{other:?}")))),
        };
        Ok((response, answer.1))
    }
}

impl Remote for SimulatedRemote {
    fn ask(&self, request: &Request) -> Result<(Response, Traffic)> {
        let answer = self.exchange(false, request.encode(), self.timeout)?;
        match answer {
            Ok(Answer::Response(bytes)) => {
                let response = Response::decode(&mut &bytes[..], request)?;
                Ok((response, Traffic::default()))
            }
            Ok(Answer::Refused(busy, reason)) => Err(self.refused(busy, reason)),
            Ok(Answer::Failed(reason)) => Err(self.refused(false, reason)),
            Ok(Answer::Broken) => Err(self.unreachable("the connection broke off")),
            Err(NoAnswer::Unsent) => Err(self.unreachable("nobody listens")),
            Err(NoAnswer::Silence) => Err(self.unreachable("no answer")),
        }
    }

    fn push(
        &self,
        push: &PushRequest,
        body: &Body,
        most: Duration,
    ) -> std::result::Result<(PushResponse, Traffic), PushFailure> {
        let mut bytes = Vec::new();
        std::io::copy(&mut body.reader(), &mut bytes)
            .map_err(|error| PushFailure::Unsent(Error::Internal(error.to_string())))?;
        let answer = self
            .exchange(true, bytes, most)
            .map_err(PushFailure::Unknown)?;
        match answer {
            Ok(Answer::Response(bytes)) => match PushResponse::decode(&mut &bytes[..], push) {
                Ok(response) => Ok((response, Traffic::default())),
                Err(error) => Err(PushFailure::Unknown(error)),
            },
            Ok(Answer::Refused(busy, reason)) => {
                Err(PushFailure::Unsent(self.refused(busy, reason)))
            }
            Err(NoAnswer::Unsent) => Err(PushFailure::Unsent(self.unreachable("nobody listens"))),
            Ok(Answer::Failed(_) | Answer::Broken) | Err(NoAnswer::Silence)
                if planted::is(Bug::ResolveByAsking) =>
            {
                self.resolve_by_asking(push)
            }
            Ok(Answer::Failed(reason)) => Err(PushFailure::Unknown(self.refused(false, reason))),
            Ok(Answer::Broken) => Err(PushFailure::Unknown(
                self.unreachable("the connection broke off"),
            )),
            Err(NoAnswer::Silence) => Err(PushFailure::Unknown(self.unreachable("no answer"))),
        }
    }

    fn url(&self) -> &str {
        "http://primary/app"
    }
}
