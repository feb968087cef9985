//! Runs the fuzz target of the spool's reader over its corpus (docs/fuzzing.md).

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
    assert!(
        files.iter().any(|(_, data)| agentgov_sdk::read_any_segment(data).0 > 1),
        "no seed has two records"
    );
    corpus::check_all(CORPUS, spool::check);
}

proptest! {
    #[test]
    fn corrupted_seed_ends_the_reading(data in corpus::mutations(CORPUS)) {
        spool::check(&data);
    }

    /// The checksums detect a changed byte: the reader returns no more records than before.
    #[test]
    fn changed_byte_adds_no_record(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let files = corpus::files(CORPUS);
        let mut data = file.get(&files).1.clone();
        let (whole, _) = agentgov_sdk::read_any_segment(&data);
        let at = at.index(data.len());
        data[at] = to;
        prop_assert!(agentgov_sdk::read_any_segment(&data).0 <= whole);
    }
}
