//! Parts of the stack.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Part of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Apache Kafka, one node.
    Broker,
    /// Schema registry: Apicurio with its Confluent-compatible API.
    Registry,
    /// ClickHouse's engine over HTTP.
    Engine,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::Broker, Self::Registry, Self::Engine];

    /// Returns the part's name in file names, logs and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Registry => "registry",
            Self::Engine => "engine",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
