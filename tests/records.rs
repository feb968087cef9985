//! What fuzzing began with and found of records (docs/fuzzing.md), through the function that it calls: each is a row, nothing
//! panics, and nothing is allocated because a record claims it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests, here and in the fuzz targets"
)]
#![allow(unsafe_code, reason = "an allocator is unsafe to write; this one counts and forwards")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

#[path = "../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../fuzz/src/record.rs"]
mod record;

const RECORDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/record");
/// The longest text that the audit's decoder takes, untouched until there are bytes for it; all else is far below.
const MOST: usize = 64 << 20;

struct Largest;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Largest = Largest;

fn check(data: &[u8]) {
    record::check(data);
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest <= MOST, "expected at most {MOST} bytes at once, found {largest}");
}

#[test]
fn records() {
    corpus::check_all(RECORDS, check);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_rows(data in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&data);
    }

    #[test]
    fn records_with_a_mistake_are_rows(data in corpus::mutations(RECORDS)) {
        check(&data);
    }
}
