//! Records with headers that rdkafka's own API cannot write: it requires names in UTF-8.
#![allow(unsafe_code, reason = "calls of librdkafka's C API, each with pointers that live until it returns")]

use std::ffi::CString;

use agentgov_schemas::subject;
use rdkafka::bindings::*;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer as _};
use rdkafka::types::RDKafkaRespErr;

use crate::stack::{DEADLINE, Stack};

/// Name and optional value of a header.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// Writes an action with these headers to partition 0; returns once it is durable.
pub fn write(stack: &Stack, key: &[u8], value: &[u8], headers: &[Header<'_>]) {
    let (topic, _) = stack.topology.topic_of(subject::ACTION_EVENT).unwrap();
    let topic = CString::new(topic).unwrap();
    let mut config = stack.endpoints.kafka.client_config();
    let producer: BaseProducer<DefaultProducerContext> =
        config.set("enable.idempotence", "true").create().unwrap();
    let none = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: takes no pointer.
    let list = unsafe { rd_kafka_headers_new(headers.len()) };
    for (name, value) in headers {
        let (at, size) = value.map_or((std::ptr::null(), 0), |value| (value.as_ptr(), value.len()));
        // SAFETY: the list lives until it is passed on below; names and values are copied.
        let added = unsafe {
            rd_kafka_header_add(list, name.as_ptr().cast(), name.len() as isize, at.cast(), size as isize)
        };
        assert_eq!(added, none);
    }
    // SAFETY: pairs of a tag and its value, up to the end tag. Key and value are copied; librdkafka takes ownership of the
    // headers.
    let sent = unsafe {
        rd_kafka_producev(
            producer.client().native_ptr(),
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC,
            topic.as_ptr(),
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
            0,
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
            RD_KAFKA_MSG_F_COPY,
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
            value.as_ptr(),
            value.len(),
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
            key.as_ptr(),
            key.len(),
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS,
            list,
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
        )
    };
    assert_eq!(sent, none);
    producer.flush(DEADLINE).unwrap();
}
