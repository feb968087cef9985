//! State of the log's tables.

use std::time::Duration;

use agentgov_connect::Endpoints;
use agentgov_log_reader::overview::{ActiveBundle, AlertCount, Gap, RejectCount, SkippedOffsets, StageStop};
use agentgov_log_reader::{LogReader, ReadError};
use agentgov_schemas::topology::{ProducerKind, Topology};

use crate::{Answer, Table};

/// Timeout of a query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// One hour, in seconds.
const HOUR: u32 = 3600;
/// One day, in seconds.
const DAY: u32 = 24 * HOUR;

/// State of the log's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Tables that are fed from topics.
    pub tables: Vec<Table>,
    /// Rejects of the last hour.
    pub rejects: Answer<Vec<RejectCount>>,
    /// Alerts of the last hour.
    pub alerts: Answer<Vec<AlertCount>>,
    /// Last stop of each stage in the last day.
    pub stops: Answer<Vec<StageStop>>,
    /// Accepted gaps.
    pub gaps: Answer<Vec<Gap>>,
    /// Skipped offsets.
    pub skipped: Answer<Vec<SkippedOffsets>>,
    /// Active bundles.
    pub bundles: Answer<Vec<ActiveBundle>>,
}

impl Log {
    /// Returns the state of a log that cannot be read.
    pub(crate) fn unknown(topology: &Topology, why: &str) -> Self {
        let tables = names(topology).map(|name| Table {
            name: name.to_owned(),
            rows: Answer::Unknown(why.to_owned()),
            newest: None,
        });
        Self {
            tables: tables.collect(),
            rejects: Answer::Unknown(why.to_owned()),
            alerts: Answer::Unknown(why.to_owned()),
            stops: Answer::Unknown(why.to_owned()),
            gaps: Answer::Unknown(why.to_owned()),
            skipped: Answer::Unknown(why.to_owned()),
            bundles: Answer::Unknown(why.to_owned()),
        }
    }

    /// Reads the state of the log.
    pub(crate) fn read(endpoints: &Endpoints, topology: &Topology) -> Self {
        let reader = match LogReader::new(&endpoints.clickhouse, topology) {
            Ok(reader) => reader.with_timeout(QUERY_TIMEOUT),
            Err(error) => return Self::unknown(topology, &error.to_string()),
        };
        let tables = names(topology).map(|name| {
            let size = reader.table_size(name);
            let newest = size.as_ref().ok().map(|size| size.newest).filter(|newest| *newest > 0);
            Table { name: name.to_owned(), rows: size.map(|size| size.rows).into(), newest }
        });
        Self {
            tables: tables.collect(),
            rejects: reader.rejects_within(HOUR).into(),
            alerts: reader.alerts_within(HOUR).into(),
            stops: reader.stops_within(DAY).into(),
            gaps: reader.gaps("sink_gaps").into(),
            skipped: skipped(&reader, topology).into(),
            bundles: reader.active_bundles().into(),
        }
    }
}

/// Reads the skipped offsets of topics whose producers must not write transactions.
fn skipped(reader: &LogReader, topology: &Topology) -> Result<Vec<SkippedOffsets>, ReadError> {
    let topics = topology.topics.iter().filter(|(_, topic)| topic.value.producer == ProducerKind::Idempotent);
    let tables = topics.filter_map(|(name, _)| topology.table_from(name).ok());
    let found: Result<Vec<_>, _> = tables.map(|(_, table)| reader.skipped(table)).collect();
    Ok(found?.concat())
}

/// Returns the tables that are fed from topics.
fn names(topology: &Topology) -> impl Iterator<Item = &str> {
    let tables = topology.stores.values().flat_map(|store| &store.value.tables);
    tables.filter(|(_, table)| table.value.from.is_some()).map(|(name, _)| name.as_str())
}
