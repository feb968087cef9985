//! Reading of settings from the environment and a file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use agentgov_schemas::yaml::{Fields, FromNode, Node, Problems};

use super::names::{NAMES, is_secret, variable};
use super::{Findings, SettingsError};
use crate::Secret;

/// Settings from the environment and a file.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, Setting>,
}

/// Value of a setting with its source.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) value: Secret,
    pub(super) at: SettingSource,
}

/// Source of a setting, as messages name it.
#[derive(Clone, Debug)]
pub(super) enum SettingSource {
    Variable(String),
    File { place: String, name: String, folder: PathBuf },
}

impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::File { place, name, .. } => write!(f, "{place}: {name}"),
        }
    }
}

impl Settings {
    /// Reads the environment of this process, and the file that the variable `AGENTGOV_STACK` names.
    ///
    /// # Errors
    /// If the file, or a file with a secret, cannot be read or is invalid.
    pub fn from_environment() -> Result<Self, SettingsError> {
        let file = std::env::var_os("AGENTGOV_STACK").filter(|file| !file.is_empty()).map(PathBuf::from);
        Self::read(&|name| std::env::var(name).ok(), file.as_deref())
    }

    /// Reads variables and `file` (YAML). Variables take precedence; an empty variable counts as unset.
    ///
    /// # Errors
    /// If the file, or a file with a secret, cannot be read or is invalid.
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
                Some(Setting { value: Secret::new(value), at: SettingSource::Variable(at) })
            };
            let inside = is_secret(name).then(|| set(&file_setting(name))).flatten();
            if let Some(value) = select(set(name), inside, &mut findings) {
                values.insert(name, value);
            }
        }
        findings.finish(Some(Self { values }))
    }

    /// Returns true if no setting is set.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Setting> {
        self.values.get(name)
    }

    /// Returns the source of a setting for messages; its variable if it is not set.
    pub(super) fn at(&self, name: &str) -> String {
        self.get(name).map_or_else(|| variable(name), |setting| setting.at.to_string())
    }

    /// Returns the first of `names` that is set.
    pub(super) fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &Setting)> {
        names.iter().find_map(|name| self.get(name).map(|setting| (*name, setting)))
    }
}

impl Setting {
    pub(super) fn text(&self) -> &str {
        self.value.expose()
    }

    /// Returns the value as a path. A relative path in a file is relative to the folder of that file.
    pub(super) fn path(&self) -> PathBuf {
        match &self.at {
            SettingSource::Variable(_) => PathBuf::from(self.text()),
            SettingSource::File { folder, .. } => folder.join(self.text()),
        }
    }
}

fn file_setting(name: &str) -> String {
    format!("{name}_file")
}

/// Returns a secret from its setting or its file. Reports a secret that has both.
fn select(here: Option<Setting>, inside: Option<Setting>, findings: &mut Findings) -> Option<Setting> {
    match (here, inside) {
        (Some(here), Some(inside)) => {
            findings.add(format!("{}: is set as well as {}; expected one of the two", inside.at, here.at));
            None
        }
        (here, None) => here,
        (None, Some(inside)) => read_secret(&inside, findings),
    }
}

/// Returns the secret in a file, without the line ending that editors and `echo` append.
fn read_secret(setting: &Setting, findings: &mut Findings) -> Option<Setting> {
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
            let here = fields.take::<Option<HiddenText>>(name).flatten();
            let inside = match secret_file(name) {
                Some(name) => fields.take::<Option<HiddenText>>(name).flatten(),
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
        let set = |name: &str, value: Option<HiddenText>| {
            let place = root.location(&[name]);
            let at = SettingSource::File {
                place: format!("{shown}:{}:{}", place.line(), place.column()),
                name: name.to_owned(),
                folder: folder.clone(),
            };
            Some(Setting { value: value?.0, at })
        };
        if let Some(value) = select(set(name, here), set(&file_setting(name), inside), findings) {
            values.insert(name, value);
        }
    }
    values
}

/// Returns the setting that names the file of a secret.
fn secret_file(name: &str) -> Option<&'static str> {
    match name {
        "kafka_password" => Some("kafka_password_file"),
        "kafka_key_password" => Some("kafka_key_password_file"),
        "schema_registry_password" => Some("schema_registry_password_file"),
        "clickhouse_password" => Some("clickhouse_password_file"),
        _ => None,
    }
}

/// Text of a setting. Messages never contain it, since it may be a password.
struct HiddenText(Secret);

impl FromNode for HiddenText {
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
