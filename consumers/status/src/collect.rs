//! Asking everything.

use std::time::{SystemTime, UNIX_EPOCH};

use agentgov_connect::Endpoints;
use agentgov_schemas::Millis;
use agentgov_schemas::topology::Topology;

use crate::groups::groups;
use crate::parts::parts;
use crate::process::{panicked, processes};
use crate::{Answer, Health, Log, Stage, Status, TopologyState};

/// Compares the topology with the cluster. The caller brings it: who writes topics is on the other side of the house.
pub type CompareTopology<'a> = &'a (dyn Fn() -> Result<TopologyState, String> + Sync);

/// Asks the parts whether they are there, those that are what they know, and the processes at `health` how they are.
/// Blocks; never call it from async code.
pub fn collect(
    topology: &Topology,
    endpoints: &Endpoints,
    health: &[String],
    compare: CompareTopology<'_>,
) -> Status {
    std::thread::scope(|scope| {
        let processes = scope.spawn(|| processes(health));
        let parts = parts(endpoints, topology);
        let answers = |name: &str| parts.iter().any(|part| part.name == name && part.answers);
        let (kafka, registry, clickhouse) = (answers("kafka"), answers("registry"), answers("clickhouse"));
        let now = now();
        let topology_state = scope.spawn(move || match (kafka, registry) {
            (true, true) => compare().into(),
            (false, _) => Answer::Unknown("kafka is away".to_owned()),
            (true, false) => Answer::Unknown("the registry is away".to_owned()),
        });
        let log = scope.spawn(move || match clickhouse {
            true => Log::ask(endpoints, topology),
            false => Log::unknown(topology, "clickhouse is away"),
        });
        let mut groups = if kafka { groups(endpoints, topology, now) } else { Default::default() };
        let stages = topology.stages.iter().map(|(name, stage)| {
            let unknown = || Err("kafka is away".to_owned());
            Stage {
                name: name.clone(),
                group: stage.value.group.value.clone(),
                state: groups.remove(name).unwrap_or_else(unknown).into(),
            }
        });
        let stages = stages.collect();
        let log = log.join().unwrap_or_else(|_| Log::unknown(topology, "asking for it panicked"));
        let mut status = Status {
            health: Health::Unhealthy,
            at: now.0,
            parts,
            topology: topology_state
                .join()
                .unwrap_or_else(|_| Answer::Unknown("comparing it panicked".to_owned())),
            stages,
            processes: processes.join().unwrap_or_else(|_| panicked(health)),
            tables: log.tables,
            rejects_last_hour: log.rejects,
            alerts_last_hour: log.alerts,
            gaps: log.gaps,
            skipped: log.skipped,
            bundles: log.bundles,
            wrong: Vec::new(),
        };
        status.judge();
        status
    })
}

pub(crate) fn now() -> Millis {
    // A clock before 1970 is as wrong as one that stands there.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
