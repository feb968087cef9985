//! Deadlines of calls with a timeout.

use std::time::{Duration, Instant};

pub(crate) fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    // A timeout beyond the clock's range becomes a year.
    now.checked_add(timeout).unwrap_or(now + Duration::from_secs(365 * 86_400))
}
