//! A length in a datum is a claim of its writer, so decoding must not allocate that many bytes.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for product code")]
#![allow(unsafe_code, reason = "an allocator is unsafe to write; this one counts and forwards")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::Bundle;
use agentgov_schemas::subject::{ACTION_EVENT, BUNDLE};
use agentgov_schemas::wire::SchemaId;

struct LargestAllocation;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for LargestAllocation {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
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

/// Encodes a long: zigzag, then 7 bits in each byte (Avro specification, "Binary Encoding").
fn long(value: i64) -> Vec<u8> {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while zigzag >= 0x80 {
        bytes.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
    bytes
}

#[test]
fn claimed_length_allocates_nothing() {
    let (actions, bundles) = (ACTION_EVENT.schema().unwrap(), BUNDLE.schema().unwrap());
    let (name, version, digest) = (long(0), long(0), vec![0; 32]);
    let before_environments = [name, version, digest].concat();
    let mut largest = 0;
    for claim in [1 << 20, 1 << 31, 1 << 34, 1 << 40, 1 << 46, 1 << 62, i64::MAX, -1, -(1 << 40), i64::MIN] {
        // A string that claims this length.
        let text = [long(claim), b"abc".to_vec()].concat();
        // An array that claims this number of items, and one that claims this number of bytes (a negative count).
        let items = [before_environments.clone(), long(claim), long(0), long(0)].concat();
        let sized = [before_environments.clone(), long(-1), long(claim), long(0), long(0)].concat();
        LARGEST.store(0, Ordering::Relaxed);
        assert!(actions.decode::<ActionEvent<'_>>(SchemaId(1), &text).is_err(), "{claim}");
        assert!(bundles.decode::<Bundle<'_>>(SchemaId(1), &items).is_err(), "{claim}");
        assert!(bundles.decode::<Bundle<'_>>(SchemaId(1), &sized).is_err(), "{claim}");
        largest = largest.max(LARGEST.load(Ordering::Relaxed));
    }
    assert!(largest <= 2 << 20, "expected no allocation of a claimed length, found one of {largest} bytes");
}
