//! Answers as bytes.
//!
//! Behind the envelope's kind (stream.rs):
//!
//! ```text
//! up to date (kind 0x81), diverged (kind 0x84):
//!    head
//! pages (kind 0x82), hashes (kind 0x83):
//!    head, then the records (records.rs)
//! other database (kind 0x85), released (kind 0x89):
//!    16  the database served
//! accepted (kind 0x86), conflict (kind 0x87), unknown (kind 0x88):
//!    answers of a push (push.rs)
//!
//! head, 64 bytes:
//!    16  database id
//!    24  position: lsn 8, history id 16
//!     4  page size: 512, 1024, … 65536
//!     4  database size in pages
//!    16  content digest
//! ```
//!
//! An answer is read against the request it belongs to: kinds that do not answer it, pages that
//! were not asked for, heads of another database and steps back in time are refused here.

use std::io::Read;

use bytes::Bytes;

use super::records::{Kind, Limits, RecordReader, RecordWriter};
use super::stream::{Reader, Writer, refused};
use super::{Head, PART_HASHES, Page, PageData, Request, Response, part_pages};
use crate::error::{Error, Result};
use crate::page::{ContentDigest, PageHash, PageNumber, PageSize};
use crate::position::DatabaseId;

const UP_TO_DATE: u8 = 0x81;
const PAGES: u8 = 0x82;
const HASHES: u8 = 0x83;
pub(super) const DIVERGED: u8 = 0x84;
pub(super) const OTHER_DATABASE: u8 = 0x85;
const RELEASED: u8 = 0x89;

/// The most pages a database can have (SQLite file format, section 1.3.7).
pub(super) const LARGEST_DATABASE: u32 = 0xffff_fffe;

impl Response {
    /// The answer as it is sent.
    pub fn encode(&self) -> Result<Vec<u8>> {
        match self {
            Response::UpToDate(head) => Ok(start(UP_TO_DATE, head).finish()),
            Response::Diverged(head) => Ok(start(DIVERGED, head).finish()),
            Response::OtherDatabase(database) => {
                let mut writer = Writer::start(OTHER_DATABASE);
                writer.bytes(&database.0);
                Ok(writer.finish())
            }
            Response::Released(database) => {
                let mut writer = Writer::start(RELEASED);
                writer.bytes(&database.0);
                Ok(writer.finish())
            }
            Response::Pages { head, pages, next } => {
                let mut records = RecordWriter::start(start(PAGES, head).into_bytes())?;
                for page in pages {
                    put_page(&mut records, head, page)?;
                }
                Ok(Writer::resume(records.finish(*next)?).finish())
            }
            Response::Hashes { head, hashes, next } => {
                let mut records = RecordWriter::start(start(HASHES, head).into_bytes())?;
                for (number, hash) in hashes {
                    records.put(*number, Kind::Hash, hash.as_bytes())?;
                }
                Ok(Writer::resume(records.finish(*next)?).finish())
            }
        }
    }

    /// Reads the answer to `asked`, to its end.
    pub fn decode(source: &mut dyn Read, asked: &Request) -> Result<Response> {
        let (reader, kind) = Reader::start(source)?;
        match kind {
            UP_TO_DATE => up_to_date(reader, asked),
            PAGES => pages(reader, asked),
            HASHES => hashes(reader, asked),
            DIVERGED => diverged(reader, asked),
            OTHER_DATABASE => other_database(reader, asked),
            RELEASED => released(reader, asked),
            kind => Err(refused(format!("{kind:#04x} is not a kind of answer"))),
        }
    }
}

fn put_page(records: &mut RecordWriter<Vec<u8>>, head: &Head, page: &Page) -> Result<()> {
    match &page.data {
        PageData::Full(data) if data.len() == head.page_size.bytes() => {
            records.put(page.number, Kind::Page, data)
        }
        PageData::Full(_) => Err(Error::Internal(format!(
            "{:?} has a wrong size",
            page.number
        ))),
        PageData::Delta(delta) => records.put_delta(page.number, delta),
    }
}

pub(super) fn start(kind: u8, head: &Head) -> Writer {
    let mut writer = Writer::start(kind);
    writer.bytes(&head.database.0);
    writer.position(head.position);
    writer.u32(head.page_size.get());
    writer.u32(head.database_size);
    writer.bytes(&head.content.to_bytes());
    writer
}

pub(super) fn head(reader: &mut Reader<'_>, followed: Option<DatabaseId>) -> Result<Head> {
    let database = reader.database()?;
    if followed.is_some_and(|followed| followed != database) {
        return Err(refused(format!("the head of database {database}")));
    }
    let position = reader.position()?;
    let bytes = reader.u32()?;
    let page_size = PageSize::new(bytes).map_err(|_| refused(format!("page size {bytes}")))?;
    let database_size = reader.u32()?;
    if database_size > LARGEST_DATABASE {
        return Err(refused(format!("a database of {database_size} pages")));
    }
    let content = ContentDigest::from_bytes(reader.array()?);
    Ok(Head {
        database,
        position,
        page_size,
        database_size,
        content,
    })
}

