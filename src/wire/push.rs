//! A push: a transaction of a replica on its way to the primary, and the answer.
//!
//! Behind the envelope's kind (stream.rs):
//!
//! ```text
//! push (kind 0x05):
//!    1  flags: 1 = a lease follows, others 0
//!   16  database id
//!   24  base, the position the transaction was computed from: lsn 8, history id 16
//!   16  nonce of the commit
//!   16  lease, if flagged
//!    4  page size: 512, 1024, … 65536
//!    4  database size in pages after the transaction
//!   16  digest of the whole content after it
//!   16  digest of the transaction
//!    …  one record (records.rs) for each changed page: full pages (new ones), replacements,
//!       deltas; "where to continue" is 0
//!
//! accepted (kind 0x86): head; its position is that of the transaction
//! conflict (kind 0x87): head; another transaction came first
//! unknown (kind 0x88): head; whether it was applied can no longer be known
//! diverged (kind 0x84): head; a page is not what the pusher took it for
//! other database (kind 0x85): the database served, 16
//! ```
//!
//! The answer to a push is the same however often it is sent, as long as it can be known: it was
//! applied if and only if the history id behind the base is the one that base, nonce and pages make.

use std::io::{Read, Write};

use super::delta::Delta;
use super::records::{Kind, Limits, RecordReader, RecordWriter, compressing};
use super::response::{DIVERGED, LARGEST_DATABASE, OTHER_DATABASE, head, start};
use super::stream::{HashingWriter, Reader, Writer, refused};
use super::{Head, LeaseId};
use crate::error::Result;
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::position::{DatabaseId, Nonce, Position, TransactionDigest};

const PUSH: u8 = 0x05;
const ACCEPTED: u8 = 0x86;
const CONFLICT: u8 = 0x87;
const UNKNOWN: u8 = 0x88;

const HAS_LEASE: u8 = 1;

/// The longest push, in bytes: more than any page cache of a writer holds.
const LONGEST: u64 = 64 << 30;

/// Everything about a pushed transaction but its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PushRequest {
    /// The database it changes.
    pub database: DatabaseId,
    /// The position it was computed from.
    pub base: Position,
    /// The random number of this commit.
    pub nonce: Nonce,
    /// The lease under which it is pushed.
    pub lease: Option<LeaseId>,
    /// Page size in bytes.
    pub page_size: PageSize,
    /// Database size in pages after the transaction.
    pub database_size: u32,
    /// Digest of the whole content after the transaction.
    pub content: ContentDigest,
    /// Digest of the transaction.
    pub digest: TransactionDigest,
}

impl PushRequest {
    /// The position the transaction leads to.
    pub fn target(&self) -> Position {
        self.base.next(self.nonce, self.digest)
    }
}

/// What became of a pushed transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PushResponse {
    /// It is on the primary, durably: now, or since it was sent before.
    Accepted(Head),
    /// It is not, and never will be: another transaction followed its base.
    Conflict(Head),
    /// Whether it was applied can no longer be known: the primary crashed, and somebody else has
    /// written its log anew since.
    Unknown(Head),
    /// It is not: a page it replaces is another one on the primary, though of the same position.
    Diverged(Head),
    /// It is not: another database is served here.
    OtherDatabase(DatabaseId),
}

