//! What fuzzing the spool's reader found, and what it began with (docs/fuzzing.md), through the function that it calls.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, here and in the fuzz target"
)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[path = "../../../fuzz/src/spool.rs"]
mod spool;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/spool");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

#[test]
fn the_corpus_holds() {
    let corpus = corpus();
    assert!(corpus.iter().any(|(_, data)| agentgov_sdk::read_any_segment(data).0 > 1), "a seed has records");
    for (file, data) in corpus {
        // Its name shows if it fails.
        println!("{file}");
        spool::check(&data);
    }
}

proptest! {
    /// A byte changed in the middle of a record is found: no more records are read than before it.
    #[test]
    fn a_mistake_ends_the_reading(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let corpus = corpus();
        let (_, mut data) = corpus[file.index(corpus.len())].clone();
        let (whole, _) = agentgov_sdk::read_any_segment(&data);
        let at = at.index(data.len());
        data[at] = to;
        let (records, _) = agentgov_sdk::read_any_segment(&data);
        prop_assert!(records <= whole);
        spool::check(&data);
    }
}
