//! Names of the settings.

/// Names of all settings, as in the file. For a secret `x` the setting `x_file` names a file that contains it.
pub(super) const NAMES: [&str; 23] = [
    "kafka",
    "kafka_security",
    "kafka_mechanism",
    "kafka_user",
    "kafka_password",
    "kafka_ca_file",
    "kafka_certificate_file",
    "kafka_key_file",
    "kafka_key_password",
    "schema_registry",
    "schema_registry_user",
    "schema_registry_password",
    "schema_registry_ca_file",
    "schema_registry_certificate_file",
    "schema_registry_key_file",
    "clickhouse",
    "clickhouse_user",
    "clickhouse_password",
    "clickhouse_database",
    "clickhouse_ca_file",
    "clickhouse_certificate_file",
    "clickhouse_key_file",
    CLEAR_PASSWORDS,
];

/// Setting whose value `allow` permits sending passwords over a network without TLS.
pub(super) const CLEAR_PASSWORDS: &str = "clear_passwords";

/// Returns true for a setting that must never be printed.
pub(super) fn is_secret(name: &str) -> bool {
    name.ends_with("_password")
}

/// Returns the environment variable of a setting.
pub(super) fn variable(name: &str) -> String {
    format!("AGENTGOV_{}", name.to_ascii_uppercase())
}
