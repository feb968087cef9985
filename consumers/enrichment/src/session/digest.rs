//! The digest of an event's content: by it an event that comes again is known to be the same one (ADR 0015).

use std::cell::RefCell;

use agentgov_schemas::event::{ActionEvent, Payload};

/// 16 bytes of the content's digest.
pub(super) type Digest = [u8; 16];

/// Most bytes that are kept for the next event.
const MOST_KEPT: usize = 64 << 10;

thread_local! {
    /// Where the fields are put, kept from event to event.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The digest of whatever a policy can see of `event` or a session takes in, but `occurred_at`. It is of the payloads' bytes:
/// the digests that an event claims for them are a claim.
pub(super) fn of(event: &ActionEvent<'_>) -> Digest {
    BYTES.with_borrow_mut(|bytes| {
        let mut fields = Fields(std::mem::take(bytes));
        fields.0.clear();
        put(&mut fields, event);
        let digest = blake3::hash(&fields.0);
        *bytes = if fields.0.capacity() <= MOST_KEPT { fields.0 } else { Vec::new() };
        *first_half(digest.as_bytes())
    })
}

#[expect(clippy::expect_used, reason = "32 bytes begin with 16")]
fn first_half(digest: &[u8; 32]) -> &Digest {
    digest.first_chunk().expect("16 bytes")
}

fn put(fields: &mut Fields, event: &ActionEvent<'_>) {
    fields.text(event.event_id);
    fields.text(event.r#type);
    fields.text(event.environment);
    fields.text(event.agent.id);
    fields.part(event.actor.as_ref(), |fields, actor| {
        fields.text(actor.id);
        fields.text(actor.r#type);
    });
    fields.part(event.message.as_ref(), |fields, message| {
        fields.text(message.id);
        fields.text(message.role);
        fields.0.push(u8::from(message.has_text));
        fields.0.extend_from_slice(&message.tool_calls.to_le_bytes());
        fields.part(message.content.as_ref(), Fields::payload);
    });
    fields.part(event.tool.as_ref(), |fields, tool| {
        fields.text(tool.name);
        fields.text(tool.call_id);
        fields.payload(&tool.arguments);
    });
    fields.part(event.result.as_ref(), |fields, result| {
        fields.text(result.call_id);
        fields.part(result.name.as_ref(), |fields, name| fields.text(name));
        fields.part(result.is_error.as_ref(), |fields, is_error| fields.0.push(u8::from(*is_error)));
        fields.payload(&result.content);
    });
}

/// Fields one after the other, each so that its end is known: no two events have the same bytes.
struct Fields(Vec<u8>);

impl Fields {
    /// Its length in LEB128, then the text.
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

    /// 0 if it is absent, else 1 and what `put` puts.
    fn part<T>(&mut self, part: Option<&T>, put: impl FnOnce(&mut Self, &T)) {
        self.0.push(u8::from(part.is_some()));
        if let Some(part) = part {
            put(self, part);
        }
    }
}
