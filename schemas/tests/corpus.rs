//! What fuzzing found, and what it began with (docs/fuzzing.md), through the functions that it calls.

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
fn records() {
    corpus::check_all(RECORDS, wire::check);
}

#[test]
fn topologies() {
    corpus::check_all(TOPOLOGIES, topology::check);
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
        wire::check(&data);
    }

    #[test]
    fn records_with_a_mistake_are_read_or_refused(data in corpus::mutations(RECORDS)) {
        wire::check(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn topologies_with_a_mistake_have_problems_with_places(data in corpus::mutations(TOPOLOGIES)) {
        topology::check(&data);
    }
}
