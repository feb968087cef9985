//! What fuzzing found, and what it began with (docs/fuzzing.md), through the functions that it calls.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::expect_used,
    reason = "helpers of tests, here and in the fuzz targets"
)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[path = "../../fuzz/src/topology.rs"]
mod topology;
#[path = "../../fuzz/src/wire.rs"]
mod wire;

/// The corpus of a fuzz target: its files, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

fn hold(target: &str, check: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty());
    for (file, data) in corpus {
        // Its name shows if it fails.
        println!("{file}");
        check(&data);
    }
}

#[test]
fn records() {
    hold("wire", wire::check);
}

#[test]
fn topologies() {
    hold("topology", topology::check);
}

/// `data` with one change: a byte, a cut, or a piece that is there twice.
fn changed(mut data: Vec<u8>, at: prop::sample::Index, to: u8, how: u8) -> Vec<u8> {
    let at = at.index(data.len().max(1));
    match how % 3 {
        0 => data.iter_mut().skip(at).take(1).for_each(|byte| *byte = to),
        1 => data.truncate(at),
        _ => {
            let piece = data.iter().copied().skip(at).take(usize::from(to)).collect::<Vec<_>>();
            data.splice(at..at, piece);
        }
    }
    data
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
        wire::check(&data);
    }

    #[test]
    fn records_with_a_mistake_are_read_or_refused(
        file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), to in any::<u8>(), how in any::<u8>()
    ) {
        let corpus = corpus("wire");
        wire::check(&changed(corpus[file.index(corpus.len())].1.clone(), at, to, how));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn topologies_with_a_mistake_have_problems_with_places(
        file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), to in any::<u8>(), how in any::<u8>()
    ) {
        let corpus = corpus("topology");
        topology::check(&changed(corpus[file.index(corpus.len())].1.clone(), at, to, how));
    }
}
