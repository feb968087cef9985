//! Kafka ACLs derived from the topology: each principal has exactly the rights that it needs.
//!
//! Kafka implies some rights: Read or Write on a topic or a group implies Describe, and Write on any topic implies idempotent
//! writes (brokers from 2.8 on). These are not listed again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{
    AUDIT_GROUP, DECISION_GROUP, MissingRole, Stage, Task, Topology, reader_group,
};
use serde::Serialize;

/// The right of a principal to an operation on a resource, from any host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Acl {
    /// The principal in Kafka's notation, e.g. `User:evaluator`.
    pub principal: String,
    /// Kind of the resource.
    pub resource: Resource,
    /// Name of the resource, or its prefix.
    pub name: String,
    /// Whether `name` is the whole name or a prefix.
    pub pattern: Pattern,
    /// The allowed operation.
    pub operation: Operation,
}

/// Kind of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
    /// A producer's transactional id.
    TransactionalId,
}

/// Pattern type of a resource name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// The whole name.
    Literal,
    /// A prefix of the name.
    Prefixed,
}

/// An operation, by Kafka's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Operation {
    /// Reads records; joins a group and commits offsets.
    Read,
    /// Appends records; uses a transactional id.
    Write,
    /// Creates a topic.
    Create,
    /// Reads a topic's metadata, or a group's offsets.
    Describe,
    /// Reads a topic's settings.
    DescribeConfigs,
    /// Changes a topic's settings.
    AlterConfigs,
}

/// All ACLs. `Display` writes a script of `kafka-acls.sh` commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Acls(Vec<Acl>);

impl Acls {
    /// Iterates over the ACLs in order.
    pub fn iter(&self) -> impl Iterator<Item = &Acl> {
        self.0.iter()
    }
}

/// Returns the ACLs of all stages and principals.
///
/// # Errors
/// Fails if the topology has no topic for a principal's task.
pub fn acls(topology: &Topology) -> Result<Acls, MissingRole> {
    let mut all = BTreeSet::new();
    for (name, stage) in &topology.stages {
        let mut builder = AclBuilder::new(topology.principal_of(name)?, &mut all);
        builder.add_stage(name, &stage.value);
    }
    for (name, principal) in &topology.principals {
        let login = principal.value.principal.as_ref().map_or(name, |login| &login.value);
        let mut builder = AclBuilder::new(login, &mut all);
        for task in &principal.value.may {
            builder.add_task(task.value, topology)?;
        }
    }
    Ok(Acls(all.into_iter().collect()))
}

/// Adds the ACLs of one principal.
struct AclBuilder<'a> {
    principal: String,
    all: &'a mut BTreeSet<Acl>,
}

impl<'a> AclBuilder<'a> {
    fn new(login: &str, all: &'a mut BTreeSet<Acl>) -> Self {
        Self { principal: format!("User:{login}"), all }
    }

    fn add(&mut self, resource: Resource, pattern: Pattern, name: &str, operations: &[Operation]) {
        for operation in operations {
            let (principal, name) = (self.principal.clone(), name.to_owned());
            self.all.insert(Acl { principal, resource, name, pattern, operation: *operation });
        }
    }

    fn add_topic(&mut self, name: &str, operations: &[Operation]) {
        self.add(Resource::Topic, Pattern::Literal, name, operations);
    }

    fn add_group(&mut self, name: &str, operation: Operation) {
        self.add(Resource::Group, Pattern::Literal, name, &[operation]);
    }

    fn add_stage(&mut self, name: &str, stage: &Stage) {
        for topic in stage.reads.iter().chain(&stage.global_tables) {
            self.add_topic(&topic.value, &[Operation::Read]);
        }
        for topic in &stage.emits {
            self.add_topic(&topic.value, &[Operation::Write]);
        }
        if let Some(state) = &stage.state {
            self.add_topic(&state.value, &[Operation::Read, Operation::Write]);
        }
        self.add_group(&stage.group.value, Operation::Read);
        if stage.state.is_some() || !stage.global_tables.is_empty() {
            // The readers of global tables and changelogs name a group and never join it.
            self.add_group(&reader_group(name), Operation::Describe);
        }
        if stage.state.is_some() || !stage.emits.is_empty() {
            let ids = format!("{}-", stage.group.value);
            self.add(Resource::TransactionalId, Pattern::Prefixed, &ids, &[Operation::Write]);
        }
    }

