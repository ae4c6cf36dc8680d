//! Making a replica: everything is fetched into a spool beside the file, part by part, and
//! installed under its name as a whole. An interrupted bootstrap goes on where it stopped.

use std::time::Duration;

use super::enter;
use super::fetch::{Conversation, Fetched};
use super::follower::Replica;
use super::spooled::Spooled;
use super::transfer::{Kind, Transfer};
use crate::database::host::{ProcessLock, Spool};
use crate::database::paths;
use crate::database::store::{Progress, Role, State};
use crate::error::{Error, Result};
use crate::page::{PageNumber, PageSize};
use crate::position::{DatabaseId, Position};
use crate::wire::Head;

/// Parts between two moments at which the spool is made durable and the progress recorded.
const PARTS_PER_SYNC: usize = 16;

/// Makes the replica, or waits while another process makes it, or ends what one left unfinished.
pub fn run(replica: &Replica) -> Result<()> {
    let unfinished = replica.local().store()?.progress()?.is_some();
    // In this order: a replica that another process installs meanwhile counts as made.
    match (replica.host().exists(replica.path())?, replica.is_made()?) {
        (_, true) if !unfinished => return Ok(()),
        (true, false) => return Err(not_a_replica()),
        _ => {}
    }
    let Some(_lock) = wait_for_lock(replica)? else {
        return Ok(());
    };
    if replica.is_made()? {
        return finish(replica);
    }
    let path = replica.path();
    let complete = {
        let local = replica.local();
        let store = local.store()?;
        let (state, progress) = (store.state()?, store.progress()?);
        let spooled = replica.host().exists(&paths::spool(path))?;
        if replica.host().exists(path)? {
            return Err(not_a_replica());
        }
        // A state with an anchor is of a file that was in use, and is gone.
        let used = state.is_some_and(|state| state.anchor.is_some());
        if !spooled || used || (state.is_some() && progress.is_none()) {
            store.transaction(|store| store.clear_content())?;
            false
        } else {
            state.is_some()
        }
    };
    if !complete {
        fill(replica)?;
    }
    install(replica)
}

/// Why a file that is there is not opened as a replica.
pub(super) fn not_a_replica() -> Error {
    Error::CannotOpen(
        "the file exists and is not a replica, or has lost its state; nothing was changed. Give a \
         new name, or move it away; SELECT replica_discard() makes its content that of the remote"
            .to_owned(),
    )
}

/// The lock of the one process that makes the replica; `None` when another one has made it. Its
/// own time-outs end a process that gets nowhere, and its lock ends with it.
fn wait_for_lock(replica: &Replica) -> Result<Option<ProcessLock>> {
    loop {
        if let Some(lock) = replica.host().lock_process(replica.path())? {
            return Ok(Some(lock));
        }
        if replica.is_made()? {
            return Ok(None);
        }
        replica.host().clock().sleep(Duration::from_millis(20));
    }
}

/// Fetches everything into the spool and proves it against the remote's digest.
fn fill(replica: &Replica) -> Result<()> {
    let remote = replica.remote()?;
    let (database, progress) = {
        let local = replica.local();
        (
            local.store()?.identity()?.and_then(|(_, id)| id),
            local.store()?.progress()?,
        )
    };
    let spool = replica.host().open_spool(&paths::spool(replica.path()))?;
    let transfer = replica.begin_transfer(Kind::Bootstrap, true);
    let mut conversation = Conversation::new(&*remote, database).watched(&transfer);
    let fetched = fetch_all(replica, &mut conversation, &transfer, &*spool, progress)?;
    let (mut spooled, first) = fetched;
    let head = match conversation.changes(first, replica, None)? {
        Fetched::UpToDate(head) => head,
        Fetched::Batch(batch) => {
            same_size(spooled.page_size(), batch.head.page_size)?;
            for page in batch.pages.iter() {
                let (number, data) = page?;
                spooled.put(number, &data)?;
            }
            batch.head
        }
        Fetched::Diverged(_) => {
            start_over(replica)?;
            return Err(Error::Busy(format!(
                "{} was restored while it was copied; the next access starts over",
                remote.url()
            )));
        }
    };
    spooled.cut(head.database_size)?;
    spool.sync()?;
    if spooled.content() != head.content {
        start_over(replica)?;
        return Err(enter::mismatch(remote.url()));
    }
    replica
        .progress
        .lock()
        .exchanged(&conversation.traffic, head.position, replica.host().now());
    log::info!(
        target: "replica",
        "{}: made from {}: {} pages at {}, {} bytes received",
        replica.path().display(),
        remote.url(),
        head.database_size,
        head.position,
        conversation.traffic.received
    );
    complete(replica, &head, first)
}

