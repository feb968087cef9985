//! Sends the first record of a producer in a partition alone.
//!
//! Kafka accepts any sequence number from a producer that a partition does not know. If the broker refuses the first
//! batch with a transient error and accepts the second, librdkafka counts the first batch as written too (ADR 0013).
//! The barrier therefore sends nothing after the first record before it is acknowledged. Once a partition knows the
//! producer, Kafka refuses batches that are out of order.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use agentgov_processor::Outgoing;
use agentgov_processor::Outputs;

/// Maximum time since the producer's last record in a partition. After it the partition may not know the producer any
/// more: brokers expire a producer after `producer.id.expiration.ms`, by default a day.
const MAX_IDLE_TIME: Duration = Duration::from_mins(10);

/// Tracks which partitions know the producer.
#[derive(Default)]
pub(super) struct FirstRecordBarrier {
    /// Time of the producer's last record at each place ([`Outgoing::place`]). Wall-clock time, which continues while a
    /// machine sleeps.
    last_written: Vec<Option<SystemTime>>,
}

impl FirstRecordBarrier {
    /// Sends `outputs`, in order within each partition. The first record in a partition that does not know the producer
    /// is sent before `await_acks`, which waits until all sent records are acknowledged. The records that follow it
    /// there are sent afterwards.
    ///
    /// The barrier changes at once: discard it if the transaction does not commit.
    ///
    /// # Errors
    /// Returns the errors of `send` and `await_acks`, after which nothing more is sent.
    pub(super) fn send<E>(
        &mut self,
        now: SystemTime,
        outputs: &Outputs,
        mut send: impl FnMut(&Outgoing<'_>) -> Result<(), E>,
        await_acks: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut first_in = BTreeSet::new();
        let mut deferred = Vec::new();
        for record in outputs.to_send() {
            if first_in.contains(&record.slot) {
                deferred.push(record);
                continue;
            }
            if !self.mark_written(record.slot, now) {
                first_in.insert(record.slot);
            }
            send(&record)?;
        }
        if deferred.is_empty() {
            return Ok(());
        }
        await_acks()?;
        deferred.iter().try_for_each(send)
    }

    /// Marks a place as written. Returns true if it knew the producer.
    fn mark_written(&mut self, place: usize, now: SystemTime) -> bool {
        if self.last_written.len() <= place {
            self.last_written.resize(place + 1, None);
        }
        let before = self.last_written.get_mut(place).and_then(|last| last.replace(now));
        before.is_some_and(|before| now.duration_since(before).is_ok_and(|rest| rest < MAX_IDLE_TIME))
    }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::state::{Progress, SessionState};
    use agentgov_schemas::topology::{MissingRole, Topology};
    use agentgov_schemas::verdict::Origin;
    use agentgov_schemas::wire::SchemaId;
    use agentgov_schemas::{reject, subject};

    use super::*;

    /// Returns outputs of the evaluator: a changelog entry and a reject for each partition and key in turn.
    fn outputs(of: &[(i32, &str)]) -> Outputs {
        let topology = Topology::embedded().unwrap();
        let stage = topology.stage("evaluator").unwrap();
        let id = |_: &str, _: &_| Ok::<_, MissingRole>(SchemaId(1));
        let mut outputs = Outputs::new(&topology, stage, id).unwrap();
        let reject = reject::Reject {
            stage: "evaluator",
            reason: reject::RejectReason::EmptyValue.into(),
            detail: "",
            origin: Origin { topic: "t", partition: 0, offset: 0, logged_at: Default::default() },
            key: b"",
            size: 0,
            sha256: agentgov_schemas::Digest::of(b""),
            head: b"",
        };
        for (partition, key) in of {
            outputs.set_partition(*partition);
            let progress = Some(Progress { next_offset: 1, bundles_announced: 0, basis: None });
            let entry = SessionState { progress, ..SessionState::new("", "") };
            outputs.state(key.as_bytes(), Some(&entry)).unwrap();
            outputs.emit(key.as_bytes(), &reject).unwrap();
        }
        outputs
    }

    /// Returns the order of calls: `s` is a changelog entry, `r` a reject.
    fn sent_order(barrier: &mut FirstRecordBarrier, now: SystemTime, outputs: &Outputs) -> Vec<String> {
        let topology = Topology::embedded().unwrap();
        let rejects = topology.topic_of(subject::REJECT).unwrap().0;
        let log = std::cell::RefCell::new(Vec::new());
        let send = |record: &Outgoing<'_>| {
            let topic = if record.topic == rejects { "r" } else { "s" };
            let key = String::from_utf8_lossy(record.key);
            log.borrow_mut().push(format!("{topic}{} {key}", record.partition));
            Ok::<_, ()>(())
        };
        let await_acks = || {
            log.borrow_mut().push("await_acks".into());
            Ok(())
        };
        barrier.send(now, outputs, send, await_acks).unwrap();
        log.into_inner()
    }

    #[test]
    fn records_after_a_partitions_first_wait_for_its_acknowledgement() {
        let mut barrier = FirstRecordBarrier::default();
        let now = SystemTime::now();
        let sent =
            sent_order(&mut barrier, now, &outputs(&[(0, "a"), (0, "b"), (2, "c"), (0, "d"), (2, "e")]));
        let (first, rest) =
            (["s0 a", "r0 a", "s2 c", "r2 c"], ["s0 b", "r0 b", "s0 d", "r0 d", "s2 e", "r2 e"]);
        assert_eq!(sent, [&first[..], &["await_acks"], &rest[..]].concat());

        let sent =
            sent_order(&mut barrier, now, &outputs(&[(0, "a"), (0, "b"), (1, "c"), (1, "d"), (2, "e")]));
        let (first, rest) =
            (["s0 a", "r0 a", "s0 b", "r0 b", "s1 c", "r1 c", "s2 e", "r2 e"], ["s1 d", "r1 d"]);
        assert_eq!(sent, [&first[..], &["await_acks"], &rest[..]].concat(), "only partition 1 is new");
    }

    #[test]
    fn partition_needs_a_first_record_again_after_idling_or_a_clock_step_back() {
        let mut barrier = FirstRecordBarrier::default();
        let two = outputs(&[(0, "a"), (0, "b")]);
        let mut now = SystemTime::now();
        let mut waits = |now| sent_order(&mut barrier, now, &two).contains(&"await_acks".to_owned());
        assert!(waits(now));
        assert!(!waits(now));
        now += MAX_IDLE_TIME - Duration::from_secs(1);
        assert!(!waits(now), "known within the idle time");
        now += MAX_IDLE_TIME - Duration::from_secs(1);
        assert!(!waits(now), "the idle time starts at the last record");
        now += MAX_IDLE_TIME;
        assert!(waits(now));
        now -= Duration::from_secs(1);
        assert!(waits(now));
        assert!(
            !sent_order(&mut FirstRecordBarrier::default(), now, &outputs(&[(0, "a"), (1, "b")]))
                .contains(&"await_acks".to_owned())
        );
    }

    #[test]
    fn failed_acknowledgement_stops_sending() {
        let mut sent = 0;
        let send = |_: &Outgoing<'_>| {
            sent += 1;
            Ok(())
        };
        let two = outputs(&[(0, "a"), (0, "b")]);
        let result = FirstRecordBarrier::default().send(SystemTime::now(), &two, send, || Err("refused"));
        assert_eq!((result, sent), (Err("refused"), 2));
    }
}
