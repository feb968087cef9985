//! Bundles of `model: authzen`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

use agentgov_policy::authzen::{
    AccessAction, AccessBundle, AccessEntity, AccessRequest, Evaluation, EvaluationReason, check, test,
};
use agentgov_policy::{Bundle, BundleFiles, BundleModel};
use agentgov_schemas::verdict::Decision;
use cedar_policy::{Authorizer, Context, Entities, Entity, PolicySet, Request, RestrictedExpression};
use proptest::prelude::*;
use serde_json::{Value, json};

const MANIFEST: &str = "name: b\nversion: '1'\nmodel: authzen\nenvironments: [demo]\n";
const SCHEMA: &str = "
entity team in [team];
entity user in [team] = { level?: Long, tags?: Set<String>, boss?: user, home: { city?: String } };
entity folder in [folder];
@authzen(\"text-file\")
entity doc in [folder] = { owner?: user, open?: Bool, price?: decimal, since?: datetime, from?: ipaddr };
action any;
action read, write in [any] appliesTo {
  principal: [user], resource: [doc, folder], context: { action?: { soft?: Bool }, ip?: ipaddr, at?: datetime }
};
action greet appliesTo { principal: [user], resource: [user] };
";
const ENTITIES: &str = "
entities:
  - { type: team, id: all }
  - { type: team, id: staff, parents: [{ type: team, id: all }] }
  - { type: user, id: ann, properties: { level: 3, home: { city: Bern } }, parents: [{ type: team, id: staff }] }
  - { type: user, id: bo, properties: { level: 1, boss: { type: user, id: ann }, home: {} } }
  - { type: folder, id: top }
  - { type: text-file, id: d1, properties: { owner: { type: user, id: bo }, open: true }, parents: [{ type: folder, id: top }] }
  - { type: text-file, id: d2, properties: { open: false } }
";

fn files(changed: &[(&str, &str)]) -> BundleFiles {
    let whole = [
        ("bundle.yaml", MANIFEST),
        ("schema.cedarschema", SCHEMA),
        ("entities.yaml", ENTITIES),
        ("p.cedar", "@id(\"all\") permit (principal, action, resource);"),
    ];
    let all = whole.iter().chain(changed);
    BundleFiles(all.map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect())
}

fn bundle(policies: &str) -> AccessBundle {
    AccessBundle::compile(&files(&[("p.cedar", policies)])).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn entity(kind: &str, id: &str, properties: Value) -> AccessEntity {
    let Value::Object(properties) = properties else { panic!("expected an object") };
    AccessEntity { kind: kind.to_owned(), id: id.to_owned(), properties }
}

/// Evaluates a request of subject, action, resource and context, each with its properties.
fn evaluate(
    bundle: &AccessBundle,
    subject: &AccessEntity,
    action: (&str, Value),
    resource: &AccessEntity,
    context: Value,
) -> Evaluation {
    let Value::Object(properties) = action.1 else { panic!("expected an object") };
    let action = AccessAction { name: action.0.to_owned(), properties };
    let Value::Object(context) = context else { panic!("expected an object") };
    bundle.evaluate(&AccessRequest { subject, action: &action, resource, context: &context }).unwrap()
}

fn decided(bundle: &AccessBundle, subject: Value, resource: Value) -> (Decision, EvaluationReason) {
    let found = evaluate(
        bundle,
        &entity("user", "ann", subject),
        ("read", json!({})),
        &entity("text-file", "d1", resource),
        json!({}),
    );
    (found.decision, found.reason)
}

#[test]
fn mistakes_are_reported_with_their_places() {
    let found = |path: &str, text: &str| {
        let report = check(&files(&[(path, text)]));
        assert!(report.bundle.is_none(), "{path}: {text}");
        report.problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (path, text, expected) in [
        (
            "schema.cedarschema",
            "entity user = { a String };",
            "schema.cedarschema:1:19: error parsing schema",
        ),
        ("schema.cedarschema", "entity user;\nentity x in [nope];", "schema.cedarschema:2:"),
        ("schema.cedarschema", "entity user;", "schema.cedarschema:1:1: expected an action that applies"),
        (
            "schema.cedarschema",
            "entity user; action a appliesTo { principal: user, resource: user, context: { action: Long } };",
            "expected a record as `action`",
        ),
        (
            "schema.cedarschema",
            "@authzen(\"u\") entity user; @authzen(\"u\") entity v; action a appliesTo { principal: user, resource: v };",
            "both named `u`",
        ),
        (
            "schema.cedarschema",
            "entity user; namespace M { action a appliesTo { principal: user, resource: user }; } \
             namespace N { action a appliesTo { principal: user, resource: user }; }",
            "both named `a`",
        ),
        (
            "entities.yaml",
            "entities:\n  - { type: ship, id: x }\n",
            "entities.yaml:2:13: the schema has no entity type `ship`",
        ),
        (
            "entities.yaml",
            "entities:\n  - { type: user, id: x }\n",
            "entities.yaml:2:5: an entity of type user must have the property `home`",
        ),
        (
            "entities.yaml",
            "entities:\n  - { type: team, id: x, properties: { size: 1 } }\n",
            "entities.yaml:2:46: the schema's type team has no `size`",
        ),
        (
            "entities.yaml",
            "entities:\n  - { type: user, id: x, properties: { level: '3', home: {} } }\n",
            "entities.yaml:2:47: `level`: expected a whole number of 64 bits, found a text",
        ),
        (
            "entities.yaml",
            "entities:\n  - { type: user, id: x, properties: { boss: { type: team, id: x }, home: {} } }\n",
            "`boss`: expected an object with `type` and `id`, of type user",
        ),
        (
            "entities.yaml",
            "entities:\n  - { type: team, id: x }\n  - { type: team, id: x }\n",
            "entities.yaml:3:5: team `x` stands in line 2 already",
        ),
        (
            "entities.yaml",
            "entities:\n  - { type: team, id: x, parents: [{ type: team, id: y }] }\n",
            "found no team `y`",
        ),
        (
            "entities.yaml",
            "entities:\n  - { type: team, id: x, parents: [{ type: team, id: x }] }\n",
            "team `x` is in itself",
        ),
        (
            "entities.yaml",
            "entities:\n  - { type: folder, id: f }\n  - { type: team, id: x, parents: [{ type: folder, id: f }] }\n",
            "the schema has no team in folder",
        ),
        ("entities.yaml", "entities: 7\n", "entities.yaml:1:11: expected a list"),
        ("p.cedar", "permit (principal, action, resource);", "p.cedar:1:1: expected `@id"),
        ("p.cedar", "@id(\"x\") permit (principal, action, resource) when { principal.nope };", "p.cedar:1:"),
        ("p.cedar", "@id(\"x\") forbid (principal, action, resource);", "expected `@severity`"),
        (
            "p.cedar",
            "@id(\"x\") permit (principal is team, action == Action::\"read\", resource);",
            "p.cedar:1:",
        ),
        (
            "bundle.yaml",
            "name: b\nversion: '1'\nenvironments: [demo]\n",
            "bundle.yaml:1:1: expected `model: authzen`",
        ),
        (
            "bundle.yaml",
            "name: b\nversion: '1'\nmodel: other\nenvironments: [demo]\n",
            "bundle.yaml:3:8: expected authzen, found `other`",
        ),
        ("tools.yaml", "", "tools.yaml:1:1: no part of a bundle of model authzen"),
    ] {
        let problems = found(path, text);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:#?}");
    }
    // All mistakes are reported at once.
    let problems =
        check(&files(&[("p.cedar", "@id(\"x\") permit;"), ("entities.yaml", "entities: [{}]")])).problems;
    assert!(problems.len() >= 3, "{problems:#?}");
}

#[test]
fn entities_have_their_mistakes_reported_in_one_run() {
    const MISTAKES: &str = "entities:
  - { type: team }
  - { type: user, id: a, properties: { levle: 1, home: {} }, parents: [{ type: team, id: x }] }
  - { type: user, id: b, properties: [] }
  - { type: team, id: c, parent: [] }
  - { type: ship, id: d }
";
    let problems = |changed: &[(&str, &str)]| {
        let problems = check(&files(changed)).problems;
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let structure = [
        "entities.yaml:2:5: an entity must have `id`",
        "entities.yaml:4:38: expected properties (a mapping), found a list",
        "entities.yaml:5:26: unknown key `parent` of an entity",
    ];
    let with_schema = ["entities.yaml:3:47: the schema's type user has no `levle`", "entity type `ship`"];
    let found = problems(&[("entities.yaml", MISTAKES)]);
    let expected = structure.iter().chain(&with_schema);
    expected.for_each(|expected| assert!(found.contains(expected), "{expected}: {found}"));
    assert_eq!(found.lines().count(), 5, "the entry without an id may be team `x`: {found}");
    let found = problems(&[("entities.yaml", MISTAKES), ("schema.cedarschema", "entity user = ;")]);
    let expected = structure.iter().chain(&["schema.cedarschema:1:"]);
    expected.for_each(|expected| assert!(found.contains(expected), "{expected}: {found}"));
}

#[test]
fn types_and_brackets_have_bounds() {
    let of = |types: &str| {
        let schema = format!(
            "{types} entity user = {{ a: T0 }}; action a appliesTo {{ principal: user, resource: user }};"
        );
        let report = check(&files(&[
            ("schema.cedarschema", &schema),
            ("entities.yaml", "entities: []"),
            ("p.cedar", "@id(\"all\") permit (principal, action, resource);"),
        ]));
        report.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let chain = |n: usize| {
        (0..n).map(|i| format!("type T{i} = {{ a: T{} }};", i + 1)).collect::<String>()
            + &format!("type T{n} = Long;")
    };
    // Each type refers to the next one twice.
    let doubled = |n: usize| {
        (0..n).map(|i| format!("type T{i} = {{ a: T{0}, b: T{0} }};", i + 1)).collect::<String>()
            + &format!("type T{n} = Long;")
    };
    assert_eq!(of(&chain(10)), "");
    assert_eq!(of(&doubled(8)), "");
    assert!(of(&chain(40)).contains("nested at most 64 deep"));
    assert!(of(&chain(2_000)).contains("nested at most 64 deep"));
    assert!(of(&doubled(20)).contains("at most 10000 parts"));
    assert!(of(&doubled(29)).contains("at most 10000 parts"));
    assert!(of("type T0 = { a: T1 }; type T1 = { a: T0 };").contains("schema.cedarschema:1:1"));
    assert!(
        of(&format!("type T0 = {}Long{};", "Set<".repeat(100), ">".repeat(100)))
            .contains("brackets nested at most 64 deep")
    );
    assert!(of(&" ".repeat(300_000)).contains("at most 262144 bytes"));
}

#[test]
fn kinds_of_bundles_are_told_apart() {
    for (text, expected) in [
        (MANIFEST, Some(BundleModel::Authzen)),
        ("name: x\n", Some(BundleModel::Agents)),
        ("model: other\n", None),
        ("[]", None),
        ("model: {", None),
        ("", None),
    ] {
        assert_eq!(BundleModel::of(&files(&[("bundle.yaml", text)])), expected, "{text}");
    }
    assert_eq!(BundleModel::of(&BundleFiles::default()), None);
    let problems = Bundle::compile(&files(&[])).unwrap_err();
    assert!(problems.iter().any(|problem| problem.message.contains("judges no log")), "{problems:?}");
}

#[test]
fn properties_of_a_request_precede_the_known_ones() {
    let policies = "@id(\"senior\") permit (principal, action, resource is doc) when { principal has level && principal.level > 2 }\
                    when { resource has open && resource.open };";
    let bundle = bundle(policies);
    let granted = (Decision::Allow, EvaluationReason::Granted);
    let denied = (Decision::Deny, EvaluationReason::NoGrant);
    let erred = (Decision::Indeterminate, EvaluationReason::Error);
    assert_eq!(decided(&bundle, json!({}), json!({})), granted);
    assert_eq!(decided(&bundle, json!({"level": 2}), json!({})), denied);
    assert_eq!(decided(&bundle, json!({}), json!({"open": false})), denied);
    assert_eq!(decided(&bundle, json!({"undeclared": [1, {"x": null}]}), json!({})), granted);
    for wrong in [json!(null), json!("3"), json!(3.5), json!([3]), json!(1e30), json!(true)] {
        assert_eq!(decided(&bundle, json!({"level": wrong}), json!({})), erred, "{wrong}");
    }
    // Properties that no policy reads are checked too.
    assert_eq!(decided(&bundle, json!({"tags": [1]}), json!({})), erred);
    assert_eq!(decided(&bundle, json!({"home": {"city": 1}}), json!({})), erred);
    assert_eq!(decided(&bundle, json!({}), json!({"owner": {"type": "team", "id": "x"}})), erred);
}

#[test]
fn values_are_read_by_their_declared_types() {
    let policies = "
        @id(\"own\") permit (principal, action == Action::\"read\", resource is doc)
            when { resource has owner && resource.owner has boss && resource.owner.boss == principal };
        @id(\"cheap\") permit (principal, action == Action::\"write\", resource is doc)
            when { resource has price && resource.price.lessThan(decimal(\"2.5\")) };
        @id(\"soft\") permit (principal, action == Action::\"write\", resource is folder)
            when { context has action && context.action has soft && context.action.soft };
        @id(\"near\") permit (principal, action == Action::\"read\", resource is folder)
            when { context has ip && context.ip.isLoopback() && context has at && context.at < datetime(\"2030-01-01\") };
        @id(\"teammates\") permit (principal in team::\"all\", action == Action::\"greet\", resource);
        @id(\"boss\") permit (principal, action == Action::\"greet\", resource)
            when { user::\"ann\" has level && user::\"ann\".level == 3 && principal == user::\"bo\" };
    ";
    let bundle = bundle(policies);
    let user = |id: &str| entity("user", id, json!({"home": {}}));
    let ask = |subject: &str, action: (&str, Value), resource: &AccessEntity, context: Value| {
        let found = evaluate(&bundle, &user(subject), action, resource, context);
        assert!(found.errors.is_empty(), "{:?}", found.errors);
        found.decision == Decision::Allow
    };
    let none = || json!({});
    let doc = |id: &str, properties: Value| entity("text-file", id, properties);
    // The owner's boss is known through two references.
    assert!(ask("ann", ("read", none()), &doc("d1", none()), none()));
    assert!(!ask("bo", ("read", none()), &doc("d1", none()), none()));
    assert!(ask(
        "ann",
        ("read", none()),
        &doc("new", json!({"owner": {"type": "user", "id": "bo"}})),
        none()
    ));
    for (price, cheap) in
        [(json!(2), true), (json!(2.4999), true), (json!("2.5"), false), (json!(2.5), false)]
    {
        assert_eq!(
            ask("bo", ("write", none()), &doc("d2", json!({"price": price})), none()),
            cheap,
            "{price}"
        );
    }
    let folder = entity("folder", "top", none());
    assert!(ask("bo", ("write", json!({"soft": true})), &folder, none()));
    assert!(!ask("bo", ("write", json!({"soft": false})), &folder, none()));
    // The request's context cannot replace the action's properties.
    assert!(!ask("bo", ("write", none()), &folder, json!({"action": {"soft": true}})));
    for (at, early) in [
        ("2029-12-31T23:59:59Z", true),
        ("2025-06-27T18:03-07:00", true),
        ("2029-12-31T23:30:00-01:00", false),
        ("2030-01-01", false),
    ] {
        assert_eq!(ask("bo", ("read", none()), &folder, json!({"ip": "127.0.0.1", "at": at})), early, "{at}");
    }
    assert!(
        ask("ann", ("greet", none()), &user("bo"), none())
            && ask("bo", ("greet", none()), &user("ann"), none())
    );
    let wrong = evaluate(&bundle, &user("bo"), ("read", none()), &folder, json!({"ip": "x", "at": "soon"}));
    let places: Vec<&str> = wrong.errors.iter().map(|error| error.at.as_str()).collect();
    assert_eq!((wrong.decision, places), (Decision::Indeterminate, vec!["context.at", "context.ip"]));
    let wrong = evaluate(&bundle, &user("bo"), ("read", json!({"soft": 1})), &folder, none());
    assert_eq!(wrong.errors[0].at, "action.properties.soft");
}

#[test]
fn optional_action_is_absent_without_its_declared_properties() {
    let schema = |action: &str| {
        format!(
            "entity user; entity doc; action lend appliesTo {{ principal: user, resource: doc, \
             context: {{ {action}: {{ days: Long }} }} }};"
        )
    };
    let policies = "@id(\"all\") permit (principal, action, resource);
        @id(\"long\") @severity(\"low\") @effect(\"ask\") forbid (principal, action, resource)
            when { context has action && context.action.days > 30 };";
    let decided = |action: &str, properties: Value| {
        let schema = schema(action);
        let files = files(&[
            ("schema.cedarschema", schema.as_str()),
            ("entities.yaml", "entities: []"),
            ("p.cedar", policies),
        ]);
        let bundle = AccessBundle::compile(&files).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let (user, doc) = (entity("user", "ann", json!({})), entity("doc", "d", json!({})));
        evaluate(&bundle, &user, ("lend", properties), &doc, json!({})).decision
    };
    assert_eq!(decided("action?", json!({})), Decision::Allow);
    assert_eq!(decided("action?", json!({ "reason": "a show" })), Decision::Allow);
    assert_eq!(decided("action?", json!({ "days": 31 })), Decision::Ask);
    assert_eq!(decided("action?", json!({ "days": "31" })), Decision::Indeterminate);
    // A required one that is missing is an error, as any other.
    assert_eq!(decided("action", json!({})), Decision::Indeterminate);
}

#[test]
fn one_entity_as_subject_and_resource_has_one_set_of_properties() {
    let bundle = bundle(
        "@id(\"x\") permit (principal, action == Action::\"greet\", resource) when { resource has level && resource.level == 3 };",
    );
    let ask = |subject: Value, resource: Value| {
        let (subject, resource) = (entity("user", "ann", subject), entity("user", "ann", resource));
        evaluate(&bundle, &subject, ("greet", json!({})), &resource, json!({})).decision
    };
    assert_eq!(ask(json!({}), json!({})), Decision::Allow);
    assert_eq!(ask(json!({"level": 2}), json!({})), Decision::Deny);
    assert_eq!(ask(json!({}), json!({"level": 2})), Decision::Deny);
    assert_eq!(ask(json!({"level": 2}), json!({"level": 3})), Decision::Indeterminate);
}

#[test]
fn rules_decide_as_in_bundles_of_agents() {
    let grant = "@id(\"all\") permit (principal, action, resource);";
    let rule = |annotations: &str, condition: &str| {
        format!(
            "{grant} @id(\"r\") @severity(\"low\") {annotations} forbid (principal, action, resource is doc) when {{ {condition} }};"
        )
    };
    for (policies, subject, decision, reason) in [
        (grant.to_owned(), json!({}), Decision::Allow, EvaluationReason::Granted),
        (rule("", "true"), json!({}), Decision::Deny, EvaluationReason::Policy),
        (rule("@effect(\"ask\")", "true"), json!({}), Decision::Ask, EvaluationReason::Policy),
        (rule("@mode(\"observe\")", "true"), json!({}), Decision::Allow, EvaluationReason::Granted),
    ] {
        let found = decided(&bundle(&policies), subject, json!({}));
        assert_eq!(found, (decision, reason), "{policies}");
    }
    let observed = bundle(&rule("@mode(\"observe\")", "true"));
    let found = evaluate(
        &observed,
        &entity("user", "ann", json!({})),
        ("read", json!({})),
        &entity("text-file", "d1", json!({})),
        json!({}),
    );
    assert_eq!(found.observed[0].id, "r");
    // An unknown user lacks the required property `home`: reading it is an error.
    let erring = "principal.home has city";
    for (annotations, decision) in [
        ("", Decision::Indeterminate),
        ("@on_error(\"ignore\")", Decision::Allow),
        ("@mode(\"observe\")", Decision::Allow),
    ] {
        let bundle = bundle(&rule(annotations, erring));
        let found = evaluate(
            &bundle,
            &entity("user", "new", json!({})),
            ("read", json!({})),
            &entity("text-file", "d1", json!({})),
            json!({}),
        );
        assert_eq!((found.decision, found.errors[0].at.as_str()), (decision, "r"), "{annotations}");
    }
}

#[test]
fn grant_that_errs_grants_nothing_and_an_error_decides_only_where_neither_deny_nor_no_grant_does() {
    let grant = |id: &str, condition: &str| {
        format!("@id(\"{id}\") permit (principal, action, resource) when {{ {condition} }};\n")
    };
    let rule = |id: &str, condition: &str| {
        format!(
            "@id(\"{id}\") @severity(\"high\") forbid (principal, action, resource) when {{ {condition} }};\n"
        )
    };
    // An unknown user lacks the required property `home`: reading it is an error.
    let erring = "principal.home has city";
    for (policies, decision, reason, errors) in [
        (grant("g", erring), Decision::Deny, EvaluationReason::NoGrant, vec!["g"]),
        (grant("g", erring) + &grant("h", "true"), Decision::Allow, EvaluationReason::Granted, vec!["g"]),
        (grant("g", erring) + &rule("r", erring), Decision::Deny, EvaluationReason::NoGrant, vec!["g", "r"]),
        (
            grant("h", "true") + &rule("r", erring),
            Decision::Indeterminate,
            EvaluationReason::Error,
            vec!["r"],
        ),
        (
            grant("h", "true") + &rule("r", erring) + &rule("s", "true"),
            Decision::Deny,
            EvaluationReason::Policy,
            vec!["r"],
        ),
    ] {
        let found = evaluate(
            &bundle(&policies),
            &entity("user", "new", json!({})),
            ("read", json!({})),
            &entity("text-file", "d1", json!({})),
            json!({}),
        );
        let mut at: Vec<&str> = found.errors.iter().map(|error| error.at.as_str()).collect();
        at.sort_unstable();
        assert_eq!((found.decision, found.reason, at), (decision, reason, errors), "{policies}");
    }
}

#[test]
fn request_that_the_schema_does_not_declare_is_denied() {
    let bundle = bundle("@id(\"all\") permit (principal, action, resource);");
    for (subject, action, resource, at) in [
        (("ship", "x"), "read", ("text-file", "d1"), "subject.type"),
        (("user", "ann"), "fly", ("text-file", "d1"), "action.name"),
        (("user", "ann"), "any", ("text-file", "d1"), "action.name"),
        (("user", "ann"), "read", ("doc", "d1"), "resource.type"),
        (("user", "ann"), "greet", ("text-file", "d1"), "action.name"),
        (("text-file", "d1"), "read", ("user", "ann"), "action.name"),
    ] {
        let (subject, resource) =
            (entity(subject.0, subject.1, json!({})), entity(resource.0, resource.1, json!({})));
        let found = evaluate(&bundle, &subject, (action, json!({})), &resource, json!({}));
        assert_eq!((found.decision, found.reason), (Decision::Deny, EvaluationReason::Undeclared));
        assert_eq!(found.errors[0].at, at);
    }
}

const SCOPES: &[&str] = &[
    "principal, action, resource",
    "principal == user::\"ann\", action, resource",
    "principal in team::\"all\", action, resource",
    "principal is user, action == Action::\"read\", resource",
    "principal, action in Action::\"any\", resource == doc::\"d1\"",
    "principal, action in [Action::\"read\", Action::\"greet\"], resource in folder::\"top\"",
    "principal == user::\"bo\", action, resource is doc in folder::\"top\"",
    "principal in team::\"staff\", action == Action::\"write\", resource is folder",
    "principal, action == Action::\"greet\", resource",
];
const CONDITIONS: &[&str] = &[
    "true",
    "resource == doc::\"d1\" && principal == user::\"ann\"",
    "principal == user::\"bo\" || context has ip",
    "[doc::\"d1\", doc::\"d2\"].contains(resource)",
    "[user::\"ann\"].contains(principal) && user::\"ann\" has level && user::\"ann\".level == 3",
    "principal.home has city && principal == user::\"ann\"",
    "principal has level && principal.level > 1 && resource == doc::\"d2\"",
    "user::\"bo\" in team::\"all\"",
    "principal has boss && principal.boss has level && principal.boss.level == 3",
];

fn policy() -> impl Strategy<Value = (bool, usize, usize, bool)> {
    (any::<bool>(), 0..SCOPES.len(), 0..CONDITIONS.len(), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Compares with Cedar's evaluation of all policies at once, with every known entity.
    #[test]
    fn groups_of_candidates_decide_as_all_policies(chosen in prop::collection::vec(policy(), 1..7)) {
        let mut text = String::new();
        for (at, (forbid, scope, condition, unless)) in chosen.iter().enumerate() {
            let effect = if *forbid { "@severity(\"low\") forbid" } else { "permit" };
            let clause = if *unless { "unless" } else { "when" };
            text += &format!("@id(\"p{at}\") {effect} ({}) {clause} {{ {} }};\n", SCOPES[*scope], CONDITIONS[*condition]);
        }
        let compiled = AccessBundle::compile(&files(&[("p.cedar", &text)]));
        // The validator rejects a policy that can never apply, or that reads a property of another type.
        prop_assume!(compiled.is_ok());
        let bundle = compiled.unwrap();
        let set: PolicySet = PolicySet::from_policies(bundle.policies().map(|policy| {
            cedar_policy::Policy::parse(Some(cedar_policy::PolicyId::new(&policy.id)), &policy.source).unwrap()
        })).unwrap();
        let entities = all_entities();
        for (subject, action, kind, id) in requests() {
            let resource = entity(kind, id, json!({}));
            let found = evaluate(&bundle, &entity("user", subject, json!({})), (action, json!({})), &resource, json!({}));
            let cedar_kind = if kind == "text-file" { "doc" } else { kind };
            let request = Request::new(
                format!("user::\"{subject}\"").parse().unwrap(),
                format!("Action::\"{action}\"").parse().unwrap(),
                format!("{cedar_kind}::\"{id}\"").parse().unwrap(),
                Context::empty(),
                None,
            ).unwrap();
            let response = Authorizer::new().is_authorized(&request, &set, &entities);
            let errors = response.diagnostics().errors().count();
            prop_assert_eq!(found.errors.len(), errors, "{}: {} {} {}::{}", text, subject, action, kind, id);
            if errors == 0 {
                let allowed = response.decision() == cedar_policy::Decision::Allow;
                prop_assert_eq!(found.decision == Decision::Allow, allowed, "{}: {} {} {}::{}", text, subject, action, kind, id);
                let mut reasons: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
                reasons.sort();
                let mut ids: Vec<String> = found.determining.iter().map(|policy| policy.id.clone()).collect();
                ids.sort();
                prop_assert_eq!(ids, reasons, "{}", text);
            } else {
                prop_assert!(found.decision != Decision::Allow || response.decision() == cedar_policy::Decision::Allow);
            }
        }
    }
}

fn requests() -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    let mut requests = Vec::new();
    for subject in ["ann", "bo", "new"] {
        for action in ["read", "write"] {
            for (kind, id) in
                [("text-file", "d1"), ("text-file", "d2"), ("text-file", "new"), ("folder", "top")]
            {
                requests.push((subject, action, kind, id));
            }
        }
        requests.push((subject, "greet", "user", "bo"));
    }
    requests
}

/// Returns the entities of entities.yaml for Cedar.
fn all_entities() -> Entities {
    let uid = |text: &str| text.parse::<cedar_policy::EntityUid>().unwrap();
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let record =
        |fields: Vec<(String, RestrictedExpression)>| RestrictedExpression::new_record(fields).unwrap();
    let new = |id: &str, attributes: Vec<(&str, RestrictedExpression)>, parents: &[&str]| {
        let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Entity::new(uid(id), attributes, parents.iter().map(|parent| uid(parent)).collect()).unwrap()
    };
    let long = RestrictedExpression::new_long;
    let of = |id: &str| RestrictedExpression::new_entity_uid(uid(id));
    let all = [
        new("team::\"all\"", vec![], &[]),
        new("team::\"staff\"", vec![], &["team::\"all\""]),
        new(
            "user::\"ann\"",
            vec![("level", long(3)), ("home", record(vec![("city".to_owned(), text("Bern"))]))],
            &["team::\"staff\""],
        ),
        new(
            "user::\"bo\"",
            vec![("level", long(1)), ("boss", of("user::\"ann\"")), ("home", record(vec![]))],
            &[],
        ),
        new("folder::\"top\"", vec![], &[]),
        new(
            "doc::\"d1\"",
            vec![("owner", of("user::\"bo\"")), ("open", RestrictedExpression::new_bool(true))],
            &["folder::\"top\""],
        ),
        new("doc::\"d2\"", vec![("open", RestrictedExpression::new_bool(false))], &[]),
        new("Action::\"any\"", vec![], &[]),
        new("Action::\"read\"", vec![], &["Action::\"any\""]),
        new("Action::\"write\"", vec![], &["Action::\"any\""]),
        new("Action::\"greet\"", vec![], &[]),
    ];
    Entities::from_entities(all, None).unwrap()
}

#[test]
fn known_entities_and_actions_are_listed_in_order() {
    let bundle = bundle("@id(\"all\") permit (principal, action, resource);");
    assert_eq!(bundle.ids("text-file"), ["d1", "d2"]);
    assert!(bundle.ids("ship").is_empty() && bundle.known_entities() == 7);
    assert_eq!(bundle.actions("user", "text-file").collect::<Vec<_>>(), ["read", "write"]);
    assert_eq!(bundle.actions("user", "ship").count() + bundle.actions("text-file", "user").count(), 0);
}

#[test]
fn tests_of_a_bundle_name_what_deviates() {
    let policies = "@id(\"all\") permit (principal, action, resource); \
                    @id(\"r\") @severity(\"low\") forbid (principal, action, resource == doc::\"d1\"); \
                    @id(\"o\") @severity(\"low\") forbid (principal, action, resource == doc::\"d2\");";
    let request =
        "subject: { type: user, id: ann }, action: { name: read }, resource: { type: text-file, id: d1 }";
    let tests = format!(
        "tests:\n  - {{ name: right, {request}, expect: deny, policies: [r] }}\n  - {{ name: wrong, {request}, expect: allow, \
         policies: [all] }}\n"
    );
    let files = files(&[("p.cedar", policies), ("tests/t.yaml", &tests)]);
    let report = test(&AccessBundle::compile(&files).unwrap(), &files);
    let failures: Vec<Vec<String>> =
        report.cases.iter().map(|case| case.failures.iter().map(ToString::to_string).collect()).collect();
    let expected = [
        "tests/t.yaml:3:5: expected allow, found deny (policy)",
        "tests/t.yaml:3:5: expected the policies [all], found [r]",
    ];
    assert_eq!(failures, [vec![], expected.map(str::to_owned).to_vec()]);
    assert_eq!((report.passed(), report.never_violated), (false, vec!["o".to_owned()]));
    let report = check(&self::files(&[("tests/t.yaml", "tests: [{ name: x, expect: maybe }]")]));
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    let expected = "tests/t.yaml:1:28: expected allow, deny, ask or indeterminate, found `maybe`";
    assert!(problems.iter().any(|problem| problem == expected), "{problems:?}");
    let tests =
        format!("tests:\n  - {{ name: misspelt, {request}, expect: allow, policies: [alll, all] }}\n");
    let report = check(&self::files(&[("tests/t.yaml", &tests)]));
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    let expected = "tests/t.yaml:2:5: policies: expected ids of policies of the bundle, found `alll`; did you mean `all`?";
    assert_eq!(problems, [expected]);
}
