//! The recorder with a spool: its bounds and failures, and the recovery by the next start.

use std::path::Path;

use super::*;
use crate::{Fsync, SpoolError};

fn spooled_producer(bootstrap: &str, folder: &Path) -> Producer {
    let spool = SpoolOptions { folder: folder.to_owned(), max_bytes: 64 << 10, fsync: Fsync::EveryEvent };
    producer(bootstrap, 1_000, Some(spool))
}

fn spooled(bootstrap: &str, folder: &Path, when_full: WhenFull) -> Recorder {
    spooled_producer(bootstrap, folder).recorder(source("acme", when_full)).unwrap()
}

/// Ends a recorder and its producer as SIGKILL would: releases their locks and stops their threads, without a flush. Returns
/// the source id.
fn kill(recorder: Recorder) -> String {
    let source_id = recorder.source_id().to_owned();
    recorder.producer.stop_recovery();
    drop(recorder.sequencer().spool.take());
    std::mem::forget(recorder);
    source_id
}

fn sources(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

fn record(recorder: &Recorder, count: usize) {
    for i in 0..count {
        recorder.record(&started(&format!("session-{}", i % 7))).unwrap();
    }
}

fn totals_of(logged: &[Logged], source_id: &str) -> Vec<i64> {
    let of_source = logged.iter().filter(|event| event.source_id == source_id);
    let mut totals: Vec<i64> = of_source.filter_map(|event| event.total).collect();
    totals.dedup();
    totals
}

#[test]
fn dead_sources_are_published_in_order_and_closed() {
    let (_cluster, bootstrap) = brokers();
    let folder = tempfile::tempdir().unwrap();
    // The first source has all events acknowledged, the second none, and the third has no event. The process that recovers
    // the first dies as well.
    let first = spooled(&bootstrap, folder.path(), WhenFull::Wait);
    record(&first, 30);
    first.flush(TIMEOUT).unwrap();
    let mut dead = vec![(kill(first), 30)];
    let second = spooled("127.0.0.1:1", folder.path(), WhenFull::Wait);
    record(&second, 40);
    assert_eq!(second.stats().dead_sources, 1);
    assert!(matches!(
        second.wait_for_dead_sources(Duration::from_millis(10)),
        Err(RecoverError::Unfinished { left: 1 })
    ));
    dead.push((kill(second), 40));
    kill(spooled("127.0.0.1:1", folder.path(), WhenFull::Wait));
    assert_eq!(sources(folder.path()), 3);

    let last = spooled(&bootstrap, folder.path(), WhenFull::Wait);
    record(&last, 5);
    last.wait_for_dead_sources(TIMEOUT).unwrap();
    assert_eq!((last.stats().dead_sources, sources(folder.path())), (0, 1));
    assert_eq!(last.close(TIMEOUT), Ok(Closed { total: 5 }));
    assert_eq!(sources(folder.path()), 0);

    dead.push((last.source_id().to_owned(), 5));
    let all = |logged: &[Logged]| {
        dead.iter()
            .all(|(id, total)| totals_of(logged, id) == [*total] && is_whole(logged, id, *total as usize + 1))
    };
    let logged = logged_until(&bootstrap, all);
    for (source_id, total) in &dead {
        assert_whole_and_in_order(&logged, source_id, total + 1);
    }
}

#[test]
fn source_killed_during_close_is_closed_once() {
    let (_cluster, bootstrap) = brokers();
    let folder = tempfile::tempdir().unwrap();
    let first = spooled("127.0.0.1:1", folder.path(), WhenFull::Wait);
    record(&first, 3);
    assert!(matches!(first.close(Duration::from_millis(10)), Err(FlushError::Unfinished { .. })));
    let source_id = kill(first);
    let next = spooled(&bootstrap, folder.path(), WhenFull::Wait);
    next.wait_for_dead_sources(TIMEOUT).unwrap();
    let logged = logged(&bootstrap, 4);
    assert_whole_and_in_order(&logged, &source_id, 4);
    assert_eq!(totals_of(&logged, &source_id), [3]);
}

#[test]
fn full_spool_is_an_error_until_kafka_acknowledges() {
    let (cluster, bootstrap) = brokers();
    let folder = tempfile::tempdir().unwrap();
    cluster.broker_down(1).unwrap();
    let recorder = spooled(&bootstrap, folder.path(), WhenFull::Fail);
    let data = [b'x'; 4_000];
    let content = Content { data: &data, media_type: "text/plain" };
    let tool = crate::ToolCall::new("t", "c", content);
    let large = Event { tool: Some(tool), ..Event::new(catalogue::TOOL_INVOKED, "s", AGENT) };
    let mut taken = 0;
    let full = loop {
        match recorder.record(&large) {
            Ok(receipt) => taken = receipt.sequence + 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, RecordError::SpoolFull { limit: 65_536, .. }), "{full:?}");
    assert!(taken > 5 && recorder.stats().accepted == taken, "{taken}");
    cluster.broker_up(1).unwrap();
    recorder.flush(TIMEOUT).unwrap();
    recorder.record(&large).unwrap();
    assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total: taken + 1 }));
    assert_gapless_and_in_order(&logged(&bootstrap, taken as usize + 2));
}

#[test]
fn full_disk_is_an_error_that_uses_no_sequence() {
    let (cluster, bootstrap) = brokers();
    let folder = tempfile::tempdir().unwrap();
    // Events that are durable would give their room to the next one.
    cluster.broker_down(1).unwrap();
    let recorder = spooled(&bootstrap, folder.path(), WhenFull::Wait);
    record(&recorder, 2);
    recorder.sequencer().spool.as_mut().unwrap().fill_disk(false);
    let error = recorder.record(&started("s")).unwrap_err();
    assert!(matches!(&error, RecordError::Spool { error: SpoolError::Io { .. }, .. }), "{error:?}");
    recorder.sequencer().spool.as_mut().unwrap().free_disk();
    record(&recorder, 2);
    cluster.broker_up(1).unwrap();
    assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total: 4 }));
    assert_gapless_and_in_order(&logged(&bootstrap, 5));
}

