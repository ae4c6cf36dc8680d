//! Pages as they were before recent transactions: what deltas are made from.
//!
//! Bounded, in memory, and not needed for anything else: a page that is not here travels whole.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::page::{PageHash, PageNumber};
use crate::position::Lsn;

/// How much is kept for one database.
pub const RING_BYTES: usize = 8 << 20;

/// What an entry takes besides its page.
const ENTRY_BYTES: usize = 128;

/// An old page, and proof of what it is.
#[derive(Clone)]
pub struct Image {
    /// The transaction that wrote it.
    pub since: Lsn,
    /// Its hash, as the page map had it.
    pub hash: PageHash,
    /// The page.
    pub data: Arc<[u8]>,
}

/// The newest old pages.
#[derive(Default)]
pub struct Ring {
    /// By page and the transaction that replaced them.
    images: BTreeMap<(PageNumber, Lsn), Image>,
    /// The keys, oldest first.
    order: VecDeque<(PageNumber, Lsn)>,
    bytes: usize,
}

impl Ring {
    /// Adds what a page was until transaction `until`, and lets go of the oldest images.
    pub fn add(&mut self, page: PageNumber, until: Lsn, image: Image) {
        self.bytes += cost(&image);
        if let Some(same) = self.images.insert((page, until), image) {
            self.bytes -= cost(&same);
        } else {
            self.order.push_back((page, until));
        }
        while self.bytes > RING_BYTES {
            let oldest = self.order.pop_front();
            let Some(image) = oldest.and_then(|key| self.images.remove(&key)) else {
                return;
            };
            self.bytes -= cost(&image);
        }
    }

    /// What a page was right after transaction `at`, if it was replaced later and that is known.
    pub fn at(&self, page: PageNumber, at: Lsn) -> Option<Image> {
        let (_, image) = self
            .images
            .range((page, at.next())..)
            .next()
            .filter(|((number, _), _)| *number == page)?;
        (image.since <= at).then(|| image.clone())
    }

    /// Forgets everything: transactions are counted anew, or did not come to be.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

fn cost(image: &Image) -> usize {
    image.data.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    fn image(since: u64, size: usize) -> Image {
        Image {
            since: Lsn(since),
            hash: PageHash::from_bytes([0; 16]),
            data: vec![since as u8; size].into(),
        }
    }

    fn written(ring: &Ring, number: u32, at: u64) -> Option<u64> {
        ring.at(page(number), Lsn(at)).map(|image| image.since.0)
    }

    #[test]
    fn an_image_serves_from_its_transaction_to_the_one_that_replaced_it() {
        let mut ring = Ring::default();
        ring.add(page(5), Lsn(7), image(3, 512));
        ring.add(page(5), Lsn(9), image(7, 512));
        ring.add(page(6), Lsn(9), image(1, 512));
        let found: Vec<_> = (0..11).map(|at| written(&ring, 5, at)).collect();
        let (a, b) = (Some(3), Some(7));
        assert_eq!(found, [None, None, None, a, a, a, a, b, b, None, None]);
        assert_eq!(written(&ring, 4, 5), None);
        assert_eq!(written(&ring, 6, 5), Some(1));
    }

    #[test]
    fn what_is_missing_in_between_is_not_made_up() {
        let mut ring = Ring::default();
        ring.add(page(5), Lsn(4), image(3, 512));
        ring.add(page(5), Lsn(9), image(7, 512));
        // Transactions 4 to 6: replaced by 7, but nobody saw by what.
        assert_eq!(written(&ring, 5, 5), None);
        assert_eq!(written(&ring, 5, 8), Some(7));
    }

    #[test]
    fn the_oldest_images_give_way() {
        let mut ring = Ring::default();
        for lsn in 1..=10_000 {
            ring.add(page(lsn as u32 % 100 + 1), Lsn(lsn), image(lsn - 1, 4096));
            assert!(ring.bytes <= RING_BYTES);
        }
        assert_eq!(ring.order.len(), ring.images.len());
        assert!(ring.order.len() > 1900, "{}", ring.order.len());
        assert_eq!(written(&ring, 1, 9_999), Some(9_999));
        assert_eq!(written(&ring, 1, 5_000), None);
        ring.clear();
        assert_eq!((ring.bytes, written(&ring, 1, 9_999)), (0, None));
    }

    #[test]
    fn an_image_larger_than_the_ring_is_not_kept() {
        let mut ring = Ring::default();
        ring.add(page(1), Lsn(2), image(1, RING_BYTES));
        assert!(ring.images.is_empty() && ring.order.is_empty());
        assert_eq!(ring.bytes, 0);
    }
}
