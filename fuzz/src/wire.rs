//! Fuzz check: any bytes as a record of each subject. Decodes or returns a reason; decoded values survive encoding and
//! decoding.

use agentgov_schemas::wire::{Encoder, SchemaId, split};
use agentgov_schemas::{alert, basis, event, governance, reject, state, subject, verdict};

/// Compares the second encoding with the first, since several encodings of a value exist.
macro_rules! check_subject {
    ($type:ident :: $name:ident, $subject:expr, $datum:expr) => {{
        let schema = $subject.schema().expect("a schema of this build");
        match schema.decode::<$type::$name<'_>>(SchemaId(7), $datum) {
            Err(error) => assert!(!error.reason().as_str().is_empty(), "{error}"),
            Ok(value) => {
                let mut encoder = Encoder::new(SchemaId(7), schema);
                let first = encoder.encode(&value).expect("a decoded value can be encoded");
                let (_, datum) = split(&first).expect("own encoding can be decoded");
                let again = schema
                    .decode::<$type::$name<'_>>(SchemaId(7), datum)
                    .expect("own encoding can be decoded");
                assert_eq!(encoder.encode(&again).expect("a decoded value can be encoded"), first);
            }
        }
    }};
}

pub fn check(data: &[u8]) {
    if let Err(error) = split(data) {
        assert!(!error.reason().as_str().is_empty() && !error.to_string().is_empty());
    }
    // The datum is decoded with every schema, independent of its schema id.
    let datum = data.get(5..).unwrap_or_default();
    check_subject!(event::ActionEvent, subject::ACTION_EVENT, datum);
    check_subject!(verdict::Verdict, subject::VERDICT, datum);
    check_subject!(alert::Alert, subject::ALERT, datum);
    check_subject!(reject::Reject, subject::REJECT, datum);
    check_subject!(governance::AgentEntry, subject::AGENT, datum);
    check_subject!(governance::ToolEntry, subject::TOOL, datum);
    check_subject!(governance::Bundle, subject::BUNDLE, datum);
    check_subject!(governance::Control, subject::CONTROL, datum);
    check_subject!(governance::KeyEntry, subject::KEY, datum);
    check_subject!(basis::EvaluationBasis, subject::EVALUATION_BASIS, datum);
    check_subject!(state::SessionState, subject::SESSION_STATE, datum);
    check_subject!(state::AlertState, subject::ALERT_STATE, datum);
}
