//! How far the model of the sink is explored, and what may be wrong with it.

/// How far the model goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Processes of the group.
    pub sinks: usize,
    /// Offsets of the topic-partition.
    pub offsets: u8,
    /// Those of them that no record has, one bit each: markers, and what was aborted.
    pub empty: u8,
    /// Most records in an insert.
    pub block: u8,
    /// Claims that are taken, over all processes: bounds the doubts too.
    pub claims: u8,
    /// Times that the group gives the partition to another process.
    pub rebalances: u8,
    /// Times that the server is killed and comes back.
    pub restarts: u8,
    /// Times that retention deletes offsets.
    pub deletions: u8,
}

impl Bounds {
    /// What every test run explores, in seconds.
    pub const TEST: Self = Self {
        sinks: 2,
        offsets: 4,
        empty: 0b1010,
        block: 1,
        claims: 3,
        rebalances: 1,
        restarts: 1,
        deletions: 0,
    };

    /// The same with retention, which deletes offsets.
    pub const RETENTION: Self = Self { empty: 0b1001, claims: 2, restarts: 0, deletions: 1, ..Self::TEST };

    /// Wider, one at a time: minutes each.
    pub const WIDE: [Self; 4] = [
        Self { offsets: 6, empty: 0b10_0101, block: 2, rebalances: 2, ..Self::TEST },
        Self { claims: 4, ..Self::TEST },
        Self { sinks: 3, rebalances: 2, restarts: 0, ..Self::TEST },
        Self { offsets: 5, empty: 0b10010, deletions: 2, ..Self::RETENTION },
    ];
}

/// A step left out, or done otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Claims without proving membership first.
    NoMembershipProof,
    /// Looks as soon as the claim is acknowledged.
    NoDrain,
    /// Goes on where the group's committed offset is, instead of where the table ends.
    NoTailRead,
    /// The table accepts a row under any claim.
    NoFence,
    /// A restarted server knows claims again: the last one, or one that it had replaced.
    PersistentClaims,
    /// Drains before it claims.
    DrainFirst,
    /// Uses a claim without waiting until it is acknowledged.
    UnacknowledgedClaim,
    /// Claims with the same number each time.
    ClaimReused,
    /// After a doubt, sends the insert again under the same claim.
    InsertRetried,
    /// Sends the next insert before the last one is answered.
    Pipelined,
    /// Passes over offsets without asking a second reader.
    NoSecondReader,
    /// Rows do not count what was passed over before them.
    SkipsNotCounted,
    /// Records that offsets hold no record without reading them.
    ProofWithoutRead,
    /// Passes over what retention deleted although the proof does not reach that far.
    ProofTooShort,
    /// Passes over what retention deleted, and the next row does not count it.
    ProvenSkipsNotCounted,
}

impl Flaw {
    /// Those by which the table gets a row twice, or a hole, or a count that is not exact.
    pub const HARMFUL: [Self; 11] = [
        Self::NoDrain,
        Self::NoTailRead,
        Self::NoFence,
        Self::PersistentClaims,
        Self::DrainFirst,
        Self::UnacknowledgedClaim,
        Self::ClaimReused,
        Self::InsertRetried,
        Self::Pipelined,
        Self::NoSecondReader,
        Self::SkipsNotCounted,
    ];

    /// Those by which that comes of retention ([`Bounds::RETENTION`]).
    pub const HARMFUL_WITH_RETENTION: [Self; 3] =
        [Self::ProofWithoutRead, Self::ProofTooShort, Self::ProvenSkipsNotCounted];
}
