//! What the sink's consumer fetches, and from where.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::group::{self, Notes};
use super::lane::Lane;
use crate::StageError;

/// Longest wait until the consumer has moved. It asks no broker for that.
const SEEK: Duration = Duration::from_secs(2);

pub(super) struct Fetcher<'a> {
    pub(super) consumer: &'a BaseConsumer<Notes>,
}

impl Fetcher<'_> {
    /// Gives the consumer the partitions of all lanes. Those whose claims do not hold yet are not fetched: a record of theirs
    /// that slips through finds no claim, and is dropped.
    pub(super) fn assign(&self, lanes: &[Lane]) -> Result<(), StageError> {
        let offsets = lanes.iter().flat_map(|lane| {
            let offset = |next| if lane.claim_at.is_none() { Offset::Offset(next) } else { Offset::End };
            lane.shares.values().map(move |share| (&share.at, offset(share.next)))
        });
        group::list(offsets)
            .and_then(|list| self.consumer.assign(&list))
            .map_err(StageError::kafka("assign partitions"))?;
        self.pause(lanes.iter().filter(|lane| lane.claim_at.is_some()))
    }

    /// Moves partitions to where their lanes stand. `false`: the consumer has lost one of them, its topic was deleted, say; give it
    /// all of them anew.
    pub(super) fn seek<'l>(&self, lanes: impl Iterator<Item = &'l Lane>) -> Result<bool, StageError> {
        let list = list(lanes).map_err(StageError::kafka("seek partitions"))?;
        if list.count() == 0 {
            return Ok(true);
        }
        match self.consumer.seek_partitions(list, SEEK) {
            Ok(moved) => Ok(moved.elements().iter().all(|moved| moved.error().is_ok())),
            Err(error) => {
                tracing::warn!(%error, "the consumer did not move; it is given its partitions anew");
                Ok(false)
            }
        }
    }

    /// Fetches nothing for these.
    pub(super) fn pause<'l>(&self, lanes: impl Iterator<Item = &'l Lane>) -> Result<(), StageError> {
        some(list(lanes), |list| self.consumer.pause(list)).map_err(StageError::kafka("pause partitions"))
    }

    /// Fetches for these again.
    pub(super) fn resume<'l>(&self, lanes: impl Iterator<Item = &'l Lane>) -> Result<(), StageError> {
        some(list(lanes), |list| self.consumer.resume(list)).map_err(StageError::kafka("resume partitions"))
    }
}

fn list<'l>(lanes: impl Iterator<Item = &'l Lane>) -> KafkaResult<TopicPartitionList> {
    let shares = lanes.flat_map(|lane| lane.shares.values());
    group::list(shares.map(|share| (&share.at, Offset::Offset(share.next))))
}

fn some(
    list: KafkaResult<TopicPartitionList>,
    call: impl FnOnce(&TopicPartitionList) -> KafkaResult<()>,
) -> KafkaResult<()> {
    match list? {
        list if list.count() == 0 => Ok(()),
        list => call(&list),
    }
}
