//! Keys of the changelog. A key is a JSON array, so that an id that contains a separator is not read as two.

use agentgov_enrichment::Change;
use agentgov_processor::RestoreError;
use agentgov_schemas::Millis;

/// Parsed key of a changelog entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The progress entry of the partition.
    Progress,
    /// An entry of a session.
    Session { tenant_id: String, session_id: String, entry: Entry },
}

/// Kind of a session entry, with the part of the key that identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Header,
    Fact {
        kind: String,
        key: String,
    },
    Call {
        call_id: String,
    },
    Numbers {
        source: String,
        block: i32,
    },
    Token {
        id: String,
        expires_at: Millis,
    },
    Approval {
        id: String,
    },
    /// A kind that this version does not know.
    Unknown,
}

/// Key of the progress entry.
pub const PROGRESS: &[u8] = br#"["progress"]"#;

/// Returns the key of the entry that `change` refers to.
///
/// # Errors
/// None in practice: serialising strings as JSON into memory does not fail.
pub fn for_change(tenant_id: &str, session_id: &str, change: &Change) -> serde_json::Result<Vec<u8>> {
    match change {
        Change::Header => json_array(&[tenant_id, session_id, "header"]),
        Change::Fact { kind, key } | Change::FactRemoved { kind, key } => {
            json_array(&[tenant_id, session_id, "fact", kind, key])
        }
        Change::Call { call_id } | Change::CallRemoved { call_id } => {
            json_array(&[tenant_id, session_id, "call", call_id])
        }
        Change::Numbers { source, block } | Change::NumbersRemoved { source, block } => {
            json_array(&[tenant_id, session_id, "numbers", source, &block.to_string()])
        }
        Change::Token { id, expires_at } | Change::TokenRemoved { id, expires_at } => {
            json_array(&[tenant_id, session_id, "token", &expires_at.0.to_string(), id])
        }
        Change::Approval { id } | Change::ApprovalRemoved { id } => {
            json_array(&[tenant_id, session_id, "approval", id])
        }
    }
}

/// Returns the bytes of `serde_json::to_vec(parts)`. A text that needs no escape, as nearly all do, is copied whole.
fn json_array(parts: &[&str]) -> serde_json::Result<Vec<u8>> {
    let mut array = Vec::with_capacity(parts.iter().map(|part| part.len() + 3).sum::<usize>() + 1);
    for part in parts {
        array.push(if array.is_empty() { b'[' } else { b',' });
        // Reads every byte instead of stopping at the first that needs an escape: the compiler then reads 16 at a time.
        let needs_escape = |byte| byte < b' ' || byte == b'"' || byte == b'\\';
        if part.bytes().fold(false, |found, byte| found | needs_escape(byte)) {
            serde_json::to_writer(&mut array, part)?;
        } else {
            array.push(b'"');
            array.extend_from_slice(part.as_bytes());
            array.push(b'"');
        }
    }
    array.push(b']');
    Ok(array)
}

/// Parses a key. A later version may write kinds of session entries that this version does not know.
///
/// # Errors
/// Fails if no version of the evaluator writes such keys.
pub fn parse(bytes: &[u8]) -> Result<Key, RestoreError> {
    let wrong = || {
        let found = String::from_utf8_lossy(bytes);
        RestoreError(format!("expected a key of the evaluator's changelog, found `{found}`"))
    };
    let parts: Vec<String> = serde_json::from_slice(bytes).map_err(|_| wrong())?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (tenant_id, session_id, entry) = match parts.as_slice() {
        ["progress"] => return Ok(Key::Progress),
        [tenant, session, "header"] => (tenant, session, Entry::Header),
        [tenant, session, "fact", kind, key] => {
            (tenant, session, Entry::Fact { kind: (*kind).to_owned(), key: (*key).to_owned() })
        }
        [tenant, session, "call", call_id] => {
            (tenant, session, Entry::Call { call_id: (*call_id).to_owned() })
        }
        [tenant, session, "numbers", source, block] => {
            let block = block.parse().map_err(|_| wrong())?;
            (tenant, session, Entry::Numbers { source: (*source).to_owned(), block })
        }
        [tenant, session, "token", expires_at, id] => {
            let expires_at = Millis(expires_at.parse().map_err(|_| wrong())?);
            (tenant, session, Entry::Token { id: (*id).to_owned(), expires_at })
        }
        [tenant, session, "approval", id] => (tenant, session, Entry::Approval { id: (*id).to_owned() }),
        [_, _, "header" | "fact" | "call" | "numbers" | "token" | "approval", ..] => return Err(wrong()),
        [tenant, session, _, ..] => (tenant, session, Entry::Unknown),
        _ => return Err(wrong()),
    };
    Ok(Key::Session { tenant_id: (*tenant_id).to_owned(), session_id: (*session_id).to_owned(), entry })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn json_array_is_that_of_serde_json(parts in prop::collection::vec("[a-z]{0,40}|[\\x00-\\x7f]{0,40}|\\PC{0,20}", 1..6)) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            prop_assert_eq!(json_array(&parts).unwrap(), serde_json::to_vec(&parts).unwrap());
        }
    }

    #[test]
    fn key_written_and_parsed_is_unchanged() {
        let fact = Change::Fact { kind: "a/b".into(), key: "\"c\", \"d".into() };
        let written = for_change("t", "s/1", &fact).unwrap();
        let entry = Entry::Fact { kind: "a/b".into(), key: "\"c\", \"d".into() };
        assert_eq!(
            parse(&written).unwrap(),
            Key::Session { tenant_id: "t".into(), session_id: "s/1".into(), entry }
        );
        assert_eq!(parse(PROGRESS).unwrap(), Key::Progress);
        for wrong in [
            &b""[..],
            b"{}",
            b"[]",
            br#"["a","b"]"#,
            b"[1]",
            br#"["a","b","header","c"]"#,
            br#"["a","b","call"]"#,
            br#"["a","b","token","soon","c"]"#,
            br#"["a","b","approval"]"#,
        ] {
            assert!(parse(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
        for unknown in [&br#"["t","s","c"]"#[..], br#"["t","s","later","1","x"]"#] {
            let key = Key::Session { tenant_id: "t".into(), session_id: "s".into(), entry: Entry::Unknown };
            assert_eq!(parse(unknown).unwrap(), key);
        }
    }
}
