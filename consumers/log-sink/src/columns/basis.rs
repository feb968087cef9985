//! Table `evaluation_bases`.

use agentgov_runtime::sink::native::{Int32, Int64, List, Text};
use agentgov_schemas::basis::EvaluationBasis;

columns! {
    /// Columns of an evaluation basis.
    b: EvaluationBasis<'a> {
        "actions_topic": Text = b.topic,
        "actions_partition": Int32 = b.partition,
        "from_offset": Int64 = b.from_offset,
        "tables.topic": List<Text> = &mut b.tables.iter().map(|table| table.topic),
        "tables.next_offset": List<Int64> = &mut b.tables.iter().map(|table| table.next_offset),
        "rules_version": Int32 = b.rules_version,
        "build": Text = b.build,
        "actions_partitions": Int32 = b.partitions,
        "session_ttl_ms": Int64 = b.session_ttl_ms,
        "max_facts": Int64 = b.max_facts,
        "max_bytes": Int64 = b.max_bytes,
    }
}
