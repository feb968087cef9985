//! Many sources of one producer: each has its own numbers, order, end and failure, and all share one buffer.

use super::*;

fn of<'a>(logged: &'a [Logged], source_id: &str) -> Vec<&'a Logged> {
    logged.iter().filter(|event| event.source_id == source_id).collect()
}

#[test]
fn each_source_is_gapless_in_order_and_closed() {
    let (_cluster, bootstrap) = brokers();
    // A small buffer, so that the sources compete for room.
    let producer = producer(&bootstrap, 50, None);
    let recorders: Vec<Recorder> = ["acme", "globex", "acme"]
        .map(|tenant_id| producer.recorder(source(tenant_id, WhenFull::Wait)).unwrap())
        .into();
    let events = 400;
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let recorder = &recorders[thread % 3];
            scope.spawn(move || {
                let session = format!("session-{thread}");
                for _ in 0..events {
                    recorder.record(&started(&session)).unwrap();
                }
            });
        }
    });
    let total = 2 * events;
    for recorder in &recorders {
        assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total }));
        let stats = recorder.stats();
        assert_eq!((stats.accepted, stats.durable_through), (total + 1, Some(total)));
        assert_eq!((stats.waiting_events, stats.waiting_bytes), (0, 0));
    }
    let logged = logged(&bootstrap, 3 * (total as usize + 1));
    for (recorder, tenant_id) in recorders.iter().zip(["acme", "globex", "acme"]) {
        assert_whole_and_in_order(&logged, recorder.source_id(), total + 1);
        let of_source = of(&logged, recorder.source_id());
        assert!(of_source.iter().all(|event| event.tenant_id == tenant_id));
        let closing: Vec<_> = of_source.iter().filter(|event| event.total.is_some()).collect();
        assert_eq!((closing.len(), closing[0].total, closing[0].sequence), (1, Some(total), total));
        assert_eq!(closing[0].session_id, format!("source/{}", recorder.source_id()));
    }
}

#[test]
fn sources_share_one_buffer() {
    let producer = producer("127.0.0.1:1", 3, None);
    let first = producer.recorder(source("acme", WhenFull::Fail)).unwrap();
    let second = producer.recorder(source("globex", WhenFull::Fail)).unwrap();
    first.record(&started("s")).unwrap();
    second.record(&started("s")).unwrap();
    first.record(&started("s")).unwrap();
    for recorder in [&first, &second] {
        let error = recorder.record(&started("s")).unwrap_err();
        assert!(matches!(error, RecordError::Full { events: 3, .. }), "{error:?}");
    }
    assert_eq!((first.stats().waiting_events, first.stats().accepted), (2, 2));
    assert_eq!((second.stats().waiting_events, second.stats().accepted), (1, 1));
    // Dropping them would wait for the unreachable brokers.
    std::mem::forget((first, second));
}

#[test]
fn failed_producer_is_replaced_for_all_sources_but_the_stopped() {
    let (cluster, bootstrap) = brokers();
    let producer = producer(&bootstrap, 1_000, None);
    let open = |tenant_id| producer.recorder(source(tenant_id, WhenFull::Wait)).unwrap();
    let (stopped, first, second) = (open("acme"), open("acme"), open("globex"));
    let record = |count| {
        for i in 0..count {
            for recorder in [&first, &second] {
                recorder.record(&started(&format!("session-{}", i % 7))).unwrap();
            }
        }
    };
    record(20);
    cluster.broker_down(1).unwrap();
    record(50);
    stopped.record(&started("s")).unwrap();
    stopped.in_flight.fail("a disk".to_owned());
    first.producer.queue.fail_producer();
    record(30);
    cluster.broker_up(1).unwrap();
    for recorder in [&first, &second] {
        assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total: 100 }));
    }
    let error = stopped.close(TIMEOUT).unwrap_err();
    assert!(matches!(&error, FlushError::Stopped { reason, .. } if reason == "a disk"), "{error:?}");
    let ids = [first.source_id(), second.source_id()];
    let logged = logged_until(&bootstrap, |logged| ids.iter().all(|id| is_whole(logged, id, 101)));
    ids.iter().for_each(|id| assert_whole_and_in_order(&logged, id, 101));
    // Its next event would be behind a missing one.
    assert!(of(&logged, stopped.source_id()).is_empty());
    assert_eq!(open("acme").close(TIMEOUT), Ok(Closed { total: 0 }));
}

#[test]
fn producer_that_stopped_stops_every_source_and_opens_none() {
    let (cluster, bootstrap) = brokers();
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[error; 50]);
    let producer = producer(&bootstrap, 1_000, None);
    let open = |tenant_id| producer.recorder(source(tenant_id, WhenFull::Wait));
    let (with_events, without) = (open("acme").unwrap(), open("globex").unwrap());
    with_events.record(&started("s")).unwrap();
    assert!(matches!(with_events.flush(TIMEOUT), Err(FlushError::Stopped { .. })));
    assert!(matches!(without.record(&started("s")), Err(RecordError::Stopped { .. })));
    let error = open("acme").unwrap_err();
    assert!(matches!(&error, StartError::ProducerStopped { .. }) && error.is_permanent(), "{error:?}");
}

#[test]
fn slot_of_a_closed_source_is_reused() {
    let (_cluster, bootstrap) = brokers();
    let producer = producer(&bootstrap, 1_000, None);
    let tickets: Vec<_> = (0..3)
        .map(|_| {
            let recorder = producer.recorder(source("acme", WhenFull::Wait)).unwrap();
            recorder.record(&started("s")).unwrap();
            assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total: 1 }));
            recorder.in_flight.ticket(0)
        })
        .collect();
    assert_eq!(tickets, [tickets[0]; 3]);
}

#[test]
fn linger_is_a_setting_of_the_client() {
    for (linger, expected) in
        [(Duration::ZERO, "0"), (DEFAULT_LINGER, "40"), (Duration::from_micros(1_500), "1.5")]
    {
        let in_flight = Arc::new(InFlightWindow::new(1, 1));
        let queue = Queue::open(&target("127.0.0.1:1"), linger, in_flight).unwrap();
        assert_eq!(queue.setting("linger.ms").as_deref(), Some(expected));
        assert_eq!(queue.setting("max.in.flight.requests.per.connection").as_deref(), Some("1"));
    }
}
