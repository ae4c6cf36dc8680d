//! Writes what the fuzz targets start from: valid input of each kind, below the folder that is given.

use std::path::Path;

use replica::page::{ContentDigest, PageHash, PageNumber, PageSize};
use replica::position::{DatabaseId, HistoryId, Lsn, Position};
use replica::wal::frame::{Chain, LogHeader, Salts};
use replica::wire::{
    HashesRequest, Head, Page, PageData, PagesRequest, PeerId, PullRequest, Request, Response,
};

fn main() {
    let folder = std::env::args().nth(1).expect("a folder");
    let folder = Path::new(&folder);
    requests(&folder.join("wire_request"));
    responses(&folder.join("wire_response"));
    logs(&folder.join("log"));
    indexes(&folder.join("wal_index"));
    rows(&folder.join("rows"));
    settings(&folder.join("settings"));
}

fn write(folder: &Path, inputs: impl IntoIterator<Item = Vec<u8>>) {
    std::fs::create_dir_all(folder).expect("a folder");
    for (number, input) in inputs.into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), input).expect("a file");
    }
}

fn number(number: u32) -> PageNumber {
    PageNumber::new(number).expect("a page number")
}

fn position() -> Position {
    Position {
        lsn: Lsn(3),
        id: HistoryId([9; 16]),
    }
}

fn without_trailer(mut message: Vec<u8>) -> Vec<u8> {
    message.truncate(message.len() - 16);
    message
}

fn requests(folder: &Path) {
    let database = Some(DatabaseId([7; 16]));
    let requests = [
        Request::Pull(PullRequest {
            database: None,
            since: None,
            after: None,
            deltas: false,
            wait_milliseconds: 0,
            peer: PeerId::UNKNOWN,
        }),
        Request::Pull(PullRequest {
            database,
            since: Some(position()),
            after: Some(number(2)),
            deltas: true,
            wait_milliseconds: 60_000,
            peer: PeerId([7; 8]),
        }),
        Request::Hashes(HashesRequest {
            database,
            after: Some(number(2)),
        }),
        Request::Pages(PagesRequest {
            database,
            pages: vec![number(1), number(5)],
        }),
    ];
    write(
        folder,
        requests
            .iter()
            .map(|request| without_trailer(request.encode())),
    );
}

fn responses(folder: &Path) {
    let size = PageSize::new(512).expect("a page size");
    let head = Head {
        database: DatabaseId([7; 16]),
        position: position(),
        page_size: size,
        database_size: 6,
        content: ContentDigest::default(),
    };
    let full = |n| Page {
        number: number(n),
        data: PageData::Full(vec![n as u8; 512].into()),
    };
    let (base, mut changed) = ([0; 512], [0; 512]);
    changed[100] = 1;
    let delta = replica::wire::Delta::between(PageHash::of(number(2), &base), &base, &changed);
    let delta = Page {
        number: number(2),
        data: PageData::Delta(delta.expect("memory").expect("smaller")),
    };
    let pages = |pages, next| Response::Pages { head, pages, next };
    // The question each of them answers.
    let answers = [
        (4 | 16, Response::UpToDate(head)),
        (4 | 16, Response::Diverged(head)),
        (4, Response::OtherDatabase(DatabaseId([8; 16]))),
        (0, pages(vec![full(1), full(2)], Some(number(2)))),
        (4 | 16 | 32, pages(vec![full(1), delta], None)),
        (3 | 4, pages(vec![full(1), full(2), full(5)], None)),
        (
            2,
            Response::Hashes {
                head,
                hashes: vec![(number(1), PageHash::of(number(1), &base))],
                next: None,
            },
        ),
    ];
    let input = |(question, answer): &(u8, Response)| {
        let message = without_trailer(answer.encode().expect("an answer"));
        let (start, records) = message.split_at(message.len().min(71));
        let plain = zstd::decode_all(records).unwrap_or_default();
        let mut inputs = vec![[&[*question, 0, 0], message.as_slice()].concat()];
        if !plain.is_empty() {
            inputs.push([&[*question, 1, 0], start, &plain].concat());
        }
        inputs
    };
    write(folder, answers.iter().flat_map(input));
}

