//! Schema of a bundle: types and actions by their names in AuthZEN.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::str::FromStr as _;

use cedar_policy::{
    Entities, EntityId, EntityTypeName, EntityUid, Schema, schema_str_to_json_with_resolved_types,
};
use serde_json::{Map, Value};

use super::attributes::{AttributeType, Attributes, TypeReader, full_name};

/// Annotation with the AuthZEN name of an entity type, for names that are not valid in Cedar.
const TYPE_ANNOTATION: &str = "authzen";
/// Attribute of the context with the properties of the action.
pub(super) const ACTION_ATTRIBUTE: &str = "action";
/// Maximum length of a schema in bytes.
const MAX_BYTES: usize = 256 << 10;
/// Maximum nesting of brackets in a schema, since Cedar's parser is recursive.
const MAX_BRACKETS: usize = 64;
/// Maximum number of combinations of principal type, action and resource type. The index has an entry for each.
pub(super) const MAX_ENVIRONMENTS: usize = 10_000;

/// The schema, by the names of AuthZEN.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) schema: Schema,
    types: BTreeMap<String, EntityModel>,
    actions: BTreeMap<String, ActionModel>,
    action_entities: Entities,
}

/// A declared entity type.
#[derive(Debug)]
pub(super) struct EntityModel {
    pub(super) name: EntityTypeName,
    pub(super) attributes: Attributes,
    /// Ids of an enumerated type; `None` for other types.
    pub(super) ids: Option<BTreeSet<String>>,
    /// Types whose entities may be parents.
    pub(super) parents: BTreeSet<EntityTypeName>,
}

/// A declared action.
#[derive(Debug)]
pub(super) struct ActionModel {
    pub(super) uid: EntityUid,
    /// The action and its groups.
    pub(super) groups: HashSet<EntityUid>,
    /// Attributes of the context, without the action's properties.
    pub(super) context: Attributes,
    /// The action's properties, if the context has them.
    pub(super) properties: Option<Attributes>,
    /// True if the context need not have them.
    pub(super) are_properties_optional: bool,
}

/// Mistake in the schema: byte offset and message.
pub(super) type SchemaProblem = (usize, String);

impl Model {
    /// Reads a schema.
    ///
    /// # Errors
    /// The mistakes. The parser stops at the first one.
    pub(super) fn read(text: &str) -> Result<Self, Vec<SchemaProblem>> {
        if text.len() > MAX_BYTES {
            return Err(vec![(0, format!("expected at most {MAX_BYTES} bytes, found {}", text.len()))]);
        }
        if let Some(at) = nested_deeper(text, MAX_BRACKETS) {
            let message = format!("expected brackets nested at most {MAX_BRACKETS} deep, found more here");
            return Err(vec![(at, message)]);
        }
        let (json, _) = schema_str_to_json_with_resolved_types(text).map_err(|e| vec![diagnosed(&e)])?;
        let none = Map::new();
        let namespaces = json.as_object().unwrap_or(&none);
        // Checked before Cedar builds the schema, since Cedar copies each common type to each of its references.
        let declared = Declared::read(namespaces).map_err(|found| at_start(&found))?;
        let schema = Schema::from_str(text).map_err(|e| vec![diagnosed(&e)])?;
        Self::new(schema, declared).map_err(|found| at_start(&found))
    }

    fn new(schema: Schema, declared: Declared) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let action_entities = schema.action_entities().map_err(|e| vec![e.to_string()])?;
        let (mut types, mut actions) = (BTreeMap::new(), BTreeMap::new());
        for (called, mut entity) in declared.types {
            entity.parents = schema.ancestors(&entity.name).into_iter().flatten().cloned().collect();
            let name = entity.name.clone();
            if let Some(other) = types.insert(called.clone(), entity) {
                problems.push(format!("{} and {name} are both named `{called}` for requests", other.name));
            }
        }
        for (uid, mut context) in declared.actions {
            let declared = context.remove(ACTION_ATTRIBUTE);
            let are_properties_optional = declared.as_ref().is_some_and(|attribute| !attribute.required);
            let properties = declared.map(|attribute| (*attribute.of).clone());
            let properties = match properties {
                None => None,
                Some(AttributeType::Record(properties)) => Some(properties),
                Some(_) => {
                    problems.push(format!(
                        "{uid}: expected a record as `{ACTION_ATTRIBUTE}` of its context, which has the action's properties"
                    ));
                    None
                }
            };
            let groups = action_entities.ancestors(&uid).into_iter().flatten().cloned();
            let groups = groups.chain([uid.clone()]).collect();
            let called = uid.id().unescaped().to_owned();
            let action =
                ActionModel { uid: uid.clone(), groups, context, properties, are_properties_optional };
            if let Some(other) = actions.insert(called.clone(), action) {
                problems.push(format!("{} and {uid} are both named `{called}` for requests", other.uid));
            }
        }
        let environments = schema.request_envs().take(MAX_ENVIRONMENTS + 1).count();
        if environments > MAX_ENVIRONMENTS {
            problems.push(format!(
                "expected at most {MAX_ENVIRONMENTS} combinations of principal type, action and resource type, found more"
            ));
        }
        if environments == 0 {
            problems.push(
                "expected an action that applies to a principal and a resource (`appliesTo`), found none: nothing could be allowed"
                    .to_owned(),
            );
        }
        if problems.is_empty() { Ok(Self { schema, types, actions, action_entities }) } else { Err(problems) }
    }

    /// Returns the entity type with the name `called` in requests.
    pub(super) fn entity_type(&self, called: &str) -> Option<&EntityModel> {
        self.types.get(called)
    }

    /// Returns the names of the entity types.
    pub(super) fn type_names(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    /// Returns the action with the name `called` in requests.
    pub(super) fn action(&self, called: &str) -> Option<&ActionModel> {
        self.actions.get(called)
    }

    /// Returns the actions with their names, sorted by name.
    pub(super) fn actions(&self) -> impl Iterator<Item = (&str, &ActionModel)> {
        self.actions.iter().map(|(name, action)| (name.as_str(), action))
    }

    /// Returns the actions as entities, with their groups.
    pub(super) const fn action_entities(&self) -> &Entities {
        &self.action_entities
    }
}

