//! Which settings there are.

/// The names of all settings, as in the file. Of a secret `x` there is also `x_file`, a file that holds it.
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

/// `allow`: passwords may cross a network without TLS.
pub(super) const CLEAR_PASSWORDS: &str = "clear_passwords";

/// True of a setting that no text may show.
pub(super) fn is_secret(name: &str) -> bool {
    name.ends_with("_password")
}

/// The environment variable of a setting.
pub(super) fn variable(name: &str) -> String {
    format!("AGENTGOV_{}", name.to_ascii_uppercase())
}
