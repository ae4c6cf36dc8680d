//! Requests as bytes.
//!
//! Behind the envelope's kind (stream.rs):
//!
//! ```text
//! size  field
//!    1  flags: 1 = a database id follows, 2 = a position follows (pull, begin),
//!       4 = page deltas do (pull, begin; with a position), 8 = a lease is asked for (begin) or
//!       given back (release), others 0
//!   16  database id, if flagged
//!   24  position, if flagged: lsn 8, history id 16
//!   20  lease, if flagged: id 16, how long to wait for it in milliseconds 4 (0 in a release)
//! pull (kind 0x01), hashes (kind 0x02):
//!    4  continue after this page; 0 = from the start
//! pages (kind 0x03):
//!    4  count, at most 4,096
//!  4×n  page numbers, ascending
//! begin (kind 0x04), release (kind 0x06):
//!    nothing more
//! push (kind 0x05): push.rs
//! ```

use std::io::Read;

use super::stream::{Reader, Writer, refused};
use super::{
    ASK_PAGES, BeginRequest, HashesRequest, Lease, LeaseId, PagesRequest, PullRequest,
    ReleaseRequest, Request,
};
use crate::error::Result;
use crate::page::PageNumber;
use crate::position::{DatabaseId, Position};

const PULL: u8 = 0x01;
const HASHES: u8 = 0x02;
const PAGES: u8 = 0x03;
const BEGIN: u8 = 0x04;
const RELEASE: u8 = 0x06;

const HAS_DATABASE: u8 = 1;
const HAS_POSITION: u8 = 2;
const TAKES_DELTAS: u8 = 4;
const HAS_LEASE: u8 = 8;

impl Request {
    /// The request as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Request::Pull(pull) => {
                let mut writer = start(PULL, pull.database, pull.since, pull.deltas, None);
                writer.page(pull.after);
                writer.finish()
            }
            Request::Hashes(hashes) => {
                let mut writer = start(HASHES, hashes.database, None, false, None);
                writer.page(hashes.after);
                writer.finish()
            }
            Request::Pages(pages) => {
                let mut writer = start(PAGES, pages.database, None, false, None);
                writer.u32(pages.pages.len() as u32);
                pages.pages.iter().for_each(|page| writer.page(Some(*page)));
                writer.finish()
            }
            Request::Begin(begin) => {
                let (database, at) = (Some(begin.database), Some(begin.at));
                start(BEGIN, database, at, begin.deltas, begin.lease).finish()
            }
            Request::Release(release) => {
                let lease = Lease {
                    id: release.lease,
                    wait_milliseconds: 0,
                };
                start(RELEASE, Some(release.database), None, false, Some(lease)).finish()
            }
        }
    }

    /// Reads a request to its end.
    pub fn decode(source: &mut dyn Read) -> Result<Request> {
        let (mut reader, kind) = Reader::start(source)?;
        let request = match kind {
            PULL => Request::Pull(pull(&mut reader)?),
            HASHES => Request::Hashes(hashes(&mut reader)?),
            PAGES => Request::Pages(pages(&mut reader)?),
            BEGIN => Request::Begin(begin(&mut reader)?),
            RELEASE => Request::Release(release(&mut reader)?),
            kind => return Err(refused(format!("{kind:#04x} is not a kind of request"))),
        };
        reader.finish()?;
        Ok(request)
    }

    /// The last segment of the URL the request is sent to.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Pull(_) => "pull",
            Request::Hashes(_) => "hashes",
            Request::Pages(_) => "pages",
            Request::Begin(_) => "begin",
            Request::Release(_) => "release",
        }
    }

    /// The database the asker follows.
    pub fn database(&self) -> Option<DatabaseId> {
        match self {
            Request::Pull(pull) => pull.database,
            Request::Hashes(hashes) => hashes.database,
            Request::Pages(pages) => pages.database,
            Request::Begin(begin) => Some(begin.database),
            Request::Release(release) => Some(release.database),
        }
    }

    /// What it asks for as a pull does, if it does.
    pub fn pulled(&self) -> Option<PullRequest> {
        match self {
            Request::Pull(pull) => Some(*pull),
            Request::Begin(begin) => Some(begin.pull()),
            _ => None,
        }
    }
}

