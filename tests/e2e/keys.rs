//! Signing keys: made, listed, revoked, and logged.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::stack::{describe, stack};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn key_is_published_once_revoked_for_good_and_logged() {
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pdp.jwk");
    let out = file.to_str().unwrap();
    let new =
        ["registry", "key", "new", "--kind", "pdp", "--name", "keys-e2e", "--tenant", "keys", "--out", out];
    let kid = stack.run(&new).trim().to_owned();
    let private = std::fs::read_to_string(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(json(&private)["kid"], kid.as_str());

    // The same file again, and holders that no key may have: nothing is published.
    let refused: [(&[&str], i32); 4] = [
        (&new, 1),
        (&["registry", "key", "new", "--kind", "pdp", "--name", " ", "--out", "x.jwk"], 2),
        (
            &[
                "registry", "key", "new", "--kind", "pdp", "--name", "keys-e2e", "--tenant", "a/b", "--out",
                "x.jwk",
            ],
            2,
        ),
        (&["registry", "key", "new", "--kind", "root", "--name", "keys-e2e", "--out", "x.jwk"], 2),
    ];
    for (arguments, code) in refused {
        let output = stack.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", describe(&output));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), private);

    let listed = || -> Vec<Value> {
        let listing = json(&stack.run(&["registry", "key", "list", "--json"]));
        assert_eq!(listing["unreadable"], Value::Array(vec![]));
        let keys = listing["keys"].as_array().unwrap().clone();
        keys.into_iter().filter(|key| key["name"] == "keys-e2e").collect()
    };
    let active = listed();
    assert_eq!(active.len(), 1, "{active:?}");
    assert_eq!(
        [&active[0]["kid"], &active[0]["state"], &active[0]["tenant_id"]],
        [kid.as_str(), "active", "keys"]
    );

    let revoke = ["registry", "key", "revoke", &kid, "--reason", "a test", "--json"];
    assert_eq!(json(&stack.run(&revoke))["outcome"], "revoked");
    assert_eq!(json(&stack.run(&revoke))["outcome"], "already_revoked");
    let revoked = listed();
    assert_eq!(revoked.len(), 1, "{revoked:?}");
    assert_eq!([&revoked[0]["state"], &revoked[0]["revocation"]["reason"]], ["revoked", "a test"]);
    // The id of a key may begin with a hyphen.
    let unknown = ["registry", "key", "revoke", "-no-such-key", "--reason", "a test"];
    let output = stack.command(&unknown).output().unwrap();
    assert!(
        output.status.code() == Some(1) && describe(&output).contains("-no-such-key"),
        "{}",
        describe(&output)
    );

    let rows = format!("FROM keys WHERE kid = '{kid}'");
    stack.eventually("both records of the key are rows", || {
        stack.number(&format!("SELECT count() {rows}")) == 2
    });
    let columns = "state, kind, name, tenant_id, reason, key = kid, decode_error";
    assert_eq!(
        stack.sql(&format!("SELECT {columns} {rows} ORDER BY offset")),
        "active\tpdp\tkeys-e2e\tkeys\t\t1\t\nrevoked\tpdp\tkeys-e2e\tkeys\ta test\t1\t\n"
    );
    assert_eq!(
        stack.number(&format!("SELECT countIf(position(value, '\"d\"') > 0) {rows}")),
        0,
        "the private part"
    );
}
