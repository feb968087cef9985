//! Bounds and flaws of the sink's model.

/// Bounds of the exploration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Processes of the group.
    pub sinks: usize,
    /// Offsets of the topic-partition.
    pub offsets: u8,
    /// Offsets without a record, one bit each: markers and aborted records.
    pub empty: u8,
    /// Limit of records in an insert.
    pub block: u8,
    /// Limit of claims of all processes; also bounds the invalidations.
    pub claims: u8,
    /// Limit of reassignments of the partition.
    pub rebalances: u8,
    /// Limit of server restarts.
    pub restarts: u8,
    /// Limit of deletions by retention.
    pub deletions: u8,
}

impl Bounds {
    /// Bounds of every test run; takes seconds.
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

    /// Bounds with deletions by retention.
    pub const RETENTION: Self = Self { empty: 0b1001, claims: 2, restarts: 0, deletions: 1, ..Self::TEST };

    /// Wider bounds; take minutes each.
    pub const WIDE: [Self; 4] = [
        Self { offsets: 6, empty: 0b10_0101, block: 2, rebalances: 2, ..Self::TEST },
        Self { claims: 4, ..Self::TEST },
        Self { sinks: 3, rebalances: 2, restarts: 0, ..Self::TEST },
        Self { offsets: 5, empty: 0b10010, deletions: 2, ..Self::RETENTION },
    ];
}

/// A step that is omitted or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Claims without proving membership first.
    NoMembershipProof,
    /// Reads the tail as soon as the claim is acknowledged.
    NoDrain,
    /// Resumes at the group's committed offset instead of the end of the table.
    NoTailRead,
    /// The table accepts a row under any claim.
    NoFence,
    /// A restarted server remembers a claim: the last one, or one that it had replaced.
    PersistentClaims,
    /// Drains before it claims.
    DrainFirst,
    /// Uses a claim before it is acknowledged.
    UnacknowledgedClaim,
    /// Uses the same number for each claim.
    ClaimReused,
    /// Sends an insert with an unknown outcome again, under the same claim.
    InsertRetried,
    /// Sends the next insert before the response to the last one.
    Pipelined,
    /// Skips offsets without a second reader.
    NoSecondReader,
    /// Rows do not count the skipped offsets before them.
    SkipsNotCounted,
    /// Stores a proof of empty offsets without reading them.
    ProofWithoutRead,
    /// Skips deleted offsets that the proof does not cover.
    ProofTooShort,
    /// Skips deleted offsets, and the next row does not count them.
    ProvenSkipsNotCounted,
}

impl Flaw {
    /// Flaws that lead to a doubled row, a missing row, or a wrong count.
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

    /// Flaws that do so only with retention ([`Bounds::RETENTION`]).
    pub const HARMFUL_WITH_RETENTION: [Self; 3] =
        [Self::ProofWithoutRead, Self::ProofTooShort, Self::ProvenSkipsNotCounted];
}
