//! `entities.yaml`: the entities that a bundle knows. Searches return them, and requests name them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use agentgov_schemas::mapping;
use agentgov_schemas::yaml::{self, Fields, FromNode, Location, Node, Problem, Problems, Value as Yaml};
use cedar_policy::{Entity, EntityUid, RestrictedExpression};
use serde_json::{Number, Value};

use super::model::{EntityModel, Model};
use super::request::Properties;
use super::value;

/// Path of the entities in a bundle.
pub(super) const ENTITIES_FILE: &str = "entities.yaml";
/// Maximum number of memberships of all entities, direct and indirect.
const MAX_MEMBERSHIPS: usize = 1_000_000;

/// The entities of a bundle.
#[derive(Debug, Default)]
pub(super) struct KnownEntities {
    entities: HashMap<EntityUid, KnownEntity>,
    /// Ids by the type's name for requests, in order.
    ids: BTreeMap<String, Vec<String>>,
}

/// An entity that the bundle knows.
#[derive(Debug)]
pub(super) struct KnownEntity {
    /// Properties in the file. Properties of a request take precedence.
    pub(super) properties: Properties,
    /// Direct and indirect parents.
    pub(super) ancestors: Arc<HashSet<EntityUid>>,
    /// Entities that its properties refer to.
    pub(super) refs: Vec<EntityUid>,
    /// The complete Cedar entity.
    pub(super) entity: Entity,
}

/// The file.
struct EntitiesFile {
    entities: EntryList,
}
mapping!(EntitiesFile, "a file of entities", { entities });

/// The entries with a type and an id. They are checked although others have mistakes, so that one run reports all.
#[derive(Default)]
struct EntryList {
    entries: Vec<EntityEntry>,
    /// True if an entry has no valid type or id. Then any entity may be in the file.
    is_partial: bool,
}

struct EntityEntry {
    at: Location,
    node: Node,
    kind: String,
    id: String,
    /// `None` if they have a mistake.
    properties: Option<Properties>,
    /// `None` if they have a mistake.
    parents: Option<Vec<ParentEntry>>,
}

struct ParentEntry {
    at: Location,
    kind: String,
    id: String,
}

impl FromNode for EntryList {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Yaml::List(items) = &node.value else {
            problems.add(node.at, format!("expected a list, found {}", node.value));
            return None;
        };
        let entries: Vec<_> =
            items.iter().filter_map(|item| EntityEntry::from_node(item, problems)).collect();
        Some(Self { is_partial: entries.len() < items.len(), entries })
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl FromNode for EntityEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "an entity", problems)?;
        let (kind, id) = (fields.take("type"), fields.take("id"));
        let properties = fields.take::<PropertiesEntry>("properties");
        let parents = fields.take("parents");
        fields.end();
        let (at, node) = (node.at, node.clone());
        Some(Self { at, node, kind: kind?, id: id?, properties: properties.map(|found| found.0), parents })
    }
}

impl FromNode for ParentEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "a parent", problems)?;
        let (kind, id) = (fields.take("type"), fields.take("id"));
        fields.end();
        Some(Self { at: node.at, kind: kind?, id: id? })
    }
}

/// Properties as YAML; empty if absent.
pub(super) struct PropertiesEntry(pub(super) Properties);

impl FromNode for PropertiesEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match json(node, problems)? {
            Value::Object(properties) => Some(Self(properties)),
            _ => {
                problems.add(node.at, format!("expected properties (a mapping), found {}", node.value));
                None
            }
        }
    }

    fn absent() -> Option<Self> {
        Some(Self(Properties::new()))
    }
}