impl EntityModel {
    /// Returns true if the type allows an entity with this id.
    pub(super) fn has_id(&self, id: &str) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(id))
    }

    /// Returns the entity with this id.
    pub(super) fn uid(&self, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.name.clone(), EntityId::new(id))
    }
}

/// Declarations of a schema's text.
struct Declared {
    /// Types, each with its name in requests.
    types: Vec<(String, EntityModel)>,
    actions: Vec<(EntityUid, Attributes)>,
}

impl Declared {
    fn read(namespaces: &Map<String, Value>) -> Result<Self, Vec<String>> {
        let mut reader = TypeReader::new(namespaces);
        let (mut types, mut actions, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        let entries =
            |of: &Value, key: &str| of.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        for (namespace, of) in namespaces {
            for (name, of) in entries(of, "entityTypes") {
                let name = full_name(namespace, &name);
                match entity_model(&name, &of, &mut reader) {
                    Ok(model) => {
                        let called = of.get("annotations").and_then(|all| all.get(TYPE_ANNOTATION));
                        let called = called.and_then(Value::as_str).unwrap_or(&name).to_owned();
                        types.push((called, model));
                    }
                    Err(e) => problems.push(format!("entity {name}: {e}")),
                }
            }
            for (id, of) in entries(of, "actions") {
                let context = of.get("appliesTo").and_then(|applies| applies.get("context"));
                match EntityTypeName::from_str(&full_name(namespace, "Action"))
                    .map_err(|e| e.to_string())
                    .and_then(|kind| Ok((kind, reader.attributes(context)?)))
                {
                    Ok((kind, context)) => {
                        actions.push((EntityUid::from_type_name_and_id(kind, EntityId::new(&id)), context));
                    }
                    Err(e) => problems.push(format!("action {id:?}: {e}")),
                }
            }
        }
        if problems.is_empty() { Ok(Self { types, actions }) } else { Err(problems) }
    }
}

fn entity_model(name: &str, of: &Value, reader: &mut TypeReader<'_>) -> Result<EntityModel, String> {
    let ids = of.get("enum").and_then(Value::as_array);
    let ids = ids.map(|ids| ids.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    Ok(EntityModel {
        name: EntityTypeName::from_str(name).map_err(|e| e.to_string())?,
        attributes: reader.attributes(of.get("shape"))?,
        ids,
        parents: BTreeSet::new(),
    })
}

fn at_start(problems: &[String]) -> Vec<SchemaProblem> {
    problems.iter().map(|message| (0, message.clone())).collect()
}

fn diagnosed(error: &dyn miette::Diagnostic) -> SchemaProblem {
    let offset = error.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
    let help = error.help().map_or_else(String::new, |help| format!("; {help}"));
    (offset, format!("{error}{help}"))
}

/// Returns the byte offset at which brackets nest deeper than `most`, if they do.
fn nested_deeper(text: &str, most: usize) -> Option<usize> {
    let mut open = 0_usize;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '/' if chars.peek().is_some_and(|(_, next)| *next == '/') => {
                while chars.next().is_some_and(|(_, c)| !matches!(c, '\n' | '\r')) {}
            }
            '"' => {
                while let Some((_, c)) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' | '(' | '<' => {
                open += 1;
                if open > most {
                    return Some(at);
                }
            }
            '}' | ']' | ')' | '>' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    None
}
