//! The pages of one B-tree, without reading its leaves.

use std::collections::HashSet;

use super::btree::{Kind, Page};
use super::view::View;
use crate::error::{Error, Result};

/// A B-tree is never deeper (the file format's limits).
const MOST_LEVELS: usize = 40;

/// The pages of one B-tree.
#[derive(Default)]
pub struct Tree {
    /// Whether its rows have rowids.
    pub is_table: bool,
    /// Interior pages.
    pub interior: HashSet<u32>,
    /// Leaves.
    pub leaves: HashSet<u32>,
}

impl Tree {
    /// Walks the interior pages below `root`. All leaves are equally deep, so that the way to one of
    /// them tells which pages are leaves.
    pub fn walk(view: &dyn View, usable: usize, root: u32) -> Result<Self> {
        let levels = levels(view, usable, root)?;
        let mut tree = Self {
            is_table: Page::read(view, root, usable)?.is_table,
            ..Self::default()
        };
        let mut level = vec![root];
        for _ in 1..levels {
            let mut below = Vec::new();
            for number in level {
                let page = Page::read(view, number, usable)?;
                if page.kind == Kind::Leaf || !tree.interior.insert(number) {
                    return Err(Error::Corrupt(format!(
                        "the B-tree at page {root} is not even"
                    )));
                }
                below.extend(page.children()?);
            }
            level = below;
        }
        tree.leaves = level.into_iter().collect();
        Ok(tree)
    }

    /// Whether it has a page.
    pub fn has(&self, page: u32) -> bool {
        self.leaves.contains(&page) || self.interior.contains(&page)
    }

    /// The pages that hold rows: of an index the interior ones too.
    pub fn with_rows(&self) -> impl Iterator<Item = u32> {
        let interior = self.interior.iter().filter(|_| !self.is_table);
        self.leaves.iter().chain(interior).copied()
    }

    /// All pages.
    pub fn pages(&self) -> impl Iterator<Item = u32> {
        self.leaves.iter().chain(&self.interior).copied()
    }
}

fn levels(view: &dyn View, usable: usize, root: u32) -> Result<usize> {
    let mut number = root;
    for level in 1..=MOST_LEVELS {
        let page = Page::read(view, number, usable)?;
        if page.kind == Kind::Leaf {
            return Ok(level);
        }
        number = page.children()?[0];
    }
    Err(Error::Corrupt(format!(
        "the B-tree at page {root} has no leaves"
    )))
}
