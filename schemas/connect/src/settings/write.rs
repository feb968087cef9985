//! Conversion of endpoints to settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::names::CLEAR_PASSWORDS;
use crate::{Endpoints, Tls};

impl Endpoints {
    /// Returns the settings for these endpoints, including secrets. They must be written to a file that only its owner can read.
    pub fn to_settings(&self) -> BTreeMap<String, String> {
        let Self { kafka, schema_registry, clickhouse } = self;
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: &str| {
            if !value.is_empty() {
                settings.insert(name.to_owned(), value.to_owned());
            }
        };
        set("kafka", &kafka.bootstrap);
        set("kafka_security", kafka.protocol());
        if let Some(login) = &kafka.login {
            set("kafka_mechanism", login.mechanism.as_str());
            set("kafka_user", &login.user);
            set("kafka_password", login.password.expose());
        }
        set("schema_registry", &schema_registry.url);
        if let Some(login) = &schema_registry.login {
            set("schema_registry_user", &login.user);
            set("schema_registry_password", login.password.expose());
        }
        set("clickhouse", &clickhouse.url);
        set("clickhouse_user", &clickhouse.user);
        set("clickhouse_password", clickhouse.password.expose());
        set("clickhouse_database", &clickhouse.database);
        // The endpoints are valid, so passwords without TLS were allowed.
        set(CLEAR_PASSWORDS, "allow");
        let no_tls = Tls::default();
        for (part, tls) in [
            ("kafka", kafka.tls.as_ref().unwrap_or(&no_tls)),
            ("schema_registry", &schema_registry.tls),
            ("clickhouse", &clickhouse.tls),
        ] {
            let path = |file: &PathBuf| {
                // Absolute, since the reader may have another working directory.
                std::path::absolute(file).unwrap_or_else(|_| file.clone()).display().to_string()
            };
            if let Some(file) = &tls.ca_file {
                set(&format!("{part}_ca_file"), &path(file));
            }
            if let Some(client) = &tls.client {
                set(&format!("{part}_certificate_file"), &path(&client.certificate_file));
                set(&format!("{part}_key_file"), &path(&client.key_file));
                set(&format!("{part}_key_password"), client.key_password.expose());
            }
        }
        settings
    }
}
