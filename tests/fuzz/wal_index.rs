//! Any bytes as the shared index: everything that reads it ends, in bounded time, and gives its
//! locks back.
//!
//! Input: flags (1: a right header is published over the bytes), page (4), frames (4), then up to
//! 136 bytes for the header's place, then triples of region, word and value for the rest.
#![no_main]

use fuzz::{File, Index, Input};
use libfuzzer_sys::fuzz_target;
use replica::page::{PageNumber, PageSize};
use replica::wal::apply::Writer;
use replica::wal::frame::{FrameIndex, LogHeader, Salts};
use replica::wal::hash;
use replica::wal::index::{CheckpointInfo, IndexHeader};
use replica::wal::read_lock::{Keep, ReadLock};
use replica::wal::snapshot::Snapshot;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let right = input.byte() & 1 != 0;
    let (page, frames) = (input.word() % 20_000, input.word() % 20_000);
    let index = Index::of(input.bytes(136));
    let size = PageSize::new(512).expect("a page size");
    let start = LogHeader::new(size, 1, Salts([5; 8]));
    if right {
        index.publish(&start, frames, page.max(1), [0; 2]);
    }
    while !input.0.is_empty() {
        let (region, word, value) = (input.byte(), input.word(), input.word());
        // The header stays as it is.
        if region % 4 != 0 || word % 8192 >= 24 {
            index.set(usize::from(region), word as usize, value);
        }
    }
    let _ = IndexHeader::read(&index);
    let _ = CheckpointInfo::of(&index).map(|info| info.backfilled());
    if let Some(number) = PageNumber::new(page) {
        if let Ok(Some(frame)) = hash::find(&index, number, 1, frames) {
            assert!((1..=frames).contains(&frame.get()));
        }
    }
    let (log, content) = (File::of(&start.encode()), File::of(&[2; 2048]));
    for keep in [Keep::Snapshot, Keep::Log] {
        if let Ok(mut lock) = ReadLock::begin(&index, keep) {
            if let Ok(snapshot) = Snapshot::new(&index, &log, &content, &lock)
                && let Some(number) = PageNumber::new(page)
            {
                let _ = snapshot.read_page(number, &mut vec![0; snapshot.page_size().bytes()]);
            }
            let _ = lock.advance(&index);
            lock.release(&index);
        }
    }
    if let (Some(frame), Some(number)) = (FrameIndex::new(frames), PageNumber::new(page)) {
        let _ = hash::insert(&index, frame, number);
    }
    if let Ok(Some(mut writer)) = Writer::try_begin(&index) {
        let page = [3; 512];
        let _ = writer.append(
            &log,
            size,
            1,
            [(PageNumber::FIRST, &page[..])],
            Salts([6; 8]),
        );
    }
    assert!(index.is_free());
});
