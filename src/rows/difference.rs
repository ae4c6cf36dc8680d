//! Rows that may be others in one state of a database than in another.
//!
//! A row is another one only where a page changed that holds it, or where such a page came into its
//! tree or left it. So the work follows the changed pages, and the interior pages of the trees. On such
//! pages, rows whose cells are byte for byte the same are the same. One case tells no row by that: a
//! value of unchanged size that is written over in place may change overflow pages only. Changed pages
//! that belong to nothing else are looked for among the overflow pages of all rows then.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::btree::{self, Cell, Page, word};
use super::record::{self, Value};
use super::tree::Tree;
use super::view::View;
use crate::error::{Error, Result};
use crate::page::PageNumber;

/// Which rows of a table may differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Those whose cells do. The table has the same definition in both states.
    Cells,
    /// All on pages that changed: equal cells may hold different rows.
    Pages,
    /// All: cells that nobody wrote to may hold different rows.
    Table,
}

/// One of two states.
struct Side<'a> {
    view: &'a dyn View,
    usable: usize,
    /// B-trees by their root.
    trees: HashMap<u32, Tree>,
    /// The pages of all of them.
    pages: HashSet<u32>,
}

/// Two states, and what lies between them.
pub struct Difference<'a> {
    old: Side<'a>,
    new: Side<'a>,
    /// Pages that may differ.
    changed: HashSet<u32>,
    /// Those of them that can only be overflow pages of rows on unchanged pages.
    loose: HashSet<u32>,
}

impl<'a> Difference<'a> {
    /// Compares `old` and `new`, each with the roots of its B-trees. Pages outside `changed` are the
    /// same in both.
    pub fn new(
        old: (&'a dyn View, &[u32]),
        new: (&'a dyn View, &[u32]),
        changed: &BTreeSet<PageNumber>,
    ) -> Result<Self> {
        let mut difference = Self {
            old: Side::new(old.0, old.1)?,
            new: Side::new(new.0, new.1)?,
            changed: changed.iter().map(|number| number.get()).collect(),
            loose: HashSet::new(),
        };
        difference.loose = difference.find_loose()?;
        Ok(difference)
    }

    /// Whether all rows with overflow pages had to be looked at.
    pub fn is_scan(&self) -> bool {
        !self.loose.is_empty()
    }

    /// The rowids in a table of rows that may differ; without a root it is not there.
    pub fn rowids(
        &self,
        old: Option<u32>,
        new: Option<u32>,
        extent: Extent,
    ) -> Result<BTreeSet<i64>> {
        self.take(old, new, extent, |_, cell| Ok(cell.rowid))
    }

    /// The first `columns` of rows that may differ in a table WITHOUT ROWID.
    pub fn keys(
        &self,
        old: Option<u32>,
        new: Option<u32>,
        columns: usize,
        extent: Extent,
    ) -> Result<BTreeSet<Vec<Value>>> {
        self.take(old, new, extent, |side, cell| {
            record::first_columns(&side.payload(cell)?, columns)
        })
    }

    /// What `take` makes of the cells that may differ.
    fn take<T: Ord>(
        &self,
        old: Option<u32>,
        new: Option<u32>,
        extent: Extent,
        take: impl Fn(&Side<'a>, &Cell<'_>) -> Result<T>,
    ) -> Result<BTreeSet<T>> {
        let nothing = Tree::default();
        let (old, new) = (self.old.tree(old, &nothing)?, self.new.tree(new, &nothing)?);
        let mut found = BTreeSet::new();
        let mut before = HashMap::new();
        self.visit(&self.old, old, new, extent, |cell| {
            let taken = take(&self.old, cell)?;
            match fingerprint(cell, extent) {
                Some(fingerprint) => drop(before.insert(fingerprint, taken)),
                None => drop(found.insert(taken)),
            }
            Ok(())
        })?;
        self.visit(&self.new, new, old, extent, |cell| {
            let same = fingerprint(cell, extent).and_then(|cell| before.remove(&cell));
            if same.is_none() {
                found.insert(take(&self.new, cell)?);
            }
            Ok(())
        })?;
        found.extend(before.into_values());
        Ok(found)
    }

    /// Visits the cells of one side's `tree` that have no counterpart on an unchanged page of the `other`.
    fn visit(
        &self,
        side: &Side<'a>,
        tree: &Tree,
        other: &Tree,
        extent: Extent,
        mut visit: impl FnMut(&Cell<'_>) -> Result<()>,
    ) -> Result<()> {
        for number in tree.with_rows() {
            let is_same =
                extent != Extent::Table && !self.changed.contains(&number) && other.has(number);
            if is_same && self.loose.is_empty() {
                continue;
            }
            let page = Page::read(side.view, number, side.usable)?;
            for cell in page.cells()? {
                if !is_same || side.has_any(&cell, &self.loose)? {
                    visit(&cell)?;
                }
            }
        }
        Ok(())
    }

    /// Changed pages that are no page of a tree, no free one, and no overflow page of a row whose own
    /// page changed, in either state.
    fn find_loose(&self) -> Result<HashSet<u32>> {
        let both = self
            .old
            .view
            .database_size()
            .min(self.new.view.database_size());
        let mut loose = self.changed.clone();
        loose.remove(&PageNumber::FIRST.get());
        loose.remove(&self.new.view.page_size().lock_page().get());
        loose.retain(|number| *number <= both);
        for (side, other) in [(&self.old, &self.new), (&self.new, &self.old)] {
            loose.retain(|number| !side.pages.contains(number));
            side.remove_free(&mut loose)?;
            if loose.is_empty() {
                return Ok(loose);
            }
            for number in &side.pages {
                if self.changed.contains(number) || !other.pages.contains(number) {
                    side.remove_overflow(*number, &mut loose)?;
                }
            }
        }
        Ok(loose)
    }
}

/// Tells cells apart that hold all of their row.
fn fingerprint(cell: &Cell<'_>, extent: Extent) -> Option<blake3::Hash> {
    let is_whole = extent == Extent::Cells && cell.overflow.is_none();
    is_whole.then(|| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&cell.rowid.to_le_bytes());
        hasher.update(cell.first);
        hasher.finalize()
    })
}

impl<'a> Side<'a> {
    fn new(view: &'a dyn View, roots: &[u32]) -> Result<Self> {
        let usable = btree::usable(view)?;
        let (mut trees, mut pages) = (HashMap::new(), HashSet::new());
        for root in [1].iter().chain(roots) {
            let tree = Tree::walk(view, usable, *root)?;
            pages.extend(tree.pages());
            trees.insert(*root, tree);
        }
        Ok(Self {
            view,
            usable,
            trees,
            pages,
        })
    }

