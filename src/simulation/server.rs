//! The primary: the engine's own, answering what the network brings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::actor::End;
use super::host::SimulatedHost;
use super::network::{Answer, Sent};
use super::process::Process;
use super::random::Random;
use crate::database::host::Host;
use crate::error::{Error, Result};
use crate::primary::answer::Primary;
use crate::primary::commits::Commits;
use crate::primary::server::Service;
use crate::primary::turns::Turn;
use crate::wire::{PushReader, PushResponse, Request, Response};

/// Where the primary's database lies on its machine.
pub(super) const PATH: &str = "/app.db";

/// How long a request waits for its turn.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// The primary's process.
struct Server<'a> {
    process: &'a Process,
    primary: Primary,
    /// Requests that wait for their turn, and until when.
    waiting: Vec<(Sent, u64)>,
}

/// Serves until all programs have ended.
pub(super) fn serve(process: &Process, random: &mut Random) -> End {
    let Some(primary) = begin(process) else {
        return End::Again;
    };
    process.with(|state| state.network.server = Some((process.id(), process.actor())));
    process.note(|| "serves".to_owned());
    let mut server = Server {
        process,
        primary,
        waiting: Vec::new(),
    };
    let stops_at = process.with(|state| state.now) + 2_000_000 + random.below(60_000_000);
    let end = server.work(stops_at);
    process.with(|state| state.network.end_process(process.id()));
    drop(server);
    end
}

fn begin(process: &Process) -> Option<Primary> {
    let host: Arc<dyn Host> = Arc::new(SimulatedHost(process.clone()));
    match Primary::begin(host, Path::new(PATH), Commits::new()) {
        Ok(primary) => Some(primary),
        Err(error) => {
            check(process, "the start of the primary", &error);
            None
        }
    }
}

/// Errors that only a bug makes.
pub(super) fn check(process: &Process, what: &str, error: &Error) {
    process.note(|| format!("{what}: {error}"));
    match error {
        Error::Corrupt(_) | Error::Internal(_) | Error::Protocol(_) | Error::Tampered(_) => {
            process.fail(format!("{what}: {error}"))
        }
        _ => {}
    }
}

