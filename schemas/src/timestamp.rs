//! The two clocks: the producer's in microseconds, the broker's in milliseconds.

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch, UTC. What a producer claims (`occurred_at`): any value at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

/// Milliseconds since the Unix epoch, UTC. When the broker appended a record (`logged_at`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub i64);
