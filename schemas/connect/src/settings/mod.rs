//! Where the stack is and how to get in, as people say it: environment variables, and a file. Read whole, and held to
//! rules before anything connects: every mistake at once, each with the variable or the place that it stands at.
//!
//! A setting has one name. `kafka_user` in the file is `AGENTGOV_KAFKA_USER` in the environment; the environment wins. A
//! secret may be in a file of its own: `kafka_password_file`, `AGENTGOV_KAFKA_PASSWORD_FILE`.
//!
//! - `names`: which settings there are
//! - `source`: reading them
//! - `kafka`, `http`: the endpoints that they make, and the rules
//! - `write`: the way back, for the note that `up` leaves

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

/// The database that holds the log, unless a setting names another.
pub const DATABASE: &str = "agentgov";

/// Why there are no endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// These addresses are not set; nothing else was found wrong.
    Unset(Vec<String>),
    /// What is set is wrong: a line each.
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

/// Gathers what is wrong.
#[derive(Debug, Default)]
struct Findings {
    unset: Vec<String>,
    wrong: Vec<String>,
}

impl Findings {
    fn add(&mut self, problem: impl Into<String>) {
        self.wrong.push(problem.into());
    }

    /// The value, unless anything is wrong with it.
    fn finish<T>(self, value: Option<T>) -> Result<T, SettingsError> {
        match value {
            _ if !self.wrong.is_empty() => Err(SettingsError::Wrong(self.wrong)),
            Some(value) if self.unset.is_empty() => Ok(value),
            _ => Err(SettingsError::Unset(self.unset)),
        }
    }
}

impl Settings {
    /// All three.
    ///
    /// # Errors
    /// Everything that is wrong at once; or which addresses are not set.
    pub fn endpoints(&self) -> Result<Endpoints, SettingsError> {
        let mut findings = Findings::default();
        let kafka = self.kafka_of(&mut findings);
        let schema_registry = self.schema_registry_of(&mut findings);
        let clickhouse = self.clickhouse_of(&mut findings);
        let all =
            || Some(Endpoints { kafka: kafka?, schema_registry: schema_registry?, clickhouse: clickhouse? });
        findings.finish(all())
    }

    /// The brokers.
    ///
    /// # Errors
    /// Everything that is wrong with them; or that their address is not set.
    pub fn kafka(&self) -> Result<KafkaEndpoint, SettingsError> {
        let mut findings = Findings::default();
        let kafka = self.kafka_of(&mut findings);
        findings.finish(kafka)
    }

    /// The schema registry.
    ///
    /// # Errors
    /// Everything that is wrong with it; or that its address is not set.
    pub fn schema_registry(&self) -> Result<SchemaRegistryEndpoint, SettingsError> {
        let mut findings = Findings::default();
        let schema_registry = self.schema_registry_of(&mut findings);
        findings.finish(schema_registry)
    }

    /// ClickHouse.
    ///
    /// # Errors
    /// Everything that is wrong with it; or that its address is not set.
    pub fn clickhouse(&self) -> Result<ClickHouseEndpoint, SettingsError> {
        let mut findings = Findings::default();
        let clickhouse = self.clickhouse_of(&mut findings);
        findings.finish(clickhouse)
    }
}
