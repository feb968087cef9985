//! Waiting between tries, longer each time, with jitter so that processes do not come back in step.

use std::time::Duration;

/// Pauses of a series of tries.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Duration::from_millis(50), most: Duration::from_secs(5) }
    }
}

impl Backoff {
    /// The next pause: doubled each time up to the most, then between half and all of it.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.most);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_stays_bounded() {
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
