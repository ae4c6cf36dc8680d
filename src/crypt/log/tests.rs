//! The log against a plain one in memory, driven as SQLite drives it.

use proptest::prelude::*;

use super::super::cipher::Algorithm;
use super::super::memory::{Bytes, keys, keys_for};
use super::super::page::associated;
use super::*;

const SIZE: usize = 512;
const FRAME: usize = SIZE + FRAME_HEADER;
const STRIDE: usize = SEALED_HEADER + OVERHEAD + SIZE;

fn log(keys: &Arc<Keys>) -> SealedLog {
    SealedLog::new(
        Arc::clone(keys),
        [3; 16],
        PageSize::new(512).unwrap(),
        Backfill::default(),
    )
}

fn start(salt: u8) -> [u8; 32] {
    let mut header = [7; 32];
    header[16..24].fill(salt);
    header
}

fn header(page: u32, size: u32, mark: u8) -> [u8; 24] {
    let mut header = [mark; 24];
    header[..4].copy_from_slice(&page.to_be_bytes());
    header[4..8].copy_from_slice(&size.to_be_bytes());
    header
}

fn at(frame: usize) -> u64 {
    (LOG_HEADER + (frame - 1) * FRAME) as u64
}

/// A log of `frames` frames, the last one a commit; frame n holds page n, filled with n.
fn filled(keys: &Arc<Keys>, raw: &Bytes, salt: u8, frames: usize) {
    let mut log = log(keys);
    log.write(raw, &start(salt), 0).unwrap();
    for frame in 1..=frames {
        let size = if frame == frames { 9 } else { 0 };
        log.write(raw, &header(frame as u32, size, 1), at(frame))
            .unwrap();
        log.write(raw, &[frame as u8; SIZE], at(frame) + 24)
            .unwrap();
    }
}

fn page(keys: &Arc<Keys>, raw: &Bytes, frame: usize) -> Result<[u8; SIZE]> {
    let mut page = [0; SIZE];
    let read = log(keys).read(raw, &mut page, at(frame) + 24, Damage::IsAnError)?;
    assert_eq!(read, SIZE);
    Ok(page)
}

#[test]
fn a_transaction_is_written_with_few_calls() {
    let (raw, keys) = (Bytes::default(), keys());
    filled(&keys, &raw, 1, 90);
    assert_eq!(*raw.writes.borrow(), 2);
    assert_eq!(raw.size().unwrap(), (START + 90 * STRIDE) as u64);
    let reads = *raw.reads.borrow();
    let mut log = log(&keys);
    let mut page = [0; SIZE];
    for frame in 1..=90 {
        log.read(&raw, &mut page, at(frame) + 24, Damage::IsAnError)
            .unwrap();
        assert_eq!(page, [frame as u8; SIZE]);
    }
    // One for each frame, and one for the salts.
    assert_eq!(*raw.reads.borrow() - reads, 91);
}

#[test]
fn every_changed_byte_is_noticed_and_ends_a_recovery() {
    for algorithm in Algorithm::ALL {
        change_every_byte(&keys_for(algorithm));
    }
}

fn change_every_byte(keys: &Arc<Keys>) {
    let raw = Bytes::default();
    filled(keys, &raw, 1, 3);
    let whole = raw.copy();
    for byte in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[byte] ^= 1;
        let raw = Bytes::of(bytes);
        let frame = (byte as i64 - START as i64).div_euclid(STRIDE as i64) + 1;
        for other in 1..=3 {
            let read = page(keys, &raw, other);
            match frame < 1 || frame == other as i64 {
                true => assert!(matches!(read, Err(Error::Tampered(_))), "byte {byte}"),
                false => assert_eq!(read.unwrap(), [other as u8; SIZE]),
            }
        }
        let mut log = log(keys);
        let mut frames = [1; LOG_HEADER + 3 * FRAME];
        let read = log.read(&raw, &mut frames, 0, Damage::EndsTheLog).unwrap();
        assert_eq!(read, frames.len());
        let zeros = match frame {
            ..1 => 0..LOG_HEADER,
            _ => at(frame as usize) as usize..at(frame as usize) as usize + FRAME,
        };
        assert!(frames[zeros].iter().all(|byte| *byte == 0), "byte {byte}");
    }
}

