//! Sealed `requestState`: what a server and the gateway must remember of a call that the client makes again with answers to the
//! server's questions. The client holds it, so a keyed digest protects it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// Prefix of the texts, for people.
const PREFIX: &str = "agentgov1.";
/// Maximum bytes of a text that is opened.
const MAX_BYTES: usize = 1 << 20;

/// Time for which a sealed call can be made again.
const VALIDITY: Duration = Duration::from_secs(15 * 60);
/// Maximum number of sealed calls that can be made again. The oldest one gives way.
const MAX_OPEN: usize = 10_000;

/// Key of the seals of one process, and the calls that are not made again yet.
pub struct Seal {
    key: [u8; 32],
    validity: Duration,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    sealed_at: BTreeMap<u64, Instant>,
}

/// Call that the client makes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedCall {
    /// Number of the seal, from [`Seal::begin`].
    pub serial: u64,
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
        Ok(Self { key, validity: VALIDITY, open: Mutex::default() })
    }

    fn calls(&self) -> MutexGuard<'_, Open> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of the next seal, which can be used once until it expires.
    pub fn begin(&self) -> u64 {
        let mut open = self.calls();
        open.last += 1;
        let serial = open.last;
        open.sealed_at.insert(serial, Instant::now());
        if open.sealed_at.len() > MAX_OPEN {
            open.sealed_at.pop_first();
        }
        serial
    }

    /// Uses a seal. Returns false if it was used before, or is expired.
    pub fn take(&self, call: &SealedCall) -> bool {
        self.calls().sealed_at.remove(&call.serial).is_some_and(|at| at.elapsed() < self.validity)
    }

    /// Seals a call.
    pub fn seal(&self, call: &SealedCall) -> String {
        let content = crate::json::to_text(call);
        let mac = blake3::keyed_hash(&self.key, content.as_bytes());
        format!("{PREFIX}{}.{}", URL_SAFE_NO_PAD.encode(mac.as_bytes()), URL_SAFE_NO_PAD.encode(&content))
    }

    /// Opens a sealed call; `None` if this process did not seal it, or it was used or is expired.
    pub fn open(&self, text: &str) -> Option<SealedCall> {
        let (mac, content) =
            text.strip_prefix(PREFIX).filter(|_| text.len() <= MAX_BYTES)?.split_once('.')?;
        let mac: [u8; 32] = URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        let content = URL_SAFE_NO_PAD.decode(content).ok()?;
        // Hashes of this type are compared in constant time.
        let call: SealedCall = (blake3::keyed_hash(&self.key, &content) == blake3::Hash::from(mac))
            .then(|| serde_json::from_slice(&content).ok())
            .flatten()?;
        let open = self.calls();
        open.sealed_at.get(&call.serial).is_some_and(|at| at.elapsed() < self.validity).then_some(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seal_is_used_once_until_it_expires() {
        let mut seal = Seal::random().unwrap();
        let call = |serial| SealedCall {
            serial,
            call_id: "c".to_owned(),
            tool: "s/t".to_owned(),
            arguments: String::new(),
            inner: None,
        };
        let (one, two) = (call(seal.begin()), call(seal.begin()));
        assert!(seal.take(&one) && !seal.take(&one));
        assert_eq!(seal.open(&seal.seal(&one)), None);
        assert_eq!(seal.open(&seal.seal(&two)).as_ref(), Some(&two));
        seal.validity = Duration::ZERO;
        assert_eq!(seal.open(&seal.seal(&two)), None);
        assert!(!seal.take(&two));
        for _ in 0..=MAX_OPEN {
            seal.begin();
        }
        assert_eq!(seal.calls().sealed_at.len(), MAX_OPEN);
    }

    #[test]
    fn only_an_unchanged_text_of_the_same_process_opens() {
        let (seal, other) = (Seal::random().unwrap(), Seal::random().unwrap());
        let call = SealedCall {
            serial: seal.begin(),
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