/// What a transaction makes of one page.
pub enum Change<'a> {
    /// A page the database did not have.
    New(&'a [u8]),
    /// A page in place of another one.
    Replaced(PageHash, &'a [u8]),
    /// The difference from the page before.
    Delta(&'a Delta),
}

/// One page of a push that is being read.
pub enum PushedPage {
    /// A page the database did not have.
    New(Vec<u8>),
    /// A page in place of one with this hash.
    Replaced(PageHash, Vec<u8>),
    /// The difference from the page before.
    Delta(Delta),
}

/// Writes a push, page by page.
pub struct PushWriter<W: Write> {
    records: RecordWriter<HashingWriter<W>>,
}

impl<W: Write> PushWriter<W> {
    /// Begins a push.
    pub fn start(push: &PushRequest, sink: W) -> Result<Self> {
        let mut writer = Writer::start(PUSH);
        writer.u8(if push.lease.is_some() { HAS_LEASE } else { 0 });
        writer.bytes(&push.database.0);
        writer.position(push.base);
        writer.bytes(&push.nonce.0);
        if let Some(lease) = push.lease {
            writer.bytes(&lease.0);
        }
        writer.u32(push.page_size.get());
        writer.u32(push.database_size);
        writer.bytes(&push.content.to_bytes());
        writer.bytes(&push.digest.0);
        let sink = HashingWriter::start(sink, writer).map_err(compressing)?;
        let records = RecordWriter::start(sink)?;
        Ok(Self { records })
    }

    /// Adds a page; pages ascend by number.
    pub fn page(&mut self, number: PageNumber, change: &Change<'_>) -> Result<()> {
        match change {
            Change::New(page) => self.records.put(number, Kind::Page, page),
            Change::Replaced(old, page) => self.records.put_replacement(number, *old, page),
            Change::Delta(delta) => self.records.put_delta(number, delta),
        }
    }

    /// Ends the push and gives back where it went.
    pub fn finish(self) -> Result<W> {
        self.records.finish(None)?.finish().map_err(compressing)
    }
}

/// Reads a push, page by page.
pub struct PushReader<'a> {
    push: PushRequest,
    records: RecordReader<'a>,
}

impl<'a> PushReader<'a> {
    /// Begins to read.
    pub fn start(source: &'a mut dyn Read) -> Result<Self> {
        let (mut reader, kind) = Reader::start_long(source, LONGEST)?;
        if kind != PUSH {
            return Err(refused(format!("{kind:#04x} is not a push")));
        }
        let push = request(&mut reader)?;
        let limits = Limits {
            kinds: &[Kind::Page, Kind::Delta, Kind::Replacement],
            after: 0,
            last: push.database_size,
            lock_page: push.page_size.lock_page(),
            most: push.database_size as usize,
        };
        let records = RecordReader::start(reader, limits)?;
        Ok(Self { push, records })
    }

    /// Everything but the pages.
    pub fn request(&self) -> &PushRequest {
        &self.push
    }

    /// The next page; `None` behind the last one.
    pub fn next_page(&mut self) -> Result<Option<(PageNumber, PushedPage)>> {
        let Some((number, kind)) = self.records.next()? else {
            return Ok(None);
        };
        let size = self.push.page_size.bytes();
        let page = match kind {
            Kind::Delta => PushedPage::Delta(self.records.delta(size)?),
            Kind::Replacement => {
                let mut hash = [0; 16];
                self.records.fill(&mut hash)?;
                PushedPage::Replaced(PageHash::from_bytes(hash), self.full(size)?)
            }
            _ => PushedPage::New(self.full(size)?),
        };
        Ok(Some((number, page)))
    }

    fn full(&mut self, size: usize) -> Result<Vec<u8>> {
        let mut page = vec![0; size];
        self.records.fill(&mut page)?;
        Ok(page)
    }

    /// Behind the last page: reads the message to its end.
    pub fn finish(self) -> Result<()> {
        match self.records.finish()? {
            (None, reader) => reader.finish(),
            (Some(_), _) => Err(refused("a push in parts")),
        }
    }
}

fn request(reader: &mut Reader<'_>) -> Result<PushRequest> {
    let flags = reader.u8()?;
    if flags & !HAS_LEASE != 0 {
        return Err(refused(format!("flags {flags:#04x}")));
    }
    let database = reader.database()?;
    let base = reader.position()?;
    let nonce = Nonce(reader.array()?);
    let lease = match flags & HAS_LEASE {
        0 => None,
        _ => Some(LeaseId(reader.array()?)),
    };
    let bytes = reader.u32()?;
    let page_size = PageSize::new(bytes).map_err(|_| refused(format!("page size {bytes}")))?;
    let database_size = reader.u32()?;
    if !(1..=LARGEST_DATABASE).contains(&database_size) {
        return Err(refused(format!("a database of {database_size} pages")));
    }
    Ok(PushRequest {
        database,
        base,
        nonce,
        lease,
        page_size,
        database_size,
        content: ContentDigest::from_bytes(reader.array()?),
        digest: TransactionDigest(reader.array()?),
    })
}

impl PushResponse {
    /// The answer as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, answer) = match self {
            PushResponse::Accepted(head) => (ACCEPTED, head),
            PushResponse::Conflict(head) => (CONFLICT, head),
            PushResponse::Unknown(head) => (UNKNOWN, head),
            PushResponse::Diverged(head) => (DIVERGED, head),
            PushResponse::OtherDatabase(database) => {
                let mut writer = Writer::start(OTHER_DATABASE);
                writer.bytes(&database.0);
                return writer.finish();
            }
        };
        start(kind, answer).finish()
    }

    /// Reads the answer to `push`, to its end.
    pub fn decode(source: &mut dyn Read, push: &PushRequest) -> Result<Self> {
        let accepted = push.target();
        let (mut reader, kind) = Reader::start(source)?;
        if kind == OTHER_DATABASE {
            let database = reader.database()?;
            reader.finish()?;
            return match database == push.database {
                true => Err(refused("'other database' by the database itself")),
                false => Ok(PushResponse::OtherDatabase(database)),
            };
        }
        let head = head(&mut reader, Some(push.database))?;
        reader.finish()?;
        match kind {
            ACCEPTED if head.position == accepted && head.content == push.content => {
                Ok(PushResponse::Accepted(head))
            }
            ACCEPTED => Err(refused("it accepted something else than was pushed")),
            CONFLICT if head.position.lsn >= accepted.lsn || head.position.id != push.base.id => {
                Ok(PushResponse::Conflict(head))
            }
            CONFLICT => Err(refused("a conflict with the base itself")),
            UNKNOWN => Ok(PushResponse::Unknown(head)),
            DIVERGED => Ok(PushResponse::Diverged(head)),
            kind => Err(refused(format!("{kind:#04x} is not an answer to a push"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{HistoryId, Lsn};

    fn position(lsn: u64) -> Position {
        Position {
            lsn: Lsn(lsn),
            id: HistoryId([lsn as u8; 16]),
        }
    }

    fn push(lease: Option<LeaseId>) -> PushRequest {
        PushRequest {
            database: DatabaseId([1; 16]),
            base: position(7),
            nonce: Nonce([3; 16]),
            lease,
            page_size: PageSize::new(512).unwrap(),
            database_size: 4,
            content: ContentDigest::from_bytes([9; 16]),
            digest: TransactionDigest([8; 16]),
        }
    }

    fn number(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    fn written(push: &PushRequest) -> Vec<u8> {
        let (old, hash) = ([1; 512], PageHash::of(number(3), &[1; 512]));
        let delta = Delta::between(hash, &old, &[&[2; 8][..], &[1; 504]].concat());
        let mut writer = PushWriter::start(push, Vec::new()).unwrap();
        let replaced = Change::Replaced(hash, &[5; 512]);
        writer.page(number(2), &replaced).unwrap();
        let delta = delta.unwrap().unwrap();
        writer.page(number(3), &Change::Delta(&delta)).unwrap();
        writer.page(number(4), &Change::New(&[6; 512])).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn a_push_comes_as_it_was_sent() {
        for lease in [None, Some(LeaseId([4; 16]))] {
            let push = push(lease);
            let bytes = written(&push);
            let mut source = &bytes[..];
            let mut reader = PushReader::start(&mut source).unwrap();
            assert_eq!(*reader.request(), push);
            let mut found = Vec::new();
            while let Some((number, page)) = reader.next_page().unwrap() {
                found.push((
                    number.get(),
                    match page {
                        PushedPage::New(page) => format!("new {}", page[0]),
                        PushedPage::Replaced(_, page) => format!("replaced {}", page[0]),
                        PushedPage::Delta(delta) => {
                            let page = delta.apply(number, &[1; 512]).unwrap().unwrap();
                            format!("delta {}", page[0])
                        }
                    },
                ));
            }
            reader.finish().unwrap();
            let expected = [(2, "replaced 5"), (3, "delta 2"), (4, "new 6")];
            assert_eq!(found, expected.map(|(n, text)| (n, text.to_owned())));
        }
    }

    #[test]
    fn a_push_that_was_changed_is_refused() {
        let bytes = written(&push(None));
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            let mut source = &bytes[..];
            let read = PushReader::start(&mut source).and_then(|mut reader| {
                while reader.next_page()?.is_some() {}
                reader.finish()
            });
            assert!(read.is_err(), "byte {at}");
        }
    }

    #[test]
    fn answers_are_believed_only_where_they_fit() {
        let push = push(None);
        let head = |lsn| Head {
            database: push.database,
            position: match lsn {
                8 => push.target(),
                lsn => position(lsn),
            },
            page_size: push.page_size,
            database_size: 4,
            content: push.content,
        };
        let decode = |answer: PushResponse| PushResponse::decode(&mut &answer.encode()[..], &push);
        for answer in [
            PushResponse::Accepted(head(8)),
            PushResponse::Conflict(head(9)),
            PushResponse::Unknown(head(9)),
            PushResponse::Diverged(head(7)),
            PushResponse::OtherDatabase(DatabaseId([2; 16])),
        ] {
            assert_eq!(decode(answer).unwrap(), answer);
        }
        for answer in [
            PushResponse::Accepted(head(9)),
            PushResponse::Accepted(Head {
                content: ContentDigest::default(),
                ..head(8)
            }),
            PushResponse::Conflict(head(7)),
            PushResponse::OtherDatabase(push.database),
            PushResponse::Accepted(Head {
                database: DatabaseId([2; 16]),
                ..head(8)
            }),
        ] {
            assert!(decode(answer).is_err(), "{answer:?}");
        }
    }
}