#[test]
fn frames_open_at_their_own_place_in_their_own_log_only() {
    let (raw, old, keys) = (Bytes::default(), Bytes::default(), keys());
    filled(&keys, &old, 1, 4);
    filled(&keys, &raw, 2, 4);
    let frame = |n: usize| START + (n - 1) * STRIDE..START + n * STRIDE;
    let whole = raw.copy();
    let other_file = Bytes::default();
    {
        let mut log = SealedLog::new(
            Arc::clone(&keys),
            [4; 16],
            PageSize::new(512).unwrap(),
            Backfill::default(),
        );
        log.write(&other_file, &start(2), 0).unwrap();
        log.write(&other_file, &header(2, 9, 1), at(2)).unwrap();
        log.write(&other_file, &[2; SIZE], at(2) + 24).unwrap();
    }
    let sources = [
        whole[frame(1)].to_vec(),
        whole[frame(3)].to_vec(),
        old.copy()[frame(2)].to_vec(),
        other_file.copy()[frame(2)].to_vec(),
        // The header of its own, the page of another use of the log.
        [
            &whole[frame(2)][..SEALED_HEADER],
            &old.copy()[frame(2)][SEALED_HEADER..],
        ]
        .concat(),
    ];
    for (which, source) in sources.into_iter().enumerate() {
        let mut bytes = whole.clone();
        bytes[frame(2)].copy_from_slice(&source);
        let raw = Bytes::of(bytes);
        assert!(
            matches!(page(&keys, &raw, 2), Err(Error::Tampered(_))),
            "{which}"
        );
        let mut sealed = [0; SIZE];
        let copied = log(&keys).read_sealed(&raw, &mut sealed, at(2) + 24);
        assert!(copied.is_err(), "{which}");
    }
    // A frame that was taken out: the one behind it is none here.
    let mut bytes = whole.clone();
    bytes.drain(frame(2));
    assert!(page(&keys, &Bytes::of(bytes), 2).is_err());
}

#[test]
fn a_checkpoint_gets_the_page_as_it_is_sealed() {
    let (raw, keys) = (Bytes::default(), keys());
    filled(&keys, &raw, 1, 3);
    let mut sealed = [0; SIZE];
    let page = log(&keys)
        .read_sealed(&raw, &mut sealed, at(2) + 24)
        .unwrap();
    let (number, seal) = (page.number, page.seal);
    assert_eq!((number.get(), page.frame, page.salts), (2, 2, [1; 8]));
    let record = START + STRIDE + SEALED_HEADER;
    assert_eq!(raw.copy()[record..record + OVERHEAD], seal.encode());
    assert_eq!(
        raw.copy()[record + OVERHEAD..record + OVERHEAD + SIZE],
        sealed
    );
    let opened = keys
        .pages
        .open(&seal, &associated(&[3; 16], number), &mut sealed);
    assert!(opened);
    assert_eq!(sealed, [2; SIZE]);
}

#[test]
fn another_process_that_began_the_log_anew_is_noticed() {
    let (raw, keys) = (Bytes::default(), keys());
    filled(&keys, &raw, 1, 3);
    let mut reader = log(&keys);
    let mut page = [0; SIZE];
    reader
        .read(&raw, &mut page, at(1) + 24, Damage::IsAnError)
        .unwrap();
    filled(&keys, &raw, 2, 2);
    // Even without a lock in between.
    reader
        .read(&raw, &mut page, at(2) + 24, Damage::IsAnError)
        .unwrap();
    assert_eq!(page, [2; SIZE]);
    assert!(
        reader
            .read(&raw, &mut page, at(3) + 24, Damage::IsAnError)
            .is_err()
    );
    reader.forget();
    assert!(
        reader
            .read(&raw, &mut page, at(3) + 24, Damage::IsAnError)
            .is_err()
    );
    let mut frame = [1; FRAME];
    let read = reader
        .read(&raw, &mut frame, at(3), Damage::EndsTheLog)
        .unwrap();
    assert_eq!((read, frame), (FRAME, [0; FRAME]));
}

#[test]
fn large_pages_need_several_calls() {
    let (raw, keys) = (Bytes::default(), keys());
    let mut log = SealedLog::new(
        keys,
        [3; 16],
        PageSize::new(65536).unwrap(),
        Backfill::default(),
    );
    log.write(&raw, &start(1), 0).unwrap();
    let mut frames = Vec::new();
    for frame in 1..=3_u8 {
        frames.extend_from_slice(&header(frame.into(), 3, 1));
        frames.extend_from_slice(&[frame; 65536]);
    }
    log.write(&raw, &frames, 32).unwrap();
    let mut read = vec![0; frames.len()];
    log.forget();
    assert_eq!(
        log.read(&raw, &mut read, 32, Damage::IsAnError).unwrap(),
        read.len()
    );
    assert!(read == frames);
}