fn start(
    kind: u8,
    database: Option<DatabaseId>,
    since: Option<Position>,
    deltas: bool,
    lease: Option<Lease>,
) -> Writer {
    let mut writer = Writer::start(kind);
    let mut flags = 0;
    if database.is_some() {
        flags |= HAS_DATABASE;
    }
    if since.is_some() {
        flags |= HAS_POSITION;
    }
    if deltas {
        flags |= TAKES_DELTAS;
    }
    if lease.is_some() {
        flags |= HAS_LEASE;
    }
    writer.u8(flags);
    if let Some(database) = database {
        writer.bytes(&database.0);
    }
    if let Some(since) = since {
        writer.position(since);
    }
    if let Some(lease) = lease {
        writer.bytes(&lease.id.0);
        writer.u32(lease.wait_milliseconds);
    }
    writer
}

fn pull(reader: &mut Reader<'_>) -> Result<PullRequest> {
    let flags = flags(reader, HAS_DATABASE | HAS_POSITION | TAKES_DELTAS)?;
    let database = database(reader, flags)?;
    let since = match flags & HAS_POSITION {
        0 => None,
        _ => Some(reader.position()?),
    };
    let deltas = flags & TAKES_DELTAS != 0;
    if deltas && since.is_none() {
        return Err(refused("deltas from nothing"));
    }
    Ok(PullRequest {
        database,
        since,
        after: reader.page()?,
        deltas,
    })
}

fn begin(reader: &mut Reader<'_>) -> Result<BeginRequest> {
    let known = HAS_DATABASE | HAS_POSITION | TAKES_DELTAS | HAS_LEASE;
    let flags = flags(reader, known)?;
    let Some(database) = database(reader, flags)? else {
        return Err(refused("a write on no database"));
    };
    if flags & HAS_POSITION == 0 {
        return Err(refused("a write on no position"));
    }
    Ok(BeginRequest {
        database,
        at: reader.position()?,
        deltas: flags & TAKES_DELTAS != 0,
        lease: lease(reader, flags)?,
    })
}

fn release(reader: &mut Reader<'_>) -> Result<ReleaseRequest> {
    let flags = flags(reader, HAS_DATABASE | HAS_LEASE)?;
    let database = database(reader, flags)?;
    match (database, lease(reader, flags)?) {
        (Some(database), Some(lease)) if lease.wait_milliseconds == 0 => Ok(ReleaseRequest {
            database,
            lease: lease.id,
        }),
        _ => Err(refused("a release of nothing")),
    }
}

fn lease(reader: &mut Reader<'_>, flags: u8) -> Result<Option<Lease>> {
    match flags & HAS_LEASE {
        0 => Ok(None),
        _ => Ok(Some(Lease {
            id: LeaseId(reader.array()?),
            wait_milliseconds: reader.u32()?,
        })),
    }
}

fn hashes(reader: &mut Reader<'_>) -> Result<HashesRequest> {
    let flags = flags(reader, HAS_DATABASE)?;
    let database = database(reader, flags)?;
    Ok(HashesRequest {
        database,
        after: reader.page()?,
    })
}

fn pages(reader: &mut Reader<'_>) -> Result<PagesRequest> {
    let flags = flags(reader, HAS_DATABASE)?;
    let database = database(reader, flags)?;
    let count = reader.u32()? as usize;
    if count > ASK_PAGES {
        return Err(refused(format!("{count} pages asked for at once")));
    }
    let mut pages: Vec<PageNumber> = Vec::with_capacity(count);
    for _ in 0..count {
        let number = reader.page()?.ok_or_else(|| refused("page 0 asked for"))?;
        if pages.last().is_some_and(|last| *last >= number) {
            return Err(refused("page numbers do not ascend"));
        }
        pages.push(number);
    }
    Ok(PagesRequest { database, pages })
}

fn flags(reader: &mut Reader<'_>, known: u8) -> Result<u8> {
    match reader.u8()? {
        flags if flags & !known == 0 => Ok(flags),
        flags => Err(refused(format!("flags {flags:#04x}"))),
    }
}

fn database(reader: &mut Reader<'_>, flags: u8) -> Result<Option<DatabaseId>> {
    match flags & HAS_DATABASE {
        0 => Ok(None),
        _ => reader.database().map(Some),
    }
}
