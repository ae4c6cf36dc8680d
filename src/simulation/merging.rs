//! The merge of a rebase: by pages, as nothing here has rows.
//!
//! What comes out stands for both sides in the ledger: it follows the remote's content, and carries the
//! transactions that led to the local one. What the engine says of the three states is compared with
//! what they are.

use std::collections::BTreeSet;

use super::process::Process;
use super::program::set_header;
use super::sqlite::Content;
use crate::error::Result;
use crate::merge::{Conflict, Merged, Policy, States};
use crate::page::PageNumber;
use crate::rows::view::View;

/// What takes the pages of a merge.
type Take<'a> = &'a mut dyn FnMut(PageNumber, &[u8]) -> Result<()>;

/// Merges what programs wrote. Now and then something is in the way.
pub(super) fn merge(
    process: &Process,
    states: &States,
    policy: Policy,
    take: Take<'_>,
) -> Result<(Merged, u32)> {
    process.step("merge")?;
    let begun = process.with(|state| state.now);
    let [base, local, remote] =
        [&states.base, &states.local, &states.remote].map(|view| content(&**view));
    let (base, local, remote) = (base?, local?, remote?);
    compare(process, &base, &local, &states.changed_here);
    compare(process, &base, &remote, &states.changed_there);
    let (mark, is_clear) = process.with(|state| (state.entropy.bytes(), state.entropy.once_in(2)));
    let mut merged = Merged {
        conflicts: Vec::new(),
        rows: 1,
        is_scan: false,
    };
    if policy == Policy::Fail && !is_clear {
        merged.conflicts.push(in_the_way());
        return Ok((merged, remote.pages.len() as u32));
    }
    let after = together(&base, &local, &remote, policy, mark);
    let entered = process.with(|state| {
        let by = (process.id(), process.machine_number(), !state.plan.synced);
        let [base, local, remote, after] =
            [&base, &local, &remote, &after].map(|content| content.digest());
        let counts = [local, remote, base].map(|content| state.ledger.transactions(content));
        state.note(process.actor(), || {
            format!("merges: transactions here, there, and before both: {counts:?}")
        });
        let carried = (base, local);
        state.ledger.merge(by, begun, carried, remote, after)
    });
    if let Err(reason) = entered {
        process.fail(reason);
    }
    for (number, page) in (1..).zip(&after.pages) {
        let is_same = remote.pages.get(number as usize - 1) == Some(page);
        if let (false, Some(number)) = (is_same, PageNumber::new(number)) {
            take(number, page)?;
        }
    }
    Ok((merged, after.pages.len() as u32))
}

fn content(view: &dyn View) -> Result<Content> {
    let numbers = 1..=view.database_size();
    let pages = numbers.map(|number| view.page(number));
    Ok(Content {
        size: view.page_size(),
        pages: pages.collect::<Result<_>>()?,
    })
}

/// Pages that both have, and that nobody says have changed, are the same.
fn compare(process: &Process, old: &Content, new: &Content, changed: &BTreeSet<PageNumber>) {
    for (number, (old, new)) in (1..).zip(old.pages.iter().zip(&new.pages)) {
        let is_known = PageNumber::new(number).is_some_and(|number| changed.contains(&number));
        if old != new && !is_known {
            process.fail(format!(
                "page {number} has changed, and a merge is not told"
            ));
        }
    }
}

fn in_the_way() -> Conflict {
    Conflict {
        table: "t".to_owned(),
        key: "{}".to_owned(),
        base: None,
        local: None,
        remote: None,
    }
}

/// The remote's pages, with those that were changed here unless `policy` says otherwise.
fn together(
    base: &Content,
    local: &Content,
    remote: &Content,
    policy: Policy,
    mark: [u8; 16],
) -> Content {
    let mut after = remote.clone();
    if policy != Policy::Remote {
        if local.pages.len() != base.pages.len() {
            let blank = vec![0; remote.size.bytes()];
            after.pages.resize(local.pages.len(), blank);
        }
        for (number, page) in after.pages.iter_mut().enumerate() {
            match (base.pages.get(number), local.pages.get(number)) {
                (before, Some(here)) if before != Some(here) => page.clone_from(here),
                _ => {}
            }
        }
    }
    let size = after.pages.len() as u32;
    let first = &mut after.pages[0];
    first[200..216].copy_from_slice(&mark);
    set_header(first, size);
    after
}