/// Converts a YAML value to JSON.
fn json(node: &Node, problems: &mut Problems) -> Option<Value> {
    Some(match &node.value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(*value),
        Yaml::Integer(value) => {
            let Ok(value) = i64::try_from(*value) else {
                problems.add(node.at, format!("expected a number of 64 bits, found {value}"));
                return None;
            };
            Value::from(value)
        }
        Yaml::Number(value) => {
            let Some(number) = Number::from_f64(*value) else {
                problems.add(node.at, format!("expected a number, found {value}"));
                return None;
            };
            Value::Number(number)
        }
        Yaml::Text(text) => Value::from(text.as_str()),
        // All items are read before a failure is returned, so that every mistake is reported.
        Yaml::List(items) => {
            let items: Vec<_> = items.iter().map(|item| json(item, problems)).collect();
            Value::Array(items.into_iter().collect::<Option<_>>()?)
        }
        Yaml::Mapping(entries) => {
            let mut object = Properties::new();
            let mut whole = true;
            for (key, node) in entries {
                let value = json(node, problems);
                whole &= value.is_some();
                if object.insert(key.value.clone(), value.unwrap_or_default()).is_some() {
                    let message = format!("`{}` stands twice; expected each key once", key.value);
                    problems.add(key.referenced, message);
                }
            }
            if !whole {
                return None;
            }
            Value::Object(object)
        }
    })
}

/// Reads the file. Without a model, only its structure is checked.
///
/// # Errors
/// All mistakes.
pub(super) fn read(text: &str, model: Option<&Model>) -> Result<Option<KnownEntities>, Vec<Problem>> {
    let (file, mut problems) = yaml::read::<EntitiesFile>(ENTITIES_FILE, text);
    let known = file.zip(model).map(|(file, model)| known_entities(&file.entities, model, &mut problems));
    if problems.is_empty() { Ok(known) } else { Err(problems.into_sorted()) }
}

fn known_entities(list: &EntryList, model: &Model, problems: &mut Problems) -> KnownEntities {
    let mut known = KnownEntities::default();
    let mut entries: HashMap<EntityUid, &EntityEntry> = HashMap::new();
    for entry in &list.entries {
        let Some(of) = declared_type(&entry.node, &entry.kind, &entry.id, model, problems) else {
            continue;
        };
        if let Some(first) = entries.insert(of.uid(&entry.id), entry) {
            let message = format!("{} `{}` stands in line {} already", entry.kind, entry.id, first.at.line());
            problems.add(entry.at, message);
        }
        known.ids.entry(entry.kind.clone()).or_default().push(entry.id.clone());
    }
    known.ids.values_mut().for_each(|ids| ids.sort());
    let parents = parents(&entries, list.is_partial, model, problems);
    let ancestors = ancestors(&entries, parents, problems);
    for (uid, entry) in &entries {
        let Some(of) = model.entity_type(&entry.kind) else { continue };
        let ancestors = ancestors.get(uid).cloned().unwrap_or_default();
        if let Some(entity) = known_entity(uid, entry, of, ancestors, model, problems) {
            known.entities.insert(uid.clone(), entity);
        }
    }
    known
}

fn declared_type<'m>(
    node: &Node,
    kind: &str,
    id: &str,
    model: &'m Model,
    problems: &mut Problems,
) -> Option<&'m EntityModel> {
    let Some(of) = model.entity_type(kind) else {
        let names: Vec<&str> = model.type_names().collect();
        let message = format!("the schema has no entity type `{kind}`; expected {}", yaml::one_of(&names));
        problems.add(node.location(&["type"]), message);
        return None;
    };
    if !of.has_id(id) {
        problems.add(node.location(&["id"]), format!("the schema's type {} has no id `{id}`", of.name));
        return None;
    }
    Some(of)
}

/// Returns the direct parents of each entity.
fn parents(
    entries: &HashMap<EntityUid, &EntityEntry>,
    is_partial: bool,
    model: &Model,
    problems: &mut Problems,
) -> HashMap<EntityUid, Vec<EntityUid>> {
    let mut all = HashMap::new();
    for (uid, entry) in entries {
        let Some(of) = model.entity_type(&entry.kind) else { continue };
        let mut parents = Vec::new();
        for ParentEntry { at, kind, id } in entry.parents.iter().flatten() {
            let parent = model.entity_type(kind).map(|kind| kind.uid(id));
            match parent.filter(|parent| entries.contains_key(parent)) {
                Some(parent) if of.parents.contains(parent.type_name()) => parents.push(parent),
                Some(parent) => {
                    let message = format!(
                        "the schema has no {} in {}: expected `entity … in`",
                        of.name,
                        parent.type_name()
                    );
                    problems.add(*at, message);
                }
                None if is_partial => {}
                None => problems.add(*at, format!("expected an entity of this file, found no {kind} `{id}`")),
            }
        }
        all.insert(uid.clone(), parents);
    }
    all
}

