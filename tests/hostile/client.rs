//! A client of a real primary that sends what no replica would.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::{message, mutate, peer};

/// A client that keeps its connection where it can.
pub struct Client {
    address: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// Of the primary at `address`; connects when it has something to say.
    pub fn new(address: &str) -> Client {
        Client {
            address: address.to_string(),
            stream: None,
        }
    }

    fn stream(&mut self) -> &mut BufReader<TcpStream> {
        self.stream.get_or_insert_with(|| {
            let stream = TcpStream::connect(&self.address).expect("the primary accepts");
            stream.set_nodelay(true).expect("set");
            stream
                .set_read_timeout(Some(Duration::from_secs(60)))
                .expect("set");
            BufReader::new(stream)
        })
    }

    /// A well-formed HTTP request and its answer.
    pub fn post(&mut self, path: &str, body: &[u8]) -> (String, Vec<u8>) {
        self.send(&request("POST", path, body)).expect("an answer")
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<(String, Vec<u8>)> {
        let stream = self.stream();
        let result = stream
            .get_mut()
            .write_all(bytes)
            .and_then(|()| peer::read(stream));
        let closes = |head: &String| head.to_ascii_lowercase().contains("connection: close");
        if result.as_ref().map_or(true, |(head, _)| closes(head)) {
            self.stream = None;
        }
        result
    }

    /// Sends something that is not a whole request, ends the sending side, and takes what comes.
    fn send_part(&mut self, bytes: &[u8]) {
        let mut stream = self.stream.take().map_or_else(
            || TcpStream::connect(&self.address).expect("the primary accepts"),
            BufReader::into_inner,
        );
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("set");
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset,
                "the primary keeps half a request"
            );
        }
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 "),
            "no HTTP: {answer:?}"
        );
    }
}

fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nhost: primary\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Sends one altered request and judges what comes back.
pub fn hostile_request(random: &mut StdRng, client: &mut Client, good: &[(&str, Vec<u8>)]) {
    let (path, body) = &good[random.random_range(0..good.len())];
    let sealed_at_random = |random: &mut StdRng| {
        let mut bytes = message::unsealed(body);
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        message::seal(bytes)
    };
    let body = match random.random_range(0..20) {
        0..3 => body[..random.random_range(0..body.len())].to_vec(),
        3..6 => mutate::flipped(random, body),
        6..12 => sealed_at_random(random),
        12 => mutate::noise(random, 5000),
        13 => [body.clone(), mutate::noise(random, 10_000)].concat(),
        14 if random.random_ratio(1, 10) => vec![0x53; 3 << 20],
        14 | 15 => {
            let whole = request("POST", path, body);
            let end = random.random_range(0..whole.len());
            return client.send_part(&whole[..end]);
        }
        16 => {
            let heads = [
                "GET / HTTP/1.1\r\n\r\n".to_string(),
                "POST /app/v1/pull HTTP/1.1\r\ncontent-length: 18446744073709551616\r\n\r\n".to_string(),
                "POST /app/v1/pull HTTP/1.1\r\ncontent-length: -1\r\n\r\n".to_string(),
                format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(200_000)),
                format!("POST /app/v1/pull HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(2000)),
                "POST /app/v1/pull HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_string(),
                "\u{16}\u{3}\u{1}\u{2}".to_string(),
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_string(),
            ];
            return client.send_part(heads[random.random_range(0..heads.len())].as_bytes());
        }
        _ => {
            let methods = ["GET", "PUT", "DELETE", "OPTIONS", "POST", "BREW"];
            let paths = [
                "/",
                "/app",
                "/app/v1/",
                "/app/v1/push",
                "/app/v2/pull",
                "/../app.db/v1/pull",
                "/%2e%2e%2fapp/v1/pull",
                "/app%00/v1/pull",
                "//v1/pull",
                "/health",
                "/app/v1/position",
                "/v1/hashes",
            ];
            let method = methods[random.random_range(0..methods.len())];
            let path = paths[random.random_range(0..paths.len())];
            let sent = request(method, path, body);
            return answered(client, &sent, &format!("{method} {path}"));
        }
    };
    answered(client, &request("POST", path, &body), path);
}

/// An answer of the documented kind, or the end of the connection.
fn answered(client: &mut Client, bytes: &[u8], context: &str) {
    if let Ok((head, body)) = client.send(bytes) {
        let status: u16 = head
            .split(' ')
            .nth(1)
            .and_then(|text| text.parse().ok())
            .expect("a status");
        assert!(
            matches!(status, 200 | 400 | 404 | 405 | 408 | 413),
            "{context}: {head}"
        );
        if status != 200 {
            assert!(
                body.len() < 1000,
                "{context}: a refusal of {} bytes",
                body.len()
            );
        }
    }
}
