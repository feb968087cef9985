//! Changes of a JSON text.

use serde_json::Value;

/// Change of one value.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Quote,
    Unquote,
    List,
    Object,
    Respelt(&'static str),
    NotANumber,
    /// Repeats the keys of an object with this value, before or after the original ones.
    Twice(&'static str, bool),
    /// Adds a field.
    Beside(&'static str),
    Deep,
    Large,
}

/// Returns every change.
pub fn changes() -> Vec<Change> {
    use Change::{Beside, Deep, Large, List, NotANumber, Object, Quote, Respelt, Twice, Unquote};
    let mut changes = vec![Quote, Unquote, List, Object, NotANumber, Deep, Large];
    changes.extend([".0", "e0", "0e-1", ".0e+0", "0000E-4"].map(Respelt));
    for front in [false, true] {
        changes.extend(["null", "0", "\"\"", "[]", "{}", "false", "\"8\""].map(|other| Twice(other, front)));
    }
    changes.extend(["NaN", "-Infinity", "1e400", "\"\\ud83d\"", "\"\\udc00\\ud800\"", "[NaN]"].map(Beside));
    changes
}

/// Number of changes of a whole text.
pub const WHOLE: usize = 16;

/// Applies change number `what` to a whole text.
pub fn whole(text: &str, what: usize, at: usize) -> Vec<u8> {
    let text = match what {
        0 => text.get(..at % text.len()).unwrap_or_default().to_owned(),
        1 => format!("{text}}}"),
        2 => format!("{text} {text}"),
        3 => format!("\u{feff}{text}"),
        4 => text.replace('"', "'"),
        5 => text.replace('}', ",}"),
        6 => format!("/* */{text}"),
        7 => Value::from(text).to_string(),
        8 => format!("[{text}]"),
        9 => String::new(),
        10 => "null".to_owned(),
        11 => format!("{text}\0"),
        12 => text.replace(':', ""),
        13 => return [text.as_bytes(), b"\xff"].concat(),
        14 => {
            return text
                .replace(":\"", ":\"\u{1}")
                .bytes()
                .map(|byte| if byte == 1 { 0xed } else { byte })
                .collect();
        }
        15 => return text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        _ => text.to_owned(),
    };
    text.into_bytes()
}

/// Writes a value as JSON with a change to the value at position `at`, in depth-first order.
pub fn changed(value: &Value, change: Change, at: &mut Option<usize>) -> String {
    let here = *at == Some(0);
    *at = at.and_then(|at| at.checked_sub(1));
    let mut text = match value {
        Value::Object(entries) => {
            let mut fields: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), changed(value, change, at)))
                .collect();
            match change {
                _ if !here => {}
                Change::Twice(other, front) => {
                    let again = entries.keys().map(|key| format!("{}:{other}", Value::from(key.as_str())));
                    if front { fields.splice(0..0, again).for_each(drop) } else { fields.extend(again) }
                }
                Change::Beside(other) => fields.push(format!("\"beside\":{other}")),
                Change::Deep => fields.push(format!("\"beside\":{}{}", "[".repeat(130), "]".repeat(130))),
                Change::Large => fields.push(format!("\"beside\":[{}0]", "0,".repeat(50_000))),
                _ => {}
            }
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(|item| changed(item, change, at)).collect::<Vec<_>>().join(","))
        }
        _ => value.to_string(),
    };
    if here {
        match change {
            Change::Quote if !value.is_string() => text = Value::from(text).to_string(),
            Change::Unquote if value.as_str().is_some_and(|text| text.parse::<i64>().is_ok()) => {
                text = text.trim_matches('"').to_owned();
            }
            // Wrapping a list in a list keeps its type, so it is left out.
            Change::List if !value.is_array() => text = format!("[{text}]"),
            // Moving the fields of an object makes another call, so it is left out.
            Change::Object if !value.is_object() => text = format!("{{\"value\":{text}}}"),
            Change::Respelt(tail) if value.is_number() => text.push_str(tail),
            Change::NotANumber if value.is_number() => text = "NaN".to_owned(),
            _ => {}
        }
    }
    text
}

pub fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}