/// Returns the direct and indirect parents of each entity. A cycle is a problem.
fn ancestors(
    entries: &HashMap<EntityUid, &EntityEntry>,
    parents: HashMap<EntityUid, Vec<EntityUid>>,
    problems: &mut Problems,
) -> HashMap<EntityUid, HashSet<EntityUid>> {
    let mut children: HashMap<&EntityUid, Vec<&EntityUid>> = HashMap::new();
    let mut waits_for: HashMap<&EntityUid, usize> = HashMap::new();
    for (uid, parents) in &parents {
        waits_for.insert(uid, parents.len());
        parents.iter().for_each(|parent| children.entry(parent).or_default().push(uid));
    }
    let mut done: HashMap<EntityUid, HashSet<EntityUid>> = HashMap::new();
    let mut next: Vec<&EntityUid> =
        waits_for.iter().filter(|(_, count)| **count == 0).map(|(uid, _)| *uid).collect();
    let mut memberships = 0;
    while let Some(uid) = next.pop() {
        let mut all = HashSet::new();
        for parent in parents.get(uid).into_iter().flatten() {
            all.extend(done.get(parent).into_iter().flatten().cloned());
            all.insert(parent.clone());
        }
        memberships += all.len();
        if memberships > MAX_MEMBERSHIPS {
            let at = entries.get(uid).map_or(Location::UNKNOWN, |entry| entry.at);
            let message =
                format!("expected at most {MAX_MEMBERSHIPS} memberships of all entities, found more");
            problems.add(at, message);
            return done;
        }
        done.insert(uid.clone(), all);
        for child in children.get(uid).into_iter().flatten() {
            if let Some(count) = waits_for.get_mut(child) {
                *count -= 1;
                if *count == 0 {
                    next.push(child);
                }
            }
        }
    }
    for (uid, _) in waits_for.iter().filter(|(_, count)| **count > 0) {
        if let Some(entry) = entries.get(*uid) {
            problems
                .add(entry.at, format!("{} `{}` is in itself, through its parents", entry.kind, entry.id));
        }
    }
    done
}

fn known_entity(
    uid: &EntityUid,
    entry: &EntityEntry,
    of: &EntityModel,
    ancestors: HashSet<EntityUid>,
    model: &Model,
    problems: &mut Problems,
) -> Option<KnownEntity> {
    let at = |name: &str| entry.node.location(&["properties", name]);
    let properties = entry.properties.as_ref()?;
    for name in properties.keys().filter(|name| !of.attributes.contains_key(*name)) {
        let names: Vec<&str> = of.attributes.keys().map(String::as_str).collect();
        let message =
            format!("the schema's type {} has no `{name}`; expected {}", of.name, yaml::one_of(&names));
        problems.add(at(name), message);
    }
    let required = of.attributes.iter().filter(|(_, attribute)| attribute.required);
    for (name, _) in required.filter(|(name, _)| !properties.contains_key(*name)) {
        problems.add(at(name), format!("an entity of type {} must have the property `{name}`", of.name));
    }
    let mut refs = Vec::new();
    let mut attributes: HashMap<String, RestrictedExpression> = HashMap::new();
    for converted in value::declared(properties, &of.attributes, model, &mut refs) {
        match converted {
            Ok((name, value)) => drop(attributes.insert(name, value)),
            Err(mismatch) => {
                let name = mismatch.path.first().map_or("", String::as_str);
                problems.add(at(name), format!("`{}`: {}", mismatch.path.join("."), mismatch.message));
            }
        }
    }
    let entity = Entity::new(uid.clone(), attributes, ancestors.clone());
    let entity = entity.map_err(|e| problems.add(entry.at, e.to_string())).ok()?;
    Some(KnownEntity { properties: properties.clone(), ancestors: Arc::new(ancestors), refs, entity })
}

impl KnownEntities {
    /// Returns an entity.
    pub(super) fn get(&self, uid: &EntityUid) -> Option<&KnownEntity> {
        self.entities.get(uid)
    }

    /// Returns the ids of a type, by its name in requests, in order.
    pub(super) fn ids(&self, kind: &str) -> &[String] {
        self.ids.get(kind).map_or(&[], Vec::as_slice)
    }

    /// Returns the number of entities.
    pub(super) fn len(&self) -> usize {
        self.entities.len()
    }
}