fn logs(folder: &Path) {
    let size = PageSize::new(512).expect("a page size");
    let start = LogHeader::new(size, 1, Salts([5; 8]));
    let mut chain = Chain {
        order: start.order,
        salts: start.salts,
        checksum: start.checksum,
    };
    let mut log = start.encode().to_vec();
    for (page, database_size) in [(1, 0), (2, 2), (2, 2), (3, 3)] {
        let content = [page as u8; 512];
        log.extend_from_slice(&chain.next(number(page), database_size, &content).encode());
        log.extend_from_slice(&content);
    }
    write(
        folder,
        [0, 1].map(|right| [&[0, right, 4, 3], log.as_slice()].concat()),
    );
}

fn indexes(folder: &Path) {
    let entry = |region: u8, word: u32, value: u32| {
        let mut bytes = vec![region];
        bytes.extend_from_slice(&word.to_le_bytes());
        bytes.extend_from_slice(&value.to_le_bytes());
        bytes
    };
    let mut input = vec![1];
    input.extend_from_slice(&3_u32.to_le_bytes());
    input.extend_from_slice(&4_u32.to_le_bytes());
    input.extend_from_slice(&[0; 136]);
    for (frame, page) in [(1, 1), (2, 2), (3, 3), (4, 3)] {
        input.extend(entry(0, 33 + frame, page));
        input.extend(entry(0, 4096 + page * 383 % 8192 / 2, frame));
    }
    write(folder, [input]);
}

/// A page of a B-tree: its kind, the child on the right of interior ones, and its cells.
fn btree(kind: u8, right: Option<u8>, cells: &[Vec<u8>]) -> Vec<u8> {
    let mut page = vec![0; 512];
    let mut header = vec![kind, 0, 0, 0, cells.len() as u8, 0, 0, 0];
    header.extend(right.map(|right| [0, 0, 0, right]).into_iter().flatten());
    let mut end = page.len();
    for cell in cells {
        end -= cell.len();
        page[end..end + cell.len()].copy_from_slice(cell);
        header.extend((end as u16).to_be_bytes());
    }
    page[..header.len()].copy_from_slice(&header);
    page
}

/// A table of an interior page, two leaves and one overflow page; and an index of one page.
fn rows(folder: &Path) {
    // A record of one integer, in a cell of a table: size of the payload, rowid.
    let row = |rowid: u8| vec![3, rowid, 2, 1, rowid];
    // Of 600 bytes 94 are on the page, then comes the number of the next one.
    let mut long = vec![0x84, 0x58, 9, 3, 0x89, 0x2e];
    long.extend([7; 91]);
    long.extend([0, 0, 0, 5]);
    let mut first = vec![0; 512];
    first[16..18].copy_from_slice(&512_u16.to_be_bytes());
    first[100] = 13;
    let table = btree(5, Some(4), &[vec![0, 0, 0, 3, 2]]);
    let leaves = [btree(13, None, &[row(1), row(2)]), btree(13, None, &[long])];
    let index = btree(10, None, &[vec![4, 3, 1, 1, 5, 6], vec![4, 3, 1, 1, 6, 7]]);
    let [left, right] = leaves;
    let pages = [first, table, left, right, vec![8; 512], index].concat();
    // A row, an overflow page, an entry of the index.
    let changes = [[2, 0xff, 0x01, 7], [4, 20, 0, 1], [5, 0xfe, 0x01, 9]];
    let inputs = [2, 2, 6].into_iter().zip(changes);
    write(
        folder,
        inputs.map(|(root, change)| [&[root, root, 2, 0, 0, 1], &change[..], &pages].concat()),
    );
}

fn settings(folder: &Path) {
    let texts = [
        r#"{"sync_url": "http://user:secret1234@127.0.0.1:1/app", "sync_timeout": 3, "live": false}"#,
        "https://user:secret1234@example.org:8443/app/",
        "12-000102030405060708090a0b0c0d0e0f",
    ];
    write(folder, texts.map(|text| text.as_bytes().to_vec()));
}
