//! Tests of the wire codec with arbitrary bytes: it returns the encoded value or an error, and never panics.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy takes helpers of tests for product code"
)]

mod natural;

use agentgov_schemas::event::{
    ActionEvent, Actor, Agent, Approval, Closing, Llm, Message, Payload, Source, ToolCall, ToolResult,
};
use agentgov_schemas::governance::Bundle;
use agentgov_schemas::subject::{ACTION_EVENT, BUNDLE};
use agentgov_schemas::verdict::Verdict;
use agentgov_schemas::wire::{Encoder, HEADER_LEN, SchemaId, WireError, split};
use agentgov_schemas::{Digest, Micros};
use proptest::prelude::*;

const ID: SchemaId = SchemaId(0x0102_0304);

fn encode(event: &ActionEvent<'_>) -> Vec<u8> {
    Encoder::new(ID, ACTION_EVENT.schema().unwrap()).encode(event).unwrap()
}

fn decode(value: &[u8]) -> Result<ActionEvent<'_>, WireError> {
    let (id, datum) = split(value)?;
    ACTION_EVENT.schema().unwrap().decode(id, datum)
}

/// Returns the examples of actions as values of records.
fn values() -> Vec<Vec<u8>> {
    let schema = apache_avro::Schema::parse_str(ACTION_EVENT.latest()).unwrap();
    let header = [&[0][..], &ID.0.to_be_bytes()].concat();
    natural::examples(ACTION_EVENT, ACTION_EVENT.versions.len())
        .iter()
        .map(|(_, example)| [header.clone(), natural::datum(&schema, example)].concat())
        .collect()
}

#[test]
fn split_checks_the_header() {
    for (value, expected) in [
        (&[][..], Err(WireError::Empty)),
        (&[0], Err(WireError::TruncatedHeader(1))),
        (&[0, 1, 2, 3], Err(WireError::TruncatedHeader(4))),
        (&[1], Err(WireError::WrongMagic(1))),
        (b"{\"type\":1}", Err(WireError::WrongMagic(b'{'))),
        (&[0, 1, 2, 3, 4], Ok((ID, &[][..]))),
        (&[0, 0xff, 0xff, 0xff, 0xff, 9], Ok((SchemaId(u32::MAX), &[9][..]))),
    ] {
        assert_eq!(split(value), expected, "{value:?}");
    }
}

#[test]
fn every_wire_error_has_its_own_reject_reason() {
    let message = String::new();
    let errors = [
        WireError::Empty,
        WireError::WrongMagic(1),
        WireError::TruncatedHeader(1),
        WireError::Datum { id: 1, message },
        WireError::TrailingBytes { id: 1, extra: 1 },
    ];
    let reasons: std::collections::BTreeSet<_> = errors.iter().map(WireError::reason).collect();
    assert_eq!(reasons.len(), errors.len());
}

#[test]
fn truncated_value_is_an_error() {
    for value in values() {
        assert!(decode(&value).is_ok());
        for cut in 0..value.len() {
            let error = decode(&value[..cut]).expect_err("a truncated value does not decode");
            let expected = match cut {
                0 => "empty_value",
                1..HEADER_LEN => "truncated_header",
                _ => "undecodable_datum",
            };
            assert_eq!(error.reason().as_str(), expected, "cut at {cut} of {}", value.len());
        }
    }
}

#[test]
fn trailing_bytes_are_an_error() {
    for mut value in values() {
        value.extend([0; 3]);
        assert_eq!(decode(&value), Err(WireError::TrailingBytes { id: ID.0, extra: 3 }));
    }
}

#[test]
fn datum_of_another_schema_is_an_error() {
    for value in values() {
        let (id, datum) = split(&value).unwrap();
        assert!(BUNDLE.schema().unwrap().decode::<Bundle<'_>>(id, datum).is_err());
    }
}

fn payload(data: &[u8]) -> Payload<'_> {
    Payload { data, sha256: Digest::of(data), media_type: "application/json", redacted: data.len() % 2 == 1 }
}

