//! Continuous load of about 100 events per second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use agentgov_schemas::catalogue;
use agentgov_schemas::event::Agent;
use agentgov_sdk::{Content, Event, Message, Recorder, RecorderOptions, ToolCall, ToolResult};

use crate::stack::{AGENT, DEADLINE, ENVIRONMENT, Stack, TENANT, eventually};

pub struct Load {
    done: Arc<AtomicBool>,
    sessions: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub fn start(stack: &Stack) -> Self {
        let (kafka, registry) = (stack.endpoints.kafka.clone(), stack.endpoints.schema_registry.clone());
        let options = RecorderOptions::new(kafka, registry, Arc::clone(&stack.topology), TENANT, ENVIRONMENT);
        let recorder = Recorder::start(options).unwrap();
        let (done, sessions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (done, sessions) = (Arc::clone(&done), Arc::clone(&sessions));
            move || {
                while !done.load(Ordering::Acquire) {
                    let number = sessions.fetch_add(1, Ordering::AcqRel);
                    session(&recorder, &format!("{}-{number}", recorder.source_id()));
                    // Sets the pace; waits for nothing.
                    std::thread::sleep(Duration::from_millis(100));
                }
                recorder.close(DEADLINE).unwrap();
            }
        });
        Self { done, sessions, thread: Some(thread) }
    }

    /// Waits until `more` sessions have been recorded.
    pub fn wait_for_sessions(&self, more: u64) {
        let before = self.sessions.load(Ordering::Acquire);
        eventually("events to flow", || self.sessions.load(Ordering::Acquire) >= before + more);
    }

    /// Closes the source, so that all of it is in the log.
    pub fn stop(mut self) {
        self.done.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
    }
}

fn session(recorder: &Recorder, session_id: &str) {
    let agent = Agent { id: AGENT, name: None, version: None };
    let event = |r#type| Event::new(r#type, session_id, agent);
    let content = |data| Content { data, media_type: "application/json" };
    let record = |event: Event<'_>| {
        recorder.record(&event).unwrap();
    };
    record(event(catalogue::SESSION_STARTED));
    for number in 0..4 {
        let call_id = number.to_string();
        // A call in a message with text violates `one-thing-at-a-time`, which raises an alert.
        let has_text = number == 0;
        let message = Message { id: &call_id, role: "assistant", has_text, tool_calls: 1, content: None };
        let tool = ToolCall::new("think", &call_id, content(b"{\"thought\":\"hm\"}"));
        record(Event { message: Some(message), tool: Some(tool), ..event(catalogue::TOOL_INVOKED) });
        let result = ToolResult { call_id: &call_id, name: None, is_error: None, content: content(b"null") };
        record(Event { result: Some(result), ..event(catalogue::TOOL_RESPONSE_RECEIVED) });
    }
    record(event(catalogue::SESSION_ENDED));
}
