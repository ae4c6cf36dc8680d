//! Requests as bytes.
//!
//! Behind the envelope's kind (stream.rs):
//!
//! ```text
//! size  field
//!    1  flags: 1 = a database id follows, 2 = a position follows (pull, begin),
//!       4 = page deltas do (pull, begin; with a position), 8 = a lease is asked for (begin) or
//!       given back (release), 16 = a follower asks (pull), others 0
//!   16  database id, if flagged
//!   24  position, if flagged: lsn 8, history id 16
//!   20  lease, if flagged: id 16, how long to wait for it in milliseconds 4 (0 in a release)
//!   12  follower, if flagged: id 8 (0 = unknown), how long to wait for something new in
//!       milliseconds 4 (0 = not at all)
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
use std::time::Duration;

use super::stream::{Reader, Writer, refused};
use super::{
    ASK_PAGES, BeginRequest, HashesRequest, Lease, LeaseId, PagesRequest, PeerId, PullRequest,
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
const HAS_FOLLOWER: u8 = 16;

/// What a request may begin with.
#[derive(Default)]
struct Fields {
    database: Option<DatabaseId>,
    position: Option<Position>,
    deltas: bool,
    lease: Option<Lease>,
    follower: Option<Follower>,
}

/// Who asks, and how long it waits.
struct Follower {
    peer: PeerId,
    wait_milliseconds: u32,
}

impl Fields {
    fn of(database: Option<DatabaseId>) -> Self {
        Self {
            database,
            ..Self::default()
        }
    }

    fn flags(&self) -> u8 {
        let flag = |is_there, flag| if is_there { flag } else { 0 };
        flag(self.database.is_some(), HAS_DATABASE)
            | flag(self.position.is_some(), HAS_POSITION)
            | flag(self.deltas, TAKES_DELTAS)
            | flag(self.lease.is_some(), HAS_LEASE)
            | flag(self.follower.is_some(), HAS_FOLLOWER)
    }

    /// Starts a message with them.
    fn start(&self, kind: u8) -> Writer {
        let mut writer = Writer::start(kind);
        writer.u8(self.flags());
        if let Some(database) = self.database {
            writer.bytes(&database.0);
        }
        if let Some(position) = self.position {
            writer.position(position);
        }
        if let Some(lease) = self.lease {
            writer.bytes(&lease.id.0);
            writer.u32(lease.wait_milliseconds);
        }
        if let Some(follower) = &self.follower {
            writer.bytes(&follower.peer.0);
            writer.u32(follower.wait_milliseconds);
        }
        writer
    }
}

impl Request {
    /// The request as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Request::Pull(pull) => {
                let mut writer = pull.fields().start(PULL);
                writer.page(pull.after);
                writer.finish()
            }
            Request::Hashes(hashes) => {
                let mut writer = Fields::of(hashes.database).start(HASHES);
                writer.page(hashes.after);
                writer.finish()
            }
            Request::Pages(pages) => {
                let mut writer = Fields::of(pages.database).start(PAGES);
                writer.u32(pages.pages.len() as u32);
                pages.pages.iter().for_each(|page| writer.page(Some(*page)));
                writer.finish()
            }
            Request::Begin(begin) => {
                let fields = Fields {
                    position: Some(begin.at),
                    deltas: begin.deltas,
                    lease: begin.lease,
                    ..Fields::of(Some(begin.database))
                };
                fields.start(BEGIN).finish()
            }
            Request::Release(release) => {
                let lease = Lease {
                    id: release.lease,
                    wait_milliseconds: 0,
                };
                let fields = Fields {
                    lease: Some(lease),
                    ..Fields::of(Some(release.database))
                };
                fields.start(RELEASE).finish()
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

    /// How long the answer may be held back where there is nothing new.
    pub fn wait(&self) -> Duration {
        match self {
            Request::Pull(pull) => Duration::from_millis(pull.wait_milliseconds.into()),
            _ => Duration::ZERO,
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

impl PullRequest {
    fn fields(&self) -> Fields {
        let is_follower = self.peer.is_known() || self.wait_milliseconds > 0;
        Fields {
            database: self.database,
            position: self.since,
            deltas: self.deltas,
            lease: None,
            follower: is_follower.then_some(Follower {
                peer: self.peer,
                wait_milliseconds: self.wait_milliseconds,
            }),
        }
    }
}

fn pull(reader: &mut Reader<'_>) -> Result<PullRequest> {
    let known = HAS_DATABASE | HAS_POSITION | TAKES_DELTAS | HAS_FOLLOWER;
    let flags = flags(reader, known)?;
    let database = database(reader, flags)?;
    let since = match flags & HAS_POSITION {
        0 => None,
        _ => Some(reader.position()?),
    };
    let deltas = flags & TAKES_DELTAS != 0;
    if deltas && since.is_none() {
        return Err(refused("deltas from nothing"));
    }
    let follower = follower(reader, flags)?;
    Ok(PullRequest {
        database,
        since,
        after: reader.page()?,
        deltas,
        wait_milliseconds: follower.wait_milliseconds,
        peer: follower.peer,
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

fn follower(reader: &mut Reader<'_>, flags: u8) -> Result<Follower> {
    if flags & HAS_FOLLOWER == 0 {
        return Ok(Follower {
            peer: PeerId::UNKNOWN,
            wait_milliseconds: 0,
        });
    }
    let follower = Follower {
        peer: PeerId(reader.array()?),
        wait_milliseconds: reader.u32()?,
    };
    match follower.peer.is_known() || follower.wait_milliseconds > 0 {
        true => Ok(follower),
        false => Err(refused("a follower who is unknown and does not wait")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{HistoryId, Lsn};

    #[test]
    fn a_pull_that_waits_is_as_documented() {
        let since = Position {
            lsn: Lsn(7),
            id: HistoryId([2; 16]),
        };
        let pull = PullRequest {
            database: Some(DatabaseId([1; 16])),
            since: Some(since),
            after: None,
            deltas: true,
            wait_milliseconds: 60_000,
            peer: PeerId([0, 1, 2, 3, 4, 5, 6, 0xab]),
        };
        assert_eq!(pull.peer.to_string(), "00010203040506ab");
        let bytes = Request::Pull(pull).encode();
        let mut documented = b"sqrp\x01\x00\x01\x17".to_vec();
        documented.extend_from_slice(&[1; 16]);
        documented.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
        documented.extend_from_slice(&[2; 16]);
        documented.extend_from_slice(&[0, 1, 2, 3, 4, 5, 6, 0xab]);
        documented.extend_from_slice(&[0x60, 0xea, 0, 0]);
        documented.extend_from_slice(&[0; 4]);
        assert_eq!(bytes[..bytes.len() - 16], documented);
        // Who does not wait and does not say who it is asks as always.
        let plain = PullRequest {
            wait_milliseconds: 0,
            peer: PeerId::UNKNOWN,
            ..pull
        };
        let plain = Request::Pull(plain).encode();
        assert_eq!((plain[7], plain.len()), (7, bytes.len() - 12));
    }

    #[test]
    fn only_a_pull_waits() {
        let mut bytes = b"sqrp\x01\x00\x02\x10".to_vec();
        bytes.extend_from_slice(&[0; 16]);
        let trailer = blake3::hash(&bytes);
        bytes.extend_from_slice(&trailer.as_bytes()[..16]);
        let error = Request::decode(&mut &bytes[..]).unwrap_err().to_string();
        assert!(error.contains("flags 0x10"), "{error}");
    }

    #[test]
    fn nothing_is_said_in_two_ways() {
        let follower = Follower {
            peer: PeerId::UNKNOWN,
            wait_milliseconds: 0,
        };
        let fields = Fields {
            follower: Some(follower),
            ..Fields::default()
        };
        let mut writer = fields.start(PULL);
        writer.page(None);
        let error = Request::decode(&mut &writer.finish()[..]).unwrap_err();
        assert!(error.to_string().contains("does not wait"), "{error}");
    }
}
