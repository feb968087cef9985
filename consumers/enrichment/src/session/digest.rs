//! Digest of an event's content, by which a session recognises a repeated event (ADR 0015).

use std::cell::RefCell;

use agentgov_schemas::event::{ActionEvent, Payload};

/// First 16 bytes of the BLAKE3 hash of the content.
pub(super) type Digest = [u8; 16];

/// Largest capacity in bytes that the thread's buffer keeps between events.
const MAX_KEPT_CAPACITY: usize = 64 << 10;

thread_local! {
    /// Buffer for the fields, reused for each event.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Hashes every field of `event` that a policy can see or a session stores, except `occurred_at`. Payloads are hashed by their
/// bytes, not by the digests in the event, which a producer may claim freely.
pub(super) fn content_digest(event: &ActionEvent<'_>) -> Digest {
    BYTES.with_borrow_mut(|bytes| {
        let mut fields = FieldBuffer(std::mem::take(bytes));
        fields.0.clear();
        write_event(&mut fields, event);
        let digest = blake3::hash(&fields.0);
        *bytes = if fields.0.capacity() <= MAX_KEPT_CAPACITY { fields.0 } else { Vec::new() };
        *first_half(digest.as_bytes())
    })
}

#[expect(clippy::expect_used, reason = "an array of 32 bytes has a first chunk of 16")]
fn first_half(digest: &[u8; 32]) -> &Digest {
    digest.first_chunk().expect("16 bytes")
}

fn write_event(fields: &mut FieldBuffer, event: &ActionEvent<'_>) {
    fields.text(event.event_id);
    fields.text(event.r#type);
    fields.text(event.environment);
    fields.text(event.agent.id);
    fields.optional(event.actor.as_ref(), |fields, actor| {
        fields.text(actor.id);
        fields.text(actor.r#type);
    });
    fields.optional(event.message.as_ref(), |fields, message| {
        fields.text(message.id);
        fields.text(message.role);
        fields.0.push(u8::from(message.has_text));
        fields.0.extend_from_slice(&message.tool_calls.to_le_bytes());
        fields.optional(message.content.as_ref(), FieldBuffer::payload);
    });
    fields.optional(event.tool.as_ref(), |fields, tool| {
        fields.text(tool.name);
        fields.text(tool.call_id);
        fields.payload(&tool.arguments);
        // The tag differs from those of the result, which follows. Without a definition the content is as before there were any.
        if let Some(definition) = &tool.definition {
            fields.0.push(2);
            fields.0.extend_from_slice(definition.as_bytes());
        }
    });
    fields.optional(event.result.as_ref(), |fields, result| {
        fields.text(result.call_id);
        fields.optional(result.name.as_ref(), |fields, name| fields.text(name));
        fields.optional(result.is_error.as_ref(), |fields, is_error| fields.0.push(u8::from(*is_error)));
        fields.payload(&result.content);
    });
}

/// Encoding of fields, each with its length or a tag, so that different events never have the same bytes.
struct FieldBuffer(Vec<u8>);

impl FieldBuffer {
    /// Writes the length in LEB128, then the text.
    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn payload(&mut self, payload: &Payload<'_>) {
        self.bytes(payload.data);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let mut rest = bytes.len();
        while rest >= 0x80 {
            let [low, ..] = rest.to_le_bytes();
            self.0.push(0x80 | low);
            rest >>= 7;
        }
        let [low, ..] = rest.to_le_bytes();
        self.0.push(low);
        self.0.extend_from_slice(bytes);
    }

    /// Writes 0 for an absent part, else 1 and the output of `write`.
    fn optional<T>(&mut self, part: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.0.push(u8::from(part.is_some()));
        if let Some(part) = part {
            write(self, part);
        }
    }
}
