//! Finding out which position the file's content is at, from the recorded state and the index.

use std::collections::BTreeSet;

use crate::database::handle::Handle;
use crate::database::offline::Base;
use crate::database::scan::Scanned;
use crate::database::store::{Intent, State, Store};
use crate::error::Result;
use crate::page::{PageHash, PageNumber};
use crate::position::TransactionDigest;
use crate::wal::anchor::Relation;
use crate::wal::apply::Writer;
use crate::wal::frames::transactions;
use crate::wal::index::IndexHeader;

/// What is known about the content.
pub enum Standing {
    /// It is at this state.
    Known(State),
    /// Nobody can say without reading all of it.
    Unverified,
    /// Someone else has written to it.
    Foreign,
}

/// Compares the recorded state with the index.
pub fn resolve(handle: &Handle, store: &dyn Store, writer: &mut Writer<'_>) -> Result<Standing> {
    let (log, header) = (&*handle.files.log, *writer.header());
    let (state, anchor) = match store.state()? {
        Some(state) => match state.anchor {
            Some(anchor) => (state, anchor),
            None => return Ok(Standing::Unverified),
        },
        None => return Ok(Standing::Foreign),
    };
    match anchor.relation(&header, log)? {
        Relation::Equal if store.intent()?.is_none() => Ok(Standing::Known(state)),
        // What was intended never became visible. Nor will it: without the intent nobody would know
        // whose it is.
        Relation::Equal | Relation::Restarted => {
            writer.discard_unpublished(log)?;
            let anchor = Some(header.anchor());
            settle(store, State { anchor, ..state })
        }
        Relation::Extended => match store.intent()? {
            Some(intent) if is_ours(handle, &state, &intent, &header)? => {
                // SQLite may have left frames that recovery would refuse, and need not have synced.
                writer.repair(log, &anchor)?;
                settle(store, reached(&state, &intent, writer.header()))
            }
            // Commits made here, whose record a power loss took.
            _ if store.base()?.is_some() => Ok(Standing::Unverified),
            _ => Ok(Standing::Foreign),
        },
        Relation::Unknown => Ok(Standing::Unverified),
    }
}

/// What a full read tells. `dirty` are the pages whose images were on record when it began.
pub fn compare(
    store: &dyn Store,
    scanned: &Scanned,
    dirty: &BTreeSet<PageNumber>,
) -> Result<Standing> {
    let Scanned {
        header,
        size,
        content,
        ..
    } = scanned;
    Ok(match (store.state()?, store.intent()?) {
        (Some(state), _) if state.content == *content && state.database_size == *size => {
            Standing::Known(State {
                anchor: Some(header.anchor()),
                ..state
            })
        }
        (Some(state), Some(intent)) if intent.content == *content => {
            Standing::Known(reached(&state, &intent, header))
        }
        // Whoever wrote here, nothing but pages with images changed: these lead back.
        (Some(state), _) if leads_back(store, scanned, dirty)? => Standing::Known(State {
            database_size: *size,
            content: *content,
            anchor: Some(header.anchor()),
            ..state
        }),
        // A transaction of ours is in the content as a whole or not at all: this is somebody else's.
        _ => Standing::Foreign,
    })
}

/// Whether the content is that of the base, but for pages whose images lead back to it.
fn leads_back(store: &dyn Store, scanned: &Scanned, dirty: &BTreeSet<PageNumber>) -> Result<bool> {
    let Some(base) = store.base()? else {
        return Ok(false);
    };
    let mut content = scanned.clean;
    let of_base = |number: &&PageNumber| number.get() <= base.database_size;
    for number in dirty.iter().filter(of_base) {
        if let Some(image) = store.base_image(*number)? {
            content.add(PageHash::of(*number, &image));
        }
    }
    Ok(content == base.content)
}

/// Records a state that was found out; the intent has served.
pub fn settle(store: &dyn Store, state: State) -> Result<Standing> {
    store.transaction(|store| {
        if let Some(base) = store.base()?
            && !note_rebased(store, base, &state)?
        {
            note_local(store, base, &state)?;
        }
        store.set_state(&state)?;
        store.clear_intent()
    })?;
    Ok(Standing::Known(state))
}

/// The same of a state of the remote, or of a rebase, which is durable here.
pub fn settle_entered(store: &dyn Store, state: State) -> Result<Standing> {
    store.transaction(|store| {
        if let Some(base) = store.base()?
            && !note_rebased(store, base, &state)?
        {
            store.clear_local()?;
        }
        store.set_state(&state)?;
        store.clear_intent()
    })?;
    Ok(Standing::Known(state))
}

/// Whether a new state is that of a rebase that was about to enter the log: its base counts from here
/// on. Otherwise it never will.
fn note_rebased(store: &dyn Store, base: Base, state: &State) -> Result<bool> {
    let Some(rebased) = store.rebased()? else {
        return Ok(false);
    };
    let has_entered = (rebased.position, rebased.local) == (state.position, state.content);
    match has_entered {
        true => store.advance_rebased(&Base {
            database_size: rebased.database_size,
            content: rebased.content,
            transactions: base.transactions,
        })?,
        false => store.clear_rebased()?,
    }
    Ok(has_entered)
}

/// What a new state means for what is on record about local changes. (Where the content is that of the
/// base again, the images stay: the commit that made it so may not be durable.)
fn note_local(store: &dyn Store, base: Base, state: &State) -> Result<()> {
    match store.state()? {
        Some(before) if before.position == state.position => {
            match before.content == state.content {
                true => Ok(()),
                false => store.set_base(&Base {
                    transactions: base.transactions + 1,
                    ..base
                }),
            }
        }
        _ => store.clear_local(),
    }
}

fn reached(state: &State, intent: &Intent, header: &IndexHeader) -> State {
    State {
        position: intent.position,
        database_size: intent.database_size,
        content: intent.content,
        anchor: Some(header.anchor()),
        ..*state
    }
}

/// Whether the frames beyond the anchor are exactly the intended transaction.
fn is_ours(handle: &Handle, state: &State, intent: &Intent, header: &IndexHeader) -> Result<bool> {
    let Some(anchor) = state.anchor else {
        return Ok(false);
    };
    let log = &*handle.files.log;
    let found = transactions(log, header, &anchor)?.collect::<Result<Vec<_>>>()?;
    let [transaction] = found.as_slice() else {
        return Ok(false);
    };
    let mut page = vec![0; state.page_size.bytes()];
    let mut hashes = Vec::with_capacity(transaction.pages.len());
    for (number, frame) in &transaction.pages {
        crate::wal::frames::read_frame(log, state.page_size, *frame, &mut page)?;
        hashes.push((*number, PageHash::of(*number, &page)));
    }
    Ok(TransactionDigest::of(transaction.database_size, hashes) == intent.digest)
}
