//! Digests of bearer tokens in files of callers.

use super::{FromNode, Node, Problems, Value};

/// SHA-256 of a bearer token, which a file has in place of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenDigest(pub [u8; 32]);

impl FromNode for TokenDigest {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut digest = [0; 32];
        // The text may be the token itself, written here by mistake: no message quotes it.
        match &node.value {
            Value::Text(text) if hex::decode_to_slice(text, &mut digest).is_ok() => Some(Self(digest)),
            _ => {
                let expected = "expected the SHA-256 of the token in 64 hexadecimal digits, in quotes, found another value";
                problems.add(node.at, expected);
                None
            }
        }
    }
}
