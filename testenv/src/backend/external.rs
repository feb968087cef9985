//! External backend: a stack that others run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::Error;
use crate::addresses::{Addresses, default_name};
use crate::part::Part;
use crate::probe;

/// Reads an environment variable; an empty value counts as unset.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Returns the configured addresses; `None` if nothing is configured. Variables override the file.
pub(crate) fn configured(variable: Variables<'_>) -> Result<Option<Addresses>, Error> {
    let file = variable("AGENTGOV_STACK").map(read).transpose()?;
    let pick = |name: &str, field: fn(&Addresses) -> &String| {
        variable(name).or_else(|| file.as_ref().map(|file| field(file).clone()))
    };
    let kafka = pick("AGENTGOV_KAFKA", |file| &file.kafka);
    let registry = pick("AGENTGOV_SCHEMA_REGISTRY", |file| &file.registry);
    let clickhouse = pick("AGENTGOV_CLICKHOUSE", |file| &file.clickhouse);
    let named = [
        ("AGENTGOV_KAFKA", &kafka),
        ("AGENTGOV_SCHEMA_REGISTRY", &registry),
        ("AGENTGOV_CLICKHOUSE", &clickhouse),
    ];
    let missing: Vec<&str> =
        named.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
    if missing.len() == named.len() {
        return Ok(None);
    }
    let (Some(kafka), Some(registry), Some(clickhouse)) = (kafka, registry, clickhouse) else {
        return Err(Error::ExternalIncomplete { missing });
    };
    let name = |key, field| pick(key, field).unwrap_or_else(default_name);
    Ok(Some(Addresses {
        kafka,
        registry: registry.trim_end_matches('/').to_owned(),
        clickhouse: clickhouse.trim_end_matches('/').to_owned(),
        clickhouse_user: name("AGENTGOV_CLICKHOUSE_USER", |file| &file.clickhouse_user),
        clickhouse_password: pick("AGENTGOV_CLICKHOUSE_PASSWORD", |file| &file.clickhouse_password)
            .unwrap_or_default(),
        clickhouse_database: name("AGENTGOV_CLICKHOUSE_DATABASE", |file| &file.clickhouse_database),
    }))
}

fn read(path: String) -> Result<Addresses, Error> {
    let path = PathBuf::from(path);
    let unusable = |reason| Error::ExternalFile { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
    let mut all: BTreeMap<String, Value> =
        serde_saphyr::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    all.retain(|name, _| !is_security_setting(name));
    let ours = Value::Object(all.into_iter().collect());
    serde_json::from_value(ours).map_err(|error| unusable(error.to_string()))
}

/// Returns true for keys about logins and TLS. The product reads the same file and checks them.
fn is_security_setting(name: &str) -> bool {
    let security = ["kafka_", "schema_registry_"].iter().any(|part| name.starts_with(part));
    security || name == "clear_passwords" || (name.starts_with("clickhouse_") && name.ends_with("_file"))
}

/// Probes each part. Parts with TLS or a login are only connected to, since the probe supports neither.
pub(crate) fn check(addresses: &Addresses, variable: Variables<'_>) -> Result<(), Error> {
    let registry = format!("{}/subjects", addresses.registry);
    let clickhouse = format!("{}/ping", addresses.clickhouse);
    let text = variable("AGENTGOV_STACK").and_then(|file| std::fs::read_to_string(file).ok());
    let secured = |name: &str| {
        let in_file = |text: &String| text.lines().any(|line| line.trim_start().starts_with(name));
        variable(&format!("AGENTGOV_{}", name.to_uppercase())).is_some() || text.as_ref().is_some_and(in_file)
    };
    let run_probe = |plain: bool, address: &str, probe: fn(&str) -> Result<(), String>| {
        if plain { probe(address) } else { probe::port_is_open(address) }
    };
    let unreachable = |part, address: &str| {
        let address = address.to_owned();
        move |reason| Error::Unreachable { part, address, reason }
    };
    run_probe(!secured("kafka_security"), &addresses.kafka, probe::kafka)
        .map_err(unreachable(Part::Broker, &addresses.kafka))?;
    run_probe(!secured("schema_registry_user"), &registry, probe::http)
        .map_err(unreachable(Part::Registry, &registry))?;
    probe::http(&clickhouse).map_err(unreachable(Part::Engine, &clickhouse))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Option<Addresses>, Error> {
        configured(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn nothing_configured_is_no_external_stack() {
        assert_eq!(with(&[]).unwrap(), None);
    }

    #[test]
    fn three_addresses_are_an_external_stack() {
        let addresses = with(&[
            ("AGENTGOV_KAFKA", "k:9092"),
            ("AGENTGOV_SCHEMA_REGISTRY", "http://r/apis/ccompat/v7/"),
            ("AGENTGOV_CLICKHOUSE", "http://c:8123"),
        ]);
        let addresses = addresses.unwrap().unwrap();
        assert_eq!(addresses.registry, "http://r/apis/ccompat/v7");
        assert_eq!(
            (addresses.clickhouse_user.as_str(), addresses.clickhouse_password.as_str()),
            ("default", "")
        );
    }

    #[test]
    fn partial_configuration_is_an_error_that_names_missing_variables() {
        let message = with(&[("AGENTGOV_KAFKA", "k:9092")]).unwrap_err().to_string();
        assert!(
            message.starts_with("the external stack lacks AGENTGOV_SCHEMA_REGISTRY and AGENTGOV_CLICKHOUSE"),
            "{message}"
        );
    }

    #[test]
    fn file_supplies_values_that_the_environment_does_not_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stack.yaml");
        std::fs::write(
            &path,
            "kafka: k:1\nschema_registry: http://r\nclickhouse: http://c\nclickhouse_password: p\n",
        )
        .unwrap();
        let path = path.to_str().unwrap();
        let addresses = with(&[("AGENTGOV_STACK", path), ("AGENTGOV_KAFKA", "other:1")]).unwrap().unwrap();
        assert_eq!((addresses.kafka.as_str(), addresses.clickhouse_password.as_str()), ("other:1", "p"));
    }

    #[test]
    fn file_may_contain_security_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stack.yaml");
        let text = "kafka: k:1\nkafka_security: sasl_ssl\nschema_registry: http://r\nclickhouse: http://c\nclickhouse_ca_file: a\n";
        std::fs::write(&path, text).unwrap();
        let addresses = with(&[("AGENTGOV_STACK", path.to_str().unwrap())]).unwrap().unwrap();
        assert_eq!(addresses.kafka, "k:1");
    }

    #[test]
    fn unknown_key_in_the_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stack.yaml");
        std::fs::write(&path, "kafka: k:1\nschema_registry: http://r\nclickhouse: http://c\nkafak: x\n")
            .unwrap();
        let message = with(&[("AGENTGOV_STACK", path.to_str().unwrap())]).unwrap_err().to_string();
        assert!(message.contains("kafak"), "{message}");
    }
}