/// What SQLite does to a log.
#[derive(Clone, Debug)]
enum Step {
    /// Appends a transaction of so many pages; some spilled ones are written over, some headers
    /// rewritten at the end, and it is given up or not.
    Transaction {
        pages: Vec<(u32, u8)>,
        over: Vec<(usize, u8)>,
        rewritten: bool,
        back_to: Option<usize>,
        commits: bool,
    },
    /// Writes pages without a commit until a write fails, and gives up.
    Fails(usize, usize),
    /// Begins the log anew, over the frames that are there.
    Restart(u8),
    Read(usize, usize),
    Recover,
}

fn step() -> impl Strategy<Value = Step> {
    let transaction = (
        prop::collection::vec((1..40_u32, any::<u8>()), 1..20),
        prop::collection::vec((0..20_usize, any::<u8>()), 0..3),
        any::<bool>(),
        prop::option::of(0..20_usize),
        prop::bool::weighted(0.8),
    );
    prop_oneof![
        4 => transaction.prop_map(|(pages, over, rewritten, back_to, commits)| Step::Transaction { pages, over, rewritten, back_to, commits }),
        1 => (10..200_u8).prop_map(Step::Restart),
        5 => (0..20_000_usize, 0..3000_usize).prop_map(|(at, n)| Step::Read(at, n)),
        1 => Just(Step::Recover),
        1 => (1..60_usize, 0..3_usize).prop_map(|(pages, writes)| Step::Fails(pages, writes)),
    ]
}

/// A plain log, how far it is committed.
struct Model {
    bytes: Vec<u8>,
    committed: usize,
}

impl Model {
    fn put(&mut self, data: &[u8], offset: u64) {
        let end = offset as usize + data.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[offset as usize..end].copy_from_slice(data);
    }
}

fn put(log: &mut SealedLog, raw: &Bytes, model: &mut Model, data: &[u8], offset: u64) {
    log.write(raw, data, offset).unwrap();
    model.put(data, offset);
}

/// Reads what of a range is in the log.
fn read(log: &mut SealedLog, raw: &Bytes, model: &Model, offset: usize, count: usize) {
    let there = model.bytes.len().saturating_sub(offset).min(count);
    let mut bytes = vec![1; there];
    let read = log
        .read(raw, &mut bytes, offset as u64, Damage::IsAnError)
        .unwrap();
    assert_eq!(read, there);
    assert!(bytes[..] == model.bytes[offset.min(model.bytes.len())..][..there]);
}

/// Reads as SQLite recovers: behind the end there is nothing, or what is none.
fn recover(log: &mut SealedLog, raw: &Bytes, model: &Model) {
    let size = log.size(raw, Damage::EndsTheLog).unwrap() as usize;
    assert!(size >= model.bytes.len());
    for frame in 1..=(size - LOG_HEADER) / FRAME {
        let (mut bytes, offset) = ([1; FRAME], at(frame) as usize);
        let read = log.read(raw, &mut bytes, at(frame), Damage::EndsTheLog);
        assert_eq!(read.unwrap(), FRAME);
        match offset < model.bytes.len() {
            true => assert!(bytes[..] == model.bytes[offset..offset + FRAME]),
            false => assert_eq!(bytes, [0; FRAME]),
        }
    }
}

/// A transaction that does not fit the disk.
fn fail(log: &mut SealedLog, raw: &Bytes, model: &Model, pages: usize, writes: usize) {
    let first = model.committed + 1;
    *raw.fail_after.borrow_mut() = Some(writes);
    let mut kept = Vec::new();
    for frame in first..first + pages {
        let written = log
            .write(raw, &header(7, 0, 3), at(frame))
            .and_then(|()| log.write(raw, &[9; SIZE], at(frame) + 24));
        if written.is_err() {
            break;
        }
        kept.push(frame);
    }
    // Locks of other slots come and go.
    log.forget();
    // What was said to be written is there, or reading it is an error too.
    for frame in kept {
        let mut page = [0; SIZE];
        if log
            .read(raw, &mut page, at(frame) + 24, Damage::IsAnError)
            .is_ok()
        {
            assert_eq!(page, [9; SIZE]);
        }
    }
    // Frames of others are read on a full disk as ever.
    read(log, raw, model, 0, LOG_HEADER + model.committed * FRAME);
    *raw.fail_after.borrow_mut() = None;
}