/// Fetches all pages, from where an interrupted bootstrap stopped. Returns them, and the position of
/// the first part, since which a pull completes them.
fn fetch_all<'a>(
    replica: &Replica,
    conversation: &mut Conversation<'_>,
    transfer: &Transfer<'_>,
    spool: &'a dyn Spool,
    progress: Option<Progress>,
) -> Result<(Spooled<'a>, Position)> {
    let mut begun = match progress {
        Some(progress) if holds(spool, &progress)? => Some((
            Spooled::open(spool, progress.page_size, progress.after)?,
            progress.first,
        )),
        _ => None,
    };
    let after = begun.as_ref().map_or(0, |(spooled, _)| spooled.last());
    transfer.resume(after);
    let mut parts = 0;
    conversation.parts(
        PageNumber::new(after),
        replica.host().has_threads(),
        |(head, pages, next)| {
            let (spooled, first) = match &mut begun {
                Some(begun) => begun,
                None => begun.insert((Spooled::open(spool, head.page_size, 0)?, head.position)),
            };
            same_size(spooled.page_size(), head.page_size)?;
            spooled.append(&pages)?;
            parts += 1;
            match next.is_some() && parts % PARTS_PER_SYNC == 0 {
                true => record(replica, spool, spooled, *first, head.database),
                false => Ok(()),
            }
        },
    )?;
    begun.ok_or_else(|| Error::Protocol("the remote has no pages".to_owned()))
}

/// Whether the spool has what was recorded.
fn holds(spool: &dyn Spool, progress: &Progress) -> Result<bool> {
    let bytes = u64::from(progress.after) * u64::from(progress.page_size.get());
    Ok(spool.size()? >= bytes)
}

/// Makes durable what is there, and records it.
fn record(
    replica: &Replica,
    spool: &dyn Spool,
    spooled: &Spooled<'_>,
    first: Position,
    database: DatabaseId,
) -> Result<()> {
    spool.sync()?;
    let progress = Progress {
        first,
        page_size: spooled.page_size(),
        after: spooled.last(),
    };
    replica.local().store()?.transaction(|store| {
        store.set_identity(Role::Replica, Some(database))?;
        store.set_progress(&progress)
    })
}

fn same_size(known: PageSize, given: PageSize) -> Result<()> {
    match known == given {
        true => Ok(()),
        false => Err(Error::Protocol(
            "the page size changed between two parts".to_owned(),
        )),
    }
}

/// Records what the complete spool holds; it has no place in the log yet.
fn complete(replica: &Replica, head: &Head, first: Position) -> Result<()> {
    let state = State {
        position: head.position,
        page_size: head.page_size,
        database_size: head.database_size,
        content: head.content,
        anchor: None,
    };
    let progress = Progress {
        first,
        page_size: head.page_size,
        after: head.database_size,
    };
    replica.local().store()?.transaction(|store| {
        store.set_identity(Role::Replica, Some(head.database))?;
        store.set_progress(&progress)?;
        store.set_state(&state)?;
        replica.settings().save(store)
    })
}

fn start_over(replica: &Replica) -> Result<()> {
    replica
        .local()
        .store()?
        .transaction(|store| store.clear_content())?;
    replica.host().remove(&paths::spool(replica.path()))
}

/// Gives the complete spool the name of the database, without replacing anything.
fn install(replica: &Replica) -> Result<()> {
    let (path, spool) = (replica.path(), paths::spool(replica.path()));
    // Left behind by a database that is gone: SQLite would replay such a log into the new file.
    for stray in paths::journals(path) {
        replica.host().remove(&stray)?;
    }
    replica.host().link(&spool, path)?;
    finish(replica)
}

/// Takes the spool's own name away. The progress goes last: as long as it is there, this is done
/// again.
fn finish(replica: &Replica) -> Result<()> {
    let (host, path) = (replica.host(), replica.path());
    host.sync_folder(path)?;
    host.remove(&paths::spool(path))?;
    host.sync_folder(path)?;
    replica.local().store()?.clear_progress()
}
