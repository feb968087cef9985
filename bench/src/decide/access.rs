//! A bundle of `model: authzen` with any number of policies, the same rules in Rego, and requests.
//!
//! Half of the policies grant a document to a team, from a level of its members on; half forbid to write an archived document.
//! Each names its document, as policies about other tools or resources do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use agentgov_policy::BundleFiles;
use agentgov_policy::authzen::{AccessAction, AccessBundle, AccessEntity, AccessRequest, Properties};
use agentgov_schemas::verdict::Decision;
use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use fastrand::Rng;
use serde_json::{Value, json};

use crate::BenchError;

const TEAMS: usize = 20;
const USERS: usize = 200;
const LEVELS: usize = 5;
/// Requests, asked in turn.
const REQUESTS: usize = 2_000;
/// Requests between two looks at the clock.
const CHUNK: usize = 50;

const SCHEMA: &str = "entity team;
entity user in [team] = { level?: Long };
entity document = { status?: String };
action read, write, share appliesTo { principal: [user], resource: [document] };
";

/// Head of the Rego module. Each policy adds a definition of `granted` or `forbidden`, which OPA indexes by the document.
const REGO_HEAD: &str = "package access

default allow := false

allow if {
\tinput.subject.type == \"user\"
\tinput.resource.type == \"document\"
\tgranted
\tnot forbidden
}
";

/// Policies and requests.
pub struct AccessSet {
    /// Files of the bundle.
    pub files: BundleFiles,
    /// The rules in Rego.
    pub rego: String,
    /// The users with their teams and levels, as OPA's data.
    pub data: Value,
    requests: Vec<OwnedRequest>,
    plain: PlainCedar,
}

struct OwnedRequest {
    subject: AccessEntity,
    action: AccessAction,
    resource: AccessEntity,
    context: Properties,
}

/// The same policies for Cedar's public authorizer, with each request and its entities converted in advance.
struct PlainCedar {
    policies: PolicySet,
    requests: Vec<(Request, Entities)>,
}

struct User {
    id: String,
    teams: Vec<usize>,
    level: usize,
}

impl OwnedRequest {
    const fn as_request(&self) -> AccessRequest<'_> {
        let Self { subject, action, resource, context } = self;
        AccessRequest { subject, action, resource, context }
    }

    fn as_json(&self) -> Value {
        let entity = |of: &AccessEntity| json!({ "type": of.kind, "id": of.id, "properties": of.properties });
        json!({
            "subject": entity(&self.subject), "action": { "name": self.action.name }, "resource": entity(&self.resource),
        })
    }
}

impl AccessSet {
    /// Generates `policies` policies and the requests of a seed.
    ///
    /// # Errors
    /// If Cedar rejects a policy: a bug.
    pub fn new(policies: usize, seed: u64) -> Result<Self, BenchError> {
        let mut rng = Rng::with_seed(seed);
        let users: Vec<User> = (0..USERS)
            .map(|number| User {
                id: format!("user-{number}"),
                teams: (0..TEAMS).filter(|_| rng.u8(..4) == 0).collect(),
                level: rng.usize(..LEVELS + 1),
            })
            .collect();
        let (cedar, rego) = rules(policies);
        let requests: Vec<OwnedRequest> = (0..REQUESTS).map(|_| request(policies, &mut rng)).collect();
        let plain = PlainCedar::new(&cedar, &users, &requests)?;
        let files = [
            (
                "bundle.yaml",
                "name: access\nversion: \"1\"\nmodel: authzen\nenvironments: [bench]\n".to_owned(),
            ),
            ("schema.cedarschema", SCHEMA.to_owned()),
            ("entities.yaml", entities_yaml(&users)),
            ("policies.cedar", cedar),
        ];
        let files: BTreeMap<_, _> =
            files.into_iter().map(|(path, text)| (path.to_owned(), text.into_bytes())).collect();
        let data = users.iter().map(|user| {
            let teams: BTreeMap<String, bool> =
                user.teams.iter().map(|team| (team_id(*team), true)).collect();
            (user.id.clone(), json!({ "level": user.level, "teams": teams }))
        });
        let data = json!({ "users": data.collect::<serde_json::Map<_, _>>() });
        Ok(Self { files: BundleFiles(files), rego, data, requests, plain })
    }