proptest! {
    #[test]
    fn encoded_event_decodes_to_itself(
        texts in prop::array::uniform8(any::<String>()),
        bytes in prop::array::uniform3(any::<Vec<u8>>()),
        numbers in prop::array::uniform4(any::<i64>()),
        calls: i32,
        there in prop::array::uniform8(any::<bool>()),
        granted: Option<bool>,
    ) {
        let [a, b, c, d, e, f, g, h] = texts.each_ref().map(String::as_str);
        let optional = there[7].then_some(h);
        let event = ActionEvent {
            event_id: a,
            r#type: b,
            tenant_id: c,
            environment: d,
            session_id: e,
            session_label: optional,
            source: Source { id: f, sequence: numbers[0] },
            occurred_at: Micros(numbers[1]),
            agent: Agent { id: g, name: optional, version: optional },
            actor: there[0].then_some(Actor { id: h, r#type: a }),
            trace: None,
            message: there[1].then(|| Message {
                id: a,
                role: b,
                has_text: there[2],
                tool_calls: calls,
                content: there[2].then(|| payload(&bytes[0])),
            }),
            tool: there[3].then(|| ToolCall::new(c, d, payload(&bytes[1]))),
            result: there[4].then(|| ToolResult { call_id: e, name: optional, is_error: granted, content: payload(&bytes[2]) }),
            llm: there[5].then_some(Llm {
                provider_name: a,
                request_model: b,
                response_model: optional,
                input_tokens: there[0].then_some(numbers[2]),
                output_tokens: there[1].then_some(numbers[3]),
                finish_reason: optional,
                error_type: optional,
            }),
            decision: None,
            approval: there[6].then_some(Approval { approver: optional, granted, comment: optional, ..Approval::new(c) }),
            closing: there[7].then_some(Closing { total: numbers[3] }),
        };
        let value = encode(&event);
        prop_assert_eq!(split(&value).unwrap().0, ID);
        prop_assert_eq!(decode(&value).unwrap(), event);
    }

    #[test]
    fn any_bytes_do_not_panic(value: Vec<u8>) {
        let _ = decode(&value);
        if let Ok((id, datum)) = split(&value) {
            let _ = BUNDLE.schema().unwrap().decode::<Bundle<'_>>(id, datum);
            let _ = agentgov_schemas::subject::VERDICT.schema().unwrap().decode::<Verdict<'_>>(id, datum);
        }
    }

    /// A damaged value that decodes is a complete event: it encodes and decodes to itself.
    #[test]
    fn damaged_value_decodes_to_an_event_or_an_error(which in 0..20_usize, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut value = values().swap_remove(which);
        for (at, byte) in changes {
            let at = at.index(value.len());
            value[at] = byte;
        }
        if let Ok(event) = decode(&value) {
            let again = encode(&event);
            prop_assert_eq!(decode(&again).unwrap(), event);
        }
    }
}

/// Returns an event with required fields only.
fn minimal() -> ActionEvent<'static> {
    ActionEvent {
        event_id: "e",
        r#type: "tool.invoked",
        tenant_id: "t",
        environment: "test",
        session_id: "s",
        session_label: None,
        source: Source { id: "source", sequence: 1_764_490_210 },
        occurred_at: Micros(0),
        agent: Agent { id: "a", name: None, version: None },
        actor: None,
        trace: None,
        message: None,
        tool: None,
        result: None,
        llm: None,
        decision: None,
        approval: None,
        closing: Some(Closing { total: 1_764_490_210 }),
    }
}

/// Returns the latest schema of actions with another type of `occurred_at`.
fn with_timestamp_type(clock: &serde_json::Value) -> String {
    let mut schema: serde_json::Value = serde_json::from_str(ACTION_EVENT.latest()).unwrap();
    let fields = schema["fields"].as_array_mut().unwrap();
    fields.iter_mut().find(|field| field["name"] == "occurred_at").unwrap()["type"] = clock.clone();
    schema.to_string()
}

#[test]
fn timestamp_is_converted_from_the_writers_unit() {
    let long = |logical: &str| serde_json::json!({"type": "long", "logicalType": logical});
    let claims =
        [0, 1, -1, 1_764_490_210_123, 1_764_490_210_123_456, i64::MIN, i64::MAX, i64::MAX / 1_000 + 1];
    type Convert = fn(i128) -> i128;
    let cases: [(serde_json::Value, Convert); 10] = [
        (long("timestamp-micros"), |claim| claim),
        (long("timestamp-millis"), |claim| claim * 1_000),
        (long("timestamp-nanos"), |claim| claim.div_euclid(1_000)),
        (long("local-timestamp-micros"), |claim| claim),
        (long("local-timestamp-millis"), |claim| claim * 1_000),
        (long("local-timestamp-nanos"), |claim| claim.div_euclid(1_000)),
        (serde_json::json!("long"), |claim| claim),
        (long("made-up"), |claim| claim),
        (serde_json::json!(["null", long("timestamp-millis")]), |claim| claim * 1_000),
        (serde_json::json!([long("timestamp-nanos"), "null"]), |claim| claim.div_euclid(1_000)),
    ];
    for (clock, convert) in cases {
        let schema = agentgov_schemas::wire::Schema::parse(&with_timestamp_type(&clock)).unwrap();
        for claim in claims {
            let written = ActionEvent { occurred_at: Micros(claim), ..minimal() };
            let value = Encoder::new(ID, &schema).encode(&written).unwrap();
            let read: ActionEvent<'_> = schema.decode(ID, split(&value).unwrap().1).unwrap();
            let expected = convert(i128::from(claim)).clamp(i128::from(i64::MIN), i128::from(i64::MAX));
            assert_eq!(i128::from(read.occurred_at.0), expected, "{claim} as {clock}");
            assert_eq!(read, ActionEvent { occurred_at: read.occurred_at, ..written }, "and nothing else");
        }
    }
    // A date is an int that counts days.
    let schema = agentgov_schemas::wire::Schema::parse(&with_timestamp_type(
        &serde_json::json!({"type": "int", "logicalType": "date"}),
    ))
    .unwrap();
    for (days, micros) in
        [(20_422, 20_422 * 86_400_000_000), (-1, -86_400_000_000), (i64::from(i32::MAX), i64::MAX)]
    {
        let value = Encoder::new(ID, &schema)
            .encode(&ActionEvent { occurred_at: Micros(days), ..minimal() })
            .unwrap();
        let read: ActionEvent<'_> = schema.decode(ID, split(&value).unwrap().1).unwrap();
        assert_eq!(read.occurred_at, Micros(micros));
    }
    // A null is not converted.
    let nullable =
        agentgov_schemas::wire::Schema::parse(&with_timestamp_type(&serde_json::json!(["null", "long"])))
            .unwrap();
    let value = Encoder::new(ID, &nullable).encode(&minimal()).unwrap();
    let datum = split(&value).unwrap().1;
    assert!(nullable.decode::<ActionEvent<'_>>(ID, datum).is_ok());
}
