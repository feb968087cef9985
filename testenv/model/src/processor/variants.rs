//! How far the model of a processor is explored, and what may be wrong with it.

/// How far the model goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Processes of the group.
    pub processes: usize,
    /// Records of the input partition.
    pub records: u8,
    /// Most records in a batch.
    pub batch: u8,
    /// Transactions that are begun, over all processes.
    pub transactions: usize,
    /// Times that the group gives the partition to another process.
    pub rebalances: u8,
    /// Times that a process is killed.
    pub kills: u8,
}

impl Bounds {
    /// What every test run explores, in seconds.
    pub const TEST: Self =
        Self { processes: 2, records: 2, batch: 1, transactions: 3, rebalances: 1, kills: 1 };

    /// Wider, one at a time: minutes each.
    pub const WIDE: [Self; 3] = [
        Self { batch: 2, rebalances: 2, ..Self::TEST },
        Self { processes: 3, rebalances: 2, kills: 0, ..Self::TEST },
        Self { records: 3, batch: 2, transactions: 4, kills: 0, ..Self::TEST },
    ];
}

/// A step left out, or done otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Reads the changelog to its end, then asks for the committed offset, and goes on there.
    ChangelogFirst,
    /// Does not wait until the changelog has reached the committed offset; goes on where the changelog ends.
    NoWaitFromChangelog,
    /// Does not wait until the changelog has reached the committed offset; goes on at the committed offset.
    NoWaitFromCommitted,
    /// Asks for committed offsets without waiting for those of transactions that are not decided, or not marked.
    UnstableOffsets,
    /// Reads the changelog with what is not committed, or was aborted.
    ReadUncommitted,
    /// Commits with the group's metadata of that moment, not of the poll.
    LateMetadata,
    /// After an abort, goes on with what is in memory.
    KeepsMemory,
    /// Drops a polled record when an error comes with it, and polls on, without seeking back.
    DropsPolledRecord,
}

impl Flaw {
    /// Those by which state is wrong, or an input has no output or two.
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
