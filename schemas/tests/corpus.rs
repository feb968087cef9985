//! Runs the functions of the fuzz targets on their corpora: seeds and findings of fuzzing (docs/fuzzing.md).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests, here and in the fuzz targets"
)]

use proptest::prelude::*;

#[path = "../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../fuzz/src/topology.rs"]
mod topology;
#[path = "../../fuzz/src/wire.rs"]
mod wire;

const RECORDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/wire");
const TOPOLOGIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/topology");

#[test]
fn record_corpus_passes() {
    corpus::check_all(RECORDS, wire::check);
}

#[test]
fn topology_corpus_passes() {
    corpus::check_all(TOPOLOGIES, topology::check);
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_rejected(data in prop::collection::vec(any::<u8>(), 0..200)) {
        wire::check(&data);
    }

    #[test]
    fn mutated_records_decode_or_are_rejected(data in corpus::mutations(RECORDS)) {
        wire::check(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn mutated_topologies_have_problems_with_locations(data in corpus::mutations(TOPOLOGIES)) {
        topology::check(&data);
    }
}
