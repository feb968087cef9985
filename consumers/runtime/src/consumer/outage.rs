//! Probe of the broker after an error. Silence does not mean that the broker has recovered.

use std::time::{Duration, Instant};

use agentgov_connect::BrokerLiveness;
use agentgov_schemas::NotReadyReason;
use agentgov_service::Health;
use agentgov_service::backoff::Backoff;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaResult;

/// Reason that an outage of the broker sets.
const REASON: NotReadyReason = NotReadyReason::Kafka;
/// Timeout of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Probes the broker from the first error, or from the loss of the last broker, until it responds.
///
/// An outage leaves one error per broken connection in the consumer's queue. A hanging connection leaves none, and
/// neither does one that librdkafka has abandoned.
pub(crate) struct OutageProbe {
    liveness: BrokerLiveness,
    /// Time of the next probe, while an outage is suspected.
    next: Option<(Instant, Backoff)>,
}

impl OutageProbe {
    /// Creates the probe of the consumer that `liveness` watches.
    pub(crate) const fn new(liveness: BrokerLiveness) -> Self {
        Self { liveness, next: None }
    }

    /// Starts probing the broker, unless it is being probed.
    pub(crate) fn suspect(&mut self) {
        self.next.get_or_insert_with(|| (Instant::now(), Backoff::default()));
    }

    /// Reports an error of the consumer and starts probing the broker.
    pub(crate) fn report(&mut self, health: &Health, why: String) {
        health.set_not_ready(REASON, why);
        self.suspect();
    }

    /// Ends the outage after another successful request.
    pub(crate) fn recovered(&mut self, health: &Health) {
        health.clear(REASON);
        self.next = None;
    }

    /// Probes the broker through `consumer` if a probe is due. Returns true if an outage has ended.
    pub(crate) fn run<C: ConsumerContext>(
        &mut self,
        health: &Health,
        consumer: &BaseConsumer<C>,
        topic: &str,
    ) -> bool {
        self.run_with(health, || consumer.fetch_metadata(Some(topic), PROBE_TIMEOUT).map(drop))
    }

    fn run_with(&mut self, health: &Health, probe: impl FnOnce() -> KafkaResult<()>) -> bool {
        if self.liveness.is_lost() {
            self.suspect();
        }
        let Some((at, backoff)) = &mut self.next else { return false };
        if Instant::now() < *at {
            return false;
        }
        match probe() {
            Ok(()) => {
                // Otherwise the client counts as without brokers until the watchdog's next check, which causes a
                // needless probe.
                self.liveness.record_response();
                self.recovered(health);
                true
            }
            Err(error) => {
                health.set_not_ready(REASON, format!("no response from the broker: {error}"));
                *at = Instant::now() + backoff.pause();
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};

    use super::*;

    const AWAY: KafkaResult<()> = Err(KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure));

    fn is_ready(health: &Health) -> bool {
        !health.snapshot().not_ready.contains_key(&REASON)
    }

    #[test]
    fn broker_is_probed_from_the_first_error_until_it_responds() {
        let (health, mut probe) = (Health::new("test"), OutageProbe::new(BrokerLiveness::default()));
        assert!(!probe.run_with(&health, || panic!("probed without a reason")));
        probe.report(&health, "an error".into());
        assert!(!is_ready(&health));
        assert!(!probe.run_with(&health, || AWAY));
        assert!(!probe.run_with(&health, || panic!("probed again at once")));
        assert!(!is_ready(&health), "silence is no recovery");
        let due = |probe: &mut OutageProbe| probe.next.as_mut().unwrap().0 = Instant::now();
        due(&mut probe);
        probe.suspect();
        assert!(!probe.run_with(&health, || AWAY), "a further error changes nothing");
        due(&mut probe);
        assert!(probe.run_with(&health, || Ok(())) && is_ready(&health));
        assert!(!probe.run_with(&health, || panic!("probed after it has recovered")));
    }

    #[test]
    fn lost_brokers_start_the_probe_without_an_error() {
        let liveness = BrokerLiveness::lost();
        let (health, mut probe) = (Health::new("test"), OutageProbe::new(liveness.clone()));
        assert!(!probe.run_with(&health, || AWAY) && !is_ready(&health));
        probe.next.as_mut().unwrap().0 = Instant::now();
        assert!(probe.run_with(&health, || Ok(())) && is_ready(&health));
        assert!(!liveness.is_lost(), "an answer is a broker");
    }
}
