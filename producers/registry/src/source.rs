//! A governance topic, and how to reach it.

use std::marker::PhantomData;
use std::time::Duration;

use agentgov_connect::{Endpoints, SchemaRegistry};
use agentgov_schemas::topology::{Topic, Topology, registry_subject};
use agentgov_schemas::{Record, RecordEncoder};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::Error;

/// How long Kafka may take to answer one request.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);

/// The stack and its map: what every function here needs.
#[derive(Clone, Copy, Debug)]
pub struct RegistryContext<'a> {
    /// Where the stack is.
    pub endpoints: &'a Endpoints,
    /// Where the governance topics stand.
    pub topology: &'a Topology,
}

/// One topic of the topology.
pub(crate) struct GovernanceTopic<'a, R> {
    pub(crate) endpoints: &'a Endpoints,
    pub(crate) name: &'a str,
    pub(crate) topic: &'a Topic,
    records: PhantomData<fn(&R)>,
}

impl<'a> RegistryContext<'a> {
    /// The topic that carries records of type `R`.
    pub(crate) fn topic<R: Record>(&self) -> Result<GovernanceTopic<'a, R>, Error> {
        let (name, topic) = self.topology.topic_of(R::SUBJECT)?;
        Ok(GovernanceTopic { endpoints: self.endpoints, name, topic, records: PhantomData })
    }
}

impl<R: Record> GovernanceTopic<'_, R> {
    pub(crate) fn error(&self, what: &'static str, source: KafkaError) -> Error {
        let bootstrap = self.endpoints.kafka.bootstrap.clone();
        Error::Kafka { bootstrap, topic: self.name.to_owned(), what, source: Box::new(source) }
    }

    /// An encoder of this build's schema, under the id that the registry gave it.
    pub(crate) fn encoder(&self) -> Result<RecordEncoder<R>, Error> {
        let subject = registry_subject(self.name);
        let id = SchemaRegistry::new(&self.endpoints.schema_registry)?
            .id_of(&subject, R::SUBJECT.latest())?
            .ok_or(Error::NotRegistered { subject })?;
        RecordEncoder::new(id)
            .map_err(|e| Error::Encode { key: R::SUBJECT.name.to_owned(), message: e.to_string() })
    }

    /// Fails unless the topic is there: a consumer of a topic that is not would wait for ever.
    pub(crate) fn check(&self, consumer: &BaseConsumer) -> Result<(), Error> {
        let metadata = consumer
            .fetch_metadata(Some(self.name), TIMEOUT)
            .map_err(|source| self.error("fetching metadata", source))?;
        let there = metadata.topics().iter().any(|topic| {
            topic.name() == self.name && topic.error().is_none() && !topic.partitions().is_empty()
        });
        if there {
            Ok(())
        } else {
            let bootstrap = self.endpoints.kafka.bootstrap.clone();
            Err(Error::NoTopic { bootstrap, topic: self.name.to_owned() })
        }
    }

    /// The error of a record that was not delivered.
    pub(crate) fn delivery(&self, code: RDKafkaErrorCode) -> Error {
        self.error("appending", KafkaError::MessageProduction(code))
    }
}
