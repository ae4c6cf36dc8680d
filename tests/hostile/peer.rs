//! A fake primary: it passes questions on to a real one, and makes of the good answers what a case asks for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::message::{self, Answer};
use super::mutate::{self, Sent, Then};

/// Where an endless body ends: far beyond what anybody may take.
const ENDLESS: usize = 256 << 20;

/// What the next answers are to be.
#[derive(Clone, Copy)]
pub enum Plan {
    Honest,
    /// Altered: the one after `skip` good ones, and all after it unless `once`.
    Broken {
        seed: u64,
        skip: u32,
        once: bool,
    },
    /// Other rows, which everything announced fits.
    Lies {
        seed: u64,
    },
}

struct State {
    plan: Plan,
    last_fault: &'static str,
    /// Good answers of all kinds, for replays.
    earlier: Vec<Vec<u8>>,
}

/// The fake primary, on an address of its own.
pub struct Peer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Peer {
    /// In front of the real primary at `target`.
    pub fn before(target: &str) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State {
            plan: Plan::Honest,
            last_fault: "none",
            earlier: Vec::new(),
        }));
        let (shared, target) = (Arc::clone(&state), target.to_string());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (shared, target) = (Arc::clone(&shared), target.clone());
                // Ends with an error when either side closes.
                std::thread::spawn(move || serve(client, &target, &shared));
            }
        });
        Peer { address, state }
    }

    /// The URL of database `name` here.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// From now on answers are as `plan` says.
    pub fn plan(&self, plan: Plan) {
        let mut state = self.state.lock().expect("not poisoned");
        state.plan = plan;
        if !matches!(plan, Plan::Honest) {
            state.last_fault = "none";
        }
    }

    /// What was done to the last altered answer since the plan was made.
    pub fn last_fault(&self) -> &'static str {
        self.state.lock().expect("not poisoned").last_fault
    }
}

fn serve(client: TcpStream, target: &str, state: &Mutex<State>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut questions = BufReader::new(client.try_clone()?);
    let mut client = client;
    let real = TcpStream::connect(target)?;
    real.set_nodelay(true)?;
    let mut answers = BufReader::new(real.try_clone()?);
    let mut real = real;
    loop {
        let (head, mut body) = read(&mut questions)?;
        // Lies are told about whole pages.
        if matches!(state.lock().expect("not poisoned").plan, Plan::Lies { .. }) {
            body = message::without_deltas(&body);
        }
        real.write_all(head.as_bytes())?;
        real.write_all(&body)?;
        let (head, body) = read(&mut answers)?;
        let sent = sent(state, &head, &body);
        client.write_all(&sent.bytes)?;
        match sent.then {
            Then::Keep => {}
            Then::Close => return Ok(()),
            Then::Stall => {
                // Until the client has had enough.
                questions.read_exact(&mut [0])?;
            }
            Then::Endless => {
                let chunk = mutate::chunk(&[0x5a; 1 << 16]);
                for _ in 0..ENDLESS >> 16 {
                    client.write_all(&chunk)?;
                }
                return Ok(());
            }
        }
    }
}

fn sent(state: &Mutex<State>, head: &str, body: &[u8]) -> Sent {
    let mut state = state.lock().expect("not poisoned");
    let honest = |body: &[u8]| Sent {
        fault: "none",
        bytes: [head.as_bytes(), body].concat(),
        then: Then::Keep,
    };
    if !head.starts_with("HTTP/1.1 200") {
        return honest(body);
    }
    let sent = match state.plan {
        Plan::Honest | Plan::Broken { skip: 1.., .. } => honest(body),
        Plan::Broken { seed, .. } => {
            mutate::answer(&mut StdRng::seed_from_u64(seed), body, &state.earlier)
        }
        Plan::Lies { seed } => match Answer::parse(body) {
            Some(mut answer) if answer.records.iter().any(|record| record.kind == 0) => {
                let mut random = StdRng::seed_from_u64(seed);
                let record = random.random_range(0..answer.records.len());
                answer.lie(record, random.random_range(0..65536));
                Sent {
                    fault: "a lie",
                    bytes: mutate::http("200 OK", "", &answer.encode()),
                    then: Then::Keep,
                }
            }
            _ => honest(body),
        },
    };
    if sent.fault != "none" {
        state.last_fault = sent.fault;
    }
    state.plan = match state.plan {
        Plan::Broken {
            seed,
            skip: skip @ 1..,
            once,
        } => Plan::Broken {
            seed,
            skip: skip - 1,
            once,
        },
        Plan::Broken { once: true, .. } => Plan::Honest,
        // The next answer is altered in another way.
        Plan::Broken { seed, skip, once } => Plan::Broken {
            seed: seed.wrapping_add(0x9e37_79b9_7f4a_7c15),
            skip,
            once,
        },
        plan => plan,
    };
    if state.earlier.len() < 200 {
        state.earlier.push(body.to_vec());
    } else {
        let place = body
            .iter()
            .rev()
            .take(4)
            .map(|byte| usize::from(*byte))
            .sum::<usize>()
            % 200;
        state.earlier[place] = body.to_vec();
    }
    sent
}

/// One HTTP message with a body of known length.
pub fn read(from: &mut impl BufRead) -> std::io::Result<(String, Vec<u8>)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let start = head.len();
        if from.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = head[start..].trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok((head, body))
}
