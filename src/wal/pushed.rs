//! How the log itself says that a transaction was pushed, and by which commit.
//!
//! A transaction that a replica pushed begins with one more frame: it is of the first page of the
//! transaction, which the very next frame writes again, and holds
//!
//! ```text
//!  0   4  0xffffffff: no page of SQLite begins so, be it a b-tree page, an overflow page, a page of
//!         the freelist or a pointer map, as a database has at most 0xfffffffe pages
//!  4  12  "replica push"
//! 16  16  nonce of the commit
//! 32   …  zeros
//! ```
//!
//! Nobody ever reads it as a page: of several frames of one page in a transaction SQLite's readers,
//! checkpoints and recovery take the last. So the nonce becomes durable, visible and undone exactly
//! with the transaction, at no sync of its own, and a local commit of the very same bytes is told
//! from the pushed one.

use crate::page::{PageNumber, PageSize};
use crate::position::Nonce;

const MARK: [u8; 16] = *b"\xff\xff\xff\xffreplica push";

/// The page of the first frame.
pub(super) fn marked_page(nonce: Nonce, size: PageSize) -> Vec<u8> {
    let mut page = vec![0; size.bytes()];
    page[..16].copy_from_slice(&MARK);
    page[16..32].copy_from_slice(&nonce.0);
    page
}

/// What a page that begins a transaction says.
fn mark_of(page: &[u8]) -> Option<Nonce> {
    let (mark, rest) = page.split_at_checked(16)?;
    let nonce = rest.get(..16)?;
    (mark == MARK && rest[16..].iter().all(|byte| *byte == 0))
        .then(|| nonce.try_into().ok().map(Nonce))?
}

/// Looks at the frames of a transaction as they pass for the nonce of a push.
#[derive(Default)]
pub(super) struct NonceReader {
    frames: u32,
    first: Option<(PageNumber, Nonce)>,
    confirmed: bool,
}

impl NonceReader {
    /// The next frame.
    pub(super) fn frame(&mut self, number: PageNumber, page: &[u8]) {
        match self.frames {
            0 => self.first = mark_of(page).map(|nonce| (number, nonce)),
            1 => self.confirmed = self.first.is_some_and(|(first, _)| first == number),
            _ => {}
        }
        self.frames = self.frames.saturating_add(1);
    }

    /// The nonce of the transaction, if it was pushed.
    pub(super) fn nonce(&self) -> Option<Nonce> {
        self.first
            .filter(|_| self.confirmed)
            .map(|(_, nonce)| nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::transactions;
    use super::super::oracle::{World, recover};
    use super::*;

    fn number(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    #[test]
    fn the_nonce_is_found_with_its_transaction_only() {
        let mut world = World::new(512, 3);
        world.append(&[1, 3], 3).unwrap();
        let before = world.anchor();
        let nonce = Nonce([5; 16]);
        world.append_pushed(&[2, 3], 3, nonce).unwrap();
        let pushed = world.anchor();
        world.append(&[2], 3).unwrap();
        let header = world.header();
        let found: Vec<_> = transactions(&world.log, &header, &before)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            found.iter().map(|t| t.nonce).collect::<Vec<_>>(),
            [Some(nonce), None]
        );
        assert_eq!(found[0].last_frame.get(), pushed.mx_frame);
        assert_eq!(pushed.mx_frame, before.mx_frame + 3);
        assert_eq!(found[0].pages.len(), 2);
        assert!(found[0].intact);
        assert_eq!(recover(&world.log).0.anchor(), world.anchor());
        world.check_newest();
    }

    #[test]
    fn a_page_that_only_looks_like_it_is_content() {
        let size = PageSize::new(512).unwrap();
        let (nonce, other) = (Nonce([1; 16]), [0; 512]);
        let mut reader = NonceReader::default();
        reader.frame(number(2), &marked_page(nonce, size));
        assert_eq!(reader.nonce(), None);
        reader.frame(number(3), &other);
        reader.frame(number(2), &other);
        assert_eq!(reader.nonce(), None);
        let mut changed = marked_page(nonce, size);
        changed[40] = 1;
        let mut reader = NonceReader::default();
        reader.frame(number(2), &changed);
        reader.frame(number(2), &other);
        assert_eq!(reader.nonce(), None);
    }
}
