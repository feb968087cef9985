//! Any bytes as a segment of a spool: so many whole records, and what ends them.

pub fn check(data: &[u8]) {
    let (records, broken) = agentgov_sdk::read_any_segment(data);
    // A record takes more than a byte, so that no length that a file claims can make more of it than it is.
    assert!(records <= data.len());
    if broken.is_none() && !data.is_empty() {
        // What reads to its end reads no less with its end cut off.
        let (fewer, _) = agentgov_sdk::read_any_segment(&data[..data.len() - 1]);
        assert!(fewer <= records);
    }
}
