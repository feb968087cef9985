//! Sealed `requestState`: what a server and the gateway must remember of a call that the client makes again with answers to the
//! server's questions. The client holds it, so a keyed digest protects it.

use agentgov_schemas::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// Prefix of the texts, for people.
const PREFIX: &str = "agentgov1.";
/// Maximum bytes of a text that is opened.
const MAX_BYTES: usize = 1 << 20;

/// Key of the seals of one process.
pub struct Seal([u8; 32]);

/// Call that the client makes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedCall {
    /// Id of the first call.
    pub call_id: String,
    /// The tool.
    pub tool: String,
    /// SHA-256 of the arguments, in hex.
    pub arguments: String,
    /// The server's own `requestState` as JSON; `None` if it gave none.
    pub inner: Option<String>,
}

impl SealedCall {
    /// Returns true if the call is the same again.
    pub fn is_call(&self, tool: &str, arguments: &str) -> bool {
        self.tool == tool && self.arguments == Digest::of(arguments.as_bytes()).to_string()
    }
}

impl Seal {
    /// Creates a seal with a random key.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self(key))
    }

    /// Seals a call.
    pub fn seal(&self, call: &SealedCall) -> String {
        let content = crate::json::to_text(call);
        let mac = blake3::keyed_hash(&self.0, content.as_bytes());
        format!("{PREFIX}{}.{}", URL_SAFE_NO_PAD.encode(mac.as_bytes()), URL_SAFE_NO_PAD.encode(&content))
    }

    /// Opens a sealed call; `None` if this process did not seal it.
    pub fn open(&self, text: &str) -> Option<SealedCall> {
        let (mac, content) =
            text.strip_prefix(PREFIX).filter(|_| text.len() <= MAX_BYTES)?.split_once('.')?;
        let mac: [u8; 32] = URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        let content = URL_SAFE_NO_PAD.decode(content).ok()?;
        // Hashes of this type are compared in constant time.
        (blake3::keyed_hash(&self.0, &content) == blake3::Hash::from(mac))
            .then(|| serde_json::from_slice(&content).ok())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unchanged_text_of_the_same_process_opens() {
        let (seal, other) = (Seal::random().unwrap(), Seal::random().unwrap());
        let call = SealedCall {
            call_id: "c".to_owned(),
            tool: "s/t".to_owned(),
            arguments: Digest::of(b"{}").to_string(),
            inner: Some("\"x\"".to_owned()),
        };
        let text = seal.seal(&call);
        assert_eq!(seal.open(&text), Some(call.clone()));
        assert!(call.is_call("s/t", "{}") && !call.is_call("s/t", "{ }") && !call.is_call("s/u", "{}"));
        assert_eq!(other.open(&text), None);
        for (at, byte) in text.char_indices() {
            let changed = if byte == 'A' { "B" } else { "A" };
            let forged = [&text[..at], changed, &text[at + 1..]].concat();
            // The last character of a digest has bits without meaning; decoding refuses them.
            assert_eq!(seal.open(&forged), None, "{at}");
        }
        for text in ["", PREFIX, "agentgov1.a.b", "other"] {
            assert_eq!(seal.open(text), None, "{text}");
        }
    }
}
