//! Everything that is published is there: once, in order, judged and told.

use crate::actions::record_session;
use crate::checks;
use crate::stack::{DEADLINE, ENVIRONMENT, stack};

#[test]
fn several_sources_at_once_lose_and_double_nothing() {
    const TENANT: &str = "complete";
    let stack = stack();
    // Two threads a source, each with sessions of its own. Two of the sources say that they ended, two fall silent.
    let published: Vec<(String, i64, bool)> = std::thread::scope(|scope| {
        let sources = (0..4).map(|source| {
            scope.spawn(move || {
                let recorder = stack.recorder(TENANT, ENVIRONMENT);
                std::thread::scope(|scope| {
                    for thread in 0..2 {
                        let recorder = &recorder;
                        scope.spawn(move || {
                            for session in 0..40 {
                                record_session(
                                    recorder,
                                    &format!("{source}-{thread}-{session}"),
                                    session % 12,
                                );
                            }
                        });
                    }
                });
                let closed = source < 2;
                let events = if closed {
                    recorder.close(DEADLINE).unwrap().total + 1
                } else {
                    recorder.flush(DEADLINE).unwrap().durable
                };
                (recorder.source_id().to_owned(), events, closed)
            })
        });
        let sources: Vec<_> = sources.collect();
        sources.into_iter().map(|source| source.join().unwrap()).collect()
    });
    let events: i64 = published.iter().map(|(_, events, _)| events).sum();
    assert!(events > 3_000, "{events}");
    checks::complete(stack, TENANT, events);
    for (source, events, closed) in published {
        let sql = format!(
            "SELECT count(), uniqExact(source_sequence), max(source_sequence) + 1, maxOrNull(closing_total)
             FROM actions WHERE tenant_id = '{TENANT}' AND source_id = '{source}'"
        );
        let total = if closed { (events - 1).to_string() } else { "\\N".to_owned() };
        let events = events.to_string();
        assert_eq!(stack.rows(&sql), [[events.clone(), events.clone(), events, total]]);
    }
    let alerts = stack.number(&format!("SELECT count() FROM alerts WHERE tenant_id = '{TENANT}'"));
    assert!(alerts > 100, "found {alerts}");
}
