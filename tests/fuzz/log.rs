//! Any bytes as a log, and a shared index that says it has frames: transactions are read, pages are
//! read, frames are put right, a transaction is appended.
//!
//! Input: page size (1 byte), flags (1: header and frame checksums are made right first), frames in
//! the index (1), database size (1), then the log.
#![no_main]

use fuzz::{File, Index, Input};
use libfuzzer_sys::fuzz_target;
use replica::page::{PageNumber, PageSize};
use replica::wal::LogFile;
use replica::wal::anchor::Anchor;
use replica::wal::apply::Writer;
use replica::wal::frame::{Chain, FrameHeader, FrameIndex, LogHeader, Salts};
use replica::wal::frames::{read_frame, transactions};
use replica::wal::index::IndexHeader;

/// Makes salts and checksums of all frames right, as no fuzzer does by itself.
fn put_right(log: &File, header: &LogHeader, frames: u32) {
    let mut chain = Chain {
        order: header.order,
        salts: header.salts,
        checksum: header.checksum,
    };
    let mut page = vec![0; header.page_size.bytes()];
    for frame in (1..=frames).filter_map(FrameIndex::new) {
        let offset = frame.offset(header.page_size);
        let mut bytes = [0; 24];
        let _ = log.read(&mut bytes, offset);
        let _ = log.read(&mut page, offset + 24);
        let Some(found) = FrameHeader::parse(&bytes) else {
            return;
        };
        let right = chain.next(found.page, found.database_size, &page);
        let _ = log.write(&right.encode(), offset);
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut size = PageSize::new(512 << (input.byte() % 2)).expect("a page size");
    let (right, frames, pages) = (
        input.byte() & 1 != 0,
        u32::from(input.byte() % 32),
        input.byte(),
    );
    let log = File::of(input.0);
    let mut start = LogHeader::new(size, 1, Salts([5; 8]));
    if right {
        let _ = log.write(&start.encode(), 0);
        put_right(&log, &start, frames);
    } else if let Ok(Some(found)) = LogHeader::read(&log) {
        (start, size) = (found, found.page_size);
    }
    // What the index says comes from the checksums that are there.
    let mut last = [0; 24];
    if let Some(frame) = FrameIndex::new(frames) {
        let _ = log.read(&mut last, frame.offset(size));
    }
    let index = Index::of(&[]);
    let word = |at: usize| u32::from_be_bytes([last[at], last[at + 1], last[at + 2], last[at + 3]]);
    index.publish(&start, frames, u32::from(pages), [word(16), word(20)]);
    let Ok(Some(header)) = IndexHeader::read(&index) else {
        return;
    };
    let anchor = Anchor::log_start(header.salts);
    if let Ok(found) = transactions(&log, &header, &anchor) {
        for transaction in found.flatten() {
            assert!(transaction.last_frame.get() <= frames);
            let mut page = vec![0; size.bytes()];
            for (number, frame) in &transaction.pages {
                assert!(number.get() <= transaction.database_size);
                assert!(frame.get() <= transaction.last_frame.get());
                read_frame(&log, size, *frame, &mut page).expect("a frame that was read before");
            }
        }
    }
    if let Ok(Some(mut writer)) = Writer::try_begin(&index) {
        if matches!(writer.repair(&log, &anchor), Ok(_)) {
            let all = transactions(&log, &header, &anchor)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>);
            if let Ok(all) = all {
                assert!(all.iter().all(|transaction| transaction.intact));
            }
        }
        let page = vec![1; size.bytes()];
        let pages = [(PageNumber::FIRST, page.as_slice())];
        if let Ok(header) = writer.append(&log, size, 1, pages, Salts([6; 8])) {
            assert_eq!(header.mx_frame, frames + 1);
        }
    }
    assert!(index.is_free());
});
