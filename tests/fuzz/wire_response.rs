//! What a hostile primary sends, and what a replica makes of it: pages within the database, of its
//! page size; deltas against any page that is there.
//!
//! Input: which question was asked (1 byte), flags (1: the records travel compressed, else the
//! fuzzer's own bytes are the compressed form), the base of deltas (1), then the message.
#![no_main]

use fuzz::{Input, with_trailer};
use libfuzzer_sys::fuzz_target;
use replica::page::{PageHash, PageNumber};
use replica::position::{DatabaseId, HistoryId, Lsn, Position};
use replica::wire::{
    HashesRequest, PageData, PagesRequest, PeerId, PullRequest, Request, Response,
};

/// Magic, version, kind and head: what comes before the records.
const BEFORE_RECORDS: usize = 71;

fn question(which: u8) -> Request {
    let database = (which & 4 != 0).then_some(DatabaseId([7; 16]));
    let after = (which & 8 != 0).then(|| PageNumber::new(2)).flatten();
    let since = (which & 16 != 0).then_some(Position {
        lsn: Lsn(3),
        id: HistoryId([9; 16]),
    });
    match which & 3 {
        0 | 1 => Request::Pull(PullRequest {
            database,
            since,
            after,
            deltas: since.is_some() && which & 32 != 0,
            wait_milliseconds: 0,
            peer: PeerId::UNKNOWN,
        }),
        2 => Request::Hashes(HashesRequest { database, after }),
        _ => Request::Pages(PagesRequest {
            database,
            pages: [1, 2, 5].into_iter().filter_map(PageNumber::new).collect(),
        }),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let asked = question(input.byte());
    let (compress, fill) = (input.byte() & 1 != 0, input.byte());
    let mut message = input.bytes(BEFORE_RECORDS).to_vec();
    match compress && !input.0.is_empty() {
        true => message.extend(zstd::encode_all(input.0, 1).expect("memory")),
        false => message.extend_from_slice(input.0),
    }
    let message = with_trailer(message);
    let Ok(response) = Response::decode(&mut &*message, &asked) else {
        return;
    };
    if let Response::Pages { head, pages, .. } = &response {
        let size = head.page_size.bytes();
        let base = vec![fill; size];
        let mut before = 0;
        for page in pages {
            let number = page.number.get();
            assert!(number > before && number <= head.database_size);
            before = number;
            match &page.data {
                PageData::Full(data) => assert_eq!(data.len(), size),
                PageData::Delta(delta) => {
                    if let Ok(Some(page)) = delta.apply(page.number, &base) {
                        assert_eq!(page.len(), size);
                    }
                    let mut delta = delta.clone();
                    delta.base = PageHash::of(page.number, &base);
                    if let Ok(Some(page)) = delta.apply(page.number, &base) {
                        assert_eq!(page.len(), size);
                    }
                }
            }
        }
    }
    let again = response.encode().expect("what was decoded");
    assert_eq!(Response::decode(&mut &*again, &asked).ok(), Some(response));
});
