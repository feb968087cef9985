//! Selection of the backend.

use super::external::{self, Variables};
use crate::Error;
use crate::addresses::Addresses;
use crate::options::BackendKind;

/// Selected backend, with the addresses of an external stack.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SelectedBackend {
    External(Addresses),
    Docker,
    Native,
}

/// Selects the backend by, in this order: the caller's option, `AGENTGOV_BACKEND`, configured addresses, a reachable Docker
/// engine, native.
pub(crate) fn select_backend(
    requested: Option<BackendKind>,
    variable: Variables<'_>,
    docker_responds: impl FnOnce() -> bool,
) -> Result<SelectedBackend, Error> {
    let named = match (requested, variable("AGENTGOV_BACKEND")) {
        (Some(kind), _) => Some(kind),
        (None, None) => None,
        (None, Some(name)) => Some(parse(name)?),
    };
    match named {
        Some(BackendKind::Docker) => Ok(SelectedBackend::Docker),
        Some(BackendKind::Native) => Ok(SelectedBackend::Native),
        Some(BackendKind::External) => {
            let all = vec!["AGENTGOV_KAFKA", "AGENTGOV_SCHEMA_REGISTRY", "AGENTGOV_CLICKHOUSE"];
            let addresses = external::configured(variable)?;
            addresses.map(SelectedBackend::External).ok_or(Error::ExternalIncomplete { missing: all })
        }
        None => Ok(match external::configured(variable)? {
            Some(addresses) => SelectedBackend::External(addresses),
            None if docker_responds() => SelectedBackend::Docker,
            None => SelectedBackend::Native,
        }),
    }
}

/// Returns the variables that are set and determine the backend.
pub(crate) fn deciding_variables(variable: Variables<'_>) -> Vec<&'static str> {
    let is_set = |name: &&str| variable(name).is_some();
    [
        "AGENTGOV_BACKEND",
        "AGENTGOV_STACK",
        "AGENTGOV_KAFKA",
        "AGENTGOV_SCHEMA_REGISTRY",
        "AGENTGOV_CLICKHOUSE",
    ]
    .into_iter()
    .filter(is_set)
    .collect()
}

fn parse(name: String) -> Result<BackendKind, Error> {
    match name.as_str() {
        "external" => Ok(BackendKind::External),
        "docker" => Ok(BackendKind::Docker),
        "native" => Ok(BackendKind::Native),
        _ => Err(Error::UnknownBackend { found: name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [(&str, &str); 3] = [
        ("AGENTGOV_KAFKA", "k:1"),
        ("AGENTGOV_SCHEMA_REGISTRY", "http://r"),
        ("AGENTGOV_CLICKHOUSE", "http://c"),
    ];

    fn selected(
        requested: Option<BackendKind>,
        pairs: &[(&str, &str)],
        docker: bool,
    ) -> Result<String, Error> {
        let variable =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let name =
            |selected: &SelectedBackend| format!("{selected:?}").split('(').next().unwrap().to_lowercase();
        select_backend(requested, &variable, || docker).map(|selected| name(&selected))
    }

    #[test]
    fn default_is_external_then_docker_then_native() {
        assert_eq!(selected(None, &ADDRESSES, true).unwrap(), "external");
        assert_eq!(selected(None, &[], true).unwrap(), "docker");
        assert_eq!(selected(None, &[], false).unwrap(), "native");
    }

    #[test]
    fn caller_precedes_environment() {
        let native = [("AGENTGOV_BACKEND", "native")];
        assert_eq!(selected(None, &native, true).unwrap(), "native");
        assert_eq!(selected(Some(BackendKind::Docker), &native, false).unwrap(), "docker");
    }

    #[test]
    fn external_without_addresses_is_an_error() {
        let message = selected(Some(BackendKind::External), &[], true).unwrap_err().to_string();
        assert!(
            message.contains("AGENTGOV_KAFKA and AGENTGOV_SCHEMA_REGISTRY and AGENTGOV_CLICKHOUSE"),
            "{message}"
        );
        assert!(
            selected(None, &ADDRESSES[..1], true).is_err(),
            "a partial one must not fall through to docker"
        );
    }

    #[test]
    fn unknown_backend_is_an_error() {
        let message = selected(None, &[("AGENTGOV_BACKEND", "podman")], false).unwrap_err().to_string();
        assert_eq!(message, "expected AGENTGOV_BACKEND to be external, docker or native, found 'podman'");
    }
}
