//! Any bytes as a record of each subject: decoded or refused with a reason; what decodes says the same when it is written
//! and read again.

use agentgov_schemas::wire::{Encoder, SchemaId, split};
use agentgov_schemas::{alert, event, governance, reject, state, subject, verdict};

/// Bytes may say the same in several ways, so it is what the second writing gives that must equal the first's.
macro_rules! one {
    ($type:ident :: $name:ident, $subject:expr, $datum:expr) => {{
        let schema = $subject.schema().expect("a schema of this build");
        match schema.decode::<$type::$name<'_>>(SchemaId(7), $datum) {
            Err(error) => assert!(!error.reason().as_str().is_empty(), "{error}"),
            Ok(value) => {
                let mut encoder = Encoder::new(SchemaId(7), schema);
                let first = encoder.encode(&value).expect("what was decoded can be encoded");
                let (_, datum) = split(&first).expect("what we wrote");
                let again = schema.decode::<$type::$name<'_>>(SchemaId(7), datum).expect("what we wrote");
                assert_eq!(encoder.encode(&again).expect("what was decoded can be encoded"), first);
            }
        }
    }};
}

pub fn check(data: &[u8]) {
    if let Err(error) = split(data) {
        assert!(!error.reason().as_str().is_empty() && !error.to_string().is_empty());
    }
    // Whatever id it names: the datum against every schema.
    let datum = data.get(5..).unwrap_or_default();
    one!(event::ActionEvent, subject::ACTION_EVENT, datum);
    one!(verdict::Verdict, subject::VERDICT, datum);
    one!(alert::Alert, subject::ALERT, datum);
    one!(reject::Reject, subject::REJECT, datum);
    one!(governance::AgentEntry, subject::AGENT, datum);
    one!(governance::ToolEntry, subject::TOOL, datum);
    one!(governance::Bundle, subject::BUNDLE, datum);
    one!(governance::Control, subject::CONTROL, datum);
    one!(state::SessionState, subject::SESSION_STATE, datum);
    one!(state::AlertState, subject::ALERT_STATE, datum);
}
