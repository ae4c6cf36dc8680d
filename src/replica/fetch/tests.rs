//! Batches of several parts, and deltas in them.

use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::database::body::Body;
use crate::database::pages::tests::MemoryRoom;
use crate::page::{ContentDigest, PageSize};
use crate::position::{HistoryId, Lsn};
use crate::remote::PushFailure;
use crate::wire::{Delta, PageData, PushRequest, PushResponse};

/// A remote that gives prepared answers and writes down what it was asked.
struct Scripted {
    answers: Mutex<Vec<Response>>,
    asked: Mutex<Vec<Request>>,
}

impl Scripted {
    fn new(mut answers: Vec<Response>) -> Self {
        answers.reverse();
        Self {
            answers: Mutex::new(answers),
            asked: Mutex::default(),
        }
    }

    fn asked_since(&self) -> Vec<(u64, u32)> {
        let asked = self.asked.lock();
        let pull = |request: &Request| match request {
            Request::Pull(pull) => (
                pull.since.map_or(0, |since| since.lsn.0),
                pull.after.map_or(0, PageNumber::get),
            ),
            other => panic!("{other:?}"),
        };
        asked.iter().map(pull).collect()
    }
}

impl Remote for Scripted {
    fn push(
        &self,
        _: &PushRequest,
        _: &Body,
        _: Duration,
    ) -> std::result::Result<(PushResponse, Traffic), PushFailure> {
        Err(PushFailure::Unsent(Error::Misuse("only asked".to_owned())))
    }

    fn ask(&self, request: &Request) -> Result<(Response, Traffic)> {
        self.asked.lock().push(request.clone());
        let answer = self
            .answers
            .lock()
            .pop()
            .expect("an answer for every question");
        Ok((
            answer,
            Traffic {
                sent: 1,
                received: 10,
            },
        ))
    }

    fn url(&self) -> &str {
        "http://scripted"
    }
}

fn position(lsn: u64) -> Position {
    Position {
        lsn: Lsn(lsn),
        id: HistoryId([lsn as u8; 16]),
    }
}

fn head(lsn: u64) -> Head {
    Head {
        database: DatabaseId([1; 16]),
        position: position(lsn),
        page_size: PageSize::new(512).unwrap(),
        database_size: 9,
        content: ContentDigest::default(),
    }
}