fn transact(log: &mut SealedLog, raw: &Bytes, model: &mut Model, step: &Step) {
    let Step::Transaction {
        pages,
        over,
        rewritten,
        back_to,
        commits,
    } = step
    else {
        return;
    };
    let first = model.committed + 1;
    let mut last = model.committed;
    for (n, (number, fill)) in pages.iter().enumerate() {
        // ROLLBACK TO: frames are written over by new ones.
        if *back_to == Some(n) && n > 2 {
            last -= 2;
        }
        last += 1;
        let size = u32::from(n + 1 == pages.len() && *commits);
        put(log, raw, model, &header(*number, size, *fill), at(last));
        put(log, raw, model, &[*fill; SIZE], at(last) + 24);
        if let Some((which, fill)) = over.iter().find(|(which, _)| *which == n) {
            let frame = first + which % (last - first + 1);
            put(log, raw, model, &[*fill; SIZE], at(frame) + 24);
        }
    }
    if *rewritten {
        for frame in first..=last {
            let offset = at(frame) as usize;
            read(log, raw, model, offset, FRAME);
            let mut header: [u8; 24] = model.bytes[offset..offset + 24].try_into().unwrap();
            header[8..].fill(0x55);
            put(log, raw, model, &header, at(frame));
        }
    }
    if *commits {
        model.committed = last;
        // Other processes see it now, whatever this connection does next.
    }
    log.end_transaction();
    model.bytes.truncate(LOG_HEADER + model.committed * FRAME);
}

proptest! {
    #[test]
    fn it_is_a_log(steps in prop::collection::vec((0..2_usize, step()), 1..30), algorithm in prop::sample::select(&Algorithm::ALL[..])) {
        let (raw, keys) = (Bytes::default(), keys_for(algorithm));
        let mut logs = [log(&keys), log(&keys)];
        let mut model = Model { bytes: Vec::new(), committed: 0 };
        put(&mut logs[0], &raw, &mut model, &start(1), 0);
        // Whether frames of a transaction that was given up lie in this use of the log.
        let (mut salts, mut given_up) = (1, false);
        for (which, step) in steps {
            given_up = match &step {
                Step::Transaction { commits, back_to, .. } => given_up || !commits || back_to.is_some(),
                Step::Fails(..) => true,
                Step::Restart(_) => false,
                _ => given_up,
            };
            let log = &mut logs[which];
            log.forget();
            match step {
                Step::Transaction { .. } => transact(log, &raw, &mut model, &step),
                Step::Fails(pages, writes) => {
                    fail(log, &raw, &model, pages, writes);
                    log.end_transaction();
                }
                Step::Restart(salt) => {
                    salts += 1;
                    let mut header = start(salt);
                    header[16] = salts;
                    put(log, &raw, &mut model, &header, 0);
                    model.bytes.truncate(LOG_HEADER);
                    model.committed = 0;
                }
                Step::Read(at, n) => read(log, &raw, &model, at, n),
                Step::Recover => {
                    // A new transaction behind what was given up: SQLite would stop there by its
                    // checksums, as those frames open.
                    if !given_up {
                        recover(log, &raw, &model);
                    }
                }
            }
            log.forget();
        }
    }
}

/// A log that was copied in part, and then cut, is not taken for one that ends there.
#[test]
fn frames_that_the_database_relies_on_cannot_be_cut_off() {
    let (raw, keys) = (Bytes::default(), keys());
    filled(&keys, &raw, 1, 6);
    let needed = |salt, frames, under_way| Backfill {
        salts: [salt; 8],
        frames,
        under_way,
    };
    let sizes = |raw: &Bytes, needed| {
        let mut log = log(&keys);
        log.need(needed);
        log.size(raw, Damage::EndsTheLog)
    };
    let whole = raw.copy();
    for frames in 0..6 {
        let cut = Bytes::of(whole[..START + frames * STRIDE + 50].to_vec());
        let found = sizes(&cut, needed(1, 4, false));
        assert_eq!(found.is_ok(), frames >= 4, "{frames}");
        assert!(sizes(&cut, needed(1, 0, true)).is_ok());
        // Of a log before this one.
        assert!(sizes(&cut, needed(2, 4, false)).is_ok());
        assert!(sizes(&cut, needed(2, 0, true)).is_err());
    }
    assert!(sizes(&Bytes::default(), needed(1, 4, false)).is_ok());
    assert!(sizes(&Bytes::default(), needed(1, 0, true)).is_err());
    // One in the middle is damaged.
    for (frame, ends) in [(3, false), (5, true)] {
        let raw = Bytes::of(whole.clone());
        raw.bytes.borrow_mut()[START + (frame - 1) * STRIDE + 7] ^= 1;
        let mut log = log(&keys);
        log.need(needed(1, 4, false));
        let read = log.read(&raw, &mut [0; FRAME], at(frame), Damage::EndsTheLog);
        assert_eq!(read.is_ok(), ends);
    }
}
