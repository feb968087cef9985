//! How far the model of the sink is explored, and what may be wrong with it.

/// How far the model goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Processes of the group.
    pub sinks: usize,
    /// Records of the topic-partition.
    pub records: u8,
    /// Most records in an insert.
    pub block: u8,
    /// Claims that are taken, over all processes: bounds the doubts too.
    pub claims: u8,
    /// Times that the group gives the partition to another process.
    pub rebalances: u8,
    /// Times that the server is killed and comes back.
    pub restarts: u8,
}

impl Bounds {
    /// What every test run explores, in seconds.
    pub const TEST: Self = Self { sinks: 2, records: 2, block: 1, claims: 3, rebalances: 1, restarts: 1 };

    /// Wider, one at a time: minutes each.
    pub const WIDE: [Self; 3] = [
        Self { records: 3, block: 2, rebalances: 2, ..Self::TEST },
        Self { claims: 4, ..Self::TEST },
        Self { sinks: 3, rebalances: 2, restarts: 0, ..Self::TEST },
    ];
}

/// A step left out, or done otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Claims without proving membership first.
    NoProof,
    /// Looks as soon as the claim is acknowledged.
    NoDrain,
    /// Goes on where the group's committed offset is, instead of where the table ends.
    NoLook,
    /// The table accepts a row under any claim.
    NoFence,
    /// A restarted server knows claims again: the last one, or one that it had replaced.
    PersistentClaims,
    /// Drains before it claims.
    DrainFirst,
    /// Uses a claim without waiting until it is acknowledged.
    ClaimNotAwaited,
    /// Claims with the same number each time.
    ClaimReused,
    /// After a doubt, sends the insert again under the same claim.
    SentAgain,
    /// Sends the next insert before the last one is answered.
    Pipelined,
}

impl Flaw {
    /// Those by which the table gets a row twice, or a hole.
    pub const HARMFUL: [Self; 9] = [
        Self::NoDrain,
        Self::NoLook,
        Self::NoFence,
        Self::PersistentClaims,
        Self::DrainFirst,
        Self::ClaimNotAwaited,
        Self::ClaimReused,
        Self::SentAgain,
        Self::Pipelined,
    ];
}
