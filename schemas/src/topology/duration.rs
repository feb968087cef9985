//! Durations in topology.yaml, such as `250ms` and `7d`.

use std::time::Duration;

use crate::yaml::{FromNode, Node, Problems, Value};

/// Retention of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Records are never deleted: retention.ms=-1.
    Forever,
    /// Records are deleted after this time: retention.ms.
    For(Duration),
}

impl Retention {
    /// Returns the value of Kafka's retention.ms.
    pub fn to_kafka(self) -> String {
        match self {
            Self::Forever => "-1".to_owned(),
            Self::For(length) => length.as_millis().to_string(),
        }
    }
}

impl FromNode for Retention {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "forever" => Some(Self::Forever),
            _ => read(node, problems, "`forever`, or a length of time such as 7d").map(Self::For),
        }
    }
}

/// Duration, written as 250ms, 10s, 5m, 1h or 7d.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

impl FromNode for HumanDuration {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        read(node, problems, "a length of time such as 250ms, 10s, 5m, 1h or 7d").map(Self)
    }
}

fn read(node: &Node, problems: &mut Problems, expected: &str) -> Option<Duration> {
    let length = match &node.value {
        Value::Text(text) => parse(text),
        _ => None,
    };
    if length.is_none() {
        problems.add(node.at, format!("expected {expected}, found {}", node.value));
    }
    length
}

/// Parses a whole number with one unit, up to 292 million years.
fn parse(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // Kafka's retention.ms is signed.
    let total = number.parse::<u64>().ok()?.checked_mul(millis)?;
    i64::try_from(total).ok().map(|_| Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_a_number_with_one_unit() {
        for (text, millis) in
            [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)));
        }
        for text in ["", "10", "s", "-1s", "1w", "1.5h", "99999999999999999999s", "9223372036854775808ms"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn unlimited_retention_is_minus_one_in_kafka() {
        assert_eq!(Retention::Forever.to_kafka(), "-1");
        assert_eq!(Retention::For(Duration::from_secs(60)).to_kafka(), "60000");
    }
}
