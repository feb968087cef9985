//! Exponential backoff with jitter, so that processes do not retry in step.

use std::time::Duration;

/// Pauses between retries.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Duration::from_millis(50), max: Duration::from_secs(5) }
    }
}

impl Backoff {
    /// Returns the next pause: it doubles each time up to the maximum, and jitter reduces it by up to half.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.max);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Resets the pause after a success.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_grows_up_to_the_maximum() {
        let mut backoff = Backoff::default();
        let first = backoff.pause();
        assert!(first >= Duration::from_millis(25) && first <= Duration::from_millis(50));
        for _ in 0..20 {
            backoff.pause();
        }
        let last = backoff.pause();
        assert!(last >= Duration::from_millis(2500) && last <= Duration::from_secs(5), "{last:?}");
    }
}
