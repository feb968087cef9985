//! Additional column of a gapless topic's table, after all others.

use agentgov_runtime::sink::native::UInt64;

columns! {
    /// Number of skipped offsets right before the row's offset.
    skipped: u64 {
        "skipped": UInt64 = *skipped,
    }
}
