//! Runs the function of the fuzz target on its corpus (docs/fuzzing.md).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests, here and in the fuzz target"
)]

use proptest::prelude::*;

#[path = "../../../fuzz/src/bundle.rs"]
mod bundle;
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/bundle");

#[test]
fn corpus_of_bundles_passes() {
    corpus::check_all(CORPUS, bundle::check);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn mistake_in_a_bundle_has_its_place(data in corpus::mutations(CORPUS)) {
        bundle::check(&data);
    }
}
