//! Tests that the shipping build contains none of the crates that docs/operations excludes.

use std::collections::BTreeSet;
use std::process::Command;

use super::root;

/// The local stack and its Docker backend, benchmarks and fault harness, a second TLS library, and dynamic loading.
const ABSENT: [&str; 15] = [
    "agentgov-testenv",
    "agentgov-faults",
    "agentgov-bench",
    "testcontainers",
    "testcontainers-modules",
    "bollard",
    "tonic",
    "rustls",
    "ring",
    "aws-lc-rs",
    "aws-lc-sys",
    "libloading",
    "plotters",
    "fail",
    "include_dir",
];

#[test]
fn shipping_build_has_no_harness_no_local_stack_and_one_tls_library() {
    let crates = crates_of(&["--no-default-features"]);
    let found: Vec<_> = ABSENT.iter().filter(|name| crates.contains(**name)).collect();
    assert!(
        found.is_empty(),
        "`cargo tree -p agentgov --no-default-features -i CRATE` says who needs {found:?}"
    );
    assert!(crates.contains("openssl") && crates.contains("rdkafka"), "{crates:?}");
    // Other builds contain these crates, so the names are correct.
    let others: BTreeSet<_> = crates_of(&["--features", "docker"])
        .into_iter()
        .chain(crates_of(&["-p", "agentgov-bench"]))
        .collect();
    let default = crates_of(&[]);
    assert!(!default.contains("testcontainers"), "a first `cargo run -- demo` needs no Docker client");
    for name in ABSENT.iter().filter(|name| !name.starts_with("aws-lc")) {
        assert!(others.contains(*name), "no build has {name}: take it off the list");
    }
    assert!(!others.iter().any(|name| name.starts_with("aws-lc")), "ring and aws-lc together: {others:?}");
}

/// Returns the crates that a build of `agentgov` compiles or runs, without those of tests.
fn crates_of(options: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "agentgov", "-e", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}"])
        .args(options)
        .current_dir(root())
        // The variable would unify features over the whole workspace.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}
