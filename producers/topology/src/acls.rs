//! Who may do what in Kafka: computed from the topology, each principal exactly what it needs.
//!
//! Kafka gives some rights with others: who may read or write a topic or join a group may describe it, and who may write
//! any topic may do so idempotently (brokers from 2.8 on). Those are not given once more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{AUDIT_GROUP, MissingRole, Stage, Task, Topology, reader_group};
use serde::Serialize;

/// What one principal may do with one resource, from any host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Acl {
    /// As Kafka writes it, `User:evaluator`.
    pub principal: String,
    /// On what.
    pub resource: Resource,
    /// Its name, or how its name begins.
    pub name: String,
    /// Which of the two.
    pub pattern: Pattern,
    /// What is allowed.
    pub operation: Operation,
}

/// A kind of resource, in Kafka's words.
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

/// How a resource is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// By its name.
    Literal,
    /// By how its name begins.
    Prefixed,
}

/// An operation, in Kafka's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Operation {
    /// Read records; join a group and commit offsets.
    Read,
    /// Append records; use a transactional id.
    Write,
    /// Create a topic.
    Create,
    /// See that it is there; see a group's offsets.
    Describe,
    /// See a topic's settings.
    DescribeConfigs,
    /// Change them.
    AlterConfigs,
}

/// All of them: `Display` is a script for Kafka's `kafka-acls.sh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Acls(Vec<Acl>);

impl Acls {
    /// One by one, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Acl> {
        self.0.iter()
    }
}

/// The rights that the topology asks for.
///
/// # Errors
/// If the topology lacks a topic that somebody is to use.
pub fn acls(topology: &Topology) -> Result<Acls, MissingRole> {
    let mut all = BTreeSet::new();
    for (name, stage) in &topology.stages {
        let mut rights = Rights::of(topology.principal_of(name)?, &mut all);
        rights.stage(name, &stage.value);
    }
    for (name, principal) in &topology.principals {
        let login = principal.value.principal.as_ref().map_or(name, |login| &login.value);
        let mut rights = Rights::of(login, &mut all);
        for task in &principal.value.may {
            rights.task(task.value, topology)?;
        }
    }
    Ok(Acls(all.into_iter().collect()))
}

/// Rights of one principal.
struct Rights<'a> {
    principal: String,
    all: &'a mut BTreeSet<Acl>,
}

impl<'a> Rights<'a> {
    fn of(login: &str, all: &'a mut BTreeSet<Acl>) -> Self {
        Self { principal: format!("User:{login}"), all }
    }

    fn give(&mut self, resource: Resource, pattern: Pattern, name: &str, operations: &[Operation]) {
        for operation in operations {
            let (principal, name) = (self.principal.clone(), name.to_owned());
            self.all.insert(Acl { principal, resource, name, pattern, operation: *operation });
        }
    }

    fn topic(&mut self, name: &str, operations: &[Operation]) {
        self.give(Resource::Topic, Pattern::Literal, name, operations);
    }

    fn group(&mut self, name: &str, operation: Operation) {
        self.give(Resource::Group, Pattern::Literal, name, &[operation]);
    }

    fn stage(&mut self, name: &str, stage: &Stage) {
        for topic in stage.reads.iter().chain(&stage.global_tables) {
            self.topic(&topic.value, &[Operation::Read]);
        }
        for topic in &stage.emits {
            self.topic(&topic.value, &[Operation::Write]);
        }
        if let Some(state) = &stage.state {
            self.topic(&state.value, &[Operation::Read, Operation::Write]);
        }
        self.group(&stage.group.value, Operation::Read);
        if stage.state.is_some() || !stage.global_tables.is_empty() {
            // What reads tables and state to their end names a group, and never joins it.
            self.group(&reader_group(name), Operation::Describe);
        }
        if stage.state.is_some() || !stage.emits.is_empty() {
            let ids = format!("{}-", stage.group.value);
            self.give(Resource::TransactionalId, Pattern::Prefixed, &ids, &[Operation::Write]);
        }
    }

    fn task(&mut self, task: Task, topology: &Topology) -> Result<(), MissingRole> {
        let topic = |subject: Subject| topology.topic_of(subject).map(|(name, _)| name);
        match task {
            Task::Record => self.topic(topic(subject::ACTION_EVENT)?, &[Operation::Write]),
            Task::Govern => {
                for subject in [subject::AGENT, subject::TOOL, subject::BUNDLE, subject::KEY] {
                    // Read, because what is there already is not pushed again.
                    self.topic(topic(subject)?, &[Operation::Read, Operation::Write]);
                    self.group(&reader_group(topic(subject)?), Operation::Describe);
                }
            }
            Task::Operate => self.topic(topic(subject::CONTROL)?, &[Operation::Write]),
            Task::Audit => {
                for subject in [subject::ACTION_EVENT, subject::VERDICT, subject::REJECT, subject::ALERT] {
                    self.topic(topic(subject)?, &[Operation::Read]);
                }
                self.group(AUDIT_GROUP, Operation::Describe);
                for stage in topology.stages.values() {
                    self.group(&stage.value.group.value, Operation::Describe);
                }
            }
            Task::Deploy => {
                const ALL: [Operation; 4] = [
                    Operation::Create,
                    Operation::Describe,
                    Operation::DescribeConfigs,
                    Operation::AlterConfigs,
                ];
                topology.topics.keys().for_each(|name| self.topic(name, &ALL));
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

/// A shell script: what is given to it goes to each command, e.g. `--bootstrap-server` and `--command-config`.
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

/// Resources of one kind with which a principal may do the same.
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
        // The topology lets no quote into a principal, and only a-z A-Z 0-9 . _ - into a name.
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

    /// The rights of the built-in map, as a script. If it changes, somebody's rights change: look at each line.
    #[test]
    fn built_in_topology_gives_these_rights() {
        let topology = Topology::embedded().unwrap();
        assert_eq!(acls(&topology).unwrap().to_string(), include_str!("acls.sh"));
    }

    #[test]
    fn a_stage_that_fills_a_store_writes_nothing_and_only_services_write_actions() {
        let topology = Topology::embedded().unwrap();
        let acls = acls(&topology).unwrap();
        let writers = |topic: &str| -> Vec<&str> {
            let may = |acl: &&Acl| acl.name == topic && acl.operation == Operation::Write;
            acls.iter().filter(may).map(|acl| acl.principal.as_str()).collect()
        };
        assert_eq!(writers("agent.actions"), ["User:services"]);
        assert_eq!(writers("agent.verdicts"), ["User:evaluator"]);
        assert_eq!(writers("governance.controls"), ["User:operators"]);
        assert!(
            !acls.iter().any(|acl| acl.principal == "User:log-sink" && acl.operation != Operation::Read),
            "{acls:?}"
        );
    }

    #[test]
    fn a_principal_may_have_another_login() {
        let text = agentgov_schemas::topology::EMBEDDED
            .replace("group: agentgov.alerter", "group: agentgov.alerter\n    principal: CN=alerter,O=bank");
        let topology = Topology::parse("t", &text).unwrap();
        let script = acls(&topology).unwrap().to_string();
        assert!(script.contains("--allow-principal 'User:CN=alerter,O=bank' --operation"), "{script}");
        assert!(!script.contains("User:alerter"), "{script}");
    }
}
