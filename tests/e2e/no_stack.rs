//! Tests of the command line without a stack.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::stack::{agentgov, describe, root};

#[test]
fn demo_without_java_maven_and_npm_names_them_and_the_alternatives() {
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
    assert!([75, 78].contains(&output.status.code().unwrap()), "{}", describe(&output));
    let message = String::from_utf8(output.stderr).unwrap();
    for part in [
        "java, 17 or newer",
        "mvn, ",
        "npm, ",
        "Alternatives:",
        "apt-get install",
        "Docker engine",
        "AGENTGOV_KAFKA",
    ] {
        assert_eq!(message.matches(part).count(), 1, "`{part}` in:\n{message}");
    }
    assert_eq!(message.matches("agentgov: ").count(), 1, "one message:\n{message}");
    assert!(message.contains("\n  - java, 17 or newer"), "a line each:\n{message}");
    assert!(output.stdout.is_empty());
}

#[test]
fn command_without_a_stack_names_the_settings() {
    let state = tempfile::tempdir().unwrap();
    let output = Command::new(agentgov())
        .args(["topology", "plan"])
        .env_clear()
        .env("XDG_STATE_HOME", state.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
    let message = String::from_utf8(output.stderr).unwrap();
    for part in ["AGENTGOV_KAFKA", "AGENTGOV_SCHEMA_REGISTRY", "AGENTGOV_CLICKHOUSE", "agentgov up"] {
        assert!(message.contains(part), "{part} is missing in:\n{message}");
    }
}

#[test]
fn demo_with_an_external_stack_starts_none() {
    for (arguments, expected) in [
        (&["--stack", "no-such-stack.yaml"][..], "no-such-stack.yaml"),
        (&["--kafka", "127.0.0.1:9"], "AGENTGOV_SCHEMA_REGISTRY"),
    ] {
        let output = Command::new(agentgov())
            .arg("demo")
            .args(arguments)
            .env_clear()
            .env("PATH", "")
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(expected), "{}", describe(&output));
        assert!(!message.contains("java"), "it looks for the parts of a stack:\n{message}");
    }
}

#[test]
fn invalid_addresses_are_rejected_before_connecting() {
    for (arguments, expected) in [
        (&["--kafka", "kafka://127.0.0.1:9092"][..], "AGENTGOV_KAFKA: expected brokers as HOST:PORT"),
        (&["--kafka", "127.0.0.1:99999"], "port 99999, which is not in 1 to 65535"),
    ] {
        let output = Command::new(agentgov())
            .args([
                "topology",
                "plan",
                "--schema-registry",
                "http://127.0.0.1:1",
                "--clickhouse",
                "http://127.0.0.1:1",
            ])
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78), "{}", describe(&output));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(expected), "{message}");
    }
    let listen =
        Command::new(agentgov()).args(["run", "all", "--listen", "9464"]).env_clear().output().unwrap();
    assert_eq!(listen.status.code(), Some(2), "{}", describe(&listen));
    assert!(describe(&listen).contains("expected HOST:PORT, e.g. localhost:9464"), "{}", describe(&listen));
}

#[test]
fn proxy_is_named_in_errors_and_not_used_for_loopback() {
    let import = |registry: &str| {
        let runs = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            runs.path(),
            r#"{"messages":[{"role":"user","content":"hello"}],"task_id":1,"trial":1}"#,
        )
        .unwrap();
        let output = Command::new(agentgov())
            .args(["import", "chat-completions", "--tenant", "t", "--agent", "a", "--environment", "e"])
            .args(["--start-time", "2024-05-15T15:00:00", "--kafka", "127.0.0.1:1"])
            .args(["--clickhouse", "http://127.0.0.1:1", "--schema-registry", registry])
            .arg(runs.path())
            .env_clear()
            .env("HTTP_PROXY", "http://user:hunter2@127.0.0.1:2")
            .env("http_proxy", "http://user:hunter2@127.0.0.1:2")
            .output()
            .unwrap();
        assert!(!output.status.success(), "{}", describe(&output));
        describe(&output)
    };
    let elsewhere = import("http://registry.invalid:8081");
    assert!(elsewhere.contains("through the proxy http://127.0.0.1:2 of HTTP_PROXY"), "{elsewhere}");
    assert!(!elsewhere.contains("hunter2"), "{elsewhere}");
    let here = import("http://127.0.0.1:1");
    assert!(here.contains("http://127.0.0.1:1/") && !here.contains("proxy"), "{here}");
}

#[test]
fn unwritable_output_is_an_error_and_a_closed_pipe_is_none() {
    let commands: [&[&str]; 7] = [
        &["topology", "graph"],
        &["topology", "render", "acls"],
        &["topology", "render", "grants", "--json"],
        &["topology", "check"],
        &["policy", "check", "examples/airline/bundle"],
        &["policy", "test", "examples/airline/bundle"],
        &["--help"],
    ];
    for arguments in commands {
        let command = || {
            let mut command = Command::new(agentgov());
            command.args(arguments).current_dir(root());
            command
        };
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command().stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", describe(&output));
        let message = String::from_utf8(output.stderr).unwrap();
        let expected = "agentgov: standard output cannot be written: No space left on device";
        assert!(message.starts_with(expected), "{arguments:?}: {message}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command().stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", describe(&output));
        assert!(output.stderr.is_empty(), "{arguments:?}: {}", describe(&output));

        // Unwritable error messages must not end a command early.
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(agentgov()).arg("--no-such-option").stderr(full).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", describe(&output));
    }
}

/// Files are checked before anything connects: one message names the actual format, and the exit code does not suggest a
/// retry.
#[test]
fn unsupported_file_is_reported_with_its_format() {
    let import = |bytes: &[u8], options: &[&str]| {
        let mut command = Command::new(agentgov());
        command.args(["import", "chat-completions", "-", "--tenant", "t", "--agent", "a"]).args(options);
        command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        process.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = process.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{}", describe(&output));
        String::from_utf8(output.stderr).unwrap()
    };
    for (bytes, expected) in [
        (&b"PK\x03\x04"[..], "standard input:1: expected runs as JSON, found a zip archive"),
        (b"\xff\xfe{\0}\0", "UTF-16 text; convert it"),
        (b"%PDF-1.7", "a PDF document"),
        (b"{\"swagger\": \"2.0\",\n\"paths\": {}}", "found the fields swagger, paths"),
        (b"", "an empty file"),
    ] {
        let message = import(bytes, &[]);
        assert!(message.contains(expected) && message.lines().count() == 2, "{message}");
    }
    let bad = "{\"messages\": 1}\n".repeat(30);
    let message = import(bad.as_bytes(), &["--skip-bad"]);
    assert_eq!(message.lines().count(), 22, "{message}");
    assert!(message.ends_with("and 10 more\n"), "{message}");
}