    fn tree<'b>(&'b self, root: Option<u32>, nothing: &'b Tree) -> Result<&'b Tree> {
        match root {
            None => Ok(nothing),
            Some(root) => self
                .trees
                .get(&root)
                .ok_or_else(|| Error::Internal(format!("page {root} was not walked"))),
        }
    }

    fn payload(&self, cell: &Cell<'_>) -> Result<Vec<u8>> {
        let mut payload = cell.first.to_vec();
        if let Some(first) = cell.overflow {
            let rest = cell.payload - cell.first.len();
            btree::follow(self.view, self.usable, first, rest, |_, part| {
                payload.extend_from_slice(part);
            })?;
        }
        Ok(payload)
    }

    fn overflow(&self, cell: &Cell<'_>, visit: impl FnMut(u32, &[u8])) -> Result<()> {
        match cell.overflow {
            Some(first) => {
                let rest = cell.payload - cell.first.len();
                btree::follow(self.view, self.usable, first, rest, visit)
            }
            None => Ok(()),
        }
    }

    fn has_any(&self, cell: &Cell<'_>, pages: &HashSet<u32>) -> Result<bool> {
        let mut found = false;
        self.overflow(cell, |number, _| found |= pages.contains(&number))?;
        Ok(found)
    }

    fn remove_overflow(&self, number: u32, pages: &mut HashSet<u32>) -> Result<()> {
        let page = Page::read(self.view, number, self.usable)?;
        for cell in page.cells()? {
            self.overflow(&cell, |number, _| {
                pages.remove(&number);
            })?;
        }
        Ok(())
    }

    /// Takes out what holds no rows: free pages (SQLite file format, section 1.5) and the pages of the
    /// pointer map (section 1.8).
    fn remove_free(&self, pages: &mut HashSet<u32>) -> Result<()> {
        let first = self.view.page(1)?;
        let header = |at: usize| word(&first, at).unwrap_or(0);
        if header(52) != 0 {
            let apart = self.usable / 5 + 1;
            pages.retain(|number| !(*number as usize).wrapping_sub(2).is_multiple_of(apart));
        }
        let (mut trunk, mut left) = (header(32), self.view.database_size());
        while trunk != 0 && left > 0 && !pages.is_empty() {
            pages.remove(&trunk);
            let page = self.view.page(trunk)?;
            let count = word(&page, 4).unwrap_or(0) as usize;
            let listed = page[8..self.usable].chunks_exact(4).take(count);
            for free in listed.filter_map(|free| word(free, 0)) {
                pages.remove(&free);
            }
            trunk = word(&page, 0).unwrap_or(0);
            left -= 1;
        }
        Ok(())
    }
}