    /// Writes the bundle into a new folder, and the Rego module with its data into another.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, bundle: &Path, opa: &Path) -> Result<(), BenchError> {
        let write = |path: &Path, bytes: &[u8]| {
            std::fs::write(path, bytes).map_err(BenchError::io("writing the policies"))
        };
        for folder in [bundle, opa] {
            std::fs::create_dir_all(folder).map_err(BenchError::io("writing the policies"))?;
        }
        for (path, bytes) in &self.files.0 {
            write(&bundle.join(path), bytes)?;
        }
        write(&opa.join("access.rego"), self.rego.as_bytes())?;
        write(&opa.join("data.json"), self.data.to_string().as_bytes())
    }

    /// Returns the requests as bodies for a decision point.
    pub fn authzen_bodies(&self) -> Vec<String> {
        self.requests.iter().map(|request| request.as_json().to_string()).collect()
    }

    /// Returns the requests as bodies for OPA's data API.
    pub fn opa_bodies(&self) -> Vec<String> {
        self.requests.iter().map(|request| json!({ "input": request.as_json() }).to_string()).collect()
    }

    /// Returns the decision of Cedar's authorizer on each request: true for allow.
    pub fn plain_answers(&self) -> Vec<bool> {
        (0..self.requests.len()).map(|number| self.plain.is_allowed(number)).collect()
    }

    /// Returns the decision of the bundle on each request: true for allow.
    ///
    /// # Errors
    /// If the bundle violates an invariant.
    pub fn answers(&self, bundle: &AccessBundle) -> Result<Vec<bool>, BenchError> {
        self.requests.iter().map(|request| is_allowed(bundle, request)).collect()
    }

    /// Compiles the bundle.
    ///
    /// # Errors
    /// If it has mistakes: a bug.
    pub fn compile(&self) -> Result<AccessBundle, BenchError> {
        AccessBundle::compile(&self.files).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            BenchError::Policies(problems.join("; "))
        })
    }

    /// Measures the decisions per second of one thread: by the bundle from the request on, and by Cedar's authorizer, whose
    /// requests and entities are converted in advance.
    ///
    /// # Errors
    /// If the bundle violates an invariant.
    pub fn in_process(&self, bundle: &AccessBundle, duration: Duration) -> Result<[f64; 2], BenchError> {
        let ours = per_second(self.requests.len(), duration, |number| {
            let request = self.requests.get(number);
            request.map_or(Ok(false), |request| is_allowed(bundle, request))
        })?;
        let plain = per_second(self.requests.len(), duration, |number| Ok(self.plain.is_allowed(number)))?;
        Ok([ours, plain])
    }
}

impl PlainCedar {
    fn new(cedar: &str, users: &[User], requests: &[OwnedRequest]) -> Result<Self, BenchError> {
        let policies = cedar.parse::<PolicySet>().map_err(invalid)?;
        let mut entities = Vec::new();
        for team in 0..TEAMS {
            entities.push(Entity::new_no_attrs(uid("team", &team_id(team))?, Default::default()));
        }
        for user in users {
            let teams =
                user.teams.iter().map(|team| uid("team", &team_id(*team))).collect::<Result<_, _>>()?;
            let level = i64::try_from(user.level).unwrap_or_default();
            let level = [("level".to_owned(), RestrictedExpression::new_long(level))];
            entities.push(Entity::new(uid("user", &user.id)?, level.into(), teams).map_err(invalid)?);
        }
        let known = Entities::from_entities(entities, None).map_err(invalid)?;
        let requests = requests.iter().map(|request| {
            let resource = uid("document", &request.resource.id)?;
            let status = request.resource.properties.get("status").and_then(Value::as_str);
            let status = status
                .map(|status| ("status".to_owned(), RestrictedExpression::new_string(status.to_owned())));
            let document = Entity::new(resource.clone(), status.into_iter().collect(), Default::default());
            let entities = known.clone().add_entities([document.map_err(invalid)?], None).map_err(invalid)?;
            let (principal, action) =
                (uid("user", &request.subject.id)?, uid("Action", &request.action.name)?);
            let request =
                Request::new(principal, action, resource, Context::empty(), None).map_err(invalid)?;
            Ok((request, entities))
        });
        Ok(Self { policies, requests: requests.collect::<Result<_, BenchError>>()? })
    }

    fn is_allowed(&self, number: usize) -> bool {
        self.requests.get(number).is_some_and(|(request, entities)| {
            let response = Authorizer::new().is_authorized(request, &self.policies, entities);
            response.decision() == cedar_policy::Decision::Allow
        })
    }
}

fn is_allowed(bundle: &AccessBundle, request: &OwnedRequest) -> Result<bool, BenchError> {
    let evaluation = bundle.evaluate(&request.as_request());
    let evaluation = evaluation.map_err(|error| BenchError::Policies(error.to_string()))?;
    Ok(evaluation.decision == Decision::Allow)
}

/// Calls `decide` with each number in turn for `duration`.
fn per_second(
    numbers: usize,
    duration: Duration,
    decide: impl Fn(usize) -> Result<bool, BenchError>,
) -> Result<f64, BenchError> {
    let began = Instant::now();
    let mut decided = 0_u32;
    let mut numbers = (0..numbers).cycle();
    while began.elapsed() < duration {
        for number in numbers.by_ref().take(CHUNK) {
            black_box(decide(number)?);
            decided += 1;
        }
    }
    Ok(f64::from(decided) / began.elapsed().as_secs_f64())
}

