//! What a broken or lying peer makes of a good message.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::message::{Answer, Record, seal, unsealed};

/// What goes over the wire in place of a good answer.
pub struct Sent {
    /// What was done, for the report of a failure.
    pub fault: &'static str,
    /// All of the HTTP answer.
    pub bytes: Vec<u8>,
    pub then: Then,
}

/// What happens to the connection afterwards.
#[derive(PartialEq)]
pub enum Then {
    Keep,
    Close,
    /// Nothing more comes; the connection stays open.
    Stall,
    /// The same bytes come again and again, as chunks.
    Endless,
}

/// An answer that is HTTP, whatever its body.
pub fn http(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn ok(fault: &'static str, body: &[u8]) -> Sent {
    Sent {
        fault,
        bytes: http("200 OK", "", body),
        then: Then::Keep,
    }
}

/// Alters a good answer. `earlier` are good answers to other questions.
pub fn answer(random: &mut StdRng, body: &[u8], earlier: &[Vec<u8>]) -> Sent {
    match random.random_range(0..100) {
        0..8 => ok("truncated", &body[..random.random_range(0..body.len())]),
        8..14 => {
            let mut bytes = http("200 OK", "", body);
            let end = bytes.len() - random.random_range(1..=body.len());
            bytes.truncate(end);
            let then = match random.random_ratio(1, 60) {
                true => Then::Stall,
                false => Then::Close,
            };
            Sent {
                fault: "broken off",
                bytes,
                then,
            }
        }
        14..26 => ok("bits flipped", &flipped(random, body)),
        26..30 => ok("noise", &noise(random, 5000)),
        30..40 => {
            // Anything in envelope and head, kinds and versions included.
            let mut bytes = unsealed(body);
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len().min(71));
                bytes[at] = random.random();
            }
            ok("another head, sealed", &seal(bytes))
        }
        40..44 => {
            let mut bytes = unsealed(body);
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            ok("bits flipped, sealed", &seal(bytes))
        }
        44..72 => match Answer::parse(body) {
            Some(answer) => records(random, answer),
            None => ok("another kind, sealed", &{
                let mut bytes = unsealed(body);
                bytes[6] = 0x81 + random.random_range(0..5);
                seal(bytes)
            }),
        },
        72..76 => {
            let mut bytes = body.to_vec();
            bytes.extend(noise(random, 100_000));
            ok("goes on behind its end", &bytes)
        }
        76 => {
            // The first chunk begins as a good answer does.
            let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            bytes.extend(chunk(&unsealed(body)));
            Sent {
                fault: "endless",
                bytes,
                then: Then::Endless,
            }
        }
        77..85 => {
            let statuses = [
                "204 No Content",
                "206 Partial Content",
                "301 Moved",
                "302 Found",
                "304 Not Modified",
                "400 Bad",
                "401 Who",
                "403 No",
                "404 Not Found",
                "408 Slow",
                "413 Large",
                "418 Teapot",
                "429 Many",
                "500 Oops",
                "502 Bad",
                "503 Busy",
                "599 Odd",
                "999 None",
            ];
            let status = statuses[random.random_range(0..statuses.len())];
            let headers = "location: http://127.0.0.1:1/elsewhere\r\nretry-after: 1000000\r\n";
            let noise = noise(random, 3000);
            Sent {
                fault: "wrong status",
                bytes: http(status, headers, &noise),
                then: Then::Close,
            }
        }
        85..93 => broken_http(random, body),
        _ if earlier.is_empty() => ok("empty", b""),
        _ => ok(
            "an earlier answer",
            &earlier[random.random_range(0..earlier.len())],
        ),
    }
}

/// Records that are sealed well and are wrong.
fn records(random: &mut StdRng, mut answer: Answer) -> Sent {
    let count = answer.records.len();
    let pick = random.random_range(0..count.max(1));
    let fault = match random.random_range(0..12) {
        _ if count == 0 => {
            answer.records.push(Record {
                number: 1,
                kind: 0,
                content: vec![0; answer.page_size() as usize],
            });
            "a record too many"
        }
        0 if count > 1 => {
            answer.records.shuffle(random);
            "records reordered"
        }
        1 => {
            let record = answer.records[pick].clone();
            answer.records.insert(pick, record);
            answer.count += 1;
            "a record twice"
        }
        2 => {
            answer.records.remove(pick);
            answer.count -= 1;
            "a record left out"
        }
        3 => {
            let choices = [
                0,
                2,
                7,
                0x4000_0000 / answer.page_size() + 1,
                1_000_000,
                u32::MAX,
                random.random(),
            ];
            answer.records[pick].number = choices[random.random_range(0..choices.len())];
            "a wrong page number"
        }
        4 | 5 => {
            let content = &mut answer.records[pick].content;
            let at = random.random_range(0..content.len());
            content[at] ^= 1 << random.random_range(0..8);
            "another content or hash"
        }
        6 => {
            answer.records[pick].kind = random.random();
            "a wrong record kind"
        }
        7 => {
            answer.count = random.random_range(0..10_000);
            "a wrong count"
        }
        8 => {
            answer.next = [
                1,
                answer.records[count - 1].number,
                u32::MAX,
                random.random(),
            ][random.random_range(0..4)];
            "a wrong continuation"
        }
        9 => {
            answer.set_database_size(
                [0, 1, u32::MAX - 1, random.random()][random.random_range(0..4)],
            );
            "a wrong size"
        }
        10 if random.random_ratio(1, 8) => {
            // Compresses to next to nothing and would fill the memory.
            let (kind, size) = match answer.records[0].kind {
                2 => (2, 16),
                _ => (0, answer.page_size() as usize),
            };
            let content = vec![0; size];
            answer.records = (1..40_000)
                .map(|number| Record {
                    number,
                    kind,
                    content: content.clone(),
                })
                .collect();
            answer.count = 39_999;
            answer.set_database_size(u32::MAX - 1);
            "a bomb"
        }
        _ => {
            answer.records.truncate(pick);
            answer.count = pick as u32;
            "records cut off"
        }
    };
    ok(fault, &answer.encode())
}

fn broken_http(random: &mut StdRng, body: &[u8]) -> Sent {
    let length = body.len();
    let head = match random.random_range(0..11) {
        0 => String::new(),
        1 => "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_string(),
        2 => "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n".to_string(),
        3 => "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n".to_string(),
        4 => format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ncontent-length: 3\r\n\r\n"),
        5 => format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(300_000)),
        6 => format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(5000)),
        7 => {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_string()
        }
        8 => {
            format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n")
        }
        9 => "HTTP/1.1 100 Continue\r\n\r\n".repeat(2000),
        _ => "HTTP/9.9 abc\r\n\r\n".to_string(),
    };
    let mut bytes = head.into_bytes();
    if !bytes.is_empty() {
        bytes.extend_from_slice(body);
    }
    Sent {
        fault: "broken HTTP",
        bytes,
        then: Then::Close,
    }
}

/// A chunk of a chunked body.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// Some bits of a message the other way round.
pub fn flipped(random: &mut StdRng, body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
    }
    bytes
}

/// Random bytes, at most `most`.
pub fn noise(random: &mut StdRng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..most)];
    random.fill(&mut bytes[..]);
    bytes
}
