//! What fuzzing found, and what it began with (docs/fuzzing.md), through the function that it calls.

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

#[path = "../../../fuzz/src/registry_file.rs"]
mod registry_file;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/registry_file");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

#[test]
fn the_corpus_holds() {
    let corpus = corpus();
    assert!(!corpus.is_empty());
    for (file, data) in corpus {
        // Its name shows if it fails.
        println!("{file}");
        registry_file::check(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// A byte changed, a cut, or a piece that is there twice.
    #[test]
    fn a_mistake_has_its_place(
        file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), to in any::<u8>(), how in 0..3_u8
    ) {
        let corpus = corpus();
        let mut data = corpus[file.index(corpus.len())].1.clone();
        let at = at.index(data.len().max(1));
        match how {
            0 => data.iter_mut().skip(at).take(1).for_each(|byte| *byte = to),
            1 => data.truncate(at),
            _ => {
                let piece = data.iter().copied().skip(at).take(usize::from(to)).collect::<Vec<_>>();
                data.splice(at..at, piece);
            }
        }
        registry_file::check(&data);
    }
}