/// Returns the policies in Cedar and in Rego.
fn rules(policies: usize) -> (String, String) {
    let (mut cedar, mut rego) = (String::new(), REGO_HEAD.to_owned());
    for number in 0..policies {
        let document = number / 2;
        // Writing to a string cannot fail.
        let _ = if number % 2 == 0 {
            let (team, level) = (document % TEAMS, document % LEVELS);
            write!(
                cedar,
                "@id(\"grant-{document}\")\npermit (\n  principal in team::\"team-{team}\",\n  \
                 action in [Action::\"read\", Action::\"write\"],\n  resource == document::\"document-{document}\"\n)\n\
                 when {{ principal has level && principal.level >= {level} }};\n\n"
            )
            .and_then(|()| {
                write!(
                    rego,
                    "\ngranted if {{\n\tinput.resource.id == \"document-{document}\"\n\tinput.action.name in {{\"read\", \"write\"}}\n\
                     \tuser := data.users[input.subject.id]\n\tuser.teams[\"team-{team}\"]\n\tuser.level >= {level}\n}}\n"
                )
            })
        } else {
            write!(
                cedar,
                "@id(\"archived-{document}\")\n@severity(\"low\")\nforbid (\n  principal,\n  action == Action::\"write\",\n  \
                 resource == document::\"document-{document}\"\n)\n\
                 when {{ resource has status && resource.status == \"archived\" }};\n\n"
            )
            .and_then(|()| {
                write!(
                    rego,
                    "\nforbidden if {{\n\tinput.resource.id == \"document-{document}\"\n\tinput.action.name == \"write\"\n\
                     \tinput.resource.properties.status == \"archived\"\n}}\n"
                )
            })
        };
    }
    (cedar, rego)
}

/// Generates a request. Some name a user, a document or an action that no policy knows.
fn request(policies: usize, rng: &mut Rng) -> OwnedRequest {
    let mut properties = Properties::new();
    let status = ["open", "archived", ""].get(rng.usize(..3)).copied().unwrap_or_default();
    if !status.is_empty() {
        properties.insert("status".to_owned(), json!(status));
    }
    let action = ["read", "write", "share", "erase"].get(rng.usize(..4)).copied().unwrap_or_default();
    let entity = |kind: &str, number: usize, properties| AccessEntity {
        kind: kind.to_owned(),
        id: format!("{kind}-{number}"),
        properties,
    };
    OwnedRequest {
        subject: entity("user", rng.usize(..USERS + USERS / 20), Properties::new()),
        action: AccessAction { name: action.to_owned(), properties: Properties::new() },
        resource: entity("document", rng.usize(..policies / 2 + policies / 40 + 1), properties),
        context: Properties::new(),
    }
}

fn entities_yaml(users: &[User]) -> String {
    let mut text = "entities:\n".to_owned();
    for team in 0..TEAMS {
        let _ = writeln!(text, "  - {{ type: team, id: {} }}", team_id(team));
    }
    for User { id, teams, level } in users {
        let parents: Vec<String> =
            teams.iter().map(|team| format!("{{ type: team, id: {} }}", team_id(*team))).collect();
        let _ = writeln!(
            text,
            "  - {{ type: user, id: {id}, properties: {{ level: {level} }}, parents: [{}] }}",
            parents.join(", ")
        );
    }
    text
}

fn team_id(team: usize) -> String {
    format!("team-{team}")
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, BenchError> {
    let kind = kind.parse::<EntityTypeName>().map_err(invalid)?;
    Ok(EntityUid::from_type_name_and_id(kind, cedar_policy::EntityId::new(id)))
}

fn invalid(error: impl std::fmt::Display) -> BenchError {
    BenchError::Policies(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundle_and_plain_cedar_decide_alike_and_not_always_the_same() {
        let set = AccessSet::new(60, 3).unwrap();
        let bundle = set.compile().unwrap();
        assert_eq!(bundle.policies().count(), 60);
        let answers = set.answers(&bundle).unwrap();
        assert_eq!(answers, set.plain_answers());
        let allowed = answers.iter().filter(|allowed| **allowed).count();
        assert!((REQUESTS / 50..REQUESTS / 2).contains(&allowed), "{allowed}");
    }

    #[test]
    fn policies_of_both_languages_are_as_many() {
        let set = AccessSet::new(10, 1).unwrap();
        assert_eq!(set.rego.matches("granted if").count() + set.rego.matches("forbidden if").count(), 10);
        assert_eq!(set.authzen_bodies().len(), set.opa_bodies().len());
    }
}