fn number(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

fn pages(lsn: u64, numbers: &[u32], next: Option<u32>) -> Response {
    let page = |n: &u32| Page {
        number: number(*n),
        data: PageData::Full(vec![lsn as u8; 512].into()),
    };
    Response::Pages {
        head: head(lsn),
        pages: numbers.iter().map(page).collect(),
        next: next.map(number),
    }
}

fn batch(fetched: Fetched) -> Vec<(u32, u8)> {
    match fetched {
        Fetched::Batch(batch) => batch
            .pages
            .iter()
            .flatten()
            .map(|(number, data)| (number.get(), data[0]))
            .collect(),
        _ => panic!("no batch"),
    }
}

#[test]
fn parts_at_one_position_are_one_batch() {
    let remote = Scripted::new(vec![pages(7, &[1, 2], Some(2)), pages(7, &[5], None)]);
    let mut conversation = Conversation::new(&remote, None);
    let fetched = conversation
        .changes(position(3), &MemoryRoom::default(), None)
        .unwrap();
    assert_eq!(batch(fetched), [(1, 7), (2, 7), (5, 7)]);
    assert_eq!(remote.asked_since(), [(3, 0), (3, 2)]);
    assert_eq!(
        conversation.traffic,
        Traffic {
            sent: 2,
            received: 20
        }
    );
}

#[test]
fn a_round_may_have_any_number_of_parts() {
    let part = |n: u32| pages(7, &[n], (n < 1500).then_some(n));
    let mut answers: Vec<_> = (1..=1500).map(part).collect();
    for answer in &mut answers {
        if let Response::Pages { head, .. } = answer {
            head.database_size = 1500;
        }
    }
    let remote = Scripted::new(answers);
    let fetched = Conversation::new(&remote, None)
        .changes(position(3), &MemoryRoom::default(), None)
        .unwrap();
    assert_eq!(batch(fetched).len(), 1500);
}

#[test]
fn a_remote_that_never_stands_still_is_given_up() {
    let answers = (0..2 * MOST_ROUNDS as u64).map(|n| match n % 2 {
        0 => pages(7 + n, &[1], Some(1)),
        _ => pages(7 + n, &[2], None),
    });
    let remote = Scripted::new(answers.collect());
    let result =
        Conversation::new(&remote, None).changes(position(3), &MemoryRoom::default(), None);
    assert!(matches!(result, Err(Error::Busy(_))));
}

#[test]
fn a_remote_that_moves_on_is_asked_again_since_the_first_part() {
    let remote = Scripted::new(vec![
        pages(7, &[1, 2], Some(2)),
        pages(8, &[5], None),
        pages(9, &[2], None),
    ]);
    let fetched = Conversation::new(&remote, None)
        .changes(position(3), &MemoryRoom::default(), None)
        .unwrap();
    assert_eq!(batch(fetched), [(1, 7), (2, 9), (5, 8)]);
    assert_eq!(remote.asked_since(), [(3, 0), (3, 2), (7, 0)]);
}

#[test]
fn a_remote_that_moved_without_new_pages_ends_the_rounds() {
    let remote = Scripted::new(vec![
        pages(7, &[1], Some(1)),
        pages(8, &[5], None),
        Response::UpToDate(head(7)),
    ]);
    let fetched = Conversation::new(&remote, None)
        .changes(position(3), &MemoryRoom::default(), None)
        .unwrap();
    assert_eq!(batch(fetched), [(1, 7), (5, 8)]);
}

#[test]
fn pages_above_the_final_size_are_dropped() {
    let remote = Scripted::new(vec![pages(7, &[1, 12], None)]);
    let fetched = Conversation::new(&remote, None)
        .changes(position(3), &MemoryRoom::default(), None)
        .unwrap();
    assert_eq!(batch(fetched), [(1, 7)]);
}

#[test]
fn another_database_is_refused_in_the_middle_too() {
    let mut other = head(7);
    other.database = DatabaseId([2; 16]);
    let answers = vec![
        pages(7, &[1], Some(1)),
        Response::Pages {
            head: other,
            pages: Vec::new(),
            next: None,
        },
    ];
    let remote = Scripted::new(answers);
    let result =
        Conversation::new(&remote, None).changes(position(3), &MemoryRoom::default(), None);
    assert!(matches!(result, Err(Error::Misuse(_))));
}

#[test]
fn an_answer_to_another_question_is_a_protocol_error() {
    for threads in [false, true] {
        let remote = Scripted::new(vec![Response::UpToDate(head(7))]);
        let result = Conversation::new(&remote, None).parts(None, threads, |_| Ok(()));
        assert!(matches!(result, Err(Error::Protocol(_))));
    }
}

/// Has every page as `0x11`, or, at another position, as something else.
struct Known(u8);

impl Bases for Known {
    fn whole(&self, _: &Head, pages: Vec<Page>) -> Result<Option<Whole>> {
        let page = |page: Page| match &page.data {
            PageData::Full(data) => Ok(Some((page.number, data.clone()))),
            PageData::Delta(delta) => {
                let page_of = |data: Vec<u8>| (page.number, data.into());
                Ok(delta.apply(page.number, &[self.0; 512])?.map(page_of))
            }
        };
        pages.into_iter().map(page).collect()
    }
}

fn deltas(lsn: u64, numbers: &[u32], next: Option<u32>) -> Response {
    let page = |n: &u32| {
        let base = PageHash::of(number(*n), &[0x11; 512]);
        let delta = Delta::between(base, &[0x11; 512], &[lsn as u8; 512]).unwrap();
        Page {
            number: number(*n),
            data: PageData::Delta(delta.unwrap()),
        }
    };
    Response::Pages {
        head: head(lsn),
        pages: numbers.iter().map(page).collect(),
        next: next.map(number),
    }
}

fn asked_for_deltas(remote: &Scripted) -> Vec<bool> {
    let asked = remote.asked.lock();
    let deltas = |request: &Request| matches!(request, Request::Pull(pull) if pull.deltas);
    asked.iter().map(deltas).collect()
}

#[test]
fn deltas_are_asked_for_while_the_base_is_at_hand() {
    let remote = Scripted::new(vec![
        deltas(7, &[1, 2], Some(2)),
        deltas(8, &[5], None),
        pages(9, &[2], None),
    ]);
    let fetched = Conversation::new(&remote, None)
        .changes(position(3), &MemoryRoom::default(), Some(&Known(0x11)))
        .unwrap();
    assert_eq!(batch(fetched), [(1, 7), (2, 9), (5, 8)]);
    assert_eq!(asked_for_deltas(&remote), [true, true, false]);
}

#[test]
fn a_base_that_is_not_at_hand_costs_another_question() {
    let remote = Scripted::new(vec![
        pages(7, &[1], Some(1)),
        deltas(7, &[2], None),
        pages(8, &[1, 2], None),
    ]);
    let fetched = Conversation::new(&remote, None)
        .changes(position(3), &MemoryRoom::default(), Some(&Known(0x12)))
        .unwrap();
    assert_eq!(batch(fetched), [(1, 8), (2, 8)]);
    assert_eq!(asked_for_deltas(&remote), [true, true, false]);
    assert_eq!(remote.asked_since(), [(3, 0), (3, 1), (3, 0)]);
}

/// Breaks off every answer whose number `breaks` says.
struct Breaking<'a> {
    remote: &'a Scripted,
    breaks: fn(usize) -> bool,
    asked: Mutex<usize>,
}

