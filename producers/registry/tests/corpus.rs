//! What fuzzing found, and what it began with (docs/fuzzing.md), through the function that it calls.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests, here and in the fuzz target"
)]

use proptest::prelude::*;

#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/src/registry_file.rs"]
mod registry_file;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/registry_file");

#[test]
fn the_corpus_holds() {
    corpus::check_all(CORPUS, registry_file::check);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_mistake_has_its_place(data in corpus::mutations(CORPUS)) {
        registry_file::check(&data);
    }
}
