//! What a table has beside where its topic is gapless. After all other columns.

use agentgov_runtime::sink::native::UInt64;

columns! {
    /// Offsets right before the row's that no record has.
    skipped: u64 {
        "skipped": UInt64 = *skipped,
    }
}
