//! Any bytes as the pages of a database, in two states: rows that may differ are looked for.
//!
//! Input: root of a table before (1 byte) and afterwards (1), columns of a key (1), pages that may differ (2, bits), how
//! many bytes differ (1), each with its page (1), place (2, little-endian) and value (1); then pages of 512 bytes.
#![no_main]

use std::collections::BTreeSet;

use fuzz::Input;
use libfuzzer_sys::fuzz_target;
use replica::error::Result;
use replica::page::{PageNumber, PageSize};
use replica::rows::difference::{Difference, Extent};
use replica::rows::view::View;

const PAGE: usize = 512;

/// A state, as its pages.
#[derive(Clone)]
struct Pages(Vec<Vec<u8>>);

impl View for Pages {
    fn page_size(&self) -> PageSize {
        PageSize::new(PAGE as u32).expect("a page size")
    }

    fn database_size(&self) -> u32 {
        self.0.len() as u32
    }

    fn read_page(&self, number: PageNumber, page: &mut [u8]) -> Result<()> {
        page.copy_from_slice(&self.0[number.get() as usize - 1]);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (old_root, new_root) = (u32::from(input.byte()), u32::from(input.byte()));
    let columns = usize::from(input.byte() % 8);
    let bits = u16::from_le_bytes(input.array());
    let mut changed: BTreeSet<u32> = (1..=16).filter(|n| bits >> (n - 1) & 1 != 0).collect();
    let patches: Vec<_> = (0..input.byte() % 32)
        .map(|_| {
            let page = usize::from(input.byte() % 16);
            (
                page,
                usize::from(u16::from_le_bytes(input.array())) % PAGE,
                input.byte(),
            )
        })
        .collect();
    let mut old = Pages(Vec::new());
    while !input.0.is_empty() {
        let mut page = input.bytes(PAGE).to_vec();
        page.resize(PAGE, 0);
        old.0.push(page);
    }
    let mut new = old.clone();
    for (page, at, value) in patches {
        if let Some(bytes) = new.0.get_mut(page) {
            bytes[at] = value;
            changed.insert(page as u32 + 1);
        }
    }
    let changed = changed.into_iter().filter_map(PageNumber::new).collect();
    let (before, after) = ([old_root], [new_root]);
    let Ok(difference) = Difference::new((&old, &before), (&new, &after), &changed) else {
        return;
    };
    let (old_root, new_root) = (Some(old_root), Some(new_root));
    let rowids = |extent| difference.rowids(old_root, new_root, extent);
    if let (Ok(cells), Ok(pages), Ok(all)) = (
        rowids(Extent::Cells),
        rowids(Extent::Pages),
        rowids(Extent::Table),
    ) {
        assert!(cells.is_subset(&pages) && pages.is_subset(&all));
    }
    let _ = difference.keys(old_root, new_root, columns, Extent::Cells);
});
