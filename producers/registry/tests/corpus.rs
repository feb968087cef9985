//! Runs the fuzz target of the registry file over its corpus (docs/fuzzing.md).

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
    fn corrupted_seed_has_problems_with_positions(data in corpus::mutations(CORPUS)) {
        registry_file::check(&data);
    }
}
