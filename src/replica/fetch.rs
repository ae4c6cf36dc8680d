//! Fetching what changed, part by part, until it is one consistent batch.
//!
//! Each part is read at the primary's newest position. Where that moved between the first and the
//! last part, pages fetched early may be older than the rest: what changed since the first part is
//! then fetched on top, until one round sees a single position.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::page::PageNumber;
use crate::position::{DatabaseId, Position};
use crate::remote::{Remote, Traffic};
use crate::wire::{HashesRequest, Head, Page, PagesRequest, PullRequest, Request, Response};

/// Rounds after which a remote that never stands still is given up for now.
const MOST_ROUNDS: usize = 1000;

/// The newest images of pages, complete at `head`.
pub struct Batch {
    /// The state the batch leads to.
    pub head: Head,
    /// The pages, ascending, none above the head's database size.
    pub pages: BTreeMap<PageNumber, Vec<u8>>,
}

/// What a remote has for a replica.
pub enum Fetched {
    /// Nothing new.
    UpToDate(Head),
    /// Something new.
    Batch(Batch),
    /// The replica's position is not part of the remote's history.
    Diverged(Head),
}

/// A conversation with one remote about one database, counting what travels.
pub struct Conversation<'a> {
    remote: &'a dyn Remote,
    database: Option<DatabaseId>,
    /// Bytes moved so far.
    pub traffic: Traffic,
}

impl<'a> Conversation<'a> {
    /// Begins to ask `remote` about `database`, or about whatever it has.
    pub fn new(remote: &'a dyn Remote, database: Option<DatabaseId>) -> Self {
        Self {
            remote,
            database,
            traffic: Traffic::default(),
        }
    }

    /// One question and its answer. The first answer settles which database is meant.
    fn ask(&mut self, request: &Request) -> Result<Response> {
        let (response, traffic) = self.remote.ask(request)?;
        self.traffic.sent += traffic.sent;
        self.traffic.received += traffic.received;
        let head = match &response {
            Response::UpToDate(head)
            | Response::Diverged(head)
            | Response::Pages { head, .. }
            | Response::Hashes { head, .. } => head.database,
            Response::OtherDatabase(other) => *other,
        };
        match self.database {
            None => self.database = Some(head),
            Some(known) if known == head => {}
            Some(known) => {
                return Err(Error::Misuse(format!(
                    "{} serves another database (id {head}) than this file follows (id {known}); \
                     nothing was changed",
                    self.remote.url()
                )));
            }
        }
        Ok(response)
    }

    /// One part of all pages, after page number `after`.
    pub fn part(
        &mut self,
        after: Option<PageNumber>,
    ) -> Result<(Head, Vec<Page>, Option<PageNumber>)> {
        let request = PullRequest {
            database: self.database,
            since: None,
            after,
        };
        match self.ask(&Request::Pull(request))? {
            Response::Pages { head, pages, next } => Ok((head, pages, next)),
            other => Err(unexpected(&other)),
        }
    }

    /// Everything that changed since `since`.
    pub fn changes(&mut self, since: Position) -> Result<Fetched> {
        let mut pages = BTreeMap::new();
        let (mut base, mut first, mut after) = (since, None::<Head>, None);
        for _ in 0..MOST_ROUNDS {
            let request = PullRequest {
                database: self.database,
                since: Some(base),
                after,
            };
            match self.ask(&Request::Pull(request))? {
                Response::UpToDate(head) if base == since => return Ok(Fetched::UpToDate(head)),
                Response::UpToDate(head) => return Ok(Fetched::Batch(complete(head, pages))),
                Response::Diverged(head) => return Ok(Fetched::Diverged(head)),
                Response::Pages {
                    head,
                    pages: part,
                    next,
                } => {
                    pages.extend(part.into_iter().map(|page| (page.number, page.data)));
                    let begun = *first.get_or_insert(head);
                    after = next;
                    if next.is_none() {
                        if head.position == begun.position {
                            return Ok(Fetched::Batch(complete(head, pages)));
                        }
                        (base, first) = (begun.position, None);
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
        Err(Error::Busy(format!(
            "{} changes faster than it can be read",
            self.remote.url()
        )))
    }

    /// All page hashes, by page number, and the state of the first part.
    pub fn hashes(&mut self) -> Result<(Head, BTreeMap<PageNumber, crate::page::PageHash>)> {
        let mut all = BTreeMap::new();
        let (mut first, mut after) = (None, None);
        loop {
            let request = HashesRequest {
                database: self.database,
                after,
            };
            match self.ask(&Request::Hashes(request))? {
                Response::Hashes { head, hashes, next } => {
                    let begun = *first.get_or_insert(head);
                    all.extend(hashes);
                    match next {
                        Some(_) => after = next,
                        None => return Ok((begun, all)),
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Some pages by number.
    pub fn pages(&mut self, pages: Vec<PageNumber>) -> Result<Vec<Page>> {
        let request = PagesRequest {
            database: self.database,
            pages,
        };
        match self.ask(&Request::Pages(request))? {
            Response::Pages { pages, .. } => Ok(pages),
            other => Err(unexpected(&other)),
        }
    }
}

fn complete(head: Head, mut pages: BTreeMap<PageNumber, Vec<u8>>) -> Batch {
    pages.retain(|number, _| number.get() <= head.database_size);
    Batch { head, pages }
}

fn unexpected(response: &Response) -> Error {
    let kind = match response {
        Response::UpToDate(_) => "up to date",
        Response::Pages { .. } => "pages",
        Response::Hashes { .. } => "hashes",
        Response::Diverged(_) => "diverged",
        Response::OtherDatabase(_) => "another database",
    };
    Error::Protocol(format!("'{kind}' does not answer the question"))
}

#[cfg(test)]
mod tests {

    use parking_lot::Mutex;

    use super::*;
    use crate::page::{ContentDigest, PageSize};
    use crate::position::{HistoryId, Lsn};

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
            data: vec![lsn as u8; 512],
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
                .map(|(number, data)| (number.get(), data[0]))
                .collect(),
            _ => panic!("no batch"),
        }
    }

    #[test]
    fn parts_at_one_position_are_one_batch() {
        let remote = Scripted::new(vec![pages(7, &[1, 2], Some(2)), pages(7, &[5], None)]);
        let mut conversation = Conversation::new(&remote, None);
        let fetched = conversation.changes(position(3)).unwrap();
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
    fn a_remote_that_moves_on_is_asked_again_since_the_first_part() {
        let remote = Scripted::new(vec![
            pages(7, &[1, 2], Some(2)),
            pages(8, &[5], None),
            pages(9, &[2], None),
        ]);
        let fetched = Conversation::new(&remote, None)
            .changes(position(3))
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
            .changes(position(3))
            .unwrap();
        assert_eq!(batch(fetched), [(1, 7), (5, 8)]);
    }

    #[test]
    fn pages_above_the_final_size_are_dropped() {
        let remote = Scripted::new(vec![pages(7, &[1, 12], None)]);
        let fetched = Conversation::new(&remote, None)
            .changes(position(3))
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
        let result = Conversation::new(&remote, None).changes(position(3));
        assert!(matches!(result, Err(Error::Misuse(_))));
    }

    #[test]
    fn an_answer_to_another_question_is_a_protocol_error() {
        let remote = Scripted::new(vec![Response::UpToDate(head(7))]);
        let result = Conversation::new(&remote, None).part(None);
        assert!(matches!(result, Err(Error::Protocol(_))));
    }
}