    fn add_task(&mut self, task: Task, topology: &Topology) -> Result<(), MissingRole> {
        let topic = |subject: Subject| topology.topic_of(subject).map(|(name, _)| name);
        match task {
            // Decided calls and approvals are actions.
            Task::Record | Task::Enforce => {
                self.add_topic(topic(subject::ACTION_EVENT)?, &[Operation::Write]);
            }
            Task::Approve => {
                self.add_topic(topic(subject::ACTION_EVENT)?, &[Operation::Write]);
                // Read to find out whether a decision would count.
                for subject in [subject::AGENT, subject::KEY] {
                    self.add_topic(topic(subject)?, &[Operation::Read]);
                    self.add_group(&reader_group(topic(subject)?), Operation::Describe);
                }
            }
            Task::Decide => {
                let actions = topic(subject::ACTION_EVENT)?;
                self.add_topic(actions, &[Operation::Read, Operation::Write]);
                let tables = [subject::AGENT, subject::TOOL, subject::BUNDLE, subject::KEY];
                for subject in [subject::SESSION_STATE].into_iter().chain(tables) {
                    self.add_topic(topic(subject)?, &[Operation::Read]);
                }
                self.add_group(DECISION_GROUP, Operation::Describe);
            }
            Task::Govern => {
                for subject in [subject::AGENT, subject::TOOL, subject::BUNDLE, subject::KEY] {
                    // Read, since a push first reads the topic and skips unchanged entries.
                    self.add_topic(topic(subject)?, &[Operation::Read, Operation::Write]);
                    self.add_group(&reader_group(topic(subject)?), Operation::Describe);
                }
            }
            Task::Operate => self.add_topic(topic(subject::CONTROL)?, &[Operation::Write]),
            Task::Audit => {
                for subject in [
                    subject::ACTION_EVENT,
                    subject::VERDICT,
                    subject::REJECT,
                    subject::ALERT,
                    subject::EVALUATION_BASIS,
                ] {
                    self.add_topic(topic(subject)?, &[Operation::Read]);
                }
                self.add_group(AUDIT_GROUP, Operation::Describe);
                for stage in topology.stages.values() {
                    self.add_group(&stage.value.group.value, Operation::Describe);
                }
            }
            Task::Deploy => {
                const ALL: [Operation; 4] = [
                    Operation::Create,
                    Operation::Describe,
                    Operation::DescribeConfigs,
                    Operation::AlterConfigs,
                ];
                topology.topics.keys().for_each(|name| self.add_topic(name, &ALL));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Writes a shell script. It passes its arguments, e.g. `--bootstrap-server` and `--command-config`, to each command.
impl fmt::Display for Acls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "#!/bin/sh")?;
        writeln!(
            f,
            "# Made by `agentgov topology render acls`: each principal's rights, as topology.yaml asks for them."
        )?;
        writeln!(f, "# sh acls.sh --bootstrap-server HOST:PORT --command-config admin.properties")?;
        write!(f, "set -eu")?;
        let mut principal = "";
        for line in lines(&self.0) {
            if line.principal != principal {
                principal = line.principal;
                writeln!(f)?;
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Resources of one kind with the same operations for a principal: one command of the script.
struct Line<'a> {
    principal: &'a str,
    resource: Resource,
    pattern: Pattern,
    operations: Vec<Operation>,
    names: Vec<&'a str>,
}

fn lines(acls: &[Acl]) -> Vec<Line<'_>> {
    let mut operations: BTreeMap<(&str, Resource, Pattern, &str), Vec<Operation>> = BTreeMap::new();
    for acl in acls {
        let key = (acl.principal.as_str(), acl.resource, acl.pattern, acl.name.as_str());
        operations.entry(key).or_default().push(acl.operation);
    }
    let mut lines: Vec<Line<'_>> = Vec::new();
    for ((principal, resource, pattern, name), operations) in operations {
        let same = lines.iter_mut().find(|line| {
            (line.principal, line.resource, line.pattern) == (principal, resource, pattern)
                && line.operations == operations
        });
        match same {
            Some(line) => line.names.push(name),
            None => lines.push(Line { principal, resource, pattern, operations, names: vec![name] }),
        }
    }
    lines
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A checked topology has no quote in a principal, and only a-z A-Z 0-9 . _ - in names.
        write!(f, "kafka-acls.sh \"$@\" --add --allow-principal '{}'", self.principal)?;
        self.operations.iter().try_for_each(|operation| write!(f, " --operation {operation}"))?;
        if self.pattern == Pattern::Prefixed {
            f.write_str(" --resource-pattern-type prefixed")?;
        }
        let option = match self.resource {
            Resource::Topic => "--topic",
            Resource::Group => "--group",
            Resource::TransactionalId => "--transactional-id",
        };
        self.names.iter().try_for_each(|name| write!(f, " {option} {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this script changes, rights change: review each line.
    #[test]
    fn built_in_topology_gives_these_rights() {
        let topology = Topology::embedded().unwrap();
        assert_eq!(acls(&topology).unwrap().to_string(), include_str!("acls.sh"));
    }

    #[test]
    fn stage_with_a_store_writes_no_topic_and_no_stage_writes_actions() {
        let topology = Topology::embedded().unwrap();
        let acls = acls(&topology).unwrap();
        let writers = |topic: &str| -> Vec<&str> {
            let may = |acl: &&Acl| acl.name == topic && acl.operation == Operation::Write;
            acls.iter().filter(may).map(|acl| acl.principal.as_str()).collect()
        };
        let recording = ["User:approvers", "User:gateways", "User:pdp", "User:services"];
        assert_eq!(writers("agent.actions"), recording);
        assert_eq!(writers("agent.sessions"), ["User:evaluator"]);
        assert_eq!(writers("agent.verdicts"), ["User:evaluator"]);
        assert_eq!(writers("governance.controls"), ["User:operators"]);
        assert!(
            !acls.iter().any(|acl| acl.principal == "User:log-sink" && acl.operation != Operation::Read),
            "{acls:?}"
        );
    }

    #[test]
    fn evaluator_and_decision_points_alone_read_the_state_of_sessions() {
        let acls = acls(&Topology::embedded().unwrap()).unwrap();
        let reads = |acl: &&Acl| acl.name == "agent.sessions" && acl.operation == Operation::Read;
        let readers: Vec<&str> = acls.iter().filter(reads).map(|acl| acl.principal.as_str()).collect();
        assert_eq!(readers, ["User:evaluator", "User:pdp"]);
    }

    #[test]
    fn principal_with_a_login_has_its_rights_under_the_login() {
        let text = agentgov_schemas::topology::EMBEDDED
            .replace("group: agentgov.alerter", "group: agentgov.alerter\n    principal: CN=alerter,O=bank");
        let topology = Topology::parse("t", &text).unwrap();
        let script = acls(&topology).unwrap().to_string();
        assert!(script.contains("--allow-principal 'User:CN=alerter,O=bank' --operation"), "{script}");
        assert!(!script.contains("User:alerter"), "{script}");
    }
}
