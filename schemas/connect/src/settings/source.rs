//! Reading settings from the environment and a file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use agentgov_schemas::yaml::{Fields, FromNode, Node, Problems};

use super::names::{NAMES, is_secret, variable};
use super::{Findings, SettingsError};
use crate::Secret;

/// What is set, by whom.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, Setting>,
}

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) value: Secret,
    pub(super) at: At,
}

/// Where a setting stands, as messages name it.
#[derive(Clone, Debug)]
pub(super) enum At {
    Variable(String),
    File { place: String, name: String, folder: PathBuf },
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::File { place, name, .. } => write!(f, "{place}: {name}"),
        }
    }
}

impl Settings {
    /// What the environment of this process says, and the file that `AGENTGOV_STACK` names in it.
    ///
    /// # Errors
    /// If the file, or a file that holds a secret, cannot be read, or is wrong.
    pub fn from_environment() -> Result<Self, SettingsError> {
        let file = std::env::var_os("AGENTGOV_STACK").filter(|file| !file.is_empty()).map(PathBuf::from);
        Self::read(&|name| std::env::var(name).ok(), file.as_deref())
    }

    /// What variables and `file` (YAML) say; variables win. An empty variable is as good as none.
    ///
    /// # Errors
    /// If the file, or a file that holds a secret, cannot be read, or is wrong.
    pub fn read(
        environment: &dyn Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let mut findings = Findings::default();
        let mut values = file.map(|file| from_file(file, &mut findings)).unwrap_or_default();
        for name in NAMES {
            let set = |name: &str| {
                let at = variable(name);
                let value = environment(&at).filter(|value| !value.is_empty())?;
                Some(Setting { value: Secret::new(value), at: At::Variable(at) })
            };
            let inside = is_secret(name).then(|| set(&file_of(name))).flatten();
            if let Some(value) = one(set(name), inside, &mut findings) {
                values.insert(name, value);
            }
        }
        findings.finish(Some(Self { values }))
    }

    /// True if nothing is set.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Setting> {
        self.values.get(name)
    }

    /// Where a setting stands, or what it would be called.
    pub(super) fn at(&self, name: &str) -> String {
        self.get(name).map_or_else(|| variable(name), |setting| setting.at.to_string())
    }

    /// The first of `names` that is set.
    pub(super) fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &Setting)> {
        names.iter().find_map(|name| self.get(name).map(|setting| (*name, setting)))
    }
}

impl Setting {
    pub(super) fn text(&self) -> &str {
        self.value.expose()
    }

    /// The value as a path; one in a file begins at that file's folder.
    pub(super) fn path(&self) -> PathBuf {
        match &self.at {
            At::Variable(_) => PathBuf::from(self.text()),
            At::File { folder, .. } => folder.join(self.text()),
        }
    }
}

fn file_of(name: &str) -> String {
    format!("{name}_file")
}

/// A secret stands here, or in a file, not in both.
fn one(here: Option<Setting>, inside: Option<Setting>, findings: &mut Findings) -> Option<Setting> {
    match (here, inside) {
        (Some(here), Some(inside)) => {
            findings.add(format!("{}: is set as well as {}; expected one of the two", inside.at, here.at));
            None
        }
        (here, None) => here,
        (None, Some(inside)) => content(&inside, findings),
    }
}

/// What a file of a secret holds, without the line end that editors and `echo` put behind it.
fn content(setting: &Setting, findings: &mut Findings) -> Option<Setting> {
    let path = setting.path();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            findings.add(format!("{}: cannot read {}: {error}", setting.at, path.display()));
            return None;
        }
    };
    let secret =
        text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if secret.is_empty() {
        findings.add(format!("{}: expected a secret in {}, found an empty file", setting.at, path.display()));
        return None;
    }
    Some(Setting { value: Secret::new(secret), at: setting.at.clone() })
}

fn from_file(file: &Path, findings: &mut Findings) -> BTreeMap<&'static str, Setting> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            findings.add(format!("{}: {error}", file.display()));
            return BTreeMap::new();
        }
    };
    let shown = file.display().to_string();
    let mut problems = Problems::new(&shown);
    let read = Node::parse(&text, &mut problems).and_then(|root| {
        let mut fields = Fields::of(&root, "a stack", &mut problems)?;
        let mut read = Vec::new();
        for name in NAMES {
            let here = fields.take::<Option<Word>>(name).flatten();
            let inside = match secret_file(name) {
                Some(name) => fields.take::<Option<Word>>(name).flatten(),
                None => None,
            };
            read.push((name, here, inside));
        }
        fields.end();
        Some((root, read))
    });
    let read = match problems.finish(read) {
        Ok(read) => read,
        Err(wrong) => {
            wrong.iter().for_each(|problem| findings.add(problem.to_string()));
            return BTreeMap::new();
        }
    };
    let (root, read) = read;
    let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
    let mut values = BTreeMap::new();
    for (name, here, inside) in read {
        let set = |name: &str, value: Option<Word>| {
            let place = root.location(&[name]);
            let at = At::File {
                place: format!("{shown}:{}:{}", place.line(), place.column()),
                name: name.to_owned(),
                folder: folder.clone(),
            };
            Some(Setting { value: value?.0, at })
        };
        if let Some(value) = one(set(name, here), set(&file_of(name), inside), findings) {
            values.insert(name, value);
        }
    }
    values
}

/// The setting that names the file of a secret.
fn secret_file(name: &str) -> Option<&'static str> {
    match name {
        "kafka_password" => Some("kafka_password_file"),
        "kafka_key_password" => Some("kafka_key_password_file"),
        "schema_registry_password" => Some("schema_registry_password_file"),
        "clickhouse_password" => Some("clickhouse_password_file"),
        _ => None,
    }
}

/// A text that is not shown if it is wrong: it may be a password.
struct Word(Secret);

impl FromNode for Word {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            agentgov_schemas::yaml::Value::Text(text) if !text.is_empty() => Some(Self(Secret::new(text))),
            agentgov_schemas::yaml::Value::Text(_) => {
                problems.add(node.at, "expected a text that is not empty");
                None
            }
            _ => {
                problems.add(node.at, "expected text; a number, true, false or null must be put in quotes");
                None
            }
        }
    }
}
