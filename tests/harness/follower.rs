//! A follower without a database: it asks a primary for what is new, waits, and takes note of the position. Written
//! from the description in `src/wire`, not with its code.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// How long an answer may be late.
const PATIENCE: Duration = Duration::from_secs(120);

const TRAILER: usize = 16;
/// The envelope, then the database's id.
const POSITION_AT: usize = 7 + 16;
const POSITION_END: usize = POSITION_AT + 24;
const UP_TO_DATE: u8 = 0x81;

/// The follower.
pub struct Follower {
    stream: BufReader<TcpStream>,
    path: String,
    token: Option<String>,
    peer: [u8; 8],
    position: Option<[u8; 24]>,
}

/// What a primary answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// There is nothing new.
    Nothing,
    /// There is.
    Something,
    /// It refused with this status.
    Refused(u16),
}

impl Follower {
    /// Connects to the database at `url`, `http://host:port/name`. It holds nothing.
    #[track_caller]
    pub fn of(url: &str, number: u64) -> Follower {
        let rest = url.strip_prefix("http://").expect("http");
        let (address, name) = rest.split_once('/').expect("a name");
        let stream = TcpStream::connect(address).expect("the primary accepts");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Follower {
            stream: BufReader::new(stream),
            path: format!("/{name}/v1/pull"),
            token: None,
            peer: number.to_be_bytes(),
            position: None,
        }
    }

    /// The same with a token.
    pub fn with_token(self, token: &str) -> Follower {
        Follower {
            token: Some(token.to_string()),
            ..self
        }
    }

    /// Takes it that it has what another one has.
    pub fn catch_up(&mut self, other: &Follower) {
        self.position = other.position;
    }

    /// The descriptor of its connection: readable once there is an answer.
    pub fn descriptor(&self) -> RawFd {
        self.stream.get_ref().as_raw_fd()
    }

    /// Asks, and waits for the answer.
    #[track_caller]
    pub fn pull(&mut self, wait: Duration) -> News {
        self.ask(wait);
        self.answer()
    }

    /// Asks for what is new since its position, and to be answered after `wait` if there is nothing.
    #[track_caller]
    pub fn ask(&mut self, wait: Duration) {
        let mut body = b"sqrp\x01\x00\x01".to_vec();
        body.push(16 | if self.position.is_some() { 2 } else { 0 });
        body.extend_from_slice(self.position.as_slice().as_flattened());
        body.extend_from_slice(&self.peer);
        body.extend_from_slice(&(wait.as_millis() as u32).to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        let hash = blake3::hash(&body);
        body.extend_from_slice(&hash.as_bytes()[..TRAILER]);
        let token = self.token.as_ref();
        let token = token.map_or(String::new(), |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let mut message = format!(
            "POST {} HTTP/1.1\r\nHost: x\r\n{token}Content-Length: {}\r\n\r\n",
            self.path,
            body.len()
        )
        .into_bytes();
        message.extend_from_slice(&body);
        self.stream.get_mut().write_all(&message).expect("sent");
    }

    /// Waits for the answer.
    #[track_caller]
    pub fn answer(&mut self) -> News {
        let (status, body) = self.read().expect("an answer");
        if status != 200 {
            return News::Refused(status);
        }
        let position = body[POSITION_AT..POSITION_END].try_into();
        self.position = Some(position.expect("24 bytes"));
        match body[6] {
            UP_TO_DATE => News::Nothing,
            _ => News::Something,
        }
    }

    /// The number of the transaction it has.
    pub fn lsn(&self) -> u64 {
        let position = self.position.expect("has something");
        u64::from_le_bytes(position[..8].try_into().expect("8 bytes"))
    }

    fn read(&mut self) -> std::io::Result<(u16, Vec<u8>)> {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let start = head.len();
            if self.stream.read_line(&mut head)? == 0 {
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
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status.expect("a status"), body))
    }
}
