//! Collection of the status.

use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use agentgov_connect::Endpoints;
use agentgov_schemas::Millis;
use agentgov_schemas::topology::Topology;

use crate::groups::groups;
use crate::parts::parts;
use crate::process::{panicked, processes};
use crate::{Answer, Health, Log, Stage, Status, TopologyState};

/// Addresses of processes, which the topology does not have.
#[derive(Clone, Copy, Debug)]
pub struct ProcessAddresses<'a> {
    /// Processes of stages: `run --listen`.
    pub stages: &'a [String],
    /// Decision points: `pdp`.
    pub decision_points: &'a [String],
}

/// Collects the state of the parts, of the stages' groups, of the tables, and of the processes at these
/// `addresses`. `compare` compares the topology with the cluster; the caller passes it, since consumers must not depend on
/// the producers' crate that implements it. Blocks; must not be called from async code.
pub fn collect<E: Display>(
    topology: &Topology,
    endpoints: &Endpoints,
    addresses: ProcessAddresses<'_>,
    compare: impl Fn() -> Result<TopologyState, E> + Send,
) -> Status {
    std::thread::scope(|scope| {
        let ProcessAddresses { stages: health, decision_points } = addresses;
        let pdps = scope.spawn(|| processes(decision_points));
        let processes = scope.spawn(|| processes(health));
        let parts = parts(endpoints, topology);
        let answers = |name: &str| parts.iter().any(|part| part.name == name && part.answers);
        let (kafka, registry, clickhouse) = (answers("kafka"), answers("registry"), answers("clickhouse"));
        let now = now();
        let topology_state = scope.spawn(move || match (kafka, registry) {
            (true, true) => compare().into(),
            (false, _) => Answer::Unknown("kafka is away".to_owned()),
            (true, false) => Answer::Unknown("the schema registry is away".to_owned()),
        });
        let log = scope.spawn(move || match clickhouse {
            true => Log::read(endpoints, topology),
            false => Log::unknown(topology, "clickhouse is away"),
        });
        let mut groups = if kafka { groups(endpoints, topology, now) } else { Default::default() };
        let stages = topology.stages.iter().map(|(name, stage)| {
            let unknown = || Answer::Unknown("kafka is away".to_owned());
            Stage {
                name: name.clone(),
                group: stage.value.group.value.clone(),
                state: groups.remove(name).unwrap_or_else(unknown),
            }
        });
        let stages = stages.collect();
        let log = log.join().unwrap_or_else(|_| Log::unknown(topology, "reading it panicked"));
        let mut status = Status {
            health: Health::Unhealthy,
            at: now.0,
            parts,
            topology: topology_state
                .join()
                .unwrap_or_else(|_| Answer::Unknown("the comparison panicked".to_owned())),
            stages,
            processes: processes.join().unwrap_or_else(|_| panicked(health)),
            decision_points: pdps.join().unwrap_or_else(|_| panicked(decision_points)),
            tables: log.tables,
            rejects_last_hour: log.rejects,
            alerts_last_hour: log.alerts,
            stops_last_day: log.stops,
            gaps: log.gaps,
            skipped: log.skipped,
            bundles: log.bundles,
            wrong: Vec::new(),
        };
        status.derive_faults();
        status
    })
}

pub(crate) fn now() -> Millis {
    // A clock before 1970 is wrong in any case, and reads as 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
