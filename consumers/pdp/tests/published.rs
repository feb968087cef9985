//! Tests decisions that OpenID's AuthZEN working group published, with the bundles of examples/authzen. They need
//! ../shared.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod support;

use std::collections::HashMap;

use agentgov_test_support::shared;
use serde_json::Value;
use support::{Pdp, example, on_loopback};

/// Request of the certification scenario, and its expected response.
#[derive(Debug)]
struct Case {
    section: String,
    path: &'static str,
    body: Value,
    status: u16,
    expected: Option<Value>,
    /// Section whose request has the same results.
    identical_to: Option<String>,
}

/// Chapters of the scenario, and the paths that they cover.
const CHAPTERS: [(&str, &str); 5] = [
    ("c-2", "/access/v1/evaluation"),
    ("c-3", "/access/v1/evaluations"),
    ("c-4-2", "/access/v1/search/subject"),
    ("c-4-3", "/access/v1/search/resource"),
    ("c-4-4", "/access/v1/search/action"),
];

/// Returns the path of a request: that of its chapter, or of the search that the text above the request names.
fn path(section: &str, lead: &str) -> &'static str {
    let named = [
        ("Subject Search", "/access/v1/search/subject"),
        ("Resource Search", "/access/v1/search/resource"),
        ("Action Search", "/access/v1/search/action"),
    ];
    if let Some((_, path)) = named.iter().find(|(name, _)| lead.contains(name)) {
        return path;
    }
    let chapter = CHAPTERS.iter().find(|(chapter, _)| section.starts_with(chapter));
    chapter.map_or("/access/v1/search/subject", |(_, path)| path)
}

/// Returns each JSON block under a line that announces a request, with the text below it up to the next request.
fn cases(scenario: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let (mut section, mut lead, mut expects) = (String::new(), String::new(), false);
    let mut lines = scenario.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('#') {
            section = line.split("{#").nth(1).unwrap_or_default().trim_end_matches('}').to_owned();
            (lead, expects) = (String::new(), false);
        } else if line.starts_with("**Expected:**") {
            expects = true;
            if let (Some(case), true) = (cases.last_mut(), line.contains("HTTP 400")) {
                case.status = 400;
            }
            // Some results are those of another section.
            if let (Some(case), Some((_, section))) = (cases.last_mut(), line.split_once("identical to [](#"))
            {
                case.identical_to = section.split_once(')').map(|(section, _)| section.to_owned());
            }
            // Some decisions are in the text.
            if let (Some(case), true) = (cases.last_mut(), line.contains("`\"decision\": true`")) {
                case.expected = Some(serde_json::json!({"decision": true}));
            }
        } else if line.starts_with("**") {
            (lead, expects) = (line.to_owned(), false);
        } else if line.starts_with("~~~") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("~~~")).collect();
            let Ok(body) = serde_json::from_str::<Value>(&block.join("\n")) else { continue };
            let in_scope = ["c-2-", "c-3-", "c-4-"].iter().any(|chapter| section.starts_with(chapter));
            if expects {
                if let Some(case) = cases.last_mut() {
                    case.expected = Some(body);
                }
            } else if in_scope && !lead.is_empty() {
                let path = path(&section, &lead);
                let section = section.clone();
                cases.push(Case { section, path, body, status: 200, expected: None, identical_to: None });
            }
        }
    }
    cases
}

/// Returns true if the response has the expected decisions and at least the expected results.
fn fits(answer: &Value, expected: &Value) -> bool {
    if let Some(decision) = expected.get("decision") {
        return answer.get("decision") == Some(decision);
    }
    if let Some(items) = expected.get("evaluations").and_then(Value::as_array) {
        let answers = answer["evaluations"].as_array().unwrap();
        return answers.len() == items.len()
            && items.iter().zip(answers).all(|(item, answer)| fits(answer, item));
    }
    let results = answer["results"].as_array().unwrap();
    let expected = expected["results"].as_array().unwrap();
    expected.iter().all(|result| results.contains(result)) && (!expected.is_empty() || results.is_empty())
}

