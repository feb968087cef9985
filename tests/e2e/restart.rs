//! Tests that a killed process loses and doubles nothing while events flow.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::actions::record_session;
use crate::checks;
use crate::stack::{DEADLINE, ENVIRONMENT, Stack, stack};

const TENANT: &str = "restarted";
/// Maximum number of events without a row before more are published.
const BACKLOG: i64 = 1_000;

/// Returns true if every stage's group is stable with `members` members.
fn has_members(stack: &Stack, consumer: &BaseConsumer, members: usize) -> bool {
    stack.topology.stages.values().all(|stage| {
        let group = &stage.value.group.value;
        let list = consumer.fetch_group_list(Some(group), Duration::from_secs(10)).unwrap();
        list.groups().iter().any(|group| group.state() == "Stable" && group.members().len() == members)
    })
}

#[test]
fn killed_process_loses_and_doubles_nothing() {
    let stack = stack();
    let consumer: BaseConsumer = stack.endpoints.kafka.client_config().create().unwrap();
    let rows = || stack.number(&format!("SELECT count() FROM actions WHERE tenant_id = '{TENANT}'"));
    let (published, done) = (AtomicI64::new(0), AtomicBool::new(false));
    let events = std::thread::scope(|scope| {
        let flow = scope.spawn(|| {
            let recorder = stack.recorder(TENANT, ENVIRONMENT);
            let mut session = 0;
            while !done.load(Ordering::Acquire) {
                for _ in 0..10 {
                    record_session(&recorder, &format!("session-{session}"), session % 12);
                    session += 1;
                }
                published.store(recorder.flush(DEADLINE).unwrap().durable, Ordering::Release);
                stack.eventually("room for more events, or the end of it", || {
                    done.load(Ordering::Acquire) || published.load(Ordering::Acquire) - rows() < BACKLOG
                });
            }
            recorder.close(DEADLINE).unwrap().total + 1
        });
        let flows_on = |what: &str| {
            let before = rows();
            stack.eventually(what, || rows() > before + BACKLOG);
        };
        // Ends the flow when this thread ends, also after a panic.
        let _end = End(&done);
        flows_on("events to flow");
        let mut second = Killed(stack.command(&["run", "all"]).stdout(Stdio::null()).spawn().unwrap());
        stack.eventually("two members of each group", || has_members(stack, &consumer, 2));
        flows_on("events to flow through both");
        second.0.kill().unwrap();
        flows_on("events to flow again");
        stack.eventually("one member of each group", || has_members(stack, &consumer, 1));
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&second.0.wait().unwrap()),
            Some(9),
            "it was running"
        );
        done.store(true, Ordering::Release);
        flow.join().unwrap()
    });
    checks::assert_complete(stack, TENANT, events);
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
