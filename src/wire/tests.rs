//! What comes through, and what must not, one case at a time.

use std::io::{self, Read, Write};

use super::*;
use crate::error::{Error, Result};
use crate::position::{HistoryId, Lsn};

pub(super) fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

pub(super) fn head() -> Head {
    Head {
        database: DatabaseId([1; 16]),
        position: Position {
            lsn: Lsn(7),
            id: HistoryId([2; 16]),
        },
        page_size: PageSize::new(512).unwrap(),
        database_size: 100,
        content: ContentDigest::from_bytes([3; 16]),
    }
}

pub(super) fn pull(since: Option<Position>, after: Option<u32>) -> Request {
    let database = Some(head().database);
    Request::Pull(PullRequest {
        database,
        since,
        after: after.map(page),
        deltas: false,
        wait_milliseconds: 0,
        peer: PeerId::UNKNOWN,
    })
}

fn hashes() -> Request {
    Request::Hashes(HashesRequest {
        database: Some(head().database),
        after: None,
    })
}

pub(super) fn ask_pages(pages: &[u32]) -> Request {
    let pages = pages.iter().map(|number| page(*number)).collect();
    Request::Pages(PagesRequest {
        database: Some(head().database),
        pages,
    })
}

fn some_pages(numbers: &[u32], next: Option<u32>) -> Response {
    let content = |number: &u32| Page {
        number: page(*number),
        data: PageData::Full(vec![*number as u8; 512].into()),
    };
    let pages = numbers.iter().map(content).collect();
    Response::Pages {
        head: head(),
        pages,
        next: next.map(page),
    }
}

fn some_hashes(numbers: &[u32], next: Option<u32>) -> Response {
    let hash = |number: &u32| (page(*number), PageHash::of(page(*number), b""));
    let hashes = numbers.iter().map(hash).collect();
    Response::Hashes {
        head: head(),
        hashes,
        next: next.map(page),
    }
}

pub(super) fn through(answer: &Response, asked: &Request) -> Result<Response> {
    Response::decode(&mut &answer.encode().unwrap()[..], asked)
}

