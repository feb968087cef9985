//! What the command line says when there is nothing to run on.

use std::process::Command;

use crate::stack::{agentgov, told};

#[test]
fn a_demo_without_java_maven_and_npm_names_them_and_three_ways_out() {
    let cache = tempfile::tempdir().unwrap();
    let output = Command::new(agentgov())
        .args(["demo"])
        .env_clear()
        .env("PATH", "")
        .env("XDG_CACHE_HOME", cache.path())
        // A machine with Docker needs none of them.
        .env("AGENTGOV_BACKEND", "native")
        .output()
        .unwrap();
    assert!([75, 78].contains(&output.status.code().unwrap()), "{}", told(&output));
    let said = String::from_utf8(output.stderr).unwrap();
    for part in [
        "java, 17 or newer",
        "mvn, ",
        "npm, ",
        "three ways out",
        "apt-get install",
        "Docker engine",
        "AGENTGOV_KAFKA",
    ] {
        assert_eq!(said.matches(part).count(), 1, "`{part}` in:\n{said}");
    }
    assert_eq!(said.matches("agentgov: ").count(), 1, "one message:\n{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_command_without_a_stack_says_how_to_get_one() {
    let state = tempfile::tempdir().unwrap();
    let output = Command::new(agentgov())
        .args(["topology", "plan"])
        .env_clear()
        .env("XDG_STATE_HOME", state.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    let said = String::from_utf8(output.stderr).unwrap();
    for part in ["AGENTGOV_KAFKA", "AGENTGOV_REGISTRY", "AGENTGOV_CLICKHOUSE", "agentgov up"] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
}
