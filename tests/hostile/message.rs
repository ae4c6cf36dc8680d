//! Messages of the protocol taken apart and put together again, with a right trailer whatever they say: a liar can
//! compute it too. Written from the description in `src/wire`, not with its code.

use std::io::Read;

const TRAILER: usize = 16;
/// The envelope, then database id and position.
const PAGE_SIZE_AT: usize = 7 + 16 + 24;
const DIGEST_AT: usize = PAGE_SIZE_AT + 8;
const HEAD_END: usize = DIGEST_AT + 16;
const PAGES: u8 = 0x82;
const HASHES: u8 = 0x83;
const END: u8 = 255;
const DELTA_HEAD: usize = 16 + 2;
/// Of a pull: deltas do.
const DELTAS: u8 = 4;

/// Adds the trailer.
pub fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(&hash.as_bytes()[..TRAILER]);
    bytes
}

/// Takes the trailer off.
pub fn unsealed(message: &[u8]) -> Vec<u8> {
    message[..message.len().saturating_sub(TRAILER)].to_vec()
}

/// One record of an answer.
#[derive(Clone)]
pub struct Record {
    pub number: u32,
    pub kind: u8,
    pub content: Vec<u8>,
}

/// An answer that carries pages or hashes.
#[derive(Clone)]
pub struct Answer {
    /// Envelope and head.
    pub head: Vec<u8>,
    pub records: Vec<Record>,
    /// What the end record says: how many came before.
    pub count: u32,
    pub next: u32,
}

impl Answer {
    /// Takes an honest answer apart; `None` for one without records.
    pub fn parse(message: &[u8]) -> Option<Answer> {
        if !matches!(message.get(6), Some(&(PAGES | HASHES))) {
            return None;
        }
        let mut bytes = Vec::new();
        zstd::stream::read::Decoder::with_buffer(&message[HEAD_END..message.len() - TRAILER])
            .expect("a zstd frame")
            .read_to_end(&mut bytes)
            .expect("decompresses");
        let mut answer = Answer {
            head: message[..HEAD_END].to_vec(),
            records: Vec::new(),
            count: 0,
            next: 0,
        };
        let mut rest = &bytes[..];
        loop {
            let (head, after) = rest.split_at(5);
            let number = u32_at(head, 0);
            let size = match head[4] {
                0 => answer.page_size() as usize,
                // A delta: the hash of its base, its length, and as many bytes.
                1 => DELTA_HEAD + usize::from(u16::from_le_bytes([after[16], after[17]])),
                2 => 16,
                END => {
                    (answer.count, answer.next) = (u32_at(after, 0), u32_at(after, 4));
                    assert_eq!(answer.count as usize, answer.records.len());
                    return Some(answer);
                }
                kind => {
                    panic!("record kind {kind}: the protocol has moved on, and this test has not")
                }
            };
            let (content, after) = after.split_at(size);
            answer.records.push(Record {
                number,
                kind: head[4],
                content: content.to_vec(),
            });
            rest = after;
        }
    }

    /// The answer as it would be sent, sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in &self.records {
            bytes.extend_from_slice(&record.number.to_le_bytes());
            bytes.push(record.kind);
            bytes.extend_from_slice(&record.content);
        }
        bytes.extend_from_slice(&[0, 0, 0, 0, END]);
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.next.to_le_bytes());
        let mut message = self.head.clone();
        message.extend(zstd::encode_all(&bytes[..], 1).expect("compresses"));
        seal(message)
    }

    pub fn page_size(&self) -> u32 {
        u32_at(&self.head, PAGE_SIZE_AT)
    }

    pub fn set_database_size(&mut self, pages: u32) {
        self.head[PAGE_SIZE_AT + 4..DIGEST_AT].copy_from_slice(&pages.to_le_bytes());
    }

    /// Alters one byte of a page and makes the announced digest fit: a lie that nothing can tell from the truth.
    pub fn lie(&mut self, record: usize, at: usize) {
        let record = &mut self.records[record];
        let before = hash(record.number, &record.content);
        let at = at % record.content.len();
        record.content[at] ^= 0x5a;
        let after = hash(record.number, &record.content);
        let digest = u128::from_le_bytes(self.head[DIGEST_AT..].try_into().expect("16 bytes"));
        let digest = digest.wrapping_sub(before).wrapping_add(after);
        self.head[DIGEST_AT..].copy_from_slice(&digest.to_le_bytes());
    }
}

fn hash(number: u32, page: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(page);
    u128::from_le_bytes(
        hasher.finalize().as_bytes()[..16]
            .try_into()
            .expect("16 bytes"),
    )
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// A pull of everything, or a question for hashes, by somebody who knows nothing yet.
pub fn question(kind: u8, after: u32) -> Vec<u8> {
    let mut bytes = b"sqrp\x01\x00".to_vec();
    bytes.push(kind);
    bytes.push(0);
    bytes.extend_from_slice(&after.to_le_bytes());
    seal(bytes)
}

/// The same question by somebody who does not understand deltas.
pub fn without_deltas(question: &[u8]) -> Vec<u8> {
    let mut bytes = unsealed(question);
    bytes[7] &= !DELTAS;
    seal(bytes)
}

/// A pull since the position of an answer's head, or some pages of its database.
pub fn informed_question(answer: &[u8], pages: &[u32]) -> Vec<u8> {
    let (database, position) = (&answer[7..23], &answer[23..47]);
    let mut bytes = b"sqrp\x01\x00".to_vec();
    if pages.is_empty() {
        bytes.extend_from_slice(&[1, 3 | DELTAS]);
        bytes.extend_from_slice(database);
        bytes.extend_from_slice(position);
        bytes.extend_from_slice(&[0; 4]);
    } else {
        bytes.extend_from_slice(&[3, 1]);
        bytes.extend_from_slice(database);
        bytes.extend_from_slice(&(pages.len() as u32).to_le_bytes());
        for page in pages {
            bytes.extend_from_slice(&page.to_le_bytes());
        }
    }
    seal(bytes)
}
