//! Tests of records from the fuzzing corpus (docs/fuzzing.md) through the fuzz check: each becomes a row, nothing panics,
//! and claimed sizes allocate nothing.
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
/// Maximum text of the audit's decoder, reserved but untouched until bytes arrive; other allocations are far smaller.
const MAX_ALLOCATION: usize = 64 << 20;

struct LargestAllocation;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed unchanged to the system's allocator.
unsafe impl GlobalAlloc for LargestAllocation {
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
static ALLOCATOR: LargestAllocation = LargestAllocation;

fn check(data: &[u8]) {
    record::check(data);
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest <= MAX_ALLOCATION, "expected at most {MAX_ALLOCATION} bytes at once, found {largest}");
}

#[test]
fn corpus_records_are_rows() {
    corpus::check_all(RECORDS, check);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_rows(data in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&data);
    }

    #[test]
    fn mutated_records_are_rows(data in corpus::mutations(RECORDS)) {
        check(&data);
    }
}
