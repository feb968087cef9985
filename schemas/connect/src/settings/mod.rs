//! Settings for the endpoints, from environment variables and a file. All settings are checked before a client connects, and all
//! mistakes are reported at once, each with its variable or its location in the file.
//!
//! A setting has one name. `kafka_user` in the file is `AGENTGOV_KAFKA_USER` in the environment; the environment takes precedence.
//! A secret may be in a file of its own: `kafka_password_file`, `AGENTGOV_KAFKA_PASSWORD_FILE`.
//!
//! - `names`: names of the settings
//! - `source`: reading of settings
//! - `kafka`, `http`: conversion to endpoints, with the rules
//! - `write`: conversion from endpoints, for the file that `up` writes

mod http;
mod kafka;
mod names;
mod source;
mod write;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

pub use source::Settings;

use crate::{ClickHouseEndpoint, Endpoints, KafkaEndpoint, SchemaRegistryEndpoint};

/// Default name of the log's database.
pub const DEFAULT_DATABASE: &str = "agentgov";

/// Error in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// These addresses are not set. The other settings are valid.
    Unset(Vec<String>),
    /// Settings are invalid; one message for each mistake.
    Wrong(Vec<String>),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset(names) => write!(f, "expected {} to be set", names.join(" and ")),
            Self::Wrong(problems) => f.write_str(&problems.join("\n")),
        }
    }
}

impl std::error::Error for SettingsError {}

/// Collector of mistakes in the settings.
#[derive(Debug, Default)]
struct Findings {
    unset: Vec<String>,
    wrong: Vec<String>,
}

impl Findings {
    fn add(&mut self, problem: impl Into<String>) {
        self.wrong.push(problem.into());
    }

    /// Returns the value, or an error if there are mistakes.
    fn finish<T>(self, value: Option<T>) -> Result<T, SettingsError> {
        match value {
            _ if !self.wrong.is_empty() => Err(SettingsError::Wrong(self.wrong)),
            Some(value) if self.unset.is_empty() => Ok(value),
            _ => Err(SettingsError::Unset(self.unset)),
        }
    }
}

impl Settings {
    /// Returns all endpoints.
    ///
    /// # Errors
    /// If settings are invalid, or addresses are not set. The error has all mistakes.
    pub fn endpoints(&self) -> Result<Endpoints, SettingsError> {
        let mut findings = Findings::default();
        let kafka = self.kafka_of(&mut findings);
        let schema_registry = self.schema_registry_of(&mut findings);
        let clickhouse = self.clickhouse_of(&mut findings);
        let all =
            || Some(Endpoints { kafka: kafka?, schema_registry: schema_registry?, clickhouse: clickhouse? });
        findings.finish(all())
    }

    /// Returns the endpoint of Kafka.
    ///
    /// # Errors
    /// If its settings are invalid, or its address is not set. The error has all mistakes.
    pub fn kafka(&self) -> Result<KafkaEndpoint, SettingsError> {
        let mut findings = Findings::default();
        let kafka = self.kafka_of(&mut findings);
        findings.finish(kafka)
    }

    /// Returns the endpoint of the schema registry.
    ///
    /// # Errors
    /// If its settings are invalid, or its address is not set. The error has all mistakes.
    pub fn schema_registry(&self) -> Result<SchemaRegistryEndpoint, SettingsError> {
        let mut findings = Findings::default();
        let schema_registry = self.schema_registry_of(&mut findings);
        findings.finish(schema_registry)
    }

    /// Returns the endpoint of ClickHouse.
    ///
    /// # Errors
    /// If its settings are invalid, or its address is not set. The error has all mistakes.
    pub fn clickhouse(&self) -> Result<ClickHouseEndpoint, SettingsError> {
        let mut findings = Findings::default();
        let clickhouse = self.clickhouse_of(&mut findings);
        findings.finish(clickhouse)
    }
}
