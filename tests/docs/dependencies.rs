//! Tests that the dependencies satisfy the licences, bans and sources of deny.toml, without cargo-deny.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value as Json;
use spdx::{Expression, Licensee, ParseMode};
use toml::{Table, Value};

use super::root;

fn read(file: &str) -> Table {
    fs::read_to_string(root().join(file)).unwrap().parse().unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn texts(value: Option<&Value>) -> Vec<&str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn text<'t>(table: &'t Value, key: &str) -> Option<&'t str> {
    table.get(key).and_then(Value::as_str)
}

/// Returns violations among the packages of a Cargo.lock.
fn violations(deny: &Table, lock: &Table) -> Vec<String> {
    let registries = texts(deny.get("sources").and_then(|sources| sources.get("allow-registry")));
    let bans = deny.get("bans").and_then(|bans| bans.get("deny")).and_then(Value::as_array);
    let banned: BTreeMap<&str, Vec<&str>> = bans
        .into_iter()
        .flatten()
        .map(|ban| (text(ban, "crate").unwrap(), texts(ban.get("wrappers"))))
        .collect();
    let mut violations = Vec::new();
    for package in lock.get("package").and_then(Value::as_array).into_iter().flatten() {
        let name = text(package, "name").unwrap();
        if let Some(source) = text(package, "source") {
            let allowed = registries.iter().any(|registry| source == format!("registry+{registry}"));
            if !allowed || text(package, "checksum").is_none() {
                violations.push(format!("{name} comes from {source}"));
            }
        }
        if banned.get(name).is_some_and(Vec::is_empty) {
            violations.push(format!("{name} is banned"));
        }
        for needed in texts(package.get("dependencies")) {
            let needed = needed.split(' ').next().unwrap_or(needed);
            if banned.get(needed).is_some_and(|wrappers| !wrappers.is_empty() && !wrappers.contains(&name)) {
                violations.push(format!("{name} depends on {needed}"));
            }
        }
    }
    violations
}

/// Returns the packages of the workspace's builds for this machine, tests included.
fn packages() -> Vec<Json> {
    let cargo = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata: Json = serde_json::from_str(&cargo(&[
        "metadata",
        "--format-version=1",
        "--locked",
        "--offline",
        "--filter-platform",
        host,
    ]))
    .unwrap();
    metadata.get("packages").and_then(Json::as_array).unwrap().clone()
}

/// Returns the packages whose licence is not allowed, neither for all nor for the package.
fn licence_violations(deny: &Table, packages: &[Json]) -> Vec<String> {
    let licensees = |names: Vec<&str>| -> Vec<Licensee> {
        names.into_iter().map(|name| Licensee::parse(name).unwrap()).collect()
    };
    let licences = deny.get("licenses").unwrap();
    let allowed = licensees(texts(licences.get("allow")));
    let exceptions: BTreeMap<&str, Vec<Licensee>> = licences
        .get("exceptions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|exception| (text(exception, "crate").unwrap(), licensees(texts(exception.get("allow")))))
        .collect();
    let is_allowed = |name: &str, licence: &str| {
        Expression::parse_mode(licence, ParseMode::LAX).is_ok_and(|expression| {
            expression.evaluate(|required| {
                let mut all = allowed.iter().chain(exceptions.get(name).into_iter().flatten());
                all.any(|licensee| licensee.satisfies(required))
            })
        })
    };
    packages
        .iter()
        .map(|package| {
            let text = |key| package.get(key).and_then(Json::as_str);
            (text("name").unwrap(), text("license").unwrap_or("none"))
        })
        .filter(|(name, licence)| !is_allowed(name, licence))
        .map(|(name, licence)| format!("{name}: {licence}"))
        .collect()
}

#[test]
fn licence_of_each_dependency_is_allowed() {
    let deny = read("deny.toml");
    let found = licence_violations(&deny, &packages());
    assert!(found.is_empty(), "deny.toml does not allow it: {found:#?}");
    let package = |name: &str, license: &str| serde_json::json!({ "name": name, "license": license });
    let packages = [
        package("a", "LGPL-3.0-only"),
        package("b", "GPL-3.0-or-later OR MIT"),
        package("c", "MIT/Apache-2.0"),
        package("d", "MIT AND MPL-2.0"),
        package("serde_avro_fast", "MPL-2.0"),
        package("e", "Apache-2.0 WITH Classpath-exception-2.0"),
        serde_json::json!({ "name": "f" }),
    ];
    let expected =
        ["a: LGPL-3.0-only", "d: MIT AND MPL-2.0", "e: Apache-2.0 WITH Classpath-exception-2.0", "f: none"];
    assert_eq!(licence_violations(&deny, &packages), expected);
}

/// Returns the dependencies of each package of a lock file.
fn locked(lock: &Table) -> BTreeMap<&str, BTreeSet<&str>> {
    let packages = lock.get("package").and_then(Value::as_array).unwrap();
    packages
        .iter()
        .map(|package| {
            let dependencies = texts(package.get("dependencies"));
            let names = dependencies.into_iter().map(|needed| needed.split(' ').next().unwrap()).collect();
            (text(package, "name").unwrap(), names)
        })
        .collect()
}

/// `fuzz/` is a workspace of its own, which no other test builds.
#[test]
fn lock_file_of_fuzz_has_the_dependencies_of_our_crates() {
    let (workspace, lock) = (read("Cargo.toml"), read("fuzz/Cargo.lock"));
    let locked = locked(&lock);
    let mut compared = 0;
    for member in texts(workspace["workspace"].get("members")) {
        let manifest = read(&format!("{member}/Cargo.toml"));
        let Some(found) = locked.get(text(&manifest["package"], "name").unwrap()) else { continue };
        let no_dependencies = Table::new();
        let expected: BTreeSet<&str> = manifest
            .get("dependencies")
            .and_then(Value::as_table)
            .unwrap_or(&no_dependencies)
            .iter()
            .filter(|(_, needed)| needed.get("optional") != Some(&Value::Boolean(true)))
            .map(|(name, _)| name.as_str())
            .collect();
        let hint = "run `cargo metadata` in fuzz/";
        assert!(expected.is_subset(found), "{member}: expected {expected:?}, found {found:?}; {hint}");
        compared += 1;
    }
    assert!(compared > 5, "fuzz/Cargo.lock has {compared} of our crates");
}

#[test]
fn crate_under_the_lgpl_is_replaced() {
    let lock = read("Cargo.lock");
    let packages = lock.get("package").and_then(Value::as_array).unwrap();
    let sources: Vec<_> = packages
        .iter()
        .filter(|package| text(package, "name") == Some("serde_serializer_quick_unsupported"))
        .map(|package| text(package, "source"))
        .collect();
    assert_eq!(sources, [None], "docs/adr/0042 has the reason");
}

#[test]
fn no_dependency_is_banned_or_of_another_registry() {
    let deny = read("deny.toml");
    let found = violations(&deny, &read("Cargo.lock"));
    assert!(found.is_empty(), "deny.toml does not allow it: {found:#?}");
    let lock = r#"
        package = [
            { name = "a", source = "git+https://example.com/a" },
            { name = "b", source = "registry+https://github.com/rust-lang/crates.io-index", checksum = "x",
              dependencies = ["rustls 0.23.0"] },
            { name = "aws-lc-sys" },
            { name = "hyper-rustls", dependencies = ["rustls"] },
        ]"#;
    let expected = ["a comes from git+https://example.com/a", "b depends on rustls", "aws-lc-sys is banned"];
    assert_eq!(violations(&deny, &lock.parse().unwrap()), expected);
}
