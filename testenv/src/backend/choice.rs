//! Which backend a start uses.

use super::external::{self, Variables};
use crate::Error;
use crate::addresses::Addresses;
use crate::options::BackendKind;

/// The choice, with what it already knows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    External(Addresses),
    Docker,
    Native,
}

/// In this order: what the caller asks for, `AGENTGOV_BACKEND`, configured addresses, a Docker engine that answers,
/// native.
pub(crate) fn choose(
    asked: Option<BackendKind>,
    variable: Variables<'_>,
    docker_answers: impl FnOnce() -> bool,
) -> Result<Choice, Error> {
    let named = match (asked, variable("AGENTGOV_BACKEND")) {
        (Some(kind), _) => Some(kind),
        (None, None) => None,
        (None, Some(name)) => Some(parse(name)?),
    };
    match named {
        Some(BackendKind::Docker) => Ok(Choice::Docker),
        Some(BackendKind::Native) => Ok(Choice::Native),
        Some(BackendKind::External) => {
            let all = vec!["AGENTGOV_KAFKA", "AGENTGOV_SCHEMA_REGISTRY", "AGENTGOV_CLICKHOUSE"];
            let addresses = external::configured(variable)?;
            addresses.map(Choice::External).ok_or(Error::ExternalIncomplete { missing: all })
        }
        None => Ok(match external::configured(variable)? {
            Some(addresses) => Choice::External(addresses),
            None if docker_answers() => Choice::Docker,
            None => Choice::Native,
        }),
    }
}

/// The variables that are set and decide the backend.
pub(crate) fn deciding(variable: Variables<'_>) -> Vec<&'static str> {
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

    fn choice(asked: Option<BackendKind>, pairs: &[(&str, &str)], docker: bool) -> Result<String, Error> {
        let variable =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let name = |choice: &Choice| format!("{choice:?}").split('(').next().unwrap().to_lowercase();
        choose(asked, &variable, || docker).map(|choice| name(&choice))
    }

    #[test]
    fn without_a_word_it_is_external_then_docker_then_native() {
        assert_eq!(choice(None, &ADDRESSES, true).unwrap(), "external");
        assert_eq!(choice(None, &[], true).unwrap(), "docker");
        assert_eq!(choice(None, &[], false).unwrap(), "native");
    }

    #[test]
    fn the_caller_wins_over_the_environment_over_the_rest() {
        let native = [("AGENTGOV_BACKEND", "native")];
        assert_eq!(choice(None, &native, true).unwrap(), "native");
        assert_eq!(choice(Some(BackendKind::Docker), &native, false).unwrap(), "docker");
    }

    #[test]
    fn external_without_addresses_is_an_error() {
        let message = choice(Some(BackendKind::External), &[], true).unwrap_err().to_string();
        assert!(
            message.contains("AGENTGOV_KAFKA and AGENTGOV_SCHEMA_REGISTRY and AGENTGOV_CLICKHOUSE"),
            "{message}"
        );
        assert!(
            choice(None, &ADDRESSES[..1], true).is_err(),
            "a partial one must not fall through to docker"
        );
    }

    #[test]
    fn an_unknown_name_is_told() {
        let message = choice(None, &[("AGENTGOV_BACKEND", "podman")], false).unwrap_err().to_string();
        assert_eq!(message, "expected AGENTGOV_BACKEND to be external, docker or native, found 'podman'");
    }
}