fn up_to_date(mut reader: Reader<'_>, asked: &Request) -> Result<Response> {
    let head = head(&mut reader, asked.database())?;
    match asked.pulled() {
        Some(pull) if pull.since == Some(head.position) => {}
        _ => return Err(unasked("up to date")),
    }
    reader.finish()?;
    Ok(Response::UpToDate(head))
}

fn diverged(mut reader: Reader<'_>, asked: &Request) -> Result<Response> {
    let head = head(&mut reader, asked.database())?;
    match asked.pulled() {
        Some(pull) if pull.since.is_some_and(|since| since != head.position) => {}
        _ => return Err(unasked("diverged")),
    }
    reader.finish()?;
    Ok(Response::Diverged(head))
}

fn other_database(mut reader: Reader<'_>, asked: &Request) -> Result<Response> {
    let database = reader.database()?;
    if asked.database().is_none_or(|followed| followed == database) {
        return Err(unasked("other database"));
    }
    reader.finish()?;
    Ok(Response::OtherDatabase(database))
}

fn released(mut reader: Reader<'_>, asked: &Request) -> Result<Response> {
    let database = reader.database()?;
    match asked {
        Request::Release(release) if release.database == database => {}
        _ => return Err(unasked("released")),
    }
    reader.finish()?;
    Ok(Response::Released(database))
}

fn pages(mut reader: Reader<'_>, asked: &Request) -> Result<Response> {
    let head = head(&mut reader, asked.database())?;
    let pull = asked.pulled();
    let after = match (&pull, asked) {
        (Some(pull), _)
            if pull
                .since
                .is_some_and(|since| since.lsn > head.position.lsn) =>
        {
            return Err(refused(format!("pages of the past: {}", head.position)));
        }
        (Some(pull), _) => pull.after.map_or(0, PageNumber::get),
        (None, Request::Pages(asked)) => asked.pages.first().map_or(0, |first| first.get() - 1),
        _ => return Err(unasked("pages")),
    };
    let kinds: &[Kind] = match pull {
        Some(pull) if pull.deltas => &[Kind::Page, Kind::Delta],
        _ => &[Kind::Page],
    };
    let limits = limits(&head, kinds, after, part_pages(head.page_size));
    let mut records = RecordReader::start(reader, limits)?;
    let size = head.page_size.bytes();
    let (mut found, mut full) = (Vec::new(), Vec::new());
    while let Some((number, kind)) = records.next()? {
        if matches!(asked, Request::Pages(asked) if asked.pages.binary_search(&number).is_err()) {
            return Err(refused(format!("{number:?} was not asked for")));
        }
        let delta = match kind {
            Kind::Delta => Some(records.delta(size)?),
            _ => {
                let start = full.len();
                full.resize(start + size, 0);
                records.fill(&mut full[start..])?;
                None
            }
        };
        found.push((number, delta));
    }
    let (next, reader) = records.finish()?;
    reader.finish()?;
    let mut full = Bytes::from(full);
    let page = |(number, delta): (_, Option<_>)| Page {
        number,
        data: match delta {
            Some(delta) => PageData::Delta(delta),
            None => PageData::Full(full.split_to(size)),
        },
    };
    let pages = found.into_iter().map(page).collect();
    Ok(Response::Pages { head, pages, next })
}

fn hashes(mut reader: Reader<'_>, asked: &Request) -> Result<Response> {
    let head = head(&mut reader, asked.database())?;
    let Request::Hashes(asked) = asked else {
        return Err(unasked("hashes"));
    };
    let after = asked.after.map_or(0, PageNumber::get);
    let limits = limits(&head, &[Kind::Hash], after, PART_HASHES);
    let mut records = RecordReader::start(reader, limits)?;
    let mut hashes = Vec::new();
    let mut hash = [0; 16];
    while let Some((number, _)) = records.next()? {
        records.fill(&mut hash)?;
        hashes.push((number, PageHash::from_bytes(hash)));
    }
    let (next, reader) = records.finish()?;
    reader.finish()?;
    Ok(Response::Hashes { head, hashes, next })
}

fn limits(head: &Head, kinds: &'static [Kind], after: u32, most: usize) -> Limits {
    Limits {
        kinds,
        after,
        last: head.database_size,
        lock_page: head.page_size.lock_page(),
        most,
    }
}

fn unasked(answer: &str) -> Error {
    refused(format!("'{answer}' does not answer this request"))
}
