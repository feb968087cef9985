//! Timestamps of producers, in microseconds, and of brokers, in milliseconds.

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch, UTC: the time that a producer claims (`occurred_at`). Any value is possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

/// Milliseconds since the Unix epoch, UTC: the time at which the broker appended a record (`logged_at`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub i64);
