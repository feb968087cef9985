//! Fuzz check: any bytes as a segment of a spool. Returns the number of complete records and the error that ends them.

pub fn check(data: &[u8]) {
    let (records, broken) = agentgov_sdk::read_any_segment(data);
    // A record has more than one byte, so a claimed length must not yield more records than bytes.
    assert!(records <= data.len());
    if broken.is_none() && !data.is_empty() {
        // Truncating an intact segment must not yield more records.
        let (fewer, _) = agentgov_sdk::read_any_segment(&data[..data.len() - 1]);
        assert!(fewer <= records);
    }
}
