//! Access to a governance topic.

use std::marker::PhantomData;
use std::time::Duration;

use agentgov_connect::{Endpoints, SchemaRegistry};
use agentgov_schemas::topology::{Topic, Topology, registry_subject};
use agentgov_schemas::{Record, RecordEncoder};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::Error;

/// Timeout of one request to Kafka.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Endpoints and topology, which every push and list needs.
#[derive(Clone, Copy, Debug)]
pub struct RegistryContext<'a> {
    /// Endpoints of Kafka and the schema registry.
    pub endpoints: &'a Endpoints,
    /// The topology, for the governance topics.
    pub topology: &'a Topology,
}

/// A governance topic, with records of type `R`.
pub(crate) struct GovernanceTopic<'a, R> {
    pub(crate) endpoints: &'a Endpoints,
    pub(crate) name: &'a str,
    pub(crate) topic: &'a Topic,
    records: PhantomData<fn(&R)>,
}

impl<'a> RegistryContext<'a> {
    /// Returns the topic for records of type `R`.
    pub(crate) fn topic<R: Record>(&self) -> Result<GovernanceTopic<'a, R>, Error> {
        let (name, topic) = self.topology.topic_of(R::SUBJECT)?;
        Ok(GovernanceTopic { endpoints: self.endpoints, name, topic, records: PhantomData })
    }
}

impl<R: Record> GovernanceTopic<'_, R> {
    pub(crate) fn error(&self, operation: &'static str, source: KafkaError) -> Error {
        let bootstrap = self.endpoints.kafka.bootstrap.clone();
        Error::Kafka { bootstrap, topic: self.name.to_owned(), operation, source: Box::new(source) }
    }

    /// Creates an encoder of this build's schema, with the id of the schema registry.
    pub(crate) fn encoder(&self) -> Result<RecordEncoder<R>, Error> {
        let subject = registry_subject(self.name);
        let id = SchemaRegistry::new(&self.endpoints.schema_registry)?
            .id_of(&subject, R::SUBJECT.latest())?
            .ok_or(Error::NotRegistered { subject })?;
        RecordEncoder::new(id)
            .map_err(|e| Error::Encode { key: R::SUBJECT.name.to_owned(), message: e.to_string() })
    }

    /// Fails if the topic does not exist: a consumer would wait for it for ever.
    pub(crate) fn check(&self, consumer: &BaseConsumer) -> Result<(), Error> {
        let metadata = consumer
            .fetch_metadata(Some(self.name), REQUEST_TIMEOUT)
            .map_err(|source| self.error("fetching metadata", source))?;
        let exists = metadata.topics().iter().any(|topic| {
            topic.name() == self.name && topic.error().is_none() && !topic.partitions().is_empty()
        });
        if exists {
            Ok(())
        } else {
            let bootstrap = self.endpoints.kafka.bootstrap.clone();
            Err(Error::NoTopic { bootstrap, topic: self.name.to_owned() })
        }
    }

    /// Returns the error for a record that was not delivered.
    pub(crate) fn delivery_error(&self, code: RDKafkaErrorCode) -> Error {
        self.error("appending", KafkaError::MessageProduction(code))
    }
}
