//! Runs the examples of docs/CONTROL.md against a decision point: their text is taken from the page.

use std::process::{Command, Output};

use crate::stack::{describe, root, stack};
use crate::status::{Process, get};

// The example of the page; the test compares them.
// example:begin
fn may_think(pdp: &str) -> Result<bool, reqwest::Error> {
    let question = serde_json::json!({
        "subject": { "type": "agent", "id": "airline-service" },
        "action": { "name": "tools/call" },
        "resource": { "type": "tool", "id": "think" },
        "context": { "tenant": "airline", "environment": "production", "session": "s-1", "call_id": "c1" },
    });
    let request = reqwest::blocking::Client::new().post(format!("{pdp}/access/v1/evaluation"));
    let answer: serde_json::Value = request.json(&question).send()?.error_for_status()?.json()?;
    Ok(answer["decision"] == true)
}
// example:end

/// Returns the first block of the section in this language.
fn example(language: &str) -> String {
    let page = std::fs::read_to_string(root().join("docs/CONTROL.md")).unwrap();
    let (_, section) = page.split_once("## Ask in three languages\n").unwrap();
    let (_, block) = section.split_once(&format!("```{language}\n")).unwrap();
    let (example, _) = block.split_once("```\n").unwrap();
    assert!(example.lines().count() <= 12, "{example}");
    example.to_owned()
}

#[test]
fn examples_of_the_page_are_allowed_in_each_language() {
    let stack = stack();
    let spool = tempfile::tempdir().unwrap();
    let arguments = ["pdp", "--listen", "127.0.0.1:0", "--spool", spool.path().to_str().unwrap()];
    let pdp = Process::start(stack.command(&arguments));
    let url = pdp.address.clone();
    stack.eventually("the decision point is ready", || get(&pdp.url("readyz")).0 == 200);

    let run = |program: &str, option: &str, language: &str| -> Output {
        let mut command = Command::new(program);
        command.args([option, &example(language)]).env("AGENTGOV_PDP", &url).env("NO_PROXY", "*");
        command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
    };
    let asked = run("sh", "-c", "sh");
    assert!(asked.status.success(), "{}", describe(&asked));
    let answer: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!(
        (&answer["decision"], &answer["context"]["recorded"]),
        (&true.into(), &true.into()),
        "{answer}"
    );

    let (_, rest) = include_str!("asking.rs").split_once("// example:begin\n").unwrap();
    assert_eq!(rest.split_once("// example:end\n").unwrap().0, example("rust"));
    assert!(may_think(&url).unwrap());

    let asked = run("python3", "-c", "python");
    assert!(asked.status.success(), "{}", describe(&asked));
    assert_eq!(asked.stdout, b"True\n");
}
