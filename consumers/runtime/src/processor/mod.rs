//! The loop of stages from Kafka to Kafka.