impl Server<'_> {
    fn work(&mut self, stops_at: u64) -> End {
        let mut captures_at = 0;
        loop {
            let (now, programs, calm) = self
                .process
                .with(|state| (state.now, state.programs, state.is_calm()));
            if programs == 0 {
                return End::Done;
            }
            if !calm && now > stops_at {
                return End::Again;
            }
            if now >= captures_at {
                let rest = self.primary.capture_and_checkpoint();
                if let Err(error) = &rest {
                    check(self.process, "capture", error);
                }
                captures_at = now + rest.unwrap_or(Duration::from_millis(100)).as_micros() as u64;
            }
            let sent = self.process.with(|state| state.receive());
            match sent {
                Some(sent) => self.answer(sent),
                None => self.rest(captures_at),
            }
            self.give_turns();
        }
    }

    fn rest(&self, captures_at: u64) {
        let most = match self.waiting.is_empty() {
            true => 100_000,
            false => 5_000,
        };
        let time = self.process.with(|state| {
            let next = state.next_arrival().unwrap_or(u64::MAX);
            next.min(captures_at).saturating_sub(state.now)
        });
        // Dead or alive: the next step tells.
        let _ = self
            .process
            .sleep(Duration::from_micros(time.clamp(1, most)));
    }

    fn give_turns(&mut self) {
        for (sent, until) in std::mem::take(&mut self.waiting) {
            let now = self.process.with(|state| state.now);
            match self.turn(&sent) {
                Ok(Some(turn)) => self.work_on(&sent, Some(turn)),
                Ok(None) if now < until => self.waiting.push((sent, until)),
                _ => self.send(
                    &sent,
                    Answer::Refused(true, "the primary is busy".to_owned()),
                ),
            }
        }
    }

    fn answer(&mut self, sent: Sent) {
        match self.needs_turn(&sent) {
            Ok(false) => self.work_on(&sent, None),
            Ok(true) => match self.turn(&sent) {
                Ok(Some(turn)) => self.work_on(&sent, Some(turn)),
                _ => {
                    let until = self.process.with(|state| state.now) + self.patience(&sent);
                    self.waiting.push((sent, until));
                }
            },
            Err(error) => self
                .process
                .fail(format!("a request nobody can read: {error}")),
        }
    }

    fn needs_turn(&self, sent: &Sent) -> Result<bool> {
        if sent.is_push {
            return Ok(true);
        }
        Ok(match Request::decode(&mut &sent.bytes[..])? {
            Request::Begin(begin) => begin.lease.is_some(),
            _ => false,
        })
    }

    fn patience(&self, sent: &Sent) -> u64 {
        let most = match Request::decode(&mut &sent.bytes[..]) {
            Ok(Request::Begin(begin)) => begin
                .lease
                .map(|lease| Duration::from_millis(lease.wait_milliseconds.into())),
            _ => None,
        };
        most.unwrap_or(LONGEST_TURN).min(LONGEST_TURN).as_micros() as u64
    }

    fn turn(&self, sent: &Sent) -> Result<Option<Turn>> {
        let lease = match sent.is_push {
            true => PushReader::start(&mut &sent.bytes[..])?.request().lease,
            false => match Request::decode(&mut &sent.bytes[..])? {
                Request::Begin(begin) => begin.lease.map(|lease| lease.id),
                _ => None,
            },
        };
        Ok(self.primary.turns().try_wait(lease))
    }

    fn work_on(&self, sent: &Sent, turn: Option<Turn>) {
        let answered = match (sent.is_push, turn) {
            (true, Some(turn)) => self.push(sent, turn),
            (_, turn) => self.ask(sent, turn),
        };
        let answer = match answered {
            Ok(bytes) => Answer::Response(bytes),
            Err(error) => {
                check(self.process, "an answer", &error);
                match error {
                    Error::Protocol(reason) | Error::Misuse(reason) => {
                        Answer::Refused(false, reason)
                    }
                    Error::Busy(reason) => Answer::Refused(true, reason),
                    error => Answer::Failed(error.to_string()),
                }
            }
        };
        self.send(sent, answer);
    }

    fn send(&self, sent: &Sent, answer: Answer) {
        // Dead or alive: the next step tells.
        let _ = self.process.step("answer");
        let actor = self.process.actor();
        self.process
            .with(|state| state.answer(actor, sent.exchange, answer));
    }

    fn push(&self, sent: &Sent, turn: Turn) -> Result<Vec<u8>> {
        let base = PushReader::start(&mut &sent.bytes[..])?.request().base;
        let response = self.primary.push(&mut &sent.bytes[..], turn)?;
        let words = match &response {
            PushResponse::Accepted(head) => {
                self.place(head);
                format!("accepted at {}", head.position.lsn.0)
            }
            PushResponse::Conflict(head) => format!("refused, it is at {}", head.position.lsn.0),
            PushResponse::Unknown(_) => "unknown".to_owned(),
            PushResponse::Diverged(_) => "diverged".to_owned(),
            PushResponse::OtherDatabase(_) => "another database".to_owned(),
        };
        self.process.note(|| {
            format!(
                "exchange {}: a push on {}: {words}",
                sent.exchange, base.lsn.0
            )
        });
        if matches!(
            response,
            PushResponse::Diverged(_) | PushResponse::OtherDatabase(_)
        ) {
            self.process
                .fail(format!("a push of this very database: {words}"));
        }
        Ok(response.encode())
    }

    fn ask(&self, sent: &Sent, turn: Option<Turn>) -> Result<Vec<u8>> {
        let request = Request::decode(&mut &sent.bytes[..])?;
        let response = self.primary.answer(request, turn)?;
        match &response {
            Response::UpToDate(head)
            | Response::Pages { head, .. }
            | Response::Hashes { head, .. } => {
                self.place(head);
            }
            Response::Released(_) => {}
            Response::Diverged(_) if self.process.with(|state| state.ledger.gaps > 1) => {}
            other => self
                .process
                .fail(format!("a question was answered with {other:?}")),
        }
        response.encode()
    }

    fn place(&self, head: &crate::wire::Head) {
        let placed = self
            .process
            .with(|state| state.ledger.place(head.position, head.content));
        if let Err(reason) = placed {
            self.process.fail(format!("the primary answers: {reason}"));
        }
    }
}
