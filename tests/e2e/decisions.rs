//! `agentgov pdp` as a process. It needs no stack.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::stack::{agentgov, describe, root};
use crate::status::{Process, get};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(agentgov());
    command.args(args).current_dir(root()).env_clear();
    command
}

fn refused(args: &[&str]) -> (Option<i32>, String) {
    let output: Output = command(args).output().unwrap();
    (output.status.code(), describe(&output))
}

#[test]
fn decision_point_answers_until_a_signal() {
    let bundle = "examples/authzen/certification";
    let mut process = Process::start(command(&["pdp", "--bundle", bundle, "--listen", "127.0.0.1:0"]));
    assert_eq!(get(&process.url("readyz")), (200, "ready\n".to_owned()));
    let body = r#"{"subject": {"type": "user", "id": "alice"}, "action": {"name": "read"},
                   "resource": {"type": "record", "id": "record-1"}}"#;
    let request = reqwest::blocking::Client::new()
        .post(process.url("access/v1/evaluation"))
        .header("Content-Type", "application/json")
        .body(body);
    let answer: Value = serde_json::from_str(&request.send().unwrap().text().unwrap()).unwrap();
    assert_eq!((&answer["decision"], &answer["context"]["recorded"]), (&true.into(), &false.into()));
    process.stop();
}

#[test]
fn decision_point_prints_its_address_as_json() {
    let args = ["pdp", "--bundle", "examples/authzen/todo", "--listen", "127.0.0.1:0", "--json"];
    let mut child = command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let value: Value = serde_json::from_str(&line).unwrap();
    assert!(value["listening"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{line}");
}

#[test]
fn decision_point_names_why_it_does_not_start() {
    let (certification, airline) = ("examples/authzen/certification", "examples/airline/bundle");
    for (args, code, expected) in [
        (&["pdp", "--bundle", airline][..], 78, "expected a bundle of `model: authzen`"),
        (&["pdp", "--bundle", certification, "--listen", "0.0.0.0:0"], 78, "expected a loopback address"),
        (&["pdp", "--bundle", certification, "--tls-key", "k.pem"], 2, "--tls-certificate"),
        (&["pdp", "--bundle", certification, "--callers", "nowhere.yaml"], 78, "nowhere.yaml"),
        (
            &["pdp", "--bundle", certification, "--listen", "127.0.0.1:0", "--url", "http://x"],
            78,
            "an https URL",
        ),
        (&["pdp", "--bundle", "examples/authzen"], 78, "bundle.yaml"),
        (&["policy", "push", certification], 78, "judges no log"),
    ] {
        let (found, text) = refused(args);
        assert_eq!(found, Some(code), "{args:?}: {text}");
        assert!(text.contains(expected), "{args:?}: {text}");
    }
    for bundle in [certification, "examples/authzen/todo"] {
        for (action, expected) in [("check", "of model authzen"), ("test", ", 0 failed")] {
            let output = command(&["policy", action, bundle]).output().unwrap();
            assert!(output.status.success() && describe(&output).contains(expected), "{}", describe(&output));
        }
    }
}
