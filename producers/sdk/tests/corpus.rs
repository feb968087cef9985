//! What fuzzing the spool's reader found, and what it began with (docs/fuzzing.md), through the function that it calls.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests, here and in the fuzz target"
)]

use proptest::prelude::*;

#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/src/spool.rs"]
mod spool;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/spool");

#[test]
fn the_corpus_holds() {
    let files = corpus::files(CORPUS);
    assert!(files.iter().any(|(_, data)| agentgov_sdk::read_any_segment(data).0 > 1), "a seed has records");
    corpus::check_all(CORPUS, spool::check);
}

proptest! {
    #[test]
    fn a_mistake_ends_the_reading(data in corpus::mutations(CORPUS)) {
        spool::check(&data);
    }

    /// A byte changed is found: no more records are read than there were.
    #[test]
    fn a_changed_byte_makes_no_record(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let files = corpus::files(CORPUS);
        let mut data = file.get(&files).1.clone();
        let (whole, _) = agentgov_sdk::read_any_segment(&data);
        let at = at.index(data.len());
        data[at] = to;
        prop_assert!(agentgov_sdk::read_any_segment(&data).0 <= whole);
    }
}
