//! A governance topic, and how to reach it.

use std::time::Duration;

use agentgov_connect::{Endpoints, SchemaRegistry};
use agentgov_schemas::subject::Subject;
use agentgov_schemas::topology::{Topic, Topology, registry_subject};
use agentgov_schemas::wire::{Encoder, Schema};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::Error;

/// How long Kafka may take to answer one request.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);

/// The stack and its map: what every function here needs.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Where the stack is.
    pub endpoints: &'a Endpoints,
    /// Where the governance topics stand.
    pub topology: &'a Topology,
}

/// One topic of the map.
pub(crate) struct GovernanceTopic<'a> {
    pub(crate) endpoints: &'a Endpoints,
    pub(crate) name: &'a str,
    pub(crate) topic: &'a Topic,
    subject: Subject,
}

impl<'a> Source<'a> {
    /// The topic of `subject`.
    pub(crate) fn topic(&self, subject: Subject) -> Result<GovernanceTopic<'a>, Error> {
        let (name, topic) = self.topology.topic_of(subject)?;
        Ok(GovernanceTopic { endpoints: self.endpoints, name, topic, subject })
    }
}

impl GovernanceTopic<'_> {
    pub(crate) fn error(&self, what: &'static str, source: KafkaError) -> Error {
        let bootstrap = self.endpoints.kafka.bootstrap.clone();
        Error::Kafka { bootstrap, topic: self.name.to_owned(), what, source: Box::new(source) }
    }

    /// Runs `encode` with an encoder of this build's schema.
    pub(crate) fn with_encoder<T>(
        &self,
        encode: impl FnOnce(&mut Encoder<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let text = self.subject.latest();
        let subject = registry_subject(self.name);
        let id = SchemaRegistry::new(&self.endpoints.registry)?
            .id_of(&subject, text)?
            .ok_or(Error::NotRegistered { subject })?;
        let schema = Schema::parse(text)
            .map_err(|e| Error::Encode { key: self.subject.name.to_owned(), message: e.to_string() })?;
        encode(&mut Encoder::new(id, &schema))
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
