//! Futures that resolve once events are durable, run by an executor that counts its polls.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use super::*;

struct WakeThread {
    thread: Thread,
    wakes: AtomicUsize,
}

impl Wake for WakeThread {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::Release);
        self.thread.unpark();
    }
}

/// Polls a future each time that it wakes. Returns its output and the number of wakes.
fn run<F: Future>(future: F) -> (F::Output, usize) {
    let wake = Arc::new(WakeThread { thread: std::thread::current(), wakes: AtomicUsize::new(0) });
    let (waker, until) = (Waker::from(Arc::clone(&wake)), Instant::now() + TIMEOUT);
    let mut future = pin!(future);
    let mut seen = 0;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return (output, wake.wakes.load(Ordering::Acquire));
        }
        while wake.wakes.load(Ordering::Acquire) == seen {
            assert!(Instant::now() < until, "the future did not wake");
            std::thread::park_timeout(TIMEOUT);
        }
        seen = wake.wakes.load(Ordering::Acquire);
    }
}

fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[test]
fn future_resolves_once_all_events_up_to_it_are_acknowledged() {
    let (cluster, bootstrap) = brokers();
    let recorder = recorder(&bootstrap, 100, WhenFull::Wait);
    assert_eq!(run(recorder.durable(i64::MAX)), (Ok(Flushed { durable: 0 }), 0));
    cluster.broker_down(1).unwrap();
    for session in ["a", "b", "c", "d", "e"] {
        recorder.record(&started(session)).unwrap();
    }
    let (mut fourth, mut dropped) = (Box::pin(recorder.durable(3)), Box::pin(recorder.durable(1)));
    assert!(is_pending(&mut fourth) && is_pending(&mut dropped));
    drop(dropped);
    cluster.broker_up(1).unwrap();
    let (output, wakes) = run(fourth);
    assert!(output.unwrap().durable >= 4);
    assert!(wakes <= 1, "{wakes} wakes for 5 acknowledgements");
    assert_eq!(run(recorder.durable(i64::MAX)).0, Ok(Flushed { durable: 5 }));
}

#[test]
fn future_outlives_its_recorder_and_producer() {
    let (cluster, bootstrap) = brokers();
    let recorder = recorder(&bootstrap, 100, WhenFull::Wait);
    recorder.record(&started("s")).unwrap();
    recorder.close(TIMEOUT).unwrap();
    let closed = recorder.durable(i64::MAX);
    drop(recorder);
    assert_eq!(run(closed), (Ok(Flushed { durable: 2 }), 0));

    cluster.broker_down(1).unwrap();
    let producer = producer(&bootstrap, 100, None);
    let recorder = producer.recorder(source("acme", WhenFull::Wait)).unwrap();
    let receipt = recorder.record(&started("s")).unwrap();
    let pending = recorder.durable(receipt.sequence);
    drop(producer);
    let dropped = std::thread::spawn(move || drop(recorder));
    cluster.broker_up(1).unwrap();
    assert_eq!(run(pending).0, Ok(Flushed { durable: 1 }));
    dropped.join().unwrap();
}

#[test]
fn future_of_a_failed_delivery_returns_the_reason() {
    let (cluster, bootstrap) = brokers();
    let recorder = recorder(&bootstrap, 100, WhenFull::Wait);
    recorder.record(&started("s")).unwrap();
    recorder.flush(TIMEOUT).unwrap();
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 20],
    );
    let receipt = recorder.record(&started("s")).unwrap();
    let error = run(recorder.durable(receipt.sequence)).0.unwrap_err();
    let FlushError::Stopped { missing, spooled: false, .. } = &error else { panic!("{error:?}") };
    assert_eq!(missing.ranges(), [1..=1], "{error}");
    // The first event is durable nevertheless.
    assert_eq!(run(recorder.durable(0)), (Ok(Flushed { durable: 1 }), 0));
}

#[test]
fn future_of_a_stopped_source_resolves_once_nothing_is_in_flight() {
    let producer = producer("127.0.0.1:1", 100, None);
    let recorder = producer.recorder(source("acme", WhenFull::Wait)).unwrap();
    recorder.record(&started("s")).unwrap();
    let mut pending = Box::pin(recorder.durable(0));
    assert!(is_pending(&mut pending));
    recorder.in_flight.fail("a disk".to_owned());
    assert!(is_pending(&mut pending), "the event may still be delivered");
    recorder.in_flight.release(1);
    let (output, _) = run(pending);
    assert!(matches!(output, Err(FlushError::Stopped { .. })), "{output:?}");
}
