//! Bounds and flaws of the processor's model.

/// Bounds of the exploration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Processes of the group.
    pub processes: usize,
    /// Records of the input partition.
    pub records: u8,
    /// Limit of records in a batch.
    pub batch: u8,
    /// Limit of transactions of all processes.
    pub transactions: usize,
    /// Limit of reassignments of the partition.
    pub rebalances: u8,
    /// Limit of kills.
    pub kills: u8,
}

impl Bounds {
    /// Bounds of every test run; takes seconds.
    pub const TEST: Self =
        Self { processes: 2, records: 2, batch: 1, transactions: 3, rebalances: 1, kills: 1 };

    /// Wider bounds; take minutes each.
    pub const WIDE: [Self; 3] = [
        Self { batch: 2, rebalances: 2, ..Self::TEST },
        Self { processes: 3, rebalances: 2, kills: 0, ..Self::TEST },
        Self { records: 3, batch: 2, transactions: 4, kills: 0, ..Self::TEST },
    ];
}

/// A step that is omitted or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Reads the changelog to its end, then the committed offset, and resumes there.
    ChangelogFirst,
    /// Does not wait until the changelog has reached the committed offset; resumes at the end of the changelog.
    NoWaitFromChangelog,
    /// Does not wait until the changelog has reached the committed offset; resumes at the committed offset.
    NoWaitFromCommitted,
    /// Reads committed offsets without waiting for those of transactions that are undecided or have no marker.
    UnstableOffsets,
    /// Reads uncommitted and aborted records of the changelog.
    ReadUncommitted,
    /// Commits with the current metadata of the group instead of that of the poll.
    LateMetadata,
    /// Continues with the state in memory after an abort.
    KeepsMemory,
    /// Drops a polled record that comes with an error, and polls on without seeking back.
    DropsPolledRecord,
}

impl Flaw {
    /// Flaws that lead to a wrong state, or to an input without an output or with two.
    pub const HARMFUL: [Self; 8] = [
        Self::ChangelogFirst,
        Self::NoWaitFromChangelog,
        Self::NoWaitFromCommitted,
        Self::UnstableOffsets,
        Self::ReadUncommitted,
        Self::LateMetadata,
        Self::KeepsMemory,
        Self::DropsPolledRecord,
    ];
}