#[track_caller]
pub(super) fn refused(answer: &Response, asked: &Request, reason: &str) {
    match through(answer, asked) {
        Err(Error::Protocol(text)) => assert!(text.contains(reason), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// Reads single bytes, as a slow network brings them.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(1);
        self.0.read(&mut into[..most])
    }
}

#[test]
fn plain_answers_come_through() {
    let since = Position {
        lsn: Lsn(6),
        ..head().position
    };
    let here = pull(Some(head().position), None);
    for (answer, asked) in [
        (Response::UpToDate(head()), &here),
        (Response::Diverged(head()), &pull(Some(since), None)),
        (Response::OtherDatabase(DatabaseId([9; 16])), &here),
        (some_pages(&[], None), &pull(Some(since), None)),
        (some_pages(&[1, 5, 100], None), &pull(None, None)),
        (some_pages(&[5, 8], Some(9)), &pull(None, Some(4))),
        (some_pages(&[5, 100], Some(100)), &ask_pages(&[5, 6, 100])),
        (some_hashes(&[1, 2, 3], Some(3)), &hashes()),
    ] {
        assert_eq!(through(&answer, asked).unwrap(), answer);
        let slow = Response::decode(&mut Slow(&answer.encode().unwrap()), asked);
        assert_eq!(slow.unwrap(), answer);
    }
}

#[test]
fn answers_to_other_requests_are_refused() {
    let past = Position {
        lsn: Lsn(6),
        ..head().position
    };
    let future = Position {
        lsn: Lsn(8),
        ..head().position
    };
    let here = pull(Some(head().position), None);
    refused(
        &Response::UpToDate(head()),
        &pull(Some(past), None),
        "does not answer",
    );
    refused(
        &Response::UpToDate(head()),
        &pull(None, None),
        "does not answer",
    );
    refused(&Response::Diverged(head()), &here, "does not answer");
    refused(&Response::Diverged(head()), &hashes(), "does not answer");
    refused(
        &Response::OtherDatabase(head().database),
        &here,
        "does not answer",
    );
    refused(&some_pages(&[1], None), &hashes(), "does not answer");
    refused(&some_hashes(&[1], None), &here, "does not answer");
    refused(&some_pages(&[1], None), &pull(Some(future), None), "past");
    refused(
        &some_pages(&[6], None),
        &ask_pages(&[5, 7]),
        "not asked for",
    );
    let other = Head {
        database: DatabaseId([9; 16]),
        ..head()
    };
    refused(&Response::UpToDate(other), &here, "head of database");
}

#[test]
fn page_numbers_are_checked() {
    refused(
        &some_pages(&[2, 2], None),
        &pull(None, None),
        "page 2 after page 2",
    );
    refused(
        &some_pages(&[2, 1], None),
        &pull(None, None),
        "page 1 after page 2",
    );
    refused(
        &some_pages(&[4], None),
        &pull(None, Some(4)),
        "page 4 after page 4",
    );
    refused(
        &some_pages(&[101], None),
        &pull(None, None),
        "page 101 of 100",
    );
    refused(
        &some_pages(&[1, 5], Some(4)),
        &pull(None, None),
        "continuation",
    );
    refused(
        &some_pages(&[], Some(4)),
        &pull(None, Some(4)),
        "continuation",
    );
    through(&some_pages(&[], Some(101)), &pull(None, Some(4))).unwrap();
    refused(
        &some_hashes(&[3, 2], None),
        &hashes(),
        "page 2 after page 3",
    );
    let page_size = PageSize::new(65536).unwrap();
    let lock = page_size.lock_page();
    let answer = Response::Pages {
        head: Head {
            page_size,
            database_size: 1 << 20,
            ..head()
        },
        pages: vec![Page {
            number: lock,
            data: PageData::Full(vec![0; 65536].into()),
        }],
        next: None,
    };
    refused(&answer, &pull(None, None), "lock page");
}

#[test]
fn heads_are_checked() {
    let here = pull(Some(head().position), None);
    let bytes = Response::UpToDate(head()).encode().unwrap();
    let with = |offset: usize, field: &[u8]| {
        let mut bytes = bytes[..bytes.len() - 16].to_vec();
        bytes[offset..offset + field.len()].copy_from_slice(field);
        let trailer = blake3::hash(&bytes);
        bytes.extend_from_slice(&trailer.as_bytes()[..16]);
        Response::decode(&mut &bytes[..], &here)
    };
    assert!(with(7, &[1; 16]).is_ok());
    for (offset, field, reason) in [
        (6, &[0x03_u8] as &[u8], "not a kind of answer"),
        (23, &[0xff; 8], "transaction number"),
        (47, &[0, 3, 0, 0], "page size 768"),
        (47, &[0, 0, 2, 0], "page size 131072"),
        (51, &[0xff; 4], "a database of 4294967295 pages"),
    ] {
        let error = with(offset, field).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// An answer with pages, up to its records.
fn unfinished_pages() -> Vec<u8> {
    let mut bytes = Response::UpToDate(head()).encode().unwrap();
    bytes.truncate(bytes.len() - 16);
    bytes[6] = 0x82;
    bytes
}

/// Reads what was written by hand, under a right trailer.
fn finished(mut bytes: Vec<u8>) -> Result<Response> {
    let trailer = blake3::hash(&bytes);
    bytes.extend_from_slice(&trailer.as_bytes()[..16]);
    Response::decode(&mut &bytes[..], &pull(None, None))
}

/// An answer with pages whose records are written by hand.
fn by_hand(records: &[u8]) -> Result<Response> {
    let mut encoder = zstd::stream::write::Encoder::new(unfinished_pages(), 1).unwrap();
    encoder.write_all(records).unwrap();
    finished(encoder.finish().unwrap())
}

#[test]
fn records_that_were_not_asked_for_are_named() {
    for (kind, reason) in [(1, "kind 1"), (7, "kind 7"), (2, "kind 2")] {
        let error = by_hand(&[1, 0, 0, 0, kind]).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(by_hand(&[0; 5]).unwrap_err().to_string().contains("page 0"));
}

#[test]
fn the_end_is_checked() {
    let end = |count| vec![0, 0, 0, 0, 255, count, 0, 0, 0, 0, 0, 0, 0];
    assert!(by_hand(&end(0)).is_ok());
    assert!(
        by_hand(&end(1))
            .unwrap_err()
            .to_string()
            .contains("0 records of 1")
    );
    let more = [end(0), vec![0]].concat();
    assert!(
        by_hand(&more)
            .unwrap_err()
            .to_string()
            .contains("behind their end")
    );
    let mut bytes = some_pages(&[1], None).encode().unwrap();
    bytes.push(0);
    let error = Response::decode(&mut &bytes[..], &pull(None, None)).unwrap_err();
    assert!(error.to_string().contains("behind its end"), "{error}");
}

#[test]
fn windows_that_take_much_memory_are_refused() {
    let with_window = |log| {
        let bytes = unfinished_pages();
        let mut encoder = zstd::stream::write::Encoder::new(bytes, 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&[0, 0, 0, 0]).unwrap();
        // A frame that is written in one go has no window of its own.
        encoder.flush().unwrap();
        encoder.write_all(&[255, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        finished(encoder.finish().unwrap())
    };
    assert!(with_window(23).is_ok());
    let error = with_window(24).unwrap_err().to_string();
    assert!(error.contains("too much memory"), "{error}");
}

#[test]
fn parts_hold_no_more_than_they_may() {
    let page_size = PageSize::new(65536).unwrap();
    let most = part_pages(page_size) as u32;
    let part = |count: u32| Response::Pages {
        head: Head {
            page_size,
            database_size: 1000,
            ..head()
        },
        pages: (1..=count)
            .map(|n| Page {
                number: page(n),
                data: PageData::Full(vec![0; 65536].into()),
            })
            .collect(),
        next: None,
    };
    assert!(through(&part(most), &pull(None, None)).is_ok());
    refused(&part(most + 1), &pull(None, None), "more than 33 records");
    let list = |count: u32| Response::Hashes {
        head: Head {
            database_size: u32::MAX - 1,
            ..head()
        },
        hashes: (1..=count)
            .map(|n| (page(n), PageHash::from_bytes([0; 16])))
            .collect(),
        next: None,
    };
    assert!(through(&list(PART_HASHES as u32), &hashes()).is_ok());
    refused(
        &list(PART_HASHES as u32 + 1),
        &hashes(),
        "more than 65536 records",
    );
}

#[test]
fn a_full_part_that_does_not_compress_fits() {
    for bytes in [512, 65536] {
        let page_size = PageSize::new(bytes).unwrap();
        let mut noise = blake3::Hasher::new().finalize_xof();
        let mut content = |n| {
            let mut data = vec![0; page_size.bytes()];
            noise.fill(&mut data);
            Page {
                number: page(n),
                data: PageData::Full(data.into()),
            }
        };
        let answer = Response::Pages {
            head: Head {
                page_size,
                database_size: 1 << 20,
                ..head()
            },
            pages: (1..=part_pages(page_size) as u32)
                .map(&mut content)
                .collect(),
            next: None,
        };
        assert!(answer.encode().unwrap().len() as u64 <= BODY_BYTES);
        assert!(through(&answer, &pull(None, None)).unwrap() == answer);
    }
}

#[test]
fn requests_are_checked() {
    let many: Vec<u32> = (1..=ASK_PAGES as u32 + 1).collect();
    for (request, reason) in [
        (ask_pages(&many), "asked for at once"),
        (ask_pages(&[2, 2]), "do not ascend"),
    ] {
        let error = Request::decode(&mut &request.encode()[..])
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{error}");
    }
    let answer = Response::UpToDate(head()).encode().unwrap();
    let error = Request::decode(&mut &answer[..]).unwrap_err().to_string();
    assert!(error.contains("not a kind of request"), "{error}");
}
