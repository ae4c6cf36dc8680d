//! Round trips of anything, and alterations of anything.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::error::Error;
use crate::position::{HistoryId, Lsn};

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

fn whole() -> Request {
    Request::Pull(PullRequest {
        database: None,
        since: None,
        after: None,
        deltas: false,
        wait_milliseconds: 0,
        peer: PeerId::UNKNOWN,
    })
}

fn positions() -> impl Strategy<Value = Position> {
    (0..=i64::MAX as u64, any::<[u8; 16]>()).prop_map(|(lsn, id)| Position {
        lsn: Lsn(lsn),
        id: HistoryId(id),
    })
}

fn databases() -> impl Strategy<Value = Option<DatabaseId>> {
    proptest::option::of(any::<[u8; 16]>().prop_map(DatabaseId))
}

fn numbers() -> impl Strategy<Value = Option<PageNumber>> {
    any::<u32>().prop_map(PageNumber::new)
}

fn requests() -> impl Strategy<Value = Request> {
    prop_oneof![
        (
            databases(),
            proptest::option::of(positions()),
            numbers(),
            any::<bool>(),
            prop_oneof![Just(0), any::<u32>()],
            prop_oneof![Just([0; 8]), any::<[u8; 8]>()],
        )
            .prop_map(|(database, since, after, deltas, wait, peer)| {
                Request::Pull(PullRequest {
                    database,
                    since,
                    after,
                    deltas: deltas && since.is_some(),
                    wait_milliseconds: wait,
                    peer: PeerId(peer),
                })
            }),
        (databases(), numbers())
            .prop_map(|(database, after)| Request::Hashes(HashesRequest { database, after })),
        (databases(), btree_set(1..u32::MAX, 0..50)).prop_map(|(database, pages)| {
            let pages = pages.into_iter().map(page).collect();
            Request::Pages(PagesRequest { database, pages })
        }),
    ]
}

fn heads() -> impl Strategy<Value = Head> {
    (
        any::<[u8; 16]>(),
        positions(),
        9_u32..12,
        30..LARGEST,
        any::<[u8; 16]>(),
    )
        .prop_map(|(database, position, shift, database_size, content)| Head {
            database: DatabaseId(database),
            position,
            page_size: PageSize::new(1 << shift).unwrap(),
            database_size,
            content: ContentDigest::from_bytes(content),
        })
}

const LARGEST: u32 = 100_000;

fn contents(head: Head) -> impl Strategy<Value = Response> {
    let most = head.database_size;
    let pages = vec(any::<u8>(), head.page_size.bytes());
    (btree_set(1..=most, 0..20), pages, proptest::bool::ANY).prop_map(
        move |(numbers, data, more)| {
            let next = numbers.last().filter(|_| more).map(|number| page(*number));
            let content = |number| {
                let mut data = data.clone();
                data[number as usize % head.page_size.bytes()] ^= 0xff;
                let data = match number % 3 {
                    0 => PageData::Delta(Delta {
                        base: PageHash::of(page(number), &data),
                        bytes: data[..1 + number as usize % 200].to_vec(),
                    }),
                    _ => PageData::Full(data.into()),
                };
                Page {
                    number: page(number),
                    data,
                }
            };
            Response::Pages {
                head,
                pages: numbers.into_iter().map(content).collect(),
                next,
            }
        },
    )
}

/// An answer that carries pages, and a request that it answers.
fn exchanges() -> impl Strategy<Value = (Request, Response)> {
    heads().prop_flat_map(|head| {
        let asked = Request::Pull(PullRequest {
            database: Some(head.database),
            since: Some(Position {
                lsn: Lsn(head.position.lsn.0.saturating_sub(1)),
                id: HistoryId([0; 16]),
            }),
            after: None,
            deltas: true,
            wait_milliseconds: 0,
            peer: PeerId::UNKNOWN,
        });
        (Just(asked), contents(head))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn requests_round_trip(request in requests()) {
        let decoded = Request::decode(&mut &request.encode()[..]);
        prop_assert_eq!(decoded.unwrap(), request);
    }

    #[test]
    fn answers_round_trip((asked, answer) in exchanges()) {
        prop_assert_eq!(Response::decode(&mut &answer.encode().unwrap()[..], &asked).unwrap(), answer);
    }

    #[test]
    fn no_truncated_or_altered_request_comes_through(
        request in requests(),
        place in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut bytes = request.encode();
        for end in 0..bytes.len() {
            prop_assert!(Request::decode(&mut &bytes[..end]).is_err());
        }
        let place = place.index(bytes.len());
        bytes[place] ^= 1_u8 << bit;
        prop_assert!(Request::decode(&mut &bytes[..]).is_err());
    }

    #[test]
    fn no_truncated_answer_comes_through((asked, answer) in exchanges()) {
        let bytes = answer.encode().unwrap();
        let step = bytes.len() / 200 + 1;
        for end in (0..bytes.len()).step_by(step).chain(bytes.len() - 40..bytes.len()) {
            prop_assert!(Response::decode(&mut &bytes[..end], &asked).is_err());
        }
    }

    #[test]
    fn no_altered_answer_comes_through(
        (asked, answer) in exchanges(),
        flips in vec((any::<prop::sample::Index>(), 0..8_u32), 100),
    ) {
        let bytes = answer.encode().unwrap();
        for (place, bit) in flips {
            let mut bytes = bytes.clone();
            let place = place.index(bytes.len());
            bytes[place] ^= 1_u8 << bit;
            let decoded = Response::decode(&mut &bytes[..], &asked);
            prop_assert!(matches!(decoded, Err(Error::Protocol(_))));
        }
    }

    /// A peer that means it computes the trailer too: the other checks stand alone then.
    #[test]
    fn altered_answers_with_a_right_trailer_break_nothing(
        (asked, answer) in exchanges(),
        flips in vec((any::<prop::sample::Index>(), 0..8_u32), 100),
    ) {
        let bytes = answer.encode().unwrap();
        for (place, bit) in flips {
            let mut bytes = bytes[..bytes.len() - 16].to_vec();
            let place = place.index(bytes.len());
            bytes[place] ^= 1_u8 << bit;
            let trailer = blake3::hash(&bytes);
            bytes.extend_from_slice(&trailer.as_bytes()[..16]);
            let decoded = Response::decode(&mut &bytes[..], &asked);
            if let Ok(Response::Pages { head, pages, next }) = decoded {
                let last = pages.last().map_or(0, |page| page.number.get());
                prop_assert!(pages.is_sorted_by(|a, b| a.number < b.number));
                let size = head.page_size.bytes();
                let fits = |page: &Page| match &page.data {
                    PageData::Full(data) => data.len() == size,
                    PageData::Delta(delta) => delta.bytes.len() < size,
                };
                prop_assert!(pages.iter().all(fits));
                prop_assert!(last <= head.database_size);
                prop_assert!(next.is_none_or(|next| next.get() >= last));
            }
        }
    }

    #[test]
    fn noise_breaks_nothing(noise in vec(any::<u8>(), 0..2000)) {
        let mut bytes = b"sqrp\x01\x00\x82".to_vec();
        bytes.extend_from_slice(&noise);
        prop_assert!(Response::decode(&mut &bytes[..], &whole()).is_err());
        prop_assert!(Request::decode(&mut &noise[..]).is_err());
    }
}
