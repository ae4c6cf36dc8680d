//! Deltas and the records that carry them.

use proptest::prelude::*;

use super::*;
use crate::position::{Lsn, Position};
use crate::wire::tests::{ask_pages, head, page, pull, refused, through};
use crate::wire::{Page, PageData, PeerId, PullRequest, Request, Response};

const PAGE: PageNumber = PageNumber::FIRST;

fn noise(length: usize, seed: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(seed)
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn delta(base: &[u8], page: &[u8]) -> Option<Delta> {
    Delta::between(PageHash::of(PAGE, base), base, page).unwrap()
}

#[test]
fn a_small_change_of_a_page_that_does_not_compress_is_small() {
    for size in [512, 4096, 65536] {
        let base = noise(size, b"base");
        let mut page = base.clone();
        page[100..120].fill(7);
        let delta = delta(&base, &page).unwrap();
        assert!(delta.bytes.len() < 80, "{size}: {}", delta.bytes.len());
        assert_eq!(delta.apply(PAGE, &base).unwrap().unwrap(), page);
    }
}

#[test]
fn rows_shifted_by_an_insert_are_small() {
    let base = noise(4096, b"base");
    let page = [&base[..50], &noise(60, b"row"), &base[50..4036]].concat();
    let delta = delta(&base, &page).unwrap();
    assert!(delta.bytes.len() < 150, "{}", delta.bytes.len());
    assert_eq!(delta.apply(PAGE, &base).unwrap().unwrap(), page);
}

#[test]
fn a_page_that_has_nothing_of_its_base_is_no_delta() {
    assert_eq!(delta(&noise(4096, b"base"), &noise(4096, b"page")), None);
}

#[test]
fn a_wrong_base_is_seen() {
    let (base, other) = (noise(4096, b"base"), noise(4096, b"other"));
    let made = delta(&base, &base.clone()).unwrap();
    assert_eq!(made.apply(PAGE, &other).unwrap(), None);
    assert_eq!(made.apply(PAGE, &base[..512]).unwrap(), None);
    let elsewhere = PageNumber::new(2).unwrap();
    assert_eq!(made.apply(elsewhere, &base).unwrap(), None);
}

#[test]
fn a_bomb_makes_no_more_than_a_page() {
    let base = noise(512, b"base");
    let frame = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let bomb = Delta {
        base: PageHash::of(PAGE, &base),
        bytes: frame[4..].to_vec(),
    };
    assert!(matches!(bomb.apply(PAGE, &base), Err(Error::Protocol(_))));
    let short = Delta {
        bytes: zstd::bulk::compress(&[1; 100], 1).unwrap()[4..].to_vec(),
        ..bomb
    };
    let error = short.apply(PAGE, &base).unwrap_err().to_string();
    assert!(error.contains("makes no page"), "{error}");
}

fn pull_deltas() -> Request {
    Request::Pull(PullRequest {
        database: Some(head().database),
        since: Some(Position {
            lsn: Lsn(6),
            ..head().position
        }),
        after: None,
        deltas: true,
        wait_milliseconds: 0,
        peer: PeerId::UNKNOWN,
    })
}

fn a_delta(bytes: Vec<u8>) -> Response {
    let delta = Delta {
        base: PageHash::from_bytes([4; 16]),
        bytes,
    };
    let full = |n, data| Page {
        number: page(n),
        data,
    };
    Response::Pages {
        head: head(),
        pages: vec![
            full(1, PageData::Full(vec![1; 512].into())),
            full(2, PageData::Delta(delta)),
            full(9, PageData::Full(vec![9; 512].into())),
        ],
        next: None,
    }
}

#[test]
fn deltas_come_through_where_they_are_asked_for() {
    for bytes in [vec![7], vec![7; 511]] {
        let answer = a_delta(bytes);
        assert_eq!(through(&answer, &pull_deltas()).unwrap(), answer);
    }
    let since = Position {
        lsn: Lsn(6),
        ..head().position
    };
    refused(&a_delta(vec![7]), &pull(Some(since), None), "kind 1");
    refused(&a_delta(vec![7]), &ask_pages(&[1, 2, 9]), "kind 1");
    refused(&a_delta(vec![]), &pull_deltas(), "a delta of 0 bytes");
    refused(&a_delta(vec![7; 512]), &pull_deltas(), "of 512 bytes");
    assert!(a_delta(vec![7; 65536]).encode().is_err());
}

#[test]
fn deltas_need_a_position() {
    let request = Request::Pull(PullRequest {
        database: None,
        since: None,
        after: None,
        deltas: true,
        wait_milliseconds: 0,
        peer: PeerId::UNKNOWN,
    });
    let error = Request::decode(&mut &request.encode()[..]).unwrap_err();
    assert!(error.to_string().contains("deltas from nothing"));
}

/// What a one-row change costs besides the delta: head, envelope and the records' frame.
#[test]
fn a_part_with_one_delta_is_small() {
    let mut answer = a_delta((0..=255).cycle().take(100).collect());
    if let Response::Pages { pages, .. } = &mut answer {
        pages.retain(|page| page.number.get() == 2);
    }
    let bytes = answer.encode().unwrap().len();
    assert!(bytes < 100 + 150, "{bytes} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn deltas_round_trip(
        shift in 9..14_u32,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        seed in any::<[u8; 4]>(),
    ) {
        let base = noise(1 << shift, &seed);
        let mut page = base.clone();
        for (at, value) in edits {
            let at = at.index(page.len());
            page[at] = value;
        }
        if let Some(delta) = delta(&base, &page) {
            prop_assert_eq!(delta.apply(PAGE, &base).unwrap().unwrap(), page);
        }
    }

    #[test]
    fn hostile_deltas_break_nothing(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let base = noise(4096, b"base");
        let mut page = base.clone();
        page[1000..1200].fill(1);
        let good = delta(&base, &page).unwrap();
        let mut altered = good.clone();
        for (at, flip) in flips {
            let at = at.index(altered.bytes.len());
            altered.bytes[at] ^= flip;
        }
        if let Ok(page) = altered.apply(PAGE, &base) {
            prop_assert_eq!(page.unwrap().len(), 4096);
        }
        let mut short = good.clone();
        short.bytes.truncate(cut.index(good.bytes.len()));
        prop_assert!(short.apply(PAGE, &base).is_err());
    }

    #[test]
    fn noise_as_delta_breaks_nothing(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let base = noise(512, b"base");
        let delta = Delta { base: PageHash::of(PAGE, &base), bytes };
        if let Ok(page) = delta.apply(PAGE, &base) {
            prop_assert_eq!(page.unwrap().len(), 512);
        }
    }
}