impl Remote for Breaking<'_> {
    fn push(
        &self,
        _: &PushRequest,
        _: &Body,
        _: Duration,
    ) -> std::result::Result<(PushResponse, Traffic), PushFailure> {
        Err(PushFailure::Unsent(Error::Misuse("only asked".to_owned())))
    }

    fn ask(&self, request: &Request) -> Result<(Response, Traffic)> {
        let mut asked = self.asked.lock();
        *asked += 1;
        match (self.breaks)(*asked) {
            true => Err(Error::Unreachable {
                url: self.url().to_owned(),
                reason: "broken".to_owned(),
            }),
            false => self.remote.ask(request),
        }
    }

    fn url(&self) -> &str {
        self.remote.url()
    }
}

#[test]
fn a_connection_that_breaks_after_each_part_is_made_anew() {
    let asked = |breaks| {
        let remote = Scripted::new(vec![
            pages(7, &[1, 2], Some(2)),
            pages(7, &[5], Some(5)),
            pages(7, &[8], None),
        ]);
        let breaking = Breaking {
            remote: &remote,
            breaks,
            asked: Mutex::default(),
        };
        let fetched =
            Conversation::new(&breaking, None).changes(position(3), &MemoryRoom::default(), None);
        fetched.map(|fetched| batch(fetched).len())
    };
    assert_eq!(asked(|number| number % 2 == 0).unwrap(), 4);
    let nothing_came: [fn(usize) -> bool; 2] = [|number| number == 1, |number| number > 1];
    for breaks in nothing_came {
        assert!(matches!(asked(breaks), Err(Error::Unreachable { .. })));
    }
}

#[test]
fn all_pages_come_part_by_part() {
    for threads in [false, true] {
        let remote = Scripted::new(vec![
            pages(7, &[4, 5], Some(5)),
            pages(7, &[6], Some(7)),
            pages(8, &[9], None),
        ]);
        let mut conversation = Conversation::new(&remote, None);
        let mut taken = Vec::new();
        let take = |(head, pages, next): Part| {
            let numbers: Vec<_> = pages.iter().map(|(number, _)| number.get()).collect();
            taken.push((head.position.lsn.0, numbers, next.map(PageNumber::get)));
            Ok(())
        };
        conversation.parts(Some(number(3)), threads, take).unwrap();
        let expected = [
            (7, vec![4, 5], Some(5)),
            (7, vec![6], Some(7)),
            (8, vec![9], None),
        ];
        assert_eq!(taken, expected);
        assert_eq!(remote.asked_since(), [(0, 3), (0, 5), (0, 7)]);
        assert_eq!(conversation.traffic.received, 30);
    }
}

#[test]
fn a_part_that_cannot_be_taken_ends_the_questions() {
    for threads in [false, true] {
        let part = |n: u32| pages(7, &[n], Some(n));
        let remote = Scripted::new((1..=9).map(part).collect());
        let taken = Conversation::new(&remote, None).parts(None, threads, |(_, pages, _)| {
            match pages[0].0.get() {
                2 => Err(Error::Busy("no room".to_owned())),
                _ => Ok(()),
            }
        });
        assert!(matches!(taken, Err(Error::Busy(_))));
        // One in the hand, one waiting, one that could not be handed over any more.
        let asked = remote.asked_since().len();
        assert!(
            asked >= 2 && asked <= if threads { 4 } else { 2 },
            "{asked}"
        );
    }
}

#[test]
fn a_line_that_breaks_for_good_ends_the_parts() {
    for threads in [false, true] {
        let remote = Scripted::new(vec![pages(7, &[1], Some(1)), pages(7, &[2], Some(2))]);
        let breaking = Breaking {
            remote: &remote,
            breaks: |number| number > 2,
            asked: Mutex::default(),
        };
        let mut taken = 0;
        let result = Conversation::new(&breaking, None).parts(None, threads, |_| {
            taken += 1;
            Ok(())
        });
        assert!(matches!(result, Err(Error::Unreachable { .. })));
        assert_eq!(taken, 2);
    }
}
