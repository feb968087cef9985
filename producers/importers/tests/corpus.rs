//! Runs the fuzz target of chat completions over its corpus (docs/fuzzing.md).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, here and in the fuzz target"
)]

use proptest::prelude::*;

#[path = "../../../fuzz/src/chat_completions.rs"]
mod chat_completions;
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/chat_completions");

#[test]
fn corpus_is_read_without_a_fault() {
    corpus::check_all(CORPUS, chat_completions::check);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn problem_has_its_line(data in corpus::mutations(CORPUS)) {
        chat_completions::check(&data);
    }
}