#[test]
fn failed_undo_stops_the_recorder_and_the_next_start_publishes_all() {
    let (_cluster, bootstrap) = brokers();
    let folder = tempfile::tempdir().unwrap();
    let recorder = spooled(&bootstrap, folder.path(), WhenFull::Wait);
    record(&recorder, 2);
    recorder.sequencer().spool.as_mut().unwrap().fill_disk(true);
    for _ in 0..2 {
        let error = recorder.record(&started("s")).unwrap_err();
        assert!(matches!(&error, RecordError::Stopped { .. }), "{error:?}");
    }
    assert_eq!(recorder.stats().accepted, 2);
    let source_id = kill(recorder);
    let next = spooled(&bootstrap, folder.path(), WhenFull::Wait);
    next.wait_for_dead_sources(TIMEOUT).unwrap();
    let all = |logged: &[Logged]| totals_of(logged, &source_id) == [2] && is_whole(logged, &source_id, 3);
    assert_whole_and_in_order(&logged_until(&bootstrap, all), &source_id, 3);
}

#[test]
fn recorded_event_is_in_the_spool_before_kafka_acknowledges_it() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = spooled("127.0.0.1:1", folder.path(), WhenFull::Wait);
    let segment = folder.path().join(recorder.source_id()).join(format!("{:020}.seg", 0));
    for events in 1..4 {
        recorder.record(&started("s")).unwrap();
        let stats = recorder.stats();
        assert_eq!((stats.durable_through, stats.waiting_events), (None, events));
        assert_eq!(crate::read_any_segment(&std::fs::read(&segment).unwrap()), (events, None));
    }
    kill(recorder);
}

#[test]
fn sources_of_a_killed_producer_are_all_recovered_and_closed() {
    let (_cluster, bootstrap) = brokers();
    let folder = tempfile::tempdir().unwrap();
    let producer = spooled_producer("127.0.0.1:1", folder.path());
    let mut dead = Vec::new();
    for (tenant_id, events) in [("acme", 30), ("globex", 40), ("acme", 0), ("initech", 1)] {
        let recorder = producer.recorder(source(tenant_id, WhenFull::Wait)).unwrap();
        record(&recorder, events);
        dead.push((kill(recorder), tenant_id, events as i64));
    }
    assert_eq!(sources(folder.path()), 4);

    let next = spooled_producer(&bootstrap, folder.path());
    next.wait_for_dead_sources(TIMEOUT).unwrap();
    assert_eq!(sources(folder.path()), 0);
    let logged = logged(&bootstrap, 30 + 40 + 1 + 3);
    // A source without an event is only removed.
    for (source_id, tenant_id, total) in dead.iter().filter(|(_, _, total)| *total > 0) {
        assert_whole_and_in_order(&logged, source_id, total + 1);
        assert_eq!(totals_of(&logged, source_id), [*total]);
        let mut of_source = logged.iter().filter(|event| event.source_id == *source_id);
        assert!(of_source.all(|event| event.tenant_id == *tenant_id));
    }
}

#[test]
fn source_with_a_full_spool_holds_up_no_other() {
    let (cluster, bootstrap) = brokers();
    let folder = tempfile::tempdir().unwrap();
    cluster.broker_down(1).unwrap();
    let producer = spooled_producer(&bootstrap, folder.path());
    let full = producer.recorder(source("acme", WhenFull::Fail)).unwrap();
    let data = [b'x'; 4_000];
    let content = Content { data: &data, media_type: "text/plain" };
    let tool = crate::ToolCall::new("t", "c", content);
    let large = Event { tool: Some(tool), ..Event::new(catalogue::TOOL_INVOKED, "s", AGENT) };
    while full.record(&large).is_ok() {}
    assert!(matches!(full.record(&large), Err(RecordError::SpoolFull { .. })));
    let other = producer.recorder(source("globex", WhenFull::Fail)).unwrap();
    record(&other, 20);
    assert_eq!((other.stats().accepted, other.stats().waiting_events), (20, 20));
    cluster.broker_up(1).unwrap();
    assert_eq!(other.close(TIMEOUT), Ok(Closed { total: 20 }));
    full.flush(TIMEOUT).unwrap();
    full.record(&large).unwrap();
    full.close(TIMEOUT).unwrap();
    assert_eq!(sources(folder.path()), 0);
}

/// Another process would publish the same events at the same time.
#[test]
fn files_of_a_dropped_recorder_have_an_owner_while_events_are_in_flight() {
    let (cluster, bootstrap) = brokers();
    let folder = tempfile::tempdir().unwrap();
    cluster.broker_down(1).unwrap();
    let producer = spooled_producer(&bootstrap, folder.path());
    let recorder = producer.recorder(source("acme", WhenFull::Wait)).unwrap();
    record(&recorder, 3);
    let claimed =
        || crate::spool::SpoolFolder::lock(folder.path()).unwrap().claim_dead_sources().unwrap().len();
    // As `drop` does after its timeout.
    let spool = recorder.sequencer().spool.take().unwrap();
    recorder.in_flight.keep_folder(spool.into_folder());
    assert_eq!(claimed(), 0);
    cluster.broker_up(1).unwrap();
    let until = Instant::now() + TIMEOUT;
    while claimed() == 0 {
        assert!(Instant::now() < until);
    }
    assert_eq!(recorder.stats().waiting_events, 0);
}