#[test]
fn certification_scenario_is_met_at_all_levels() {
    let Some(file) = shared("authzen/certification-scenario.md") else { return };
    let cases = cases(&std::fs::read_to_string(file).unwrap());
    let pdp = Pdp::start(on_loopback(), example("certification"));
    let (asked, mut decided, mut refused, mut identical) = (cases.len(), 0, 0, 0);
    let mut results = HashMap::new();
    for mut case in cases {
        if case.body["page"]["token"].is_string() {
            case.body["page"]["token"] = first_token(&pdp, case.path, &case.body).into();
        }
        let (status, text) = pdp.post(case.path, case.body.to_string());
        assert_eq!(status, case.status, "{}: {case:?}: {text}", case.section);
        if status == 400 {
            refused += 1;
            continue;
        }
        let answer: Value = serde_json::from_str(&text).unwrap();
        check_shape(&answer, &case);
        if let Some(expected) = &case.expected {
            assert!(fits(&answer, expected), "{case:?}: {answer}");
            decided += 1;
        }
        if let Some(section) = &case.identical_to {
            assert_eq!(results.get(section), Some(&answer["results"]), "{case:?}");
            identical += 1;
        }
        results.insert(case.section.clone(), answer["results"].clone());
        // The same request gets the same decision.
        let again = pdp.ask(case.path, &case.body);
        assert_eq!(again["decision"], answer["decision"]);
        assert_eq!(again["results"], answer["results"]);
    }
    // If the scenario changes its format, the parser would miss requests.
    assert_eq!((asked, decided, refused, identical), (50, 24, 16, 5));
}

/// Returns the token for the page after the first result.
fn first_token(pdp: &Pdp, path: &str, body: &Value) -> String {
    let mut first = body.clone();
    first["page"] = serde_json::json!({"limit": 1});
    pdp.ask(path, &first)["page"]["next_token"].as_str().unwrap().to_owned()
}

fn check_shape(answer: &Value, case: &Case) {
    match case.path {
        "/access/v1/evaluations"
            if case.body["evaluations"].as_array().is_some_and(|all| !all.is_empty()) =>
        {
            let (asked, answers) = (case.body["evaluations"].as_array().unwrap(), &answer["evaluations"]);
            assert_eq!(answers.as_array().unwrap().len(), asked.len(), "{case:?}");
            assert!(answers.as_array().unwrap().iter().all(|item| item["decision"].is_boolean()), "{case:?}");
        }
        path if path.contains("search") => {
            let of = case.body["subject"]["type"].as_str().filter(|_| path.ends_with("subject"));
            let of =
                of.or_else(|| case.body["resource"]["type"].as_str().filter(|_| path.ends_with("resource")));
            for result in answer["results"].as_array().unwrap() {
                match of {
                    Some(of) => assert!(result["type"] == of && result["id"].is_string(), "{case:?}"),
                    None => assert!(result["name"].is_string(), "{case:?}"),
                }
            }
            assert!(answer["page"]["next_token"].is_string());
        }
        _ => assert!(answer["decision"].is_boolean() && answer["context"].is_object(), "{case:?}"),
    }
}

#[test]
fn todo_interop_has_its_43_decisions() {
    let Some(file) = shared("authzen/todo-interop-decisions.json") else { return };
    let cases: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let pdp = Pdp::start(on_loopback(), example("todo"));
    let list = |key: &str| cases[key].as_array().unwrap().clone();
    let single = list("evaluation");
    for case in &single {
        let answer = pdp.ask("/access/v1/evaluation", &case["request"]);
        assert_eq!(answer["decision"], case["expected"], "{case:#}: {answer:#}");
    }
    let batches = list("evaluations");
    for case in &batches {
        let answer = pdp.ask("/access/v1/evaluations", &case["request"]);
        let decisions: Vec<_> =
            answer["evaluations"].as_array().unwrap().iter().map(|item| &item["decision"]).collect();
        let expected: Vec<_> =
            case["expected"].as_array().unwrap().iter().map(|item| &item["decision"]).collect();
        assert_eq!(decisions, expected, "{case:#}");
    }
    assert_eq!((single.len(), batches.len()), (40, 3));
}
